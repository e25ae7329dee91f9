"""An isolation forest on summary features of each channel, stored as its sample and regrown on load."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from stream_ad.core.batches import Arrays, Float32Array, Float64Array
from stream_ad.core.detectors.base import Progress, Scores, Settings
from stream_ad.core.detectors.parameters import Declared, Parameter, Whole
from stream_ad.core.detectors.windows import WindowForm, read_form, stored, training_form
from stream_ad.errors import BundleFormatError

if TYPE_CHECKING:
    from sklearn.ensemble import IsolationForest as Forest

LEAST_WINDOWS = 8
LEAST_SPREAD = 0.05
"""Smallest spread of a feature, in normalised units, so that a constant history does not make every change
infinite."""
FEATURES = 5


def features(values: Float32Array) -> Float32Array:
    """Summarise each channel of a window.

    Trees split along one axis at a time, and a single raw sample carries little information; level, spread, extremes
    and roughness carry more.

    Args:
        values: float32[n, t, c].

    Returns:
        float32[n, 5 c]: mean, standard deviation, minimum, maximum and mean absolute step, each of
        all channels. The step is 0 for windows of one sample.
    """
    steps = np.abs(np.diff(values, axis=1))
    step = steps.mean(axis=1) if steps.shape[1] else np.zeros_like(values[:, 0])
    return np.concatenate(
        [values.mean(axis=1), values.std(axis=1), values.min(axis=1), values.max(axis=1), step], axis=1
    )


@dataclass(frozen=True, slots=True)
class IsolationForestDetector:
    """s (1 + e): the forest's anomaly score times how far the features leave the training range.

    s in (0, 1] is 2^(-E[h] / c(n)) of Liu, Ting & Zhou, "Isolation Forest", ICDM 2008, eq. 2. It
    saturates: beyond the outermost cut a larger fault scores the same, and a forest grown on a
    constant history has no cut at all. So e, the root mean square over features of the distance
    outside the training range in training standard deviations, lets the score go on growing;
    inside the range e is 0.

    Attributes:
        form: the windows it takes.
        forest: scikit-learn's, grown from `sample`.
        sample: float32[m, 5 c], rows that the trees are grown from.
        seed: int64[1], of the trees.
        low, high: float32[5 c], range of the training features.
        center, spread: float32[5 c], their mean and floored standard deviation.
    """

    form: WindowForm
    forest: Forest
    sample: Float32Array
    seed: np.ndarray[Any, np.dtype[np.int64]]
    low: Float32Array
    high: Float32Array
    center: Float32Array
    spread: Float32Array

    def score(self, values: Float32Array) -> Scores:
        """Score windows.

        The contribution is the root mean square of a channel's features as distances from their
        training means in standard deviations: which channel is unusual, not what the trees cut.

        Args:
            values: float32[n, t, c], normalised, finite.
        """
        self.form.rows(values)
        if len(values) == 0:
            return Scores(np.zeros(0), np.zeros((0, self.form.channels), dtype=np.float32))
        found = features(values)
        outside = np.maximum(np.maximum(self.low - found, found - self.high), 0.0) / self.spread
        excess: Float64Array = np.sqrt(np.square(outside).mean(axis=1, dtype=np.float64))
        isolated = -np.asarray(self.forest.score_samples(found), dtype=np.float64)
        distance = np.square((found - self.center) / self.spread).reshape(len(found), FEATURES, self.form.channels)
        return Scores(isolated * (1.0 + excess), np.sqrt(distance.mean(axis=1)))

    def arrays(self) -> Arrays:
        """Return `form`, `sample`, `seed`, `low`, `high`, `center` and `spread`."""
        names = ("sample", "seed", "low", "high", "center", "spread")
        return {"form": self.form.array(), **{name: getattr(self, name) for name in names}}


class IsolationForest(Declared):
    """The kind `isolation_forest`."""

    name = "isolation_forest"
    parameters: ClassVar[Mapping[str, Parameter]] = {
        "trees": Whole(100, 10, 1_000),
        # Rows a tree is grown from; 256 is the paper's choice (section 4.1), more swamps and masks.
        "tree_rows": Whole(256, 8, 4_096),
        # Rows kept in the bundle, from which all trees are grown.
        "sample_rows": Whole(4_096, 64, 4_096),
    }

    def fit(self, values: Float32Array, settings: Settings, seed: int, progress: Progress) -> IsolationForestDetector:
        """Grow the trees from a random sample of the windows' features.

        Args:
            values: float32[n, t, c], normalised, finite.
            settings: overrides of the defaults.
            seed: of the sample and of the trees.
            progress: called after each of two parts.

        Raises:
            ConfigError: a setting is unknown or out of range.
            TrainingError: too few windows or values that are not finite.
        """
        chosen = self.complete(settings)
        form = training_form(values, None, LEAST_WINDOWS)
        found = features(values)
        progress("features", 1, 2)
        rng = np.random.default_rng(seed)
        kept = np.sort(rng.choice(len(found), min(len(found), chosen["sample_rows"]), replace=False))
        sample = np.ascontiguousarray(found[kept])
        seeds = rng.integers(0, 2**31 - 1, size=1, dtype=np.int64)
        forest = grow(sample, int(seeds[0]), chosen)
        progress("trees", 2, 2)
        center = found.mean(axis=0, dtype=np.float64).astype(np.float32)
        spread = np.maximum(found.std(axis=0, dtype=np.float64), LEAST_SPREAD).astype(np.float32)
        return IsolationForestDetector(
            form, forest, sample, seeds, found.min(axis=0), found.max(axis=0), center, spread
        )

    def load(self, settings: Settings, arrays: Arrays) -> IsolationForestDetector:
        """Grow the trees again from the stored sample and seed: a fraction of a second.

        Another version of scikit-learn may grow different trees; the bundle's probe reveals that.

        Raises:
            ConfigError: a setting is unknown or out of range.
            BundleFormatError: an array is missing or malformed.
        """
        chosen = self.complete(settings)
        form = read_form(arrays, None)
        width = FEATURES * form.channels
        sample = stored(arrays, "sample", np.float32, (None, width))
        seed = stored(arrays, "seed", np.int64, (1,))
        if not LEAST_WINDOWS <= len(sample) <= chosen["sample_rows"] or not 0 <= seed[0] < 2**31:
            raise BundleFormatError(
                f"isolation_forest: expected {LEAST_WINDOWS} to {chosen['sample_rows']} rows and a seed "
                f"below 2^31, found {len(sample)} and {seed[0]}"
            )
        low, high, center, spread = (
            stored(arrays, name, np.float32, (width,)) for name in ("low", "high", "center", "spread")
        )
        if not (spread > 0).all():
            raise BundleFormatError("isolation_forest: expected spread > 0")
        return IsolationForestDetector(
            form, grow(sample, int(seed[0]), chosen), sample, seed, low, high, center, spread
        )


def grow(sample: Float32Array, seed: int, settings: Settings) -> Forest:
    """Grow a forest in one thread; the same sample and seed give the same trees."""
    from sklearn.ensemble import IsolationForest as Forest

    forest = Forest(
        n_estimators=settings["trees"],
        max_samples=min(settings["tree_rows"], len(sample)),
        random_state=seed,
        n_jobs=1,
    )
    return forest.fit(sample)


KIND = IsolationForest()
