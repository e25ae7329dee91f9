"""The ring of samples: `float64[slots, cells, channels]`, each cell tagged with the time it holds."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from stream_ad.core.batches import BoolArray, Float64Array, Int32Array, Int64Array, UInt8Array
from stream_ad.core.quality import Quality
from stream_ad.core.rounds import rounds

NEVER = np.int64(-(2**62))
"""A time before all others: no value yet."""

# Flags kept per cell, as bits of a byte.
DUPLICATE, OUT_OF_ORDER, BAD = np.uint8(1), np.uint8(2), np.uint8(4)
CELL_FLAGS = ((DUPLICATE, Quality.DUPLICATE), (OUT_OF_ORDER, Quality.OUT_OF_ORDER), (BAD, Quality.BAD_VALUE))


class Ring:
    """Samples by slot and cell; a cell is empty unless its tag is the requested cell.

    Args:
        span: number of cells that must fit at once.
        channels: c.
        block: a divisor of the length and of the end of every window requested: windows are then gathered by blocks
            instead of samples.

    Attributes:
        cells: length of the ring, a power of two.
    """

    def __init__(self, span: int, channels: int, block: int) -> None:
        self.cells = 1 << (span - 1).bit_length()
        self._block = math.gcd(block, self.cells)
        self._channels = channels
        self._values: Float64Array = np.empty((0, self.cells, channels), np.float64)
        self._tag: Int64Array = np.empty((0, self.cells), np.int64)
        self._flag: UInt8Array = np.empty((0, self.cells), np.uint8)
        self._sparse: BoolArray = np.empty(0, np.bool_)  # slots into which a NaN was ever written

    def grow(self, slots: int) -> None:
        """Make room for slots 0..slots-1."""
        self._values = resized(self._values, slots, np.nan)
        self._tag = resized(self._tag, slots, NEVER)
        self._flag = resized(self._flag, slots, 0)
        self._sparse = resized(self._sparse, slots, 0)

    def reset(self, slots: Int32Array) -> None:
        """Empty slots."""
        self._tag[slots] = NEVER
        self._sparse[slots] = False

    def write(self, slot: Int64Array, cell: Int64Array, flags: UInt8Array, values: Float64Array) -> None:
        """Write readings; within a cell the first value per channel is kept.

        Args:
            slot: int64[n], sorted.
            cell: int64[n], per slot within `cells` of each other and of what is still needed.
            flags: uint8[n], changed in place.
            values: float64[n, c], changed in place.
        """
        flat = self._flat(slot, cell)
        if np.isnan(values.sum()):
            self._sparse[slot[np.isnan(values).any(axis=1)]] = True
        if ((slot[1:] == slot[:-1]) & (cell[1:] <= cell[:-1])).any():
            # Several readings may share a cell: write them one after another.
            for part in rounds(flat):
                self._put(flat[part], cell[part], flags[part], values[part])
        else:
            self._put(flat, cell, flags, values)

    def _flat(self, slot: Int64Array, cell: Int64Array) -> Int64Array:
        return slot * self.cells + (cell & (self.cells - 1))

    def _put(self, flat: Int64Array, cell: Int64Array, flags: UInt8Array, values: Float64Array) -> None:
        """Write at most one reading per cell, merging it with the cell's content."""
        ring = self._values.reshape(-1, self._channels)
        tag, flag = self._tag.reshape(-1), self._flag.reshape(-1)
        merge = np.flatnonzero(tag[flat] == cell)
        if len(merge):
            old, new = ring[flat[merge]], values[merge]
            kept = ~np.isnan(old)
            values[merge] = np.where(kept, old, new)
            twice = (kept & ~np.isnan(new)).any(axis=1)
            flags[merge] |= flag[flat[merge]] | np.where(twice, DUPLICATE, np.uint8(0))
        np.put(_whole_rows(ring), flat, _whole_rows(values))
        tag[flat] = cell
        flag[flat] = flags

    def gather(self, slot: Int64Array, end: Int64Array, samples: int) -> tuple[Float64Array, UInt8Array | None, bool]:
        """Return windows of `samples` cells before each end.

        Args:
            slot: int64[n].
            end: int64[n], exclusive end cell, a multiple of the block.
            samples: t, a multiple of the block.

        Returns:
            float64[n, t, c], NaN where empty; uint8[n, t] flags of the cells, None if there are none; whether there may
            be a NaN.
        """
        block, channels = self._block, self._channels
        first = end[:, None] + np.arange(-samples, 0, block)
        flat = (slot[:, None] * self.cells + (first & (self.cells - 1))) // block
        tags = self._tag.reshape(-1, block).take(flat, axis=0).reshape(len(end), samples)
        absent = tags != end[:, None] + np.arange(-samples, 0)
        values = self._values.reshape(-1, block * channels).take(flat, axis=0).reshape(len(end), samples, channels)
        sparse = bool(self._sparse[slot].any())
        if absent.any():
            sparse = True
            values[absent] = np.nan
        flags = self._flag.reshape(-1, block).take(flat, axis=0).reshape(len(end), samples)
        if not flags.any():
            return values, None, sparse
        flags[absent] = 0
        return values, flags, sparse

    def copy(self, first: Int64Array, span: int) -> tuple[Float64Array, UInt8Array]:
        """Return `span` cells of each slot from its `first` cell: float64[slots, span, c], uint8[slots, span]."""
        cells, flat = self._stretch(first, span)
        present = self._tag.reshape(-1)[flat] == cells
        values = self._values.reshape(-1, self._channels)[flat]
        values[~present] = np.nan
        return values, np.where(present, self._flag.reshape(-1)[flat], np.uint8(0))

    def paste(self, first: Int64Array, values: Float64Array, flags: UInt8Array) -> None:
        """Put back what `copy` returned, into empty slots."""
        cells, flat = self._stretch(first, values.shape[1])
        present = (flags != 0) | ~np.isnan(values).all(axis=2)
        where = flat[present]
        self._values.reshape(-1, self._channels)[where] = values[present]
        self._flag.reshape(-1)[where] = flags[present]
        self._tag.reshape(-1)[where] = cells[present]
        self._sparse[: len(first)] = (present & np.isnan(values).any(axis=2)).any(axis=1)

    def _stretch(self, first: Int64Array, span: int) -> tuple[Int64Array, Int64Array]:
        cells = first[:, None] + np.arange(span)
        return cells, self._flat(np.arange(len(first))[:, None], cells)


def _whole_rows(values: Float64Array) -> npt.NDArray[np.void]:
    """View float64[n, c] as n items, which numpy assigns several times faster than n rows."""
    return values.view(np.dtype((np.void, values.itemsize * values.shape[1]))).reshape(-1)


def resized(array: npt.NDArray[Any], rows: int, fill: float | np.int64) -> npt.NDArray[Any]:
    """Return the array with more rows, the new ones filled."""
    out = np.full((rows, *array.shape[1:]), fill, array.dtype)
    out[: len(array)] = array
    return out
