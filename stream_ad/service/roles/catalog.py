"""Builds roles; the code of each is imported only where it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

from stream_ad.config import Settings
from stream_ad.errors import ConfigError
from stream_ad.role_table import role
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


def build(name: str, context: RoleContext) -> Role:
    """Build a role, not yet open.

    Raises:
        ConfigError: there is no such role, or the index is below 0.
    """
    spec = role(context.settings, name)
    if context.index < 0:
        raise ConfigError(f"--index: expected 0 or more, found {context.index}")
    built: Role = import_module(spec.module).build(context)
    return built
