"""Rows grouped by slot without leaving numpy: order, bounds, running maxima, expansion."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stream_ad.core.batches import Int32Array, Int64Array


@dataclass(frozen=True, slots=True)
class Segments:
    """Runs of equal slots in an array sorted by slot.

    Attributes:
        slot: int64[k], the slot of each run, ascending.
        start: int64[k], first row of each run.
        stop: int64[k], row after the last.
    """

    slot: Int64Array
    start: Int64Array
    stop: Int64Array

    @classmethod
    def of(cls, slot: Int32Array) -> Segments:
        """Find the runs of a sorted, non-empty int32[n]."""
        start = runs(slot)
        return cls(slot[start].astype(np.int64), start, np.append(start[1:], len(slot)))

    @property
    def length(self) -> Int64Array:
        """int64[k], rows of each run."""
        return self.stop - self.start

    def number(self) -> Int64Array:
        """int64[n], the run that each row belongs to."""
        return np.repeat(np.arange(len(self.slot)), self.length)


def runs(value: Int32Array | Int64Array) -> Int64Array:
    """Return int64[k], the first row of each run of equal values in a non-empty int[n]."""
    return np.append(np.zeros(1, np.int64), np.flatnonzero(value[1:] != value[:-1]) + 1)


def order_by_slot(slot: Int32Array) -> Int64Array | None:
    """Return the stable order by slot, or None if rows are already in it.

    Rows come in runs of one device (a message is many rows), so the sort is over runs.
    """
    start = runs(slot)
    run_slot = slot[start]
    if (run_slot[1:] >= run_slot[:-1]).all():
        return None
    length = np.diff(start, append=len(slot))
    order = np.argsort(run_slot, kind="stable")
    row, step = expand(length[order])
    return start[order][row] + step


def expand(count: Int64Array) -> tuple[Int64Array, Int64Array]:
    """Turn counts into rows: for [2, 0, 1] the pairs (0, 0), (0, 1), (2, 0).

    Args:
        count: int64[n], >= 0.

    Returns:
        int64[sum] index into `count`, and int64[sum] position within it.
    """
    row = np.repeat(np.arange(len(count)), count)
    step = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
    return row, step


def running_max(value: Int64Array, segments: Segments, initial: Int64Array) -> tuple[Int64Array, Int64Array]:
    """Return the maximum of each run before and after each row.

    Args:
        value: int64[n], rows sorted by run.
        segments: k runs that cover the rows.
        initial: int64[k], the maximum before each run's first row.

    Returns:
        int64[n] maximum before the row, and int64[n] maximum with it.
    """
    n = len(value)
    head = segments.start
    first_rises = value[head] > initial
    inner_rise = np.ones(n, np.bool_)
    inner_rise[1:] = value[1:] > value[:-1]
    inner_rise[head] = first_rises
    if inner_rise.all():
        after = value
    else:
        after = value.copy()
        after[head] = np.maximum(after[head], initial)
        # The common span usually fits into 62 bits; only hostile times need the slow path.
        low = int(after.min())
        span = int(after.max()) - low + 1
        if span < 2**62 // max(len(head), 1):
            lift = segments.number() * span
            after = np.maximum.accumulate(after - low + lift) - lift + low
        else:
            for a, b in zip(head.tolist(), segments.stop.tolist(), strict=True):
                after[a:b] = np.maximum.accumulate(after[a:b])
    before = np.empty_like(after)
    before[1:] = after[:-1]
    before[head] = initial
    return before, after
