"""Limits that never fall below a floor, whatever is learned."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from stream_ad.core.batches import Arrays, Float64Array, Int32Array, UInt8Array
from stream_ad.core.thresholds.base import Threshold


class Floored:
    """Another threshold with a floor.

    Of a recording in which nothing moves no scale can be learned: quiet scores are 0, and a limit learned from them
    would take the last digit of a sensor for an emergency.

    Args:
        threshold: whose limits are raised.
        floor: > 0, in units of the score.
    """

    learns: ClassVar[bool] = True

    def __init__(self, threshold: Threshold, floor: float) -> None:
        self._threshold = threshold
        self._floor = floor

    def grow(self, slots: int) -> None:
        """Make room for slots 0..slots-1."""
        self._threshold.grow(slots)

    def reset(self, device: Int32Array) -> None:
        """Put slots back to the calibration seed."""
        self._threshold.reset(device)

    def limits(self, device: Int32Array) -> Float64Array:
        """Return the limits, none below the floor."""
        return np.maximum(self._threshold.limits(device), self._floor)

    def learn(self, device: Int32Array, score: Float64Array, phase: UInt8Array) -> None:
        """Take in smoothed scores."""
        self._threshold.learn(device, score, phase)

    def snapshot(self) -> Arrays:
        """Return the state of the threshold within."""
        return self._threshold.snapshot()

    def restore(self, arrays: Arrays) -> None:
        """Take back a snapshot."""
        self._threshold.restore(arrays)


class FlooredFixed(Floored):
    """Of a threshold that does not learn."""

    learns: ClassVar[bool] = False
