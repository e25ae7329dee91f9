"""What each role may have to be granted on Kafka, as data: `stream-ad check` and docs/security.md tell of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum

from stream_ad.assembly import group, member
from stream_ad.config import Settings

READ, WRITE, DESCRIBE, DESCRIBE_CONFIGS = "READ", "WRITE", "DESCRIBE", "DESCRIBE_CONFIGS"
"""Operations by Kafka's names. Whoever may read or write may also describe."""


class Resource(Enum):
    """Kinds of resources, by Kafka's names."""

    TOPIC = "TOPIC"
    GROUP = "GROUP"
    TRANSACTIONAL_ID = "TRANSACTIONAL_ID"


@dataclass(frozen=True, slots=True)
class Right:
    """What is needed on one resource.

    Attributes:
        resource: its kind.
        name: its name; of a transactional id, how it begins.
        operations: what must be allowed.
    """

    resource: Resource
    name: str
    operations: frozenset[str]


def rights(settings: Settings, role: str) -> Iterator[Right]:
    """Yield what a role needs; whoever makes the topics needs `CREATE` on them besides.

    Args:
        settings: of the stream.
        role: `scorer` or `archiver`.
    """
    stream = settings.stream
    if role == "scorer":
        topics = {
            stream.readings_topic: {READ},
            stream.scores_topic: {READ, WRITE},
            stream.alerts_topic: {READ, WRITE},
            stream.dead_letters_topic: {WRITE},
            stream.journal_topic: {READ, WRITE},
            stream.control_topic: {READ},
        }
    else:
        topics = {
            stream.scores_topic: {READ},
            stream.readings_topic: {DESCRIBE},
            stream.alerts_topic: {DESCRIBE},
            stream.dead_letters_topic: {DESCRIBE},
            stream.journal_topic: {DESCRIBE},
            stream.control_topic: {DESCRIBE},
        }
    for name, operations in topics.items():
        yield Right(Resource.TOPIC, name, frozenset(operations | {DESCRIBE_CONFIGS}))
    yield Right(Resource.GROUP, group(settings, role), frozenset({READ}))
    yield Right(Resource.TRANSACTIONAL_ID, f"{group(settings, role)}.", frozenset({WRITE}))


def lacking(settings: Settings, allowed: Callable[[str, str], frozenset[str] | None]) -> Iterator[str]:
    """Yield a line for each thing that the roles need and we may not do.

    Args:
        settings: of the stream.
        allowed: returns the operations that a resource, by kind and name, allows us, or None where that cannot be told
            before it is used.
    """
    needed: dict[tuple[Resource, str], set[str]] = {}
    for role in ("scorer", "archiver"):
        for right in rights(settings, role):
            name = right.name
            if right.resource is Resource.TRANSACTIONAL_ID:
                name += member(settings, role)
            needed.setdefault((right.resource, name), set()).update(right.operations)
    for (resource, name), operations in needed.items():
        have = allowed(resource.value, name)
        if have is not None and (lacks := operations - have):
            kind = resource.value.lower().replace("_", " ")
            yield f"{kind} {name}: not allowed: {', '.join(sorted(lacks))}; see docs/security.md"
