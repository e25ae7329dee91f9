"""The roles of a stream, one row each. What runs, watches, checks or grants rights to roles iterates over this table.

No code of a role is imported here: a row names the module, which is imported where the role runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from stream_ad.errors import ConfigError
from stream_ad.identity import group, member
from stream_ad.io.kafka_rights import (
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


def no_rights(settings: Settings) -> Iterable[Right]:
    """Return the rights of a role that does not use Kafka."""
    return ()


def membership(settings: Settings, name: str) -> Iterator[Right]:
    """Yield the rights of a role that is a member of its own consumer group and publishes in transactions."""
    yield group_right(group(settings, name))
    yield transaction_right(f"{group(settings, name)}.")


@dataclass(frozen=True, slots=True)
class RoleSpec:
    """A role as a row of the table.

    Attributes:
        name: lower-case letters, digits and single underscores; in logs, metrics, and `stream-ad run NAME`.
        module: module with `build(context: RoleContext) -> Role`; imported only where the role runs.
        port_offset: port of its first process above `service.http_port`.
        port_step: from one process to the next, 1 or -1.
        group: last part of the name of its consumer group; "" if it is no member of one.
        reads: key in `[stream]` of the topic that the group reads; "" without a group.
        rights: returns what it needs on Kafka. A transactional id is named by its prefix.
        processes: returns how many of it `stream-ad run` starts, >= 1; None for a role that needs only one.
        decides: whether scores, verdicts and alerts are its work; true of exactly one role.
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

    def count(self, settings: Settings) -> int:
        """Return how many processes of it `stream-ad run` starts."""
        return 1 if self.processes is None else self.processes(settings)

    def label(self, index: int) -> str:
        """Return the name of a process in logs and to people; the first of a role that needs only one has no number."""
        return self.name if self.processes is None and index == 0 else f"{self.name}-{index}"

    def consumer_group(self, settings: Settings) -> str:
        """Return the name of its consumer group, "" without one."""
        return group(settings, self.group) if self.group else ""

    def topic(self, settings: Settings) -> str:
        """Return the topic that its group reads, "" without one."""
        name: str = getattr(settings.stream, self.reads) if self.reads else ""
        return name

    def member(self, settings: Settings, index: int = 0) -> str:
        """Return the static member id of a process, the same over its restarts."""
        return member(settings, self.name, index)

    def address(self, settings: Settings, index: int) -> tuple[str, int] | None:
        """Return host and port of a process's pages, None if they are turned off.

        Raises:
            ConfigError: there is no such port.
        """
        service = settings.service
        if service.http_port == 0:
            return None
        port = service.http_port + self.port_offset + self.port_step * index
        if not 1 <= port <= MAX_PORT:
            raise ConfigError(f"--index: {index} of {self.name} gives port {port}; choose another service.http_port")
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
    """Return the roles that a stream runs."""
    return BUILT_IN


def role(settings: Settings, name: str) -> RoleSpec:
    """Return a role of the stream.

    Raises:
        ConfigError: the stream has no such role.
    """
    found = {spec.name: spec for spec in roles(settings)}
    if name not in found:
        raise ConfigError(f"role: expected one of {', '.join(found)}, found {name!r}")
    return found[name]


def names() -> tuple[str, ...]:
    """Return the names of all roles that could run."""
    return tuple(spec.name for spec in BUILT_IN)


def decider() -> RoleSpec:
    """Return the role that decides: its commits make scores and alerts public, its positions say how far they reach."""
    (found,) = (spec for spec in BUILT_IN if spec.decides)
    return found


def deciding_group(settings: Settings) -> str:
    """Return the consumer group of the role that decides."""
    return decider().consumer_group(settings)


def processes(settings: Settings) -> Iterator[tuple[RoleSpec, int]]:
    """Yield each process that `stream-ad run` starts: its role and its number among those of this role, from 0."""
    for spec in roles(settings):
        for index in range(spec.count(settings)):
            yield spec, index


def needed(settings: Settings) -> Iterator[Right]:
    """Yield the rights that the roles of a stream need, with the transactional id of each role's first process."""
    for spec in roles(settings):
        for right in spec.rights(settings):
            if right.resource is Resource.TRANSACTIONAL_ID:
                yield replace(right, name=right.name + spec.member(settings))
            else:
                yield right
