"""The seam to the log: what a transport offers, kept by `local_log` and `kafka_log` alike.

The contract is held by tests/contracts, which both pass. All errors are of `errors.TransportError`
or `errors.DeadlineError`; foreign ones are translated in the transport's own file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple, Protocol, TypeAlias

from stream_ad.core.batches import Int64Array

Headers: TypeAlias = tuple[tuple[str, bytes], ...]


class Partition(NamedTuple):
    """A partition of a topic; sorts by topic, then number."""

    topic: str
    number: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.number}"


@dataclass(frozen=True, slots=True)
class Record:
    """A record to be appended.

    Attributes:
        value: the payload.
        key: the Kafka key, or None. Records of one key go to one partition (murmur2, as Kafka).
        headers: name and value pairs.
        partition: partition number; None lets the key decide.
    """

    value: bytes
    key: bytes | None = None
    headers: Headers = ()
    partition: int | None = None


@dataclass(frozen=True, slots=True)
class RawBatch:
    """Records of one partition in offset order; offsets may skip.

    Attributes:
        partition: where they came from.
        offset: int64[n].
        log_ns: int64[n], append time, UTC nanoseconds.
        keys, values, headers: n entries each. A deleted value is b"".
        next_offset: the offset to read on from: at least the last offset + 1, past the
            transport's own records where it knows of them.
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
    """Where a group stands in a partition.

    Attributes:
        partition: which one.
        topic_id: identity of the topic; another one under the same name is another topic.
        offset: the next input offset.
        metadata: text committed with the offset (at most 4,096 bytes), "" if none.
    """

    partition: Partition
    topic_id: str
    offset: int
    metadata: str = ""


@dataclass(frozen=True, slots=True)
class Commit:
    """Outputs and positions that become public together or not at all.

    Attributes:
        records: per topic, the records to append.
        positions: per input partition, the next offset and its metadata. Every partition must be
            owned by the committer's source.
    """

    records: Mapping[str, Sequence[Record]] = field(default_factory=dict)
    positions: Mapping[Partition, tuple[int, str]] = field(default_factory=dict)


class CommitOutcome(Enum):
    """What is known of a commit.

    LANDED: all of it is public. REJECTED: nothing of it is and will ever be. UNKNOWN: either;
    read the committed position after `recover` before going on.
    """

    LANDED = "landed"
    REJECTED = "rejected"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class TopicInfo:
    """What the log says of a topic.

    Attributes:
        name: the topic.
        topic_id: changes when the topic is made anew.
        partitions: number of partitions.
        append_time: record times are the log's own (`message.timestamp.type=LogAppendTime`).
        max_record_bytes: largest record the topic takes, or None if unknown.
    """

    name: str
    topic_id: str
    partitions: int
    append_time: bool
    max_record_bytes: int | None


HOLD = -1
"""What an owner answers that cannot take a partition over yet."""
HOLD_S = 2.0
"""When it is asked again."""


class Owner(Protocol):
    """Told of partitions that come and go.

    Always called inside `Source.poll` or `Source.close`, on the caller's thread, before `poll`
    hands out records.
    """

    def gained(self, position: Position | None, partition: Partition) -> int | None:
        """Take over a partition.

        Args:
            position: what the group committed for it, or None if nothing yet.
            partition: the partition.

        Returns:
            the offset to read on from; None means the committed one, or the earliest retained
            record where nothing is committed. `HOLD`: not yet; nothing is read of the partition, the owner is not
            told when it leaves, and it is asked again after about `HOLD_S`.
        """
        ...

    def leaving(self, partition: Partition) -> None:
        """Hand over: the partition is still ours, a last commit can land."""
        ...

    def lost(self, partition: Partition) -> None:
        """Drop the state; nothing may be published for it any more."""
        ...


class Source(Protocol):
    """A member of a consumer group that reads one topic."""

    def poll(self, max_records: int, wait_s: float) -> Sequence[RawBatch]:
        """Return at most `max_records` records in all, one batch a partition, waiting up to `wait_s`.

        Only committed records are seen. An empty answer is normal. A partition whose next offset
        moved without records (the transport's own records only) may appear as an empty batch.

        Raises:
            FencedError: another member took our identity, or all partitions were lost.
            UnreachableError: no broker for longer than the transport's own time-out.
            PositionError: the offset to read is no longer retained, or the topic was made anew under the same name.
        """
        ...

    def assignment(self) -> frozenset[Partition]:
        """Return the partitions now owned."""
        ...

    def partitions(self) -> int:
        """Return how many partitions the topic has, as was last heard; never blocks. Partitions can be added."""
        ...

    def end_offsets(self) -> Mapping[Partition, int]:
        """Return the offset after the last record of each owned partition, for lag.

        Never blocks: it is what was last heard, at the latest when records were polled.
        """
        ...

    def close(self) -> None:
        """Hand over all partitions (`Owner.leaving`) and leave."""
        ...


class Committer(Protocol):
    """The only way a role makes anything public."""

    def commit(self, commit: Commit) -> CommitOutcome:
        """Make records and positions public together.

        Raises:
            FencedError: a newer owner exists: nothing was published, and never will be by us.
            RecordTooLargeError: a record does not fit; nothing was published.
            PositionError: the source's topic was made anew under the same name; nothing was published.
            DeadlineError: the outcome is unknown and the client hangs: leave the process.
        """
        ...

    def close(self) -> None:
        """Let go of the client within a second or two, whatever its state."""
        ...


class Transport(Protocol):
    """A durable, partitioned log with groups and atomic commits."""

    def ensure_topic(self, name: str, partitions: int, settings: Mapping[str, str] | None = None) -> TopicInfo:
        """Make the topic with append times if it is missing; return what it is.

        Raises:
            TopicError: it exists with another number of partitions.
        """
        ...

    def extend_topic(self, name: str, partitions: int) -> TopicInfo:
        """Add partitions to a topic until it has so many; return what it is. One that has more stays as it is.

        Records that are there stay where they are; new ones of a key may go to another partition from now on.

        Raises:
            TopicError: there is no such topic.
            AccessError: we may not.
            UnreachableError: no answer within the deadline.
        """
        ...

    def topic(self, name: str) -> TopicInfo:
        """Describe a topic.

        Raises:
            TopicError: there is no such topic.
            UnreachableError: no answer within the deadline.
        """
        ...

    def delete_topic(self, name: str) -> None:
        """Delete a topic with its records and committed positions; a no-op without one."""
        ...

    def append(self, topic: str, records: Iterable[Record]) -> None:
        """Append records durably, outside any transaction: simulators, send, control.

        Raises:
            TopicError, RecordTooLargeError, UnreachableError.
        """
        ...

    def read(self, partition: Partition, start: int, stop: int) -> Iterator[RawBatch]:
        """Read committed records with start <= offset < stop, without a group: recovery, audit, verify.

        Raises:
            PositionError: `start` is no longer retained.
        """
        ...

    def bounds(self, partition: Partition) -> tuple[int, int]:
        """Return the earliest retained offset and the one after the last committed record."""
        ...

    def committed(self, group: str, partition: Partition) -> Position | None:
        """Return what a group committed for a partition, or None."""
        ...

    def set_positions(self, group: str, topic: str, positions: Mapping[Partition, tuple[int, str] | None]) -> None:
        """Write a group's positions from outside; None takes one away.

        Args:
            group: a group without members: those would go on from where they are and write over it.
            topic: which all partitions belong to.
            positions: next input offset and metadata.

        Raises:
            PositionError: the group has members; nothing was written.
            TopicError: no such topic or partition.
            AccessError, UnreachableError.
        """
        ...

    def owners(self, group: str, topic: str) -> Mapping[Partition, str]:
        """Return which member of a group has which partition, for people to look at.

        A partition that nobody has is not in the answer; a member that died is, until its session time-out. While
        the group deals its partitions anew the answer may lack some.

        Raises:
            TopicError: there is no such topic.
            AccessError, UnreachableError.
        """
        ...

    def join(self, topic: str, group: str, owner: Owner, member: str) -> Source:
        """Join a consumer group as the static member `member` (unique in the group, kept over restarts)."""
        ...

    def committer(self, source: Source, member: str) -> Committer:
        """Return the committer bound to a source; a later one of the same `member` fences this one."""
        ...

    def close(self) -> None:
        """Let go of files and sockets."""
        ...
