"""The position of a device's grid cells: around the multiples of the period, or half a period later.

A device that reports near the middle between two cells would, with a little jitter, alternate between them: two
readings in one cell, none in the next. Its first reading decides: if it is further than a quarter of a period from its
nearest cell, the device's cells are half a period later. Either way a reading may deviate by a quarter of a period, and
the ends of windows stay multiples of the period.
"""

from __future__ import annotations

import numpy as np

from stream_ad.core.batches import BoolArray, Int64Array
from stream_ad.core.segments import Segments


def is_between(event_ns: Int64Array, period_ns: int) -> BoolArray:
    """Return bool[n]: the time is further than a quarter of a period from the nearest multiple of it."""
    past = (event_ns + period_ns // 2) % period_ns - period_ns // 2
    return np.asarray(4 * np.abs(past) > period_ns)


def cells_of(event_ns: Int64Array, is_later: BoolArray | np.bool_, period_ns: int) -> Int64Array:
    """Return int64[n], the cell of each time.

    Args:
        event_ns: int64[n].
        is_later: bool[n], or one for all: the cells lie half a period later.
        period_ns: length of a cell.
    """
    return np.asarray((event_ns + np.where(is_later, 0, period_ns // 2)) // period_ns)


class Phases:
    """Whether each slot's cells lie half a period later."""

    def __init__(self, period_ns: int) -> None:
        self._period_ns = period_ns
        self._is_later: BoolArray = np.empty(0, np.bool_)

    def grow(self, slots: int) -> None:
        """Make room for slots 0..slots-1."""
        self._is_later = np.append(self._is_later, np.zeros(slots - len(self._is_later), np.bool_))

    def cells(self, segments: Segments, event_ns: Int64Array, is_new: BoolArray) -> Int64Array:
        """Return the cell of each reading; the first reading of a new device sets its phase.

        Args:
            segments: runs of a slot.
            event_ns: int64[n], in log order within a slot.
            is_new: bool[k], the slot's first reading is here.
        """
        later = np.where(is_new, is_between(event_ns[segments.start], self._period_ns), self._is_later[segments.slot])
        self._is_later[segments.slot] = later
        if not later.any():
            return np.asarray((event_ns + self._period_ns // 2) // self._period_ns)
        return cells_of(event_ns, later[segments.number()], self._period_ns)

    def snapshot(self, slots: int) -> BoolArray:
        """Return bool[slots]."""
        return self._is_later[:slots].copy()

    def restore(self, is_later: BoolArray) -> None:
        """Take back a snapshot; there is room for its slots."""
        self._is_later[:] = False
        self._is_later[: len(is_later)] = is_later
