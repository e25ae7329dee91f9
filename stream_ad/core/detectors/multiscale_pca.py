"""PCA residuals over several window lengths, fused into one steady score for faults of different speed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from stream_ad.core.batches import Arrays, Float32Array, Float64Array
from stream_ad.core.detectors import pca
from stream_ad.core.detectors.base import Progress, Scores, Settings
from stream_ad.core.detectors.parameters import Declared, Parameter, Real, Whole
from stream_ad.core.detectors.pca import PcaDetector
from stream_ad.core.detectors.windows import WindowForm, read_form, stored, training_form
from stream_ad.errors import BundleFormatError

LEAST_TYPICAL = 1e-6
"""Prevents huge scores from a member that reconstructs its training windows to rounding."""
LEAST_SCORE = 1e-9
"""Mean square below which a residual is rounding; its logarithm must not outweigh the other members."""


@dataclass(frozen=True, slots=True)
class MultiscalePcaDetector:
    """Geometric mean of the members' residuals, each divided by its median over the training windows.

    This is the mean of calibrated log scores: about 1 for training data, and r if every member finds r times its usual
    residual. The members' errors are independent, so the score is steadier than any single one, and a limit at a
    multiple of the usual score is less sensitive.

    Attributes:
        form: the windows it takes.
        members: of falling lags.
        typical: float64[members], median training scores, > 0.
    """

    form: WindowForm
    members: tuple[PcaDetector, ...]
    typical: Float64Array

    def score(self, values: Float32Array) -> Scores:
        """Score windows; the contribution is the mean of the members' calibrated ones.

        Args:
            values: float32[n, t, c], normalised, finite.
        """
        logs = np.zeros(len(values))
        contribution = np.zeros((len(values), self.form.channels), np.float32)
        for member, typical in zip(self.members, self.typical, strict=True):
            found = member.score(values)
            logs += np.log(np.maximum(found.score, LEAST_SCORE) / typical)
            if found.contribution is not None:
                contribution += found.contribution / np.float32(typical * len(self.members))
        return Scores(np.exp(logs / len(self.members)), contribution)

    def arrays(self) -> Arrays:
        """Return `form`, `typical` and each member's `<number>.mean`, `<number>.components`."""
        arrays: Arrays = {"form": self.form.array(), "typical": self.typical}
        for number, member in enumerate(self.members):
            arrays[f"{number}.mean"] = member.mean
            arrays[f"{number}.components"] = member.components
        return arrays


class MultiscalePca(Declared):
    """The kind `multiscale_pca`."""

    name = "multiscale_pca"
    parameters: ClassVar[Mapping[str, Parameter]] = {
        # Each looks at half the samples of the one before; the first at the whole window.
        "members": Whole(3, 1, 8),
        # Share of the variance that each member's kept components hold.
        "variance": Real(0.85, 0.01, 0.9999),
    }

    def fit(self, values: Float32Array, settings: Settings, seed: int, progress: Progress) -> MultiscalePcaDetector:
        """Fit the members on the youngest samples of the same windows; no randomness.

        Args:
            values: float32[n, t, c], normalised, finite.
            settings: overrides of the defaults.
            seed: unused.
            progress: called after each member.

        Raises:
            ConfigError: a setting is unknown or out of range.
            TrainingError: too few windows or values that are not finite.
        """
        chosen = self.complete(settings)
        form = training_form(values, None, pca.LEAST_WINDOWS)
        scales = lags(form.samples, chosen["members"])
        members, typical = [], []
        for number, lag in enumerate(scales):
            fitted = pca.KIND.fit(values, {"variance": chosen["variance"], "lags": lag}, seed, lambda *_: None)
            members.append(fitted)
            typical.append(max(float(np.median(fitted.score(values).score)), LEAST_TYPICAL))
            progress("members", number + 1, len(scales))
        return MultiscalePcaDetector(form, tuple(members), np.array(typical))

    def load(self, settings: Settings, arrays: Arrays) -> MultiscalePcaDetector:
        """Make the detector from stored arrays.

        Raises:
            ConfigError: a setting is unknown or out of range.
            BundleFormatError: an array is missing or malformed.
        """
        chosen = self.complete(settings)
        form = read_form(arrays, None)
        scales = lags(form.samples, chosen["members"])
        members = []
        for number, lag in enumerate(scales):
            part = WindowForm(form.samples, form.channels, lag)
            mean = stored(arrays, f"{number}.mean", np.float32, (part.size,))
            components = stored(arrays, f"{number}.components", np.float32, (None, part.size))
            members.append(PcaDetector(part, mean, components))
        typical = stored(arrays, "typical", np.float64, (len(scales),))
        if not (typical >= LEAST_TYPICAL).all():
            raise BundleFormatError(f"multiscale_pca: expected typical scores of at least {LEAST_TYPICAL:g}")
        return MultiscalePcaDetector(form, tuple(members), typical)


def lags(samples: int, members: int) -> list[int]:
    """Return the members' lags: the window, its half, its quarter, …, rounded up; a window of 1 has one."""
    found = [samples]
    while len(found) < members and found[-1] > 1:
        found.append((found[-1] + 1) // 2)
    return found


KIND = MultiscalePca()
