"""Rights on Kafka as data: `stream_ad.role_table` lists the rights that roles need, `lacking` the missing ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum

READ, WRITE, DESCRIBE, DESCRIBE_CONFIGS = "READ", "WRITE", "DESCRIBE", "DESCRIBE_CONFIGS"
"""Operations by Kafka's names. READ and WRITE include DESCRIBE."""


class Resource(Enum):
    """Kinds of resources, by Kafka's names."""

    TOPIC = "TOPIC"
    GROUP = "GROUP"
    TRANSACTIONAL_ID = "TRANSACTIONAL_ID"


@dataclass(frozen=True, slots=True)
class Right:
    """Operations needed on one resource.

    Attributes:
        resource: its kind.
        name: its name; the prefix of a transactional id.
        operations: the operations.
    """

    resource: Resource
    name: str
    operations: frozenset[str]


def topic_right(name: str, *operations: str) -> Right:
    """Return a right on a topic, including to read its settings, which every use needs."""
    return Right(Resource.TOPIC, name, frozenset({*operations, DESCRIBE_CONFIGS}))


def group_right(name: str) -> Right:
    """Return the right to join a consumer group and commit its offsets."""
    return Right(Resource.GROUP, name, frozenset({READ}))


def transaction_right(prefix: str) -> Right:
    """Return the right to publish in transactions whose ids start with `prefix`."""
    return Right(Resource.TRANSACTIONAL_ID, prefix, frozenset({WRITE}))


def lacking(needed: Iterable[Right], allowed: Callable[[str, str], frozenset[str] | None]) -> Iterator[str]:
    """Yield one line per resource with missing rights.

    Args:
        needed: the rights; transactional ids in full.
        allowed: returns the operations allowed on a resource, by kind and name, or None if that cannot be known
            before it is used.
    """
    by_resource: dict[tuple[Resource, str], set[str]] = {}
    for right in needed:
        by_resource.setdefault((right.resource, right.name), set()).update(right.operations)
    for (resource, name), operations in by_resource.items():
        have = allowed(resource.value, name)
        if have is not None and (lacks := operations - have):
            kind = resource.value.lower().replace("_", " ")
            yield f"{kind} {name}: not allowed: {', '.join(sorted(lacks))}; see docs/security.md"
