"""The roles of a stream, one row each. Code that runs, monitors, checks or authorises roles iterates over this table.

No role's code is imported here: a row names its module, which is imported where the role runs.

Another package adds a role in its `pyproject.toml`::

    [project.entry-points."stream_ad.roles"]
    my_role = "my_package.my_spec:SPEC"

where `SPEC` is a `RoleSpec` whose `name` is `my_role`. The role runs in streams whose settings have a section
`[roles.my_role]`, which the role validates; see CONTRIBUTING.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from stream_ad.errors import ConfigError
from stream_ad.identity import group, member
from stream_ad.io.kafka.rights import (
    DESCRIBE,
    READ,
    WRITE,
    Resource,
    Right,
    group_right,
    topic_right,
    transaction_right,
)

if TYPE_CHECKING:
    from stream_ad.config import Settings

MAX_PORT = 65_535
ENTRY_POINTS = "stream_ad.roles"
NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
FIRST_OFFSET = 100
"""Lowest port offset above `service.http_port` for other packages' roles; lower ones belong to this package's roles."""
OFFSET_KEY = "port_offset"
"""The one key of `[roles.NAME]` that this module reads; all others are the role's."""


def no_rights(settings: Settings) -> Iterable[Right]:
    """Return no rights, for a role that does not use Kafka."""
    return ()


def membership(settings: Settings, name: str) -> Iterator[Right]:
    """Yield the rights of a role that joins its own consumer group and publishes in transactions."""
    yield group_right(group(settings, name))
    yield transaction_right(f"{group(settings, name)}.")


@dataclass(frozen=True, slots=True)
class RoleSpec:
    """A role, as a row of the table.

    Attributes:
        name: lower-case letters, digits and single underscores; used in logs, metrics and `stream-ad run NAME`.
        module: module with `build(context: RoleContext) -> Role`; imported only where the role runs.
        port_offset: port of its first process, relative to `service.http_port`.
        port_step: difference between the ports of two consecutive processes, 1 or -1.
        group: last part of its consumer group's name; "" if it joins none.
        reads: key in `[stream]` of the topic that the group reads; "" without a group.
        rights: returns the rights it needs on Kafka. Transactional ids are named by prefix.
        processes: returns how many processes `stream-ad run` starts, >= 1; None for a role with a single process.
        decides: whether it produces scores, verdicts and alerts; true for exactly one role.
        parse: for a role from another package: validates the keys of `[roles.NAME]` and returns
            `RoleContext.section`; raises ValueError (such as pydantic's ValidationError), TypeError or ConfigError.
            None: it has no keys.
    """

    name: str
    module: str
    port_offset: int
    port_step: int = 1
    group: str = ""
    reads: str = ""
    rights: Callable[[Settings], Iterable[Right]] = no_rights
    processes: Callable[[Settings], int] | None = None
    decides: bool = False
    parse: Callable[[Mapping[str, Any]], object] | None = None

    def count(self, settings: Settings) -> int:
        """Return how many processes `stream-ad run` starts."""
        return 1 if self.processes is None else self.processes(settings)

    def label(self, index: int) -> str:
        """Return a process's name for logs and people. The first process of a single-process role has no number."""
        return self.name if self.processes is None and index == 0 else f"{self.name}-{index}"

    def consumer_group(self, settings: Settings) -> str:
        """Return the name of its consumer group, "" if it has none."""
        return group(settings, self.group) if self.group else ""

    def topic(self, settings: Settings) -> str:
        """Return the topic that its group reads, "" if it has no group."""
        name: str = getattr(settings.stream, self.reads) if self.reads else ""
        return name

    def member(self, settings: Settings, index: int = 0) -> str:
        """Return a process's static member id, stable across restarts."""
        return member(settings, self.name, index)

    def address(self, settings: Settings, index: int) -> tuple[str, int] | None:
        """Return host and port of a process's pages, None if pages are disabled.

        Raises:
            ConfigError: the port is out of range.
        """
        service = settings.service
        if service.http_port == 0:
            return None
        port = service.http_port + self.port_offset + self.port_step * index
        if not 1 <= port <= MAX_PORT:
            raise ConfigError(
                f"--index: process {index} of {self.name} would use port {port}, expected 1 to {MAX_PORT}; change "
                "service.http_port"
            )
        return service.http_host, port


def _scorer_rights(settings: Settings) -> Iterator[Right]:
    stream = settings.stream
    yield topic_right(stream.readings_topic, READ)
    yield topic_right(stream.scores_topic, READ, WRITE)
    yield topic_right(stream.alerts_topic, READ, WRITE)
    yield topic_right(stream.dead_letters_topic, WRITE)
    yield topic_right(stream.journal_topic, READ, WRITE)
    yield topic_right(stream.control_topic, READ)
    yield from membership(settings, SCORER.group)


def _archiver_rights(settings: Settings) -> Iterator[Right]:
    stream = settings.stream
    yield topic_right(stream.scores_topic, READ)
    yield topic_right(stream.readings_topic, DESCRIBE)
    yield topic_right(stream.alerts_topic, DESCRIBE)
    yield topic_right(stream.dead_letters_topic, DESCRIBE)
    yield topic_right(stream.journal_topic, DESCRIBE)
    yield topic_right(stream.control_topic, DESCRIBE)
    yield from membership(settings, ARCHIVER.group)


SCORER = RoleSpec(
    name="scorer",
    module="stream_ad.service.roles.scorer",
    port_offset=1,
    group="scorer",
    reads="readings_topic",
    rights=_scorer_rights,
    processes=lambda settings: settings.service.scorers,
    decides=True,
)
ARCHIVER = RoleSpec(
    name="archiver",
    module="stream_ad.service.roles.archiver",
    port_offset=0,
    port_step=-1,
    group="archiver",
    reads="scores_topic",
    rights=_archiver_rights,
)
BUILT_IN = (SCORER, ARCHIVER)


def roles(settings: Settings) -> tuple[RoleSpec, ...]:
    """Return a stream's roles: the built-in ones, then those with a section in the settings, by name.

    Raises:
        ConfigError: a section names no installed role or has a wrong key, or two processes share a port.
    """
    if not settings.roles:
        return BUILT_IN
    found = (*BUILT_IN, *(_registered(settings, name) for name in sorted(settings.roles)))
    _expect_own_ports(settings, found)
    return found


def role(settings: Settings, name: str) -> RoleSpec:
    """Return a role of the stream.

    Raises:
        ConfigError: the stream has no such role, or a role's section is wrong.
    """
    found = {spec.name: spec for spec in roles(settings)}
    if name in found:
        return found[name]
    if name in names():
        raise ConfigError(
            f"roles.{name}: expected a section [roles.{name}], found none; a role from another package needs one to run"
        )
    raise ConfigError(f"role: expected one of {', '.join(found)}, found {name!r}")


def names() -> tuple[str, ...]:
    """Return the names of all installed roles, other packages' last."""
    return (*(spec.name for spec in BUILT_IN), *sorted({entry.name for entry in entry_points(group=ENTRY_POINTS)}))


def section(settings: Settings, spec: RoleSpec) -> object:
    """Return the parsed section `[roles.NAME]` of a role; None for a built-in role.

    Raises:
        ConfigError: one line per wrong key, with its path.
    """
    from pydantic import ValidationError

    from stream_ad.config import problems

    where = f"roles.{spec.name}"
    keys = {key: value for key, value in settings.roles.get(spec.name, {}).items() if key != OFFSET_KEY}
    if spec.parse is None:
        if keys:
            raise ConfigError("\n".join(f"{where}.{key}: unknown key" for key in keys))
        return None
    try:
        return spec.parse(keys)
    except ValidationError as error:
        # No cause: it contains the input, which may be a secret.
        raise ConfigError("\n".join(problems(error, where))) from None
    except (ValueError, TypeError, ConfigError) as error:
        raise ConfigError(f"{where}: {error}") from error


def address_of(settings: Settings, spec: RoleSpec, index: int) -> tuple[str, int] | None:
    """Return host and port of a process's pages, including a process that `stream-ad run` does not start.

    Raises:
        ConfigError: the port is out of range or belongs to another role's process.
    """
    found = spec.address(settings, index)
    for other, number in processes(settings):
        if found is not None and other.name != spec.name and other.address(settings, number) == found:
            raise ConfigError(
                f"--index: process {index} of {spec.name} would use port {found[1]}, already taken by "
                f"{other.label(number)}"
            )
    return found


def decider() -> RoleSpec:
    """Return the role whose commits publish scores and alerts."""
    (found,) = (spec for spec in BUILT_IN if spec.decides)
    return found


def deciding_group(settings: Settings) -> str:
    """Return the consumer group of the deciding role."""
    return decider().consumer_group(settings)


def processes(settings: Settings) -> Iterator[tuple[RoleSpec, int]]:
    """Yield each process that `stream-ad run` starts: its role and its index within the role, from 0."""
    for spec in roles(settings):
        for index in range(spec.count(settings)):
            yield spec, index


def needed(settings: Settings) -> Iterator[Right]:
    """Yield the rights that a stream's roles need, with the transactional id of each role's first process."""
    for spec in roles(settings):
        for right in spec.rights(settings):
            if right.resource is Resource.TRANSACTIONAL_ID:
                yield replace(right, name=right.name + spec.member(settings))
            else:
                yield right


def _registered(settings: Settings, name: str) -> RoleSpec:
    """Return another package's role, with its port offset from the settings.

    Raises:
        ConfigError: the role does not exist, its package is broken, or its section is wrong.
    """
    where = f"roles.{name}"
    if name in {spec.name for spec in BUILT_IN}:
        raise ConfigError(f"{where}: unknown section: {name} is built in and has no keys here")
    entries = {entry.value: entry for entry in entry_points(group=ENTRY_POINTS) if entry.name == name}
    if not entries:
        others = sorted({entry.name for entry in entry_points(group=ENTRY_POINTS)})
        installed = f"installed: {', '.join(others)}" if others else "no installed package provides one"
        raise ConfigError(f"{where}: expected the name of an installed role, found {name!r}; {installed}")
    if len(entries) > 1:
        raise ConfigError(f"{where}: registered more than once: {', '.join(sorted(map(_origin, entries.values())))}")
    (entry,) = entries.values()
    try:
        spec = entry.load()
    except Exception as error:  # importing another package's module can raise anything
        raise ConfigError(f"{where}: {_origin(entry)} cannot be loaded: {error}") from error
    if fault := _fault(settings, name, spec):
        raise ConfigError(f"{where}: {_origin(entry)}: {fault}")
    placed: RoleSpec = replace(spec, port_offset=_offset(settings, spec))
    section(settings, placed)
    count = placed.count(settings)
    if not isinstance(count, int) or count < 1:
        raise ConfigError(f"{where}: {_origin(entry)}: expected at least 1 process, found {count!r}")
    return placed


def _fault(settings: Settings, name: str, spec: object) -> str:
    """Return why another package's row is invalid, "" if it is valid."""
    if not isinstance(spec, RoleSpec):
        return f"expected a RoleSpec, found {type(spec).__name__}"
    if spec.name != name or not NAME.fullmatch(name):
        return f"expected the entry point's name in lower-case letters, digits and _, found {spec.name!r}"
    if spec.decides:
        return f"expected decides = False: {decider().name} is the only deciding role"
    if spec.group not in ("", name):
        return f"expected its own consumer group, {name!r}, found {spec.group!r}"
    if bool(spec.group) != bool(spec.reads) or (spec.reads and not hasattr(settings.stream, spec.reads)):
        return f"expected `reads` to be a key of [stream] exactly if the role has a group, found {spec.reads!r}"
    if spec.port_offset < FIRST_OFFSET or spec.port_step != 1:
        return f"expected a port offset of at least {FIRST_OFFSET} and a port step of 1, found {spec.port_offset}"
    return ""


def _offset(settings: Settings, spec: RoleSpec) -> int:
    """Return the port offset of another package's role: from the settings, else its default."""
    chosen = settings.roles[spec.name].get(OFFSET_KEY, spec.port_offset)
    text = str(chosen)
    if isinstance(chosen, bool) or not text.isdecimal() or int(text) < FIRST_OFFSET:
        path = f"roles.{spec.name}.{OFFSET_KEY}"
        raise ConfigError(f"{path}: expected a whole number of at least {FIRST_OFFSET}, found {chosen!r}")
    return int(text)


def _expect_own_ports(settings: Settings, specs: Iterable[RoleSpec]) -> None:
    """Check that no two processes share a port.

    Raises:
        ConfigError: two do.
    """
    taken: dict[tuple[str, int], str] = {}
    for spec in specs:
        for index in range(spec.count(settings)):
            found = spec.address(settings, index)
            if found is None:
                return
            if found in taken:
                raise ConfigError(
                    f"roles.{spec.name}: {spec.label(index)} would use port {found[1]}, already taken by "
                    f"{taken[found]}; change roles.{spec.name}.{OFFSET_KEY}"
                )
            taken[found] = spec.label(index)


def _origin(entry: EntryPoint) -> str:
    package = "no package" if entry.dist is None else f"{entry.dist.name} {entry.dist.version}"
    return f"{entry.value} ({package})"
