"""What a threshold is: per-device limits, learned from scores that no incident touched."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar, Protocol

import numpy as np

from stream_ad.core.batches import Arrays, Float64Array, Int32Array, UInt8Array

SCORE_FLOOR = 1e-12
SCORE_CEILING = 1e300


def log_scores(score: Float64Array) -> Float64Array:
    """Return the natural logarithm, of 1e-12 for lower scores and of 1e300 for higher ones; NaN stays."""
    logs: Float64Array = np.log(np.clip(score, SCORE_FLOOR, SCORE_CEILING))
    return logs


def spread_of(logs: Float64Array) -> float:
    """Return the standard deviation of log scores, held in 0.05..3.

    Constant scores, or scores of which some are 0, would otherwise give a useless unit.
    """
    return float(np.clip(logs.std(), 0.05, 3.0))


class Phase(IntEnum):
    """How a row stands to incidents when its score is offered for learning."""

    QUIET = 0
    """Outside any incident."""
    OPENED = 1
    """The row that opened a process incident."""
    IN_INCIDENT = 2
    """Other rows of an incident: not learned from."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Scores of normal windows that the model was not fitted on (leave-block-out), the seed of limits.

    Attributes:
        score: float64[m], smoothed scores as the live pipeline would give them, time order within
            blocks, 200 <= m <= 20000 (a bounded sample of the training recording).
        floor: no limit lies below; 0 for none. What channels score that never moved in training, at half of the
            scale assumed for them.
    """

    score: Float64Array
    floor: float = 0.0

    def quantile(self, q: float) -> float:
        """Return the q-quantile (0..1) of the calibration scores."""
        return float(np.quantile(self.score, q))


class Threshold(Protocol):
    """Limits a device; state by slot, at most 1 kB a device.

    All methods are called once a round, with each slot at most once.

    Attributes:
        learns: whether `learn` ever changes a limit.
    """

    learns: ClassVar[bool]

    def grow(self, slots: int) -> None:
        """Make room for slots 0..slots-1; new slots start from the calibration seed."""
        ...

    def reset(self, device: Int32Array) -> None:
        """Put slots back to the calibration seed (a device was evicted or is new)."""
        ...

    def limits(self, device: Int32Array) -> Float64Array:
        """Return the limit in force of each given slot, in units of the smoothed score."""
        ...

    def learn(self, device: Int32Array, score: Float64Array, phase: UInt8Array) -> None:
        """Take in smoothed scores; NaN rows are never passed. `phase` holds `Phase` values."""
        ...

    def snapshot(self) -> Arrays:
        """Return the state as named arrays whose first axis is the slot."""
        ...

    def restore(self, arrays: Arrays) -> None:
        """Take back a snapshot; afterwards every result is the same bit for bit."""
        ...
