"""A list of the windows that close; their samples are gathered later."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stream_ad.core.batches import BoolArray, Columns, Int64Array
from stream_ad.core.segments import expand


@dataclass(frozen=True, slots=True)
class Closing(Columns):
    """Windows that close, in time order per slot.

    Attributes:
        slot: int64[n].
        end: int64[n], exclusive end cell.
        offset: int64[n], input offset that closes the window.
        idle: bool[n], closed by silence.
    """

    slot: Int64Array
    end: Int64Array
    offset: Int64Array
    idle: BoolArray

    @classmethod
    def between(
        cls, slot: Int64Array, lowest: Int64Array, highest: Int64Array, stride: int, offset: Int64Array, idle: bool
    ) -> Closing:
        """List the windows whose ends are the multiples `lowest` to `highest` of the stride.

        Args:
            slot: int64[k].
            lowest: int64[k], the first multiple.
            highest: int64[k], the last one; none if it is below `lowest`.
            stride: in cells.
            offset: int64[k], input offset that closes them.
            idle: whether silence closes them.
        """
        row, step = expand(np.maximum(highest - lowest + 1, 0))
        end = (lowest[row] + step) * stride
        return cls(slot[row], end, offset[row], np.full(len(row), idle, np.bool_))

    def and_also(self, other: Closing) -> Closing:
        """Return the windows of both."""
        return Closing.joined([self, other])

    def in_emission_order(self) -> Closing:
        """Return them in the order (`offset`, slot, `end`)."""
        return self.take(np.lexsort((self.end, self.slot, self.offset)))
