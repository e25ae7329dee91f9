"""Builds roles; each role's code is imported only where it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

from stream_ad.config import Settings
from stream_ad.errors import ConfigError
from stream_ad.role_table import RoleSpec, role, section
from stream_ad.service.role import Role


@dataclass(frozen=True, slots=True)
class RoleContext:
    """What a role is built from.

    Attributes:
        settings: the stream's settings.
        index: index of the process within its role on this host, from 0.
        beat: the heartbeat, to be called during work that takes longer than about a second.
        checks_offsets: verify the group's offsets before the role counts as open, so that a supervisor does not restart
            it again and again.
        section: the role's parsed section `[roles.NAME]`; None for a built-in role. Set by `build`.
    """

    settings: Settings
    index: int
    beat: Callable[[], None]
    checks_offsets: bool = False
    section: Any = None


def build(name: str, context: RoleContext) -> Role:
    """Build a role, not yet open.

    Raises:
        ConfigError: the role does not exist, its module is unusable, or the index is negative.
    """
    spec = role(context.settings, name)
    if context.index < 0:
        raise ConfigError(f"--index: expected 0 or more, found {context.index}")
    return builder(spec)(replace(context, section=section(context.settings, spec)))


def builder(spec: RoleSpec) -> Callable[[RoleContext], Role]:
    """Import a role's module; return its `build` function.

    Raises:
        ConfigError: the module cannot be imported or has no function `build`.
    """
    try:
        module = import_module(spec.module)
    except Exception as error:  # importing another package's module can raise anything
        raise ConfigError(f"role {spec.name}: {spec.module} cannot be imported: {error}") from error
    found: Callable[[RoleContext], Role] | None = getattr(module, "build", None)
    if not callable(found):
        raise ConfigError(f"role {spec.name}: {spec.module}: expected a function build(context), found none")
    return found
