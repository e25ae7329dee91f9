"""How the consumer groups of a stream and their members are named."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stream_ad.config import Settings

GROUP = "stream-ad"


def group(settings: Settings, role: str) -> str:
    """Return the consumer group of a role."""
    return f"{GROUP}.{settings.stream.name}.{role}"


def member(settings: Settings, role: str, index: int = 0) -> str:
    """Return the static member id of a process, the same over its restarts."""
    return f"{settings.service.instance}-{role}-{index}"
