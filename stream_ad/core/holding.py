"""Held values: a channel that reports on change keeps its last value for a maximum age."""

from __future__ import annotations

import numpy as np

from stream_ad.core.batches import Arrays, BoolArray, Float64Array, Int32Array, Int64Array
from stream_ad.core.model import WindowShape
from stream_ad.core.rounds import rounds

LONG_AGO = np.int64(-(2**62))


class Holding:
    """The last value of each channel before the next window's start, by slot.

    Uses 16 bytes per channel and slot.
    """

    def __init__(self, shape: WindowShape, hold: BoolArray, age_cells: Int64Array) -> None:
        self._shape = shape
        self._hold = hold
        self._age = age_cells
        self._value: Float64Array = np.empty((0, len(hold)), np.float64)
        self._cell: Int64Array = np.empty((0, len(hold)), np.int64)

    def grow(self, slots: int) -> None:
        """Make room for slots 0..slots-1."""
        more = slots - len(self._value)
        if more > 0:
            width = len(self._hold)
            self._value = np.concatenate([self._value, np.full((more, width), np.nan, np.float64)])
            self._cell = np.concatenate([self._cell, np.full((more, width), LONG_AGO)])

    def reset(self, slots: Int32Array) -> None:
        """Forget the values of slots."""
        self._value[slots] = np.nan
        self._cell[slots] = LONG_AGO

    def fill(self, values: Float64Array, slot: Int64Array, end: Int64Array) -> BoolArray:
        """Fill empty cells of held channels in place, and remember values that leave the windows.

        Args:
            values: float64[n, r, c], the cells before each end, r >= t and r >= stride, in time order
                per slot, none that holds a sample left out between two of a slot.
            slot: int32[n].
            end: int64[n], exclusive end cell.

        Returns:
            bool[n], windows (the last t cells) in which a value was held.
        """
        held = np.zeros(len(values), np.bool_)
        for rows in rounds(slot):
            held[rows] = self._fill_round(values, rows, slot[rows], end[rows])
        return held

    def _fill_round(self, values: Float64Array, rows: Int64Array, slot: Int64Array, end: Int64Array) -> BoolArray:
        window = values[rows]
        reach = window.shape[1]
        start = (end - reach)[:, None, None]
        step = np.arange(reach)[None, :, None]
        present = ~np.isnan(window)
        last = np.maximum.accumulate(np.where(present, step, -1), axis=1)
        carried = np.take_along_axis(window, np.maximum(last, 0), axis=1)
        value = np.where(last >= 0, carried, self._value[slot][:, None, :])
        cell = np.where(last >= 0, start + last, self._cell[slot][:, None, :])
        empty = ~present & self._hold & (start + step - cell <= self._age) & ~np.isnan(value)
        values[rows] = np.where(empty, value, window)
        leaving = self._shape.stride - 1
        self._value[slot] = value[:, leaving]
        self._cell[slot] = cell[:, leaving]
        return np.asarray(empty[:, reach - self._shape.samples :].any(axis=(1, 2)))

    def snapshot(self, slots: int) -> Arrays:
        """Return the state of slots 0..slots-1."""
        return {"held_value": self._value[:slots].copy(), "held_cell": self._cell[:slots].copy()}

    def restore(self, arrays: Arrays, slots: int) -> None:
        """Take back a snapshot of `slots` slots."""
        self.grow(slots)
        self._value[:slots] = arrays["held_value"]
        self._cell[:slots] = arrays["held_cell"]
