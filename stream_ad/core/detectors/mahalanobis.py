"""Distance from the training mean, measured by a shrunk covariance of the lag window."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from stream_ad.core.batches import Arrays, Float32Array, Float64Array
from stream_ad.core.detectors.axes import axes_of_rows, thinned
from stream_ad.core.detectors.base import Progress, Scores, Settings
from stream_ad.core.detectors.parameters import Declared, Parameter, Real, Whole
from stream_ad.core.detectors.products import row_products
from stream_ad.core.detectors.windows import BLOCK_ROWS, WindowForm, moments, read_form, stored, training_form
from stream_ad.errors import TrainingError

LEAST_WINDOWS = 8
LEAST_SHRINK = 1e-3
"""Keeps the covariance invertible with fewer windows than values."""
LEAST_VARIANCE = 1e-2
"""Lower bound of the mean variance, in normalised units, so that a constant history does not make every change
infinite."""
LEDOIT_WOLF = "ledoit-wolf"


@dataclass(frozen=True, slots=True)
class Precision:
    """The inverse as a matrix.

    Attributes:
        precision: float64[d, d], S^-1 / d, symmetric.
    """

    precision: Float64Array

    def times(self, centred: Float64Array) -> Float64Array:
        """Return float64[n, d], S^-1 x / d for each row x."""
        return row_products(centred, self.precision)

    def arrays(self) -> Arrays:
        """Return what a bundle stores of it."""
        return {"precision": self.precision}


@dataclass(frozen=True, slots=True)
class ThinPrecision:
    """The inverse for fewer windows than values, S^-1 / d = b I - D'D by Woodbury's identity; O(k d) a window.

    Attributes:
        base: float64[1], b = 1 / (a m d).
        directions: float64[k, d], D: the axes of C, each times the root of what its variance takes off b.
    """

    base: Float64Array
    directions: Float64Array

    def times(self, centred: Float64Array) -> Float64Array:
        """Return float64[n, d], S^-1 x / d for each row x."""
        within = row_products(row_products(centred, self.directions.T), self.directions)
        return np.subtract(self.base * centred, within, out=within)

    def arrays(self) -> Arrays:
        """Return what a bundle stores of it."""
        return {"base": self.base, "directions": self.directions}


@dataclass(frozen=True, slots=True)
class MahalanobisDetector:
    """Squared Mahalanobis distance divided by the number of values, about 1 for normal windows.

    x' S^-1 x / d with x the centred row and S = (1 - a) C + a m I, where C is the covariance and
    m its mean variance (Ledoit & Wolf, "A well-conditioned estimator for large-dimensional
    covariance matrices", J. Multivariate Analysis 88 (2004), eq. 2).

    Attributes:
        form: the windows it takes.
        mean: float64[d].
        inverse: S^-1 / d.
    """

    form: WindowForm
    mean: Float64Array
    inverse: Precision | ThinPrecision

    def score(self, values: Float32Array) -> Scores:
        """Score windows.

        The contribution is each channel's sum over samples of x_i (S^-1 x)_i / d, which add up to
        the score, cut at 0 (a channel that makes the others' deviation more plausible).

        Args:
            values: float32[n, t, c], normalised, finite.
        """
        centred = self.form.rows(values) - self.mean
        parts = self.inverse.times(centred)
        parts *= centred
        by_channel = np.einsum("ntc->nc", parts.reshape(len(parts), self.form.lags, self.form.channels))
        # The form is positive definite; only rounding can take a tiny distance below 0.
        score = np.maximum(by_channel.sum(axis=1), 0.0)
        return Scores(score, np.maximum(by_channel, 0.0).astype(np.float32))

    def arrays(self) -> Arrays:
        """Return `form`, `mean`, and `precision` or `base` and `directions`."""
        return {"form": self.form.array(), "mean": self.mean, **self.inverse.arrays()}


class Mahalanobis(Declared):
    """The kind `mahalanobis`."""

    name = "mahalanobis"
    parameters: ClassVar[Mapping[str, Parameter]] = {
        # Weight of the sphere in the covariance; 0.1 as found on TEP, or the optimal weight by a formula.
        "shrink": Real(0.1, LEAST_SHRINK, 1.0, (LEDOIT_WOLF,)),
        # Youngest samples of the window that are used; None for all.
        "lags": Whole(None, 1, 100_000, optional=True),
    }

    def fit(self, values: Float32Array, settings: Settings, seed: int, progress: Progress) -> MahalanobisDetector:
        """Fit in float64: by a Cholesky factor, or with fewer windows than values by the axes that they have.

        O(m^2 max(n, d) + m^3) with m = min(n, d), no randomness. Where m d passes `axes.MOST_VALUES` an even sample of
        the windows is used.

        Args:
            values: float32[n, t, c], normalised, finite.
            settings: overrides of the defaults.
            seed: unused.
            progress: called after each of two parts.

        Raises:
            ConfigError: a setting is unknown or out of range.
            TrainingError: too few windows, values that are not finite, or a singular covariance.
        """
        chosen = self.complete(settings)
        form = training_form(values, chosen["lags"], LEAST_WINDOWS)
        rows = thinned(form.rows(values))
        if len(rows) < form.size:
            return _fit_thin(form, rows, chosen["shrink"], progress)
        mean, covariance = moments(rows)
        progress("covariance", 1, 2)
        trace, norm = float(np.trace(covariance)), float(np.square(covariance).sum())
        weight = _weight(chosen["shrink"], rows, mean, trace, norm)
        variance = max(trace / form.size, LEAST_VARIANCE)
        shrunk = (1.0 - weight) * covariance + weight * variance * np.eye(form.size)
        try:
            inverse = np.linalg.solve(np.linalg.cholesky(shrunk), np.eye(form.size))
        except np.linalg.LinAlgError as error:
            raise TrainingError(f"mahalanobis: covariance is singular even at shrink {weight:g}") from error
        progress("inverse", 2, 2)
        return MahalanobisDetector(form, mean, Precision(inverse.T @ inverse / form.size))

    def load(self, settings: Settings, arrays: Arrays) -> MahalanobisDetector:
        """Make the detector from stored arrays.

        Raises:
            ConfigError: a setting is unknown or out of range.
            BundleFormatError: an array is missing or malformed.
        """
        form = read_form(arrays, self.complete(settings)["lags"])
        mean = stored(arrays, "mean", np.float64, (form.size,))
        if "directions" not in arrays:
            precision = stored(arrays, "precision", np.float64, (form.size, form.size))
            return MahalanobisDetector(form, mean, Precision(precision))
        base = stored(arrays, "base", np.float64, (1,))
        directions = stored(arrays, "directions", np.float64, (None, form.size))
        return MahalanobisDetector(form, mean, ThinPrecision(base, directions))


def _fit_thin(form: WindowForm, rows: Float32Array, shrink: float | str, progress: Progress) -> MahalanobisDetector:
    """Fit on fewer rows than values.

    With the axes v_i and variances l_i of C, and s = a m: S^-1 = (I - sum_i w_i v_i v_i') / s,
    w_i = (1 - a) l_i / ((1 - a) l_i + s) (Woodbury, "Inverting modified matrices", 1950, eq. 2, for a sphere).
    """
    axes = axes_of_rows(rows)
    progress("variances", 1, 2)
    trace, norm = float(axes.variances.sum()), float(np.square(axes.variances).sum())
    weight = _weight(shrink, rows, axes.mean, trace, norm)
    sphere = weight * max(trace / form.size, LEAST_VARIANCE)
    kept = (1.0 - weight) * axes.variances
    share = kept / (kept + sphere)
    base = 1.0 / (sphere * form.size)
    directions = axes.leading(len(kept)) * np.sqrt(share * base)[:, None]
    progress("inverse", 2, 2)
    return MahalanobisDetector(form, axes.mean, ThinPrecision(np.array([base]), np.ascontiguousarray(directions)))


def _weight(shrink: float | str, rows: Float32Array, mean: Float64Array, trace: float, norm: float) -> float:
    return ledoit_wolf_weight(rows, mean, trace, norm) if isinstance(shrink, str) else shrink


def ledoit_wolf_weight(rows: Float32Array, mean: Float64Array, trace: float, norm: float) -> float:
    """Return the weight of the sphere that minimises the expected squared error of the covariance.

    Ledoit & Wolf (2004), section 3.2: b^2 / d^2 with d^2 = |C - m I|^2 and
    b^2 = min(d^2, mean over rows of |x x' - C|^2 / n); rows are taken as independent, so that
    overlapping windows get a weight that is rather too small.

    Args:
        rows: float32[n, d].
        mean: float64[d].
        trace: sum of the variances, of a covariance divided by n.
        norm: sum of the squared entries of that covariance, |C|^2.

    Returns:
        `LEAST_SHRINK` to 1.
    """
    size = len(mean)
    sphere = trace / size
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
