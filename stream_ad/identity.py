"""Names of a stream's groups and members, and identification of the settings that change results."""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from collections.abc import Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from stream_ad import __version__

if TYPE_CHECKING:
    from stream_ad.config import Settings

GROUP = "stream-ad"


def group(settings: Settings, role: str) -> str:
    """Return the consumer group of a role."""
    return f"{GROUP}.{settings.stream.name}.{role}"


def member(settings: Settings, role: str, index: int = 0) -> str:
    """Return a process's static member id, stable across restarts."""
    return f"{settings.service.instance}-{role}-{index}"


def deciding_config(settings: Settings) -> dict[str, Any]:
    """Return the settings that change results, as plain values by section."""
    return {
        "stream": settings.stream.model_dump(mode="json", include={"name", "front", "devices", "readings_topic"}),
        "time": settings.time.model_dump(mode="json", exclude={"trust_producer_clocks"}),
        "threshold": settings.threshold.model_dump(mode="json"),
        "incident": settings.incident.model_dump(mode="json"),
    }


def with_config(settings: Settings, config: Mapping[str, Any]) -> Settings:
    """Return the settings with those that change results replaced by earlier ones.

    Args:
        settings: the current settings.
        config: the earlier output of `deciding_config`.

    Raises:
        ConfigError: they are not valid settings of this version.
    """
    from stream_ad.config import parse  # loads pydantic, which the role table does not need

    # Only these sections: the others, with their secrets and defaults, are not parsed again.
    today = settings.model_dump(mode="python", include=set(config))
    for section, values in config.items():
        merged = section in ("stream", "time")
        today[section] = {**today[section], **values} if merged else dict(values)
    bare = {"transport": {"kind": "local", "path": "unused"}, "store": {"scores": "unused", "checkpoints": "unused"}}
    then = parse(bare | today, "settings in the journal")
    return settings.model_copy(update={section: getattr(then, section) for section in config})


def config_digest(settings: Settings) -> str:
    """Return a digest of the settings that change results, 16 hex digits."""
    text = json.dumps(deciding_config(settings), sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def fingerprint(settings: Settings, model_id: str) -> str:
    """Return what a checkpoint's results depend on besides the input, as one line.

    State with another fingerprint is not used: it could give other results.
    """
    parts = {
        "stream_ad": __version__,
        "config": config_digest(settings),
        "bundle": model_id,
        "processor": platform.machine(),
        "python": ".".join(map(str, sys.version_info[:2])),
        "numpy": version("numpy"),
    }
    return " ".join(f"{name}={value}" for name, value in parts.items())
