"""Readings of a poll, prepared for windowing: sorted by slot, each with its cell and record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from stream_ad.core.batches import BoolArray, Int32Array, Int64Array, ReadingBatch, Reason, Refused, UInt8Array
from stream_ad.core.ring import BAD
from stream_ad.core.segments import Segments, order_by_slot, runs

DAY_NS = 86_400_000_000_000
SINCE_1904_NS = 2_082_844_800_000_000_000
"""From 1904 to 1970: the error of a time that counts from 1904."""
Cells: TypeAlias = Callable[[Segments, Int64Array], Int64Array]


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Readings sorted by slot, in log order within a slot.

    Attributes:
        segments: runs of a slot.
        number: int64[n], run of each row.
        row: int64[n], row in the batch.
        cell: int64[n], cell of the grid.
        record: int64[n], which record of the batch.
        offset: int64[n], its offset.
        flags: uint8[n], cell flags.
    """

    segments: Segments
    number: Int64Array
    row: Int64Array
    cell: Int64Array
    record: Int64Array
    offset: Int64Array
    flags: UInt8Array

    @classmethod
    def of(
        cls,
        slot: Int32Array,
        batch: ReadingBatch,
        record: Int64Array,
        rows: Int64Array | None,
        cells: Cells,
    ) -> Arrivals | None:
        """Sort readings by slot.

        Args:
            slot: int32[n], the slot of each reading of the batch.
            batch: n readings.
            record: int64[n], `records_of(batch)`.
            rows: int64[k], the readings to take, or None for all.
            cells: returns the cell of each reading, by the runs of a slot and their times.

        Returns:
            the readings, or None if there are none.
        """
        kept = slot if rows is None else slot[rows]
        if len(kept) == 0:
            return None
        order = order_by_slot(kept)
        if order is None:
            order = np.arange(len(kept))
        row = order if rows is None else rows[order]
        segments = Segments.of(slot[row])
        return cls(
            segments=segments,
            number=segments.number(),
            row=row,
            cell=cells(segments, batch.event_ns[row]),
            record=record[row],
            offset=batch.offset[row],
            flags=_flags(batch.is_bad, row),
        )

    def slot(self, rows: Int64Array) -> Int64Array:
        """Return int64[k], the slots of rows."""
        return self.segments.slot[self.number[rows]]


def records_of(batch: ReadingBatch) -> Int64Array:
    """Return int64[n], which record of the batch each reading is of."""
    if len(batch.offset) == 0:
        return np.empty(0, np.int64)
    start = runs(batch.offset)
    record = np.searchsorted(batch.record_offset, batch.offset[start])
    return np.repeat(record, np.diff(start, append=len(batch.offset)))


def refused(rows: Int64Array, batch: ReadingBatch, reason: Reason, log: Int64Array) -> list[Refused]:
    """Return one entry per record for readings that are late or too far ahead.

    Args:
        rows: rows of the batch that are refused.
        batch: the readings.
        reason: LATE or FUTURE.
        log: int64[n], log time at each reading of the batch.
    """
    if len(rows) == 0:
        return []
    offsets, first, count = np.unique(batch.offset[rows], return_index=True, return_counts=True)
    found = []
    for offset, row, n in zip(offsets.tolist(), rows[first].tolist(), count.tolist(), strict=True):
        event_ns = int(batch.event_ns[row])
        what = "older than the watermark of its device" if reason is Reason.LATE else _ahead(event_ns, int(log[row]))
        found.append(Refused(offset, reason, f"{n} reading(s) {what}", n, event_ns, batch.ids[int(batch.device[row])]))
    return found


def _ahead(event_ns: int, log_ns: int) -> str:
    """Return how far a reading is ahead of log time, and a mistake that could explain it."""
    detail = f"too far ahead of log time: the first is at {_utc(event_ns)}, log time is {_utc(log_ns)}"
    if abs(event_ns - SINCE_1904_NS - log_ns) < DAY_NS:
        return f"{detail}; might be milliseconds since 1904"
    if event_ns - log_ns < DAY_NS:
        return f"{detail}; might be local time sent as UTC, or a clock that is ahead"
    return detail


def _utc(time_ns: int) -> str:
    return str(np.datetime64(time_ns // 1_000_000_000, "s")) + "Z"


def _flags(is_bad: BoolArray | None, row: Int64Array) -> UInt8Array:
    return np.zeros(len(row), np.uint8) if is_bad is None else np.where(is_bad[row], BAD, np.uint8(0))
