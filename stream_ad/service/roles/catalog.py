"""The roles by name; each is loaded only where it runs (a scorer brings torch, an archiver pyarrow)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

from stream_ad.config import Settings
from stream_ad.errors import ConfigError
from stream_ad.service.role import Role


@dataclass(frozen=True, slots=True)
class RoleContext:
    """What a role is built from.

    Attributes:
        settings: the stream's settings.
        index: number of the role among its kind on this host, from 0.
        beat: the heartbeat, to be called inside work that takes longer than a second or so.
        looks_first: see before the role counts as open that its group's offsets are those of the role, so that a
            supervisor does not start it again and again.
    """

    settings: Settings
    index: int
    beat: Callable[[], None]
    looks_first: bool = False


ROLES = {
    "scorer": "stream_ad.service.roles.scorer",
    "archiver": "stream_ad.service.roles.archiver",
}
"""Module of each role; it has `build(context: RoleContext) -> Role`."""


def build(name: str, context: RoleContext) -> Role:
    """Build a role, not yet open.

    Raises:
        ConfigError: there is no such role, or the index is below 0.
    """
    if name not in ROLES:
        raise ConfigError(f"role: expected one of {', '.join(ROLES)}, found {name!r}")
    if context.index < 0:
        raise ConfigError(f"--index: expected 0 or more, found {context.index}")
    role: Role = import_module(ROLES[name]).build(context)
    return role


def http_address(settings: Settings, name: str, index: int) -> tuple[str, int] | None:
    """Return host and port of a role's pages, or None if they are turned off.

    Scorers count upwards from the port above `http_port`, archivers downwards from `http_port` itself.

    Raises:
        ConfigError: there is no such port.
    """
    service = settings.service
    if service.http_port == 0:
        return None
    port = service.http_port + (1 + index if name == "scorer" else -index)
    if not 1 <= port <= 65_535:
        raise ConfigError(f"--index: {index} of {name} gives port {port}; choose another service.http_port")
    return service.http_host, port
