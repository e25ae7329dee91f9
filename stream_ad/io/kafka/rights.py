"""Rights on Kafka as data: `stream_ad.role_table` says which a role needs, `lacking` which of them are missing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum

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


def topic_right(name: str, *operations: str) -> Right:
    """Return a right on a topic; whoever uses a topic also reads its settings."""
    return Right(Resource.TOPIC, name, frozenset({*operations, DESCRIBE_CONFIGS}))


def group_right(name: str) -> Right:
    """Return the right to be a member of a consumer group and to commit its offsets."""
    return Right(Resource.GROUP, name, frozenset({READ}))


def transaction_right(prefix: str) -> Right:
    """Return the right to publish in transactions whose ids begin with `prefix`."""
    return Right(Resource.TRANSACTIONAL_ID, prefix, frozenset({WRITE}))


def lacking(needed: Iterable[Right], allowed: Callable[[str, str], frozenset[str] | None]) -> Iterator[str]:
    """Yield one line per resource on which a right is missing.

    Args:
        needed: the rights; of a transactional id with the whole id.
        allowed: returns the operations that a resource, by kind and name, allows us, or None where that cannot be told
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
