"""The warnings in a stream's status, as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from stream_ad.config import Settings
from stream_ad.inspection.facts import Archiving, Growth, Lag, PartitionStatus, Scoring, Status
from stream_ad.inspection.formatting import count_text, duration_text
from stream_ad.inspection.intake import lines
from stream_ad.role_table import ARCHIVER, decider

LAGGING_S = 10.0
"""A lag below this is normal between two commits; scores also wait until their part is full."""
LEAST_S = 60.0
NAMED = 20
"""Maximum number of devices named in a line."""
SPAN_FACTOR = 10.0
"""Checkpoints and parts may be this many times older than configured, and at least `LEAST_S`."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Thresholds of the warnings.

    Attributes:
        lag_s: how long readings may wait to be scored.
        checkpoint_s: log time that may be scored after the newest checkpoint.
        part_s: how long scores may wait to be archived.
        unarchived_s: how long scores wait normally, plus a margin.
    """

    lag_s: float
    checkpoint_s: float
    part_s: float
    unarchived_s: float = LAGGING_S

    @classmethod
    def of(cls, settings: Settings, lag_s: float | None, checkpoint_s: float | None, part_s: float | None) -> Limits:
        """Return the given limits, with defaults that fit the settings."""
        store = settings.store
        return cls(
            LEAST_S if lag_s is None else lag_s,
            max(LEAST_S, SPAN_FACTOR * store.checkpoint_every_s) if checkpoint_s is None else checkpoint_s,
            max(LEAST_S, SPAN_FACTOR * store.part_max_age_s) if part_s is None else part_s,
            LAGGING_S + 2 * store.part_max_age_s,
        )


def warnings(status: Status, before: Status | None, limits: Limits) -> list[str]:
    """Return the warnings, one line each.

    Args:
        status: the current status.
        before: an earlier status, to detect a growing lag.
        limits: the thresholds.
    """
    parts = (*_ownerless(status), *_not_taken(status), *_roles(status), *_partitions(status, before, limits))
    return [*parts, *lines(status.intake)]


def is_lagging(status: Status, limits: Limits) -> bool:
    """Return whether a lag might be growing, so that a second status is worth reading."""
    return any(
        part.scoring.lag.waiting_s > LAGGING_S or part.archiving.lag.waiting_s > limits.unarchived_s
        for part in status.partitions
    )


def _ownerless(status: Status) -> Iterator[str]:
    parts = [part for part in status.partitions if part.scoring.has_outputs]
    halves: dict[str, Mapping[int, str]] = {
        decider().name: {part.partition: part.scoring.owner for part in parts},
        ARCHIVER.name: {part.partition: part.archiving.owner for part in parts},
    }
    for role, owners in halves.items():
        alone = [number for number, owner in owners.items() if not owner]
        if alone and len(alone) == len(owners):
            yield f"no owner: no {role} has any of the {count_text(len(owners), 'partition')}"
        elif alone:
            yield f"no owner: no {role} has partition {_listed(alone)}"


def _not_taken(status: Status) -> Iterator[str]:
    """Yield partitions that were added to the readings topic and cannot be scored yet."""
    found = [part.partition for part in status.partitions if not part.scoring.has_outputs]
    if found:
        yield (
            f"not scored: partition {_listed(found)} of the readings: the scores and journal topics have only "
            f"{count_text(len(status.partitions) - len(found), 'partition')}; `stream-ad check --create` adds the "
            "missing ones, and running scorers then pick them up"
        )


def _roles(status: Status) -> Iterator[str]:
    for role in status.roles:
        if role.state == "unreachable":
            yield f"{role.name} is unreachable at {role.address}: {role.text}"
        elif role.state == "not ready":
            yield f"{role.name} is not ready: {role.text}"


def _partitions(status: Status, before: Status | None, limits: Limits) -> Iterator[str]:
    earlier = {part.partition: part for part in before.partitions} if before is not None else {}
    for part in status.partitions:
        was: PartitionStatus | None = earlier.get(part.partition)
        name = f"partition {part.partition}"
        for text in _scoring(part.scoring, None if was is None else was.scoring.lag, limits):
            yield f"{name}: {text}"
        for text in _archiving(part.archiving, None if was is None else was.archiving.lag, limits):
            yield f"{name}: {text}"


def _scoring(found: Scoring, before: Lag | None, limits: Limits) -> Iterator[str]:
    if found.trouble:
        yield found.trouble
    if found.committed is not None and found.committed < found.earliest:
        yield f"{_deleted(found.committed, found.earliest)}; a scorer that starts resumes at {found.earliest}"
    for lost in found.lost:
        yield (
            f"{_deleted(lost.start, lost.end)}, found at {lost.since} ({duration_text(lost.age_s)} ago): they have no "
            "scores; the topic's retention must exceed any backlog or downtime of the stream"
        )
    for growth in found.growths:
        yield _grown(growth)
    yield from _lag(found.lag, before, (limits.lag_s, LAGGING_S), "readings wait to be scored", "the scorer's lag")
    if found.unsaved_s is not None and found.unsaved_s > limits.checkpoint_s and found.newest is not None:
        yield (
            f"the newest checkpoint is old ({duration_text(found.newest.age_s)}): a restart rereads "
            f"{duration_text(found.unsaved_s)} of input"
        )


def _grown(growth: Growth) -> str:
    text = (
        f"partitions were added to the readings topic ({growth.before} before, {growth.partitions} now), noticed at "
        f"{growth.since} ({duration_text(growth.age_s)} ago): "
    )
    if not growth.moved:
        return f"{text}no device of this partition moved"
    named = growth.devices[:NAMED]
    more = f" and {growth.moved - len(named)} more" if growth.moved > len(named) else ""
    return (
        f"{text}{count_text(growth.moved, 'device')} of this partition now map to another one by Kafka's partitioner "
        f"and start with empty state there: {', '.join(named)}{more}"
    )


def _deleted(start: int, end: int) -> str:
    return f"{end - start:,} input offsets ({start} to {end - 1}) were deleted before they were scored"


def _archiving(found: Archiving, before: Lag | None, limits: Limits) -> Iterator[str]:
    if found.trouble:
        yield found.trouble
    age = "there is none" if found.last_part is None else f"{duration_text(found.last_part.age_s)} old"
    waiting = f"the last part is old ({age}): scores wait"
    yield from _lag(found.lag, before, (limits.part_s, limits.unarchived_s), waiting, "the archiver's lag")


def _lag(lag: Lag, before: Lag | None, limits_s: tuple[float, float], waiting: str, name: str) -> Iterator[str]:
    """Yield a warning if the lag exceeds the first limit, and one if it grows beyond the second."""
    limit_s, lagging_s = limits_s
    if lag.waiting_s > limit_s:
        yield f"{waiting}: {lag.records:,} unread, the first since {duration_text(lag.waiting_s)}"
    if before is not None and lag.waiting_s > lagging_s and lag.records > before.records > 0:
        yield f"{name} is growing: from {before.records:,} to {lag.records:,} records"


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
