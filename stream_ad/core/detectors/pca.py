"""Residual of principal components of the lag window: linear, fast, hard to beat on process sensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from stream_ad.core.batches import Arrays, Float32Array
from stream_ad.core.detectors.axes import axes_of_rows, axes_of_values, thinned
from stream_ad.core.detectors.base import Progress, Scores, Settings
from stream_ad.core.detectors.parameters import Declared, Parameter, Real, Whole
from stream_ad.core.detectors.products import row_products
from stream_ad.core.detectors.windows import WindowForm, read_form, stored, training_form

LEAST_WINDOWS = 8
NO_VARIANCE = 1e-12
"""Mean variance of a normalised value below which a history counts as constant."""


@dataclass(frozen=True, slots=True)
class PcaDetector:
    """Mean square of the part that the kept components do not explain.

    The squared prediction error Q of Jackson & Mudholkar, "Control Procedures for Residuals
    Associated With Principal Component Analysis", Technometrics 21 (1979), Q = r'r with
    r = (I - P P')(x - mean), divided by the number of values. A fault entirely within the kept components is not
    detected; `mahalanobis` detects it.

    Attributes:
        form: the windows it takes.
        mean: float32[d].
        components: float32[k, d], orthonormal rows, largest variance first, 0 <= k < d.
    """

    form: WindowForm
    mean: Float32Array
    components: Float32Array

    def score(self, values: Float32Array) -> Scores:
        """Score windows; the contribution is each channel's mean squared residual.

        Args:
            values: float32[n, t, c], normalised, finite.
        """
        residual = self.form.rows(values) - self.mean
        residual -= row_products(row_products(residual, self.components.T), self.components)
        np.square(residual, out=residual)
        contribution = self.form.per_channel(residual)
        return Scores(contribution.mean(axis=1, dtype=np.float64), contribution)

    def arrays(self) -> Arrays:
        """Return `form`, `mean` and `components`."""
        return {"form": self.form.array(), "mean": self.mean, "components": self.components}


class Pca(Declared):
    """The kind `pca`."""

    name = "pca"
    parameters: ClassVar[Mapping[str, Parameter]] = {
        # Share of the variance that the kept components hold; the rest is where faults show.
        "variance": Real(0.9, 0.01, 0.9999),
        # Youngest samples of the window that are used; None for all.
        "lags": Whole(None, 1, 100_000, optional=True),
    }

    def fit(self, values: Float32Array, settings: Settings, seed: int, progress: Progress) -> PcaDetector:
        """Fit by eigenvectors in float64, of the covariance or, with fewer windows than values, of their products.

        O(m^2 max(n, d) + m^3) with m = min(n, d), no randomness. Where m d passes `axes.MOST_VALUES` an even sample of
        the windows is used.

        Args:
            values: float32[n, t, c], normalised, finite.
            settings: overrides of the defaults.
            seed: unused.
            progress: called after each of two parts.

        Raises:
            ConfigError: a setting is unknown or out of range.
            TrainingError: too few windows or values that are not finite.
        """
        chosen = self.complete(settings)
        form = training_form(values, chosen["lags"], LEAST_WINDOWS)
        rows = thinned(form.rows(values))
        axes = axes_of_rows(rows) if len(rows) < form.size else axes_of_values(rows)
        progress("variances", 1, 2)
        variances = axes.variances
        kept = 0
        if variances.sum() > NO_VARIANCE * form.size:
            share = np.cumsum(variances) / variances.sum()
            kept = min(int(np.searchsorted(share, chosen["variance"])) + 1, len(variances), form.size - 1)
        components = axes.leading(kept)
        # The library chooses an eigenvector's sign arbitrarily; the largest entry is made positive.
        largest = np.take_along_axis(components, np.abs(components).argmax(axis=1)[:, None], axis=1)
        components = components * np.where(largest < 0, -1.0, 1.0)
        progress("components", 2, 2)
        return PcaDetector(form, axes.mean.astype(np.float32), np.ascontiguousarray(components, dtype=np.float32))

    def load(self, settings: Settings, arrays: Arrays) -> PcaDetector:
        """Make the detector from stored arrays.

        Raises:
            ConfigError: a setting is unknown or out of range.
            BundleFormatError: an array is missing or malformed.
        """
        form = read_form(arrays, self.complete(settings)["lags"])
        return PcaDetector(
            form,
            stored(arrays, "mean", np.float32, (form.size,)),
            stored(arrays, "components", np.float32, (None, form.size)),
        )


KIND = Pca()
