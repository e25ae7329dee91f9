"""The facts of a stream's status, as values without the log they were read from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from stream_ad.inspection.intake import IntakeStatus
from stream_ad.inspection.pages import RoleStatus


@dataclass(frozen=True, slots=True)
class Lag:
    """How far a reader is behind, in log time.

    Attributes:
        records: unread records. Above `COUNTED` unread offsets, the number of offsets, transaction markers included.
        seconds: log time of the newest record minus that of the first unread one.
        waiting_s: age of the first unread record, by this machine's clock.
    """

    records: int = 0
    seconds: float = 0.0
    waiting_s: float = 0.0


@dataclass(frozen=True, slots=True)
class CheckpointFile:
    """A checkpoint in this host's folder.

    Attributes:
        name: file name.
        age_s: time since it was written.
        offset: next input offset after the checkpoint.
    """

    name: str
    age_s: float
    offset: int


@dataclass(frozen=True, slots=True)
class PartFile:
    """A partition's last part in this host's folder.

    Attributes:
        path: relative to the folder.
        age_s: time since it was written.
        rows: number of rows.
        end: next offset of the scores topic after the part.
    """

    path: str
    age_s: float
    rows: int
    end: int


@dataclass(frozen=True, slots=True)
class LostInput:
    """Input that was deleted before it was scored.

    Attributes:
        start, end: input offsets, end exclusive.
        age_s: time since the scorer noticed, by this machine's clock.
        since: when the scorer noticed, RFC 3339.
    """

    start: int
    end: int
    age_s: float
    since: str


@dataclass(frozen=True, slots=True)
class Growth:
    """Partitions added to the readings topic, as seen by one of the older partitions.

    Attributes:
        before, partitions: number of partitions before and after.
        moved: number of this partition's devices whose key now maps to another partition.
        devices: the first of these.
        age_s: time since the scorer noticed, by this machine's clock.
        since: when the scorer noticed, RFC 3339.
    """

    before: int
    partitions: int
    moved: int
    devices: tuple[str, ...]
    age_s: float
    since: str


@dataclass(frozen=True, slots=True)
class Scoring:
    """Scoring state of a partition.

    Attributes:
        owner: assigned member, "" if none.
        committed: next input offset, None before the first commit.
        earliest: first retained input offset.
        lag: readings not yet scored.
        model: id of the model in force according to the last commit, "" if unknown.
        is_catching_up: according to the owner's pages; None if they cannot be read.
        last_result_age_s: time since the last commit with scores, None if there is none.
        unsaved_s: log time scored since the newest checkpoint, which a restart rereads; None without a checkpoint.
        oldest, newest: checkpoints in this host's folder.
        trouble: what is wrong with the position, "" if nothing.
        lost: input deleted before it was scored, during the last day.
        growths: partitions added to the readings topic, during the last day.
        has_outputs: whether the scores and journal topics have this partition, so that it can be scored.
    """

    owner: str
    committed: int | None
    earliest: int
    lag: Lag
    model: str
    is_catching_up: bool | None
    last_result_age_s: float | None
    unsaved_s: float | None
    oldest: CheckpointFile | None
    newest: CheckpointFile | None
    trouble: str = ""
    lost: tuple[LostInput, ...] = ()
    growths: tuple[Growth, ...] = ()
    has_outputs: bool = True


@dataclass(frozen=True, slots=True)
class Archiving:
    """Archiving state of a partition.

    Attributes:
        owner: assigned member, "" if none.
        lag: score messages not yet in a part.
        last_part: in this host's folder.
        trouble: what is wrong with the folder, "" if nothing.
    """

    owner: str
    lag: Lag
    last_part: PartFile | None
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class PartitionStatus:
    """Scoring and archiving state of a partition."""

    partition: int
    scoring: Scoring
    archiving: Archiving


@dataclass(frozen=True, slots=True)
class Status:
    """State of a stream.

    Attributes:
        stream: its name.
        taken_ns: when the status was read, UTC nanoseconds.
        partitions: in order of their numbers.
        roles: this host's roles, expected or running.
        intake: newest input that could not be used.
    """

    stream: str
    taken_ns: int
    partitions: tuple[PartitionStatus, ...]
    roles: tuple[RoleStatus, ...]
    intake: IntakeStatus = field(default_factory=IntakeStatus)


def totals(status: Status) -> Mapping[str, float]:
    """Return totals of records and maxima of times over the partitions."""
    scoring = [part.scoring.lag for part in status.partitions]
    archiving = [part.archiving.lag for part in status.partitions]
    return {
        "partitions": len(status.partitions),
        "unscored_records": sum(lag.records for lag in scoring),
        "unscored_s": max((lag.seconds for lag in scoring), default=0.0),
        "unarchived_messages": sum(lag.records for lag in archiving),
        "unarchived_s": max((lag.seconds for lag in archiving), default=0.0),
    }
