"""Distance from the training mean, measured by a shrunk covariance of the lag window."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from stream_ad.core.batches import Arrays, Float32Array, Float64Array
from stream_ad.core.detectors.base import Progress, Scores, Settings
from stream_ad.core.detectors.parameters import Parameter, Real, Whole, complete, defaults
from stream_ad.core.detectors.products import row_products
from stream_ad.core.detectors.windows import BLOCK_ROWS, WindowForm, moments, read_form, stored, training_form
from stream_ad.errors import TrainingError

LEAST_WINDOWS = 8
LEAST_SHRINK = 1e-3
"""Keeps the covariance invertible where there are fewer windows than values."""
LEAST_VARIANCE = 1e-2
"""Mean variance assumed at least, in normalised units: a constant history must not make every
change infinite."""
LEDOIT_WOLF = "ledoit-wolf"

PARAMETERS: Mapping[str, Parameter] = {
    # Weight of the sphere in the covariance; 0.1 as found on TEP, or the optimal weight by a formula.
    "shrink": Real(0.1, LEAST_SHRINK, 1.0, (LEDOIT_WOLF,)),
    # Youngest samples of the window that are used; None for all.
    "lags": Whole(None, 1, 100_000, optional=True),
}


@dataclass(frozen=True, slots=True)
class MahalanobisDetector:
    """Squared Mahalanobis distance divided by the number of values, about 1 for normal windows.

    x' S^-1 x / d with x the centred row and S = (1 - a) C + a m I, where C is the covariance and
    m its mean variance (Ledoit & Wolf, "A well-conditioned estimator for large-dimensional
    covariance matrices", J. Multivariate Analysis 88 (2004), eq. 2).

    Attributes:
        form: the windows it takes.
        mean: float64[d].
        precision: float64[d, d], S^-1 / d, symmetric.
    """

    form: WindowForm
    mean: Float64Array
    precision: Float64Array

    def score(self, values: Float32Array) -> Scores:
        """Score windows.

        The contribution is each channel's sum over samples of x_i (S^-1 x)_i / d, which add up to
        the score, cut at 0 (a channel that makes the others' deviation more plausible).

        Args:
            values: float32[n, t, c], normalised, finite.
        """
        centred = self.form.rows(values) - self.mean
        parts = row_products(centred, self.precision)
        parts *= centred
        by_channel = np.einsum("ntc->nc", parts.reshape(len(parts), self.form.lags, self.form.channels))
        # The form is positive definite; only rounding can take a tiny distance below 0.
        score = np.maximum(by_channel.sum(axis=1), 0.0)
        return Scores(score, np.maximum(by_channel, 0.0).astype(np.float32))

    def arrays(self) -> Arrays:
        """Return `form`, `mean` and `precision`."""
        return {"form": self.form.array(), "mean": self.mean, "precision": self.precision}


class Mahalanobis:
    """The kind `mahalanobis`."""

    name = "mahalanobis"

    def defaults(self) -> Settings:
        """Return every setting with its default."""
        return defaults(PARAMETERS)

    def fit(self, values: Float32Array, settings: Settings, seed: int, progress: Progress) -> MahalanobisDetector:
        """Fit by a Cholesky factor in float64; O(n d^2 + d^3), no randomness.

        Args:
            values: float32[n, t, c], normalised, finite.
            settings: overrides of the defaults.
            seed: unused.
            progress: called after each of two parts.

        Raises:
            ConfigError: a setting is unknown or out of range.
            TrainingError: too few windows, values that are not finite, or a singular covariance.
        """
        chosen = self._complete(settings)
        form = training_form(values, chosen["lags"], LEAST_WINDOWS)
        rows = form.rows(values)
        mean, covariance = moments(rows)
        progress("covariance", 1, 2)
        shrink = chosen["shrink"]
        weight = ledoit_wolf_weight(rows, mean, covariance) if shrink == LEDOIT_WOLF else shrink
        variance = max(float(np.trace(covariance)) / form.size, LEAST_VARIANCE)
        shrunk = (1.0 - weight) * covariance + weight * variance * np.eye(form.size)
        try:
            inverse = np.linalg.solve(np.linalg.cholesky(shrunk), np.eye(form.size))
        except np.linalg.LinAlgError as error:
            raise TrainingError(f"mahalanobis: covariance is singular even at shrink {weight:g}") from error
        progress("inverse", 2, 2)
        return MahalanobisDetector(form, mean, inverse.T @ inverse / form.size)

    def load(self, settings: Settings, arrays: Arrays) -> MahalanobisDetector:
        """Make the detector from stored arrays.

        Raises:
            ConfigError: a setting is unknown or out of range.
            BundleFormatError: an array is missing or malformed.
        """
        form = read_form(arrays, self._complete(settings)["lags"])
        return MahalanobisDetector(
            form,
            stored(arrays, "mean", np.float64, (form.size,)),
            stored(arrays, "precision", np.float64, (form.size, form.size)),
        )

    def _complete(self, settings: Settings) -> dict[str, Any]:
        return complete(self.name, PARAMETERS, settings)


def ledoit_wolf_weight(rows: Float32Array, mean: Float64Array, covariance: Float64Array) -> float:
    """Return the weight of the sphere that minimises the expected squared error of the covariance.

    Ledoit & Wolf (2004), section 3.2: b^2 / d^2 with d^2 = |C - m I|^2 and
    b^2 = min(d^2, mean over rows of |x x' - C|^2 / n); rows are taken as independent, so that
    overlapping windows get a weight that is rather too small.

    Args:
        rows: float32[n, d].
        mean: float64[d].
        covariance: float64[d, d], divided by n.

    Returns:
        `LEAST_SHRINK` to 1.
    """
    size = len(mean)
    sphere = np.trace(covariance) / size
    norm = float(np.square(covariance).sum())
    distance = norm - size * sphere**2
    if distance <= 0.0:
        return 1.0
    fourth = 0.0
    for start in range(0, len(rows), BLOCK_ROWS):
        block = rows[start : start + BLOCK_ROWS] - mean
        fourth += float(np.square(np.square(block).sum(axis=1)).sum())
    # mean |x x' - C|^2 = mean |x|^4 - |C|^2, because the mean of x x' is C.
    error = (fourth / len(rows) - norm) / len(rows)
    return float(np.clip(error / distance, LEAST_SHRINK, 1.0))


KIND = Mahalanobis()
