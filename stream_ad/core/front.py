"""The interface of a front: records of one partition in, scored rows out. Everything after it handles rows only.

A front defines what a row is: a window on a grid, an event, a session. Deciding, commits, recovery, audit and
verification rely only on what is stated here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self, TypeVar

from stream_ad.core.batches import Arrays, Int32Array, Int64Array, Refused, ScoreBatch
from stream_ad.core.model import Model
from stream_ad.core.unscored import UnscoredDevice
from stream_ad.errors import ContractError


@dataclass(frozen=True, slots=True)
class RowRules:
    """Properties of a front's rows that recovery, audit and incidents rely on.

    Attributes:
        look_back_ns: log time, >= 0. Reading input from this long before an offset completes every row that is open at
            the offset.
        row_ns: event time from a row's start to its exclusive end, >= 0.
        step_ns: event time that one row adds to the age of an incident, > 0.
        ends_rise: a device's `end_ns` rises strictly from row to row; if False, it may repeat but never falls.
    """

    look_back_ns: int
    row_ns: int
    step_ns: int
    ends_rise: bool = True

    def __post_init__(self) -> None:
        if self.look_back_ns < 0 or self.row_ns < 0 or self.step_ns < 1:
            raise ContractError(f"front: expected look_back_ns and row_ns >= 0 and step_ns > 0, found {self}")

    @property
    def margin_ns(self) -> int:
        """Maximum event time by which a row may end after a row of another device, both on time."""
        return self.look_back_ns + max(self.row_ns, self.step_ns)


class Records(Protocol):
    """Decoded input of one partition, in log order; `ReadingBatch` is one implementation."""

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids of the batch's devices."""

    @property
    def device(self) -> Int32Array:
        """int32[n], index into `ids`."""

    @property
    def event_ns(self) -> Int64Array:
        """int64[n], event time, UTC nanoseconds."""

    @property
    def record_offset(self) -> Int64Array:
        """int64[r], offsets of all records, ascending, including those without usable content."""

    @property
    def record_log_ns(self) -> Int64Array:
        """int64[r], their append times, UTC nanoseconds."""

    @property
    def cells(self) -> int:
        """Number of usable values."""

    def cut(self, start: int, stop: int) -> Self:
        """Return records start..stop-1 and their content."""


R_contra = TypeVar("R_contra", bound=Records, contravariant=True)


class Front(Protocol[R_contra]):
    """State of all devices of one partition, by slot, up to the scored row.

    Results depend only on the records, not on how they are divided into calls. Rows come in emission order: `offset`
    never falls; a device's `sequence` counts from 0, also after `reset`; its ends follow `RowRules.ends_rise`.
    """

    @property
    def log_ns(self) -> int:
        """Log time of the partition, UTC nanoseconds: the greatest append time seen; `ring.NEVER` before the first."""

    @property
    def model(self) -> Model:
        """The model in force."""

    def grow(self, slots: int) -> None:
        """Make room for slots 0..slots-1; never shrinks."""

    def reset(self, slots: Int32Array) -> None:
        """Return slots to a new device's state."""

    def begin(self, slots: Int32Array, event_ns: Int64Array) -> None:
        """Record the event time of the first reading of new devices, accepted or not."""

    def add(self, slot: Int32Array, records: R_contra, ids: Sequence[str]) -> tuple[ScoreBatch, list[Refused]]:
        """Process records; return the rows they complete, and refused readings (late or future).

        Args:
            slot: int32[n], the slot of each reading; within the size of the last `grow`.
            records: decoded records.
            ids: the device id of each slot.
        """

    def advance(self, log_ns: int, offset: int, ids: Sequence[str]) -> ScoreBatch:
        """Advance log time between two records; return the rows that silence completes, with this `offset`."""

    def silence_ends_ns(self) -> int | None:
        """Return the earliest log time at which silence completes a row, or None."""

    def last_seen_ns(self) -> Int64Array:
        """Return int64[slots or more], log time of each slot's newest reading, or `ring.NEVER`."""

    def final_ns(self, slots: Int32Array) -> Int64Array:
        """Return int64[k], the event time before which no further row of a slot can end."""

    def replace_model(self, model: Model) -> None:
        """Score with another model from now on; open rows stay."""

    def unscored(self, most: int, ids: Sequence[str]) -> tuple[int, tuple[UnscoredDevice, ...]]:
        """Return the number of devices that send readings but have had no score for long, and up to `most` of them."""

    def snapshot(self, slots: int) -> Arrays:
        """Return the state of slots 0..slots-1 as named arrays; changes nothing."""

    def restore(self, arrays: Arrays) -> None:
        """Restore a snapshot.

        Raises:
            ContractError, KeyError, ValueError, IndexError: it does not fit.
        """
