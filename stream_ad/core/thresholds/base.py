"""The interface of a threshold: per-device limits, learned from scores outside of incidents."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from stream_ad.core.batches import Float64Array, Int32Array, UInt8Array
from stream_ad.core.slot_state import SlotState

SCORE_FLOOR = 1e-12
SCORE_CEILING = 1e300


def log_scores(score: Float64Array) -> Float64Array:
    """Return the natural logarithm of scores clipped to 1e-12..1e300; NaN stays."""
    logs: Float64Array = np.log(np.clip(score, SCORE_FLOOR, SCORE_CEILING))
    return logs


def spread_of(logs: Float64Array) -> float:
    """Return the standard deviation of log scores, clipped to 0.05..3.

    Constant scores, or some scores of 0, would otherwise give a useless unit.
    """
    return float(np.clip(logs.std(), 0.05, 3.0))


class Phase(IntEnum):
    """How a row relates to incidents when its score is offered for learning."""

    QUIET = 0
    """Outside any incident."""
    OPENED = 1
    """The row that opened a process incident."""
    IN_INCIDENT = 2
    """Another row of an incident: not learned from."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Scores of normal windows that the model was not fitted on (leave-block-out); limits start from them.

    Attributes:
        score: float64[m], smoothed scores as in the live pipeline, in time order within blocks, 200 <= m <= 20000 (a
            bounded sample of the training recording).
        floor: lower bound of all limits; 0: none. It is the score of channels that never moved in training, at half of
            the scale assumed for them.
    """

    score: Float64Array
    floor: float = 0.0

    def quantile(self, q: float) -> float:
        """Return the q-quantile (0..1) of the calibration scores."""
        return float(np.quantile(self.score, q))


class Threshold(SlotState):
    """Limits by device; state by slot, at most 1 kB per device.

    All methods are called once per round, with each slot at most once. A subclass defines a new slot's state, and how a
    row changes it.

    Args:
        calibration: its floor is the lower bound of all limits.
        seed: a new slot's state, with the `limit`; see `SlotState`.
    """

    learns: ClassVar[bool] = True
    """Whether `learn` ever changes a limit."""

    def __init__(self, calibration: Calibration, seed: Mapping[str, npt.NDArray[Any] | np.generic]) -> None:
        super().__init__(seed)
        self._floor = calibration.floor

    def limits(self, device: Int32Array) -> Float64Array:
        """Return float64[k], the current limit of each given slot, finite, > 0, in units of the smoothed score."""
        limits: Float64Array = np.maximum(self["limit"][device], self._floor)
        return limits

    def learn(self, device: Int32Array, score: Float64Array, phase: UInt8Array) -> None:
        """Learn from rows outside of incidents, and from those that open one.

        Args:
            device: int32[k], each slot at most once.
            score: float64[k], smoothed, finite, >= 0.
            phase: uint8[k], values of `Phase`.
        """
        used = phase != Phase.IN_INCIDENT
        if not used.all():
            device, score, phase = device[used], score[used], phase[used]
        if len(device):
            self._learn(device, score, phase)

    def _learn(self, device: Int32Array, score: Float64Array, phase: UInt8Array) -> None:
        """Learn from rows; the default does nothing."""

    def _settle(self, *steps: Callable[[Int32Array], None]) -> None:
        """Complete a new slot's state by steps that work on slots."""
        self.grow(1)
        for step in steps:
            step(np.zeros(1, np.int32))
        SlotState.__init__(self, {name: array[0] for name, array in self.snapshot().items()})
