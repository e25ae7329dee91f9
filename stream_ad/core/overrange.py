"""Values far outside the training range: scaled down for the detector, and scored by their distance.

A detector extrapolates badly. Limiting each value separately changes the direction of a deviation, so that a machine
that stops can look like one under load; a residual misses deviations along the components that it explains; a network's
output can fall again. So a window beyond the clip is scaled down as a whole, keeping its direction, and a value far
from the training mean gives its own score. Both grow with the deviation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stream_ad.core.batches import Float32Array, Float64Array, Int64Array, expect
from stream_ad.core.detectors.base import Scores
from stream_ad.errors import ContractError

LEAST_REACH = 10.0
"""Training standard deviations that are far for any channel: by Chebyshev's inequality, at most one sample in 100 is
there, whatever the distribution."""
NEAR = 0.5
"""Share of the reach up to which a value gives no score of its own; there the score is 1/256 of the far score."""
STEEP = 2.0
"""Multiple of the reach from which growth is logarithmic: a broken sensor's 1e30 must not dominate the log."""
QUANTILE = 0.999
LEAST_SCORE = 1e-12
"""Gives a far score even to a model that reconstructs its training windows to the last bit."""
MOST = 1e300
"""Largest normalised value that is distinguished; its products stay finite."""


@dataclass(frozen=True, slots=True)
class Overrange:
    """When a value is far, and what it scores then.

    Attributes:
        score: > 0; a window with a value at its channel's reach scores at least this. The 99.9 % quantile of
            scores of normal windows, so that what is farther is out of the ordinary for any detector.
        reach: float32[c], > 0, distance from the training mean in normalised units: the largest of the
            training, at least `LEAST_REACH`.
    """

    score: float
    reach: Float32Array

    def __post_init__(self) -> None:
        expect("reach", self.reach, np.float32, (None,))
        if not (np.isfinite(self.reach).all() and (self.reach > 0).all()):
            raise ContractError("overrange: expected a finite reach > 0 of each channel")
        if not 0 < self.score < np.inf:
            raise ContractError(f"overrange: expected a finite score > 0, found {self.score}")

    @classmethod
    def of(cls, scores: Float64Array, reach: Float32Array) -> Overrange:
        """Return that of a model by its scores of normal windows, float64[m], m >= 1."""
        return cls(max(float(np.quantile(scores, QUANTILE)), LEAST_SCORE), reach)


def growth(distance: Float64Array) -> Float64Array:
    """Return the scores of values in multiples of the far score; never decreasing.

    The eighth power: 1 at the reach, 1/256 at half of it, where it begins, and 256 at twice the reach;
    from there on `256 (1 + log(distance / 2))^2`. A shift of 20 deviations that a residual sees in
    full scores about as much.

    Args:
        distance: float64, >= 0, multiples of the reach.
    """
    fourth = np.square(np.square(np.minimum(distance, STEEP)))
    steep = np.where(distance > NEAR, np.square(fourth), 0.0)
    beyond = 1.0 + np.log(np.maximum(distance, STEEP) / STEEP)
    found: Float64Array = steep * np.square(beyond)
    return found


def draw_in(values: Float64Array, clip: float) -> Float32Array:
    """Return windows within the clip unchanged, others scaled down as a whole.

    The largest value m of a window becomes `clip (1 + log(m / clip))`: the direction stays, so what is
    linear in the window keeps growing along any ray from the training mean.

    Args:
        values: float64[n, t, c], normalised, at most `MOST`.
        clip: > 0.
    """
    largest = np.abs(values).max(axis=(1, 2))
    drawn = clip * (1.0 + np.log(np.maximum(largest, clip) / clip))
    factor = np.where(largest > clip, drawn / np.maximum(largest, clip), 1.0)
    return (values * factor[:, None, None]).astype(np.float32)


def with_far(found: Scores, rows: Int64Array, far: Float64Array) -> Scores:
    """Raise the scores of rows to those of their far values, with contributions.

    A raised row's contribution is the detector's for the detector's part of the score, and the far values' for the
    part that they added.

    Args:
        found: scores of the detector.
        rows: int64[k], the rows that have a value beyond `NEAR` of its reach.
        far: float64[k, c], the score of each channel's farthest value.
    """
    own, lifted = found.score[rows], far.max(axis=1, initial=0.0)
    is_more = lifted > own
    if not is_more.any():
        return found
    rows, far, own, lifted = rows[is_more], far[is_more], own[is_more], lifted[is_more]
    score = found.score.copy()
    score[rows] = lifted
    if found.contribution is None:
        return Scores(score, None)
    contribution = found.contribution.copy()
    parts = contribution[rows].astype(np.float64)
    total = parts.sum(axis=1)
    weight = np.where(total > 0, own / lifted, 0.0)
    scale = np.where(weight > 0, total / np.maximum(weight, 1e-300), lifted)
    shares = parts / np.where(total > 0, total, 1.0)[:, None] * weight[:, None]
    shares += far / far.sum(axis=1)[:, None] * (1.0 - weight)[:, None]
    contribution[rows] = np.minimum(shares * scale[:, None], np.finfo(np.float32).max)
    return Scores(score, contribution)
