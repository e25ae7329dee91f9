"""Builds roles; the code of each is imported only where it runs."""

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
        index: number of the role among its kind on this host, from 0.
        beat: the heartbeat, to be called inside work that takes longer than a second or so.
        looks_first: see before the role counts as open that its group's offsets are those of the role, so that a
            supervisor does not start it again and again.
        section: what the role made of its section `[roles.NAME]`; None for a built-in role. Set by `build`.
    """

    settings: Settings
    index: int
    beat: Callable[[], None]
    looks_first: bool = False
    section: Any = None


def build(name: str, context: RoleContext) -> Role:
    """Build a role, not yet open.

    Raises:
        ConfigError: there is no such role, its module cannot be used, or the index is below 0.
    """
    spec = role(context.settings, name)
    if context.index < 0:
        raise ConfigError(f"--index: expected 0 or more, found {context.index}")
    return builder(spec)(replace(context, section=section(context.settings, spec)))


def builder(spec: RoleSpec) -> Callable[[RoleContext], Role]:
    """Import a role's module; return what builds the role.

    Raises:
        ConfigError: the module cannot be imported, or has no function `build`.
    """
    try:
        module = import_module(spec.module)
    except Exception as error:  # a package's module can raise anything at import
        raise ConfigError(f"role {spec.name}: {spec.module} cannot be imported: {error}") from error
    found: Callable[[RoleContext], Role] | None = getattr(module, "build", None)
    if not callable(found):
        raise ConfigError(f"role {spec.name}: {spec.module}: expected a function build(context), found none")
    return found
