"""Random numbers by counter: a value depends only on seed, stream, device and index.

So chunks of any length, for any devices, have the same bits.
SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, OOPSLA 2014).
"""

from __future__ import annotations

from enum import IntEnum
from functools import lru_cache
from statistics import NormalDist
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from stream_ad.core.batches import Float64Array, Int64Array

UInt64Array: TypeAlias = npt.NDArray[np.uint64]

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
FACTOR_1 = np.uint64(0xBF58476D1CE4E5B9)
FACTOR_2 = np.uint64(0x94D049BB133111EB)
SHIFTS = np.array([30, 27, 31], np.uint64)
LANES = 4
"""Normal values per 64-bit number."""


class Stream(IntEnum):
    """Purposes of random numbers; a new use gets a new number, or old seeds would give other values."""

    DEVICE = 1
    MODE = 2
    DEMAND = 3
    VALVE = 4
    GRID = 5
    NOISE = 16
    FAULT_PLACE = 32
    FAULT_SIZE = 33
    FAULT_WANDER = 34
    FAULT_SPIKES = 64
    VISITS = 96
    COMPLAINTS = 97


class Randomness:
    """The random numbers of one seed.

    Args:
        seed: any integer of 64 bits, 0 or more.
    """

    def __init__(self, seed: int) -> None:
        self._seed = np.uint64(seed)

    def bits(self, stream: int, device: Int64Array, index: Int64Array) -> UInt64Array:
        """Return uint64[d, n] for devices int64[d] and indices int64[n], which may be negative."""
        root = _mix(np.array([self._seed ^ _mix(np.array([stream], np.uint64))[0]], np.uint64))
        keys = _mix(root + (device.astype(np.uint64) + np.uint64(1)) * GOLDEN)
        counters = (index.astype(np.uint64) + np.uint64(1)) * GOLDEN
        return _mix(keys[:, None] + counters[None, :])

    def uniform(self, stream: int, device: Int64Array, index: Int64Array) -> Float64Array:
        """Return float64[d, n], uniform in [0, 1), with 53 random bits."""
        shares: Float64Array = np.multiply(
            self.bits(stream, device, index) >> np.uint64(11), 2.0**-53, dtype=np.float64
        )
        return shares

    def normal(self, stream: int, device: Int64Array, index: Int64Array) -> Float64Array:
        """Return float64[d, n], standard normal, cut at 4.3."""
        values: Float64Array = normal_table()[self.bits(stream, device, index) >> np.uint64(48)]
        return values

    def normals(self, stream: int, device: Int64Array, index: Int64Array) -> Float64Array:
        """Return float64[LANES, d, n], independent standard normals, at the cost of one number for all lanes."""
        bits = self.bits(stream, device, index)
        lanes = np.empty((LANES, *bits.shape), np.float64)
        for lane in range(LANES):
            np.take(normal_table(), (bits >> np.uint64(16 * lane)).astype(np.uint16), out=lanes[lane], mode="clip")
        return lanes


def _mix(state: UInt64Array) -> UInt64Array:
    mixed = (state ^ (state >> SHIFTS[0])) * FACTOR_1
    mixed = (mixed ^ (mixed >> SHIFTS[1])) * FACTOR_2
    result: UInt64Array = mixed ^ (mixed >> SHIFTS[2])
    return result


@lru_cache(maxsize=1)
def normal_table() -> Float64Array:
    """Return float64[65536]: the normal quantiles at the middles of as many equal shares.

    A table look-up gives the same bits on every processor; logarithms and cosines may not.
    """
    half = [NormalDist().inv_cdf((k + 0.5) / 65_536) for k in range(32_768)]
    return np.array(half + [-x for x in reversed(half)])
