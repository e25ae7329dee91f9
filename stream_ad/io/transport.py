"""The interface to the log, implemented by `local_log` and `kafka_log`.

The contract suite in tests/contracts runs against both. All errors are `errors.TransportError` or
`errors.DeadlineError`; foreign errors are translated in the transport's own module.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple, Protocol, TypeAlias

from stream_ad.core.batches import Int64Array
from stream_ad.errors import ContractError

Headers: TypeAlias = tuple[tuple[str, bytes], ...]
METADATA_BYTES = 4_096
"""A Kafka broker's default limit for offset metadata."""


class Partition(NamedTuple):
    """A partition of a topic; sorts by topic, then number."""

    topic: str
    number: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.number}"


@dataclass(frozen=True, slots=True)
class Record:
    """A record to append.

    Attributes:
        value: the payload.
        key: the Kafka key, or None. Records with one key go to one partition (murmur2, as in Kafka).
        headers: name and value pairs.
        partition: partition number; None to use the key.
    """

    value: bytes
    key: bytes | None = None
    headers: Headers = ()
    partition: int | None = None


def chunked(records: Iterable[Record], count: int, size: int, wait_s: float = math.inf) -> Iterator[list[Record]]:
    """Split records into chunks that end at a number of records, at a number of bytes, or after a time."""
    chunk: list[Record] = []
    taken, until = 0, time.monotonic() + wait_s
    for record in records:
        chunk.append(record)
        taken += len(record.value)
        if len(chunk) >= count or taken >= size or time.monotonic() > until:
            yield chunk
            chunk, taken, until = [], 0, time.monotonic() + wait_s
    if chunk:
        yield chunk


@dataclass(frozen=True, slots=True)
class RawBatch:
    """Records of one partition in offset order; offsets may skip.

    Attributes:
        partition: their partition.
        offset: int64[n].
        log_ns: int64[n], append time, UTC nanoseconds.
        keys, values, headers: n entries each. A deleted value is b"".
        next_offset: the offset to read next: at least the last offset + 1, and after the transport's own control
            records if it knows of them.
    """

    partition: Partition
    offset: Int64Array
    log_ns: Int64Array
    keys: Sequence[bytes | None]
    values: Sequence[bytes]
    headers: Sequence[Headers]
    next_offset: int

    def __len__(self) -> int:
        return len(self.offset)


@dataclass(frozen=True, slots=True)
class Position:
    """A group's position in a partition.

    Attributes:
        partition: the partition.
        topic_id: id of the topic; a recreated topic has another one.
        offset: the next input offset.
        metadata: text committed with the offset (at most 4,096 bytes), "" if none.
    """

    partition: Partition
    topic_id: str
    offset: int
    metadata: str = ""


@dataclass(frozen=True, slots=True)
class Commit:
    """Outputs and positions that are published atomically.

    Attributes:
        records: records to append, by topic.
        positions: next offset and metadata by input partition. Every partition must be owned by the committer's
            source.

    Raises:
        ContractError: metadata exceed `METADATA_BYTES`.
    """

    records: Mapping[str, Sequence[Record]] = field(default_factory=dict)
    positions: Mapping[Partition, tuple[int, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for partition, (_, text) in self.positions.items():
            if (size := len(text.encode())) > METADATA_BYTES:
                raise ContractError(f"{partition}: expected metadata of at most {METADATA_BYTES} bytes, found {size}")


class CommitOutcome(Enum):
    """Outcome of a commit.

    LANDED: all of it is public. REJECTED: nothing of it is or ever will be. UNKNOWN: either; read the committed
    position after `recover` before continuing.
    """

    LANDED = "landed"
    REJECTED = "rejected"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class TopicInfo:
    """Description of a topic.

    Attributes:
        name: the topic.
        topic_id: changes when the topic is recreated.
        partitions: number of partitions.
        append_time: record times are the log's own (`message.timestamp.type=LogAppendTime`).
        max_record_bytes: size limit of a record, or None if unknown.
    """

    name: str
    topic_id: str
    partitions: int
    append_time: bool
    max_record_bytes: int | None


HOLD = -1
"""Returned by an owner that cannot take a partition over yet."""
HOLD_S = 2.0
"""Time until it is asked again."""


class Owner(Protocol):
    """Called when partitions are gained and lost.

    Always called inside `Source.poll` or `Source.close`, on the caller's thread, before `poll` returns records.
    """

    def gained(self, position: Position | None, partition: Partition) -> int | None:
        """Take over a partition.

        Args:
            position: the group's committed position, or None if there is none.
            partition: the partition.

        Returns:
            the offset to resume from; None for the committed one, or for the earliest retained record if nothing is
            committed. `HOLD`: not yet; the partition is not read, `leaving` and `lost` are not called for it, and it
            is offered again after about `HOLD_S`.
        """
        ...

    def leaving(self, partition: Partition) -> None:
        """Hand over: the partition is still ours, so a last commit can land."""
        ...

    def lost(self, partition: Partition) -> None:
        """Drop the state; nothing more may be published for the partition."""
        ...


class Source(Protocol):
    """A member of a consumer group that reads one topic."""

    def poll(self, max_records: int, wait_s: float) -> Sequence[RawBatch]:
        """Return at most `max_records` records in total, one batch per partition, waiting up to `wait_s`.

        Only committed records are returned. An empty result is normal. A partition whose next offset moved without
        records (only control records) may appear as an empty batch.

        Raises:
            FencedError: another process took over the member's identity, or the member was evicted.
            UnreachableError: no broker for longer than the transport's own timeout.
            PositionError: the offset to read is no longer retained, or the topic was recreated.
        """
        ...

    def assignment(self) -> frozenset[Partition]:
        """Return the partitions currently owned."""
        ...

    def partitions(self) -> int:
        """Return the topic's number of partitions as last known, which may grow; never blocks."""
        ...

    def end_offsets(self) -> Mapping[Partition, int]:
        """Return the offset after the last record of each owned partition, for lag.

        Never blocks: returns what is known since the last poll.
        """
        ...

    def close(self) -> None:
        """Hand over all partitions (`Owner.leaving`) and leave the group."""
        ...


class Committer(Protocol):
    """The only way for a role to publish."""

    def commit(self, commit: Commit) -> CommitOutcome:
        """Publish records and positions atomically.

        Raises:
            FencedError: a newer owner exists; nothing was published, and nothing more may be.
            RecordTooLargeError: a record exceeds the limit; nothing was published.
            PositionError: the source's topic was recreated; nothing was published.
            DeadlineError: the outcome is unknown and the client hangs: restart the process.
        """
        ...

    def close(self) -> None:
        """Close the client within a second or two, in any state."""
        ...


class Transport(Protocol):
    """A durable, partitioned log with groups and atomic commits."""

    def ensure_topic(self, name: str, partitions: int, settings: Mapping[str, str] | None = None) -> TopicInfo:
        """Create the topic with append times if it is missing; return its description.

        Raises:
            TopicError: it exists with another number of partitions.
        """
        ...

    def extend_topic(self, name: str, partitions: int) -> TopicInfo:
        """Add partitions up to a number; return the topic's description. A topic with more is not changed.

        Existing records stay in their partition; new ones with the same key may go to another.

        Raises:
            TopicError: the topic does not exist.
            AccessError: not allowed.
            UnreachableError: no answer within the deadline.
        """
        ...

    def topic(self, name: str) -> TopicInfo:
        """Describe a topic.

        Raises:
            TopicError: the topic does not exist.
            UnreachableError: no answer within the deadline.
        """
        ...

    def delete_topic(self, name: str) -> None:
        """Delete a topic with its records and committed positions; a no-op if it is missing."""
        ...

    def append(self, topic: str, records: Iterable[Record]) -> None:
        """Append records durably, outside any transaction; used by simulators, `send` and `swap`.

        Raises:
            TopicError, RecordTooLargeError, UnreachableError.
        """
        ...

    def read(self, partition: Partition, start: int, stop: int) -> Iterator[RawBatch]:
        """Read committed records with start <= offset < stop, without a group; used by recovery, audit and verify.

        Raises:
            PositionError: `start` is no longer retained.
        """
        ...

    def bounds(self, partition: Partition) -> tuple[int, int]:
        """Return the earliest retained offset and the offset after the last committed record."""
        ...

    def committed(self, group: str, partition: Partition) -> Position | None:
        """Return a group's committed position for a partition, or None."""
        ...

    def set_positions(self, group: str, topic: str, positions: Mapping[Partition, tuple[int, str] | None]) -> None:
        """Write a group's positions as a non-member; None deletes one.

        Args:
            group: a group without members, which would continue from their own positions and overwrite these.
            topic: topic of all partitions.
            positions: next input offset and metadata.

        Raises:
            PositionError: the group has members; nothing was written.
            TopicError: the topic or partition does not exist.
            AccessError, UnreachableError.
        """
        ...

    def owners(self, group: str, topic: str) -> Mapping[Partition, str]:
        """Return the owner of each partition in a group; for status output.

        Partitions without an owner are absent. A dead member is included until its session timeout. During a
        rebalance the result may be incomplete.

        Raises:
            TopicError: the topic does not exist.
            AccessError, UnreachableError.
        """
        ...

    def join(self, topic: str, group: str, owner: Owner, member: str) -> Source:
        """Join a consumer group as the static member `member` (unique in the group, stable across restarts)."""
        ...

    def committer(self, source: Source, member: str) -> Committer:
        """Return the committer bound to a source; it fences earlier ones of the same `member`."""
        ...

    def close(self) -> None:
        """Close files and sockets."""
        ...
