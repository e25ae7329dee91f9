"""What is found of a stream's status: values without the log they were read from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from stream_ad.inspection.intake import IntakeStatus
from stream_ad.inspection.pages import RoleStatus


@dataclass(frozen=True, slots=True)
class Lag:
    """How far a reader is behind, by the log's own times.

    Attributes:
        records: not yet read. Above `COUNTED` a difference of offsets, which holds the log's own records too.
        seconds: log time of the newest record minus that of the first unread one.
        waiting_s: age of the first unread record now, by this machine's clock.
    """

    records: int = 0
    seconds: float = 0.0
    waiting_s: float = 0.0


@dataclass(frozen=True, slots=True)
class CheckpointFile:
    """A checkpoint in this host's folder.

    Attributes:
        name: of the file.
        age_s: since it was written.
        offset: the next input offset after what it holds.
    """

    name: str
    age_s: float
    offset: int


@dataclass(frozen=True, slots=True)
class PartFile:
    """The last part of a partition in this host's folder.

    Attributes:
        path: relative to the folder.
        age_s: since it was written.
        rows: in it.
        end: the next offset of the scores topic after what it holds.
    """

    path: str
    age_s: float
    rows: int
    end: int


@dataclass(frozen=True, slots=True)
class LostInput:
    """Input that was deleted before it was scored.

    Attributes:
        start, end: input offsets, the end exclusive.
        age_s: since the scorer found out, by this machine's clock.
        since: that moment, RFC 3339.
    """

    start: int
    end: int
    age_s: float
    since: str


@dataclass(frozen=True, slots=True)
class Growth:
    """Partitions that were added to the readings, as one of the older partitions saw it.

    Attributes:
        before, partitions: their number until then, and since.
        moved: devices of this partition whose key belongs to another one since.
        devices: the first of these.
        age_s: since the scorer noticed, by this machine's clock.
        since: that moment, RFC 3339.
    """

    before: int
    partitions: int
    moved: int
    devices: tuple[str, ...]
    age_s: float
    since: str


@dataclass(frozen=True, slots=True)
class Scoring:
    """How the scoring of a partition stands.

    Attributes:
        owner: member that has it, "" if nobody.
        committed: next input offset, None before the first commit.
        earliest: first input offset retained.
        lag: readings not yet scored.
        model: id of the model in force as the last commit tells, "" if it does not.
        is_catching_up: as the owner's pages tell; None if they are not to be had.
        last_result_age_s: since the last commit that had scores, None if there are none.
        unsaved_s: log time scored since the newest checkpoint: what a restart reads again; None without checkpoint.
        oldest, newest: checkpoints in this host's folder.
        trouble: what is wrong with the position, "" if nothing.
        lost: what was deleted before it was scored, of the last day.
        growths: when partitions were added to the readings, of the last day.
        has_outputs: whether scores and journal have this partition, so that it can be scored.
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
    """How the archiving of a partition stands.

    Attributes:
        owner: member that has it, "" if nobody.
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
    """Both halves of a partition."""

    partition: int
    scoring: Scoring
    archiving: Archiving


@dataclass(frozen=True, slots=True)
class Status:
    """How the stream stands.

    Attributes:
        stream: its name.
        taken_ns: when this was looked at.
        partitions: in order of their numbers.
        roles: those of this host that should run, or do.
        intake: what of the newest input could not be used.
    """

    stream: str
    taken_ns: int
    partitions: tuple[PartitionStatus, ...]
    roles: tuple[RoleStatus, ...]
    intake: IntakeStatus = field(default_factory=IntakeStatus)


def totals(status: Status) -> Mapping[str, float]:
    """Return sums over records and the largest of times."""
    scoring = [part.scoring.lag for part in status.partitions]
    archiving = [part.archiving.lag for part in status.partitions]
    return {
        "partitions": len(status.partitions),
        "unscored_records": sum(lag.records for lag in scoring),
        "unscored_s": max((lag.seconds for lag in scoring), default=0.0),
        "unarchived_messages": sum(lag.records for lag in archiving),
        "unarchived_s": max((lag.seconds for lag in archiving), default=0.0),
    }
