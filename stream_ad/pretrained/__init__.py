"""Bundles that ship with the package: models of the simulator's pumps, created by `make pretrained`."""

from __future__ import annotations

from pathlib import Path

from stream_ad.errors import ConfigError

FOLDER = Path(__file__).parent
PREFIX = "pretrained:"


def names() -> tuple[str, ...]:
    """Return the bundles that ship with the package."""
    return tuple(sorted(path.parent.name for path in FOLDER.glob("*/manifest.json")))


def path(name: str) -> Path:
    """Return the folder of a bundle.

    Args:
        name: one of `names()`.

    Raises:
        ConfigError: the name is unknown.
    """
    if name not in names():
        raise ConfigError(f"{PREFIX}{name}: expected one of {', '.join(names())}")
    return FOLDER / name
