"""Finds the input offsets of a range of event time from the published rows in and around it.

Rows lost at an edge of the range cannot reveal theirs, so the rows next to it count as well.
"""

from __future__ import annotations

import numpy as np

from stream_ad.core.batches import BoolArray, Int64Array

_NEVER = np.iinfo(np.int64).max


class Neighbours:
    """A partition's rows in and around a range, fed in input order.

    Attributes:
        own: lowest offset of the range's own rows; None without any.
    """

    def __init__(self, start_us: int | None, end_us: int | None, margin_us: int) -> None:
        """Start without rows.

        Args:
            start_us: windows that end after it, event time, microseconds; None for no bound.
            end_us: windows that end at or before it; likewise.
            margin_us: rows that end within this time of the range are next to it: the maximum delay by which a window
                may close later than another device's.
        """
        self.own: int | None = None
        self._start, self._end, self._margin = start_us, end_us, margin_us
        self._low, self._high = _NEVER, -1
        self._has_before = self._has_after = False
        self._first_late, self._before, self._after = _NEVER, -1, _NEVER

    def add(self, offset: Int64Array, end: Int64Array, own: Int64Array) -> None:
        """Add the next rows.

        Args:
            offset: int64[n], of all rows.
            end: int64[n], of all rows, microseconds.
            own: int64[m], offsets of the rows in the range.
        """
        if len(own):
            self.own = int(own.min()) if self.own is None else min(self.own, int(own.min()))
        near = np.ones(len(end), np.bool_)
        if self._start is not None:
            near &= end > self._start - self._margin
            self._has_before = self._has_before or bool((near & (end <= self._start)).any())
            self._note_before(offset, end <= self._start)
        if self._end is not None:
            near &= end <= self._end + self._margin
            self._has_after = self._has_after or bool((near & (end > self._end)).any())
            self._note_after(offset, end > self._end)
        if near.any():
            self._low = min(self._low, int(offset[near].min()))
            self._high = max(self._high, int(offset[near].max()))

    def bounds(self, begun: int, stop: int) -> tuple[int, int]:
        """Return the input offsets of the range's rows, including missing ones.

        Args:
            begun: start of the stream.
            stop: end of the scored input, exclusive.
        """
        low, high = min(self._low, stop), self._high + 1
        if self._start is None or (not self._has_before and self._before < 0):
            low = begun
        elif not self._has_before:
            low = min(low, self._before)
        if self._end is None or (not self._has_after and self._after == _NEVER):
            high = stop
        elif not self._has_after:
            high = max(high, self._after + 1)
        return low, min(high, stop)

    def _note_before(self, offset: Int64Array, is_before: BoolArray) -> None:
        """Keep the last row before any that ends later."""
        known = self._first_late
        self._first_late = min(known, int(offset[~is_before].min(initial=_NEVER)))
        if known == _NEVER:
            self._before = max(self._before, int(offset[is_before & (offset < self._first_late)].max(initial=-1)))

    def _note_after(self, offset: Int64Array, is_after: BoolArray) -> None:
        """Keep the first row after all that end earlier."""
        last_early = int(offset[~is_after].max(initial=-1))
        if last_early > self._after or self._after == _NEVER:
            self._after = int(offset[is_after & (offset > last_early)].min(initial=_NEVER))
