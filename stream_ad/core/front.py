"""What a front is: records of one partition -> scored rows. Everything behind it knows rows only.

A front decides what a row is: a window on a grid, a single event, a session. Deciding, commits, recovery, audit and
verification know no more of it than is stated here.
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
    """What recovery, audit and incidents need to know of a front's rows.

    Attributes:
        look_back_ns: log time, >= 0. Reading input that reaches back at least this far makes every row complete that is
            open at a given offset.
        row_ns: event time from the start of a row to its exclusive end, >= 0.
        step_ns: event time that one row stands for in the age of an incident, > 0.
        ends_rise: a device's `end_ns` rises strictly from row to row; where False, it never falls, but may repeat.
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
        """How much later in event time a row may end than one of another device, both on time."""
        return self.look_back_ns + max(self.row_ns, self.step_ns)


class Records(Protocol):
    """Decoded input of one partition, in log order; see `ReadingBatch`, which is one kind of it."""

    @property
    def ids(self) -> tuple[str, ...]:
        """Text of the batch's devices."""

    @property
    def device(self) -> Int32Array:
        """int32[n], index into `ids`."""

    @property
    def event_ns(self) -> Int64Array:
        """int64[n], event time, UTC nanoseconds."""

    @property
    def record_offset(self) -> Int64Array:
        """int64[r], offsets of all records, ascending, also of those without anything usable."""

    @property
    def record_log_ns(self) -> Int64Array:
        """int64[r], their append times, UTC nanoseconds."""

    @property
    def cells(self) -> int:
        """Number of usable values."""

    def cut(self, start: int, stop: int) -> Self:
        """Return records start..stop-1 and what they held."""


R_contra = TypeVar("R_contra", bound=Records, contravariant=True)


class Front(Protocol[R_contra]):
    """State of all devices of one partition, by slot, up to the scored row.

    Results depend on the records alone, not on how they are cut into calls. Rows come in emission order: `offset` never
    falls; a device's `sequence` rises by one from 0, also after `reset`; its ends follow `RowRules.ends_rise`.
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
        """Put slots back to a new device's state."""

    def begin(self, slots: Int32Array, event_ns: Int64Array) -> None:
        """Note the event time of the first reading of new devices, whether it is accepted or not."""

    def add(self, slot: Int32Array, records: R_contra, ids: Sequence[str]) -> tuple[ScoreBatch, list[Refused]]:
        """Take in records and return the rows that they complete, and what was refused as late or future.

        Args:
            slot: int32[n], the slot of each reading; `grow` was called.
            records: what the records held.
            ids: the device of each slot.
        """

    def advance(self, log_ns: int, offset: int, ids: Sequence[str]) -> ScoreBatch:
        """Move log time on between two records; return the rows that silence completes, which bear `offset`."""

    def silence_ends_ns(self) -> int | None:
        """Return the earliest log time at which silence completes a row, or None."""

    def heard(self) -> Int64Array:
        """Return int64[slots or more], log time of each slot's newest reading; `ring.NEVER` without one."""

    def final_ns(self, slots: Int32Array) -> Int64Array:
        """Return int64[k], the event time before which no row of a slot can end any more."""

    def replace_model(self, model: Model) -> None:
        """Score with another model from here on; open rows stay."""

    def unscored(self, most: int, ids: Sequence[str]) -> tuple[int, tuple[UnscoredDevice, ...]]:
        """Return how many devices send readings and have had no score for long, and `most` of them."""

    def snapshot(self, slots: int) -> Arrays:
        """Return the state of slots 0..slots-1 as named arrays; taking it changes nothing."""

    def restore(self, arrays: Arrays) -> None:
        """Take back a snapshot.

        Raises:
            ContractError, KeyError, ValueError, IndexError: it does not fit.
        """
