"""Rows split into rounds that hold each device at most once."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from stream_ad.core.batches import Int32Array, Int64Array


def rounds(device: Int32Array | Int64Array) -> Iterator[Int64Array]:
    """Split rows into rounds that hold each device at most once, in row order.

    Round k holds every device's k-th row, so per-device state can be read and written by plain indexing, and results do
    not depend on poll boundaries.

    Args:
        device: int32[n] or int64[n], slot of each row, >= 0, rows in emission order.

    Yields:
        int64[m], row numbers, ascending; the rounds together hold each row once.
    """
    if len(device) == 0:
        return
    order = np.argsort(device, kind="stable")
    starts = np.flatnonzero(np.diff(device[order], prepend=-1))
    place = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
    rank = np.empty_like(place)
    rank[order] = place
    # Ranks are small: numpy sorts 16 bits by counting, several times faster than 64 by comparing.
    counts = np.bincount(rank)
    narrow = rank.astype(np.uint16) if len(counts) <= 2**16 else rank
    yield from np.split(np.argsort(narrow, kind="stable"), np.cumsum(counts)[:-1])
