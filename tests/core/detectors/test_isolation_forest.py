from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_ad.core.detectors import isolation_forest
from stream_ad.core.detectors.base import no_progress
from stream_ad.core.detectors.isolation_forest import KIND, features
from stream_ad.errors import BundleFormatError
from tests.support.windows import machine_windows

QUICK = {"trees": 20}


@given(st.integers(1, 5), st.integers(1, 6), st.integers(1, 4), st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_features_equal_a_loop(n: int, samples: int, channels: int, seed: int) -> None:
    values = np.random.default_rng(seed).standard_normal((n, samples, channels), dtype=np.float32)
    found = features(values).reshape(n, isolation_forest.FEATURES, channels)
    for i in range(n):
        for c in range(channels):
            x = [float(v) for v in values[i, :, c]]
            mean = sum(x) / samples
            spread = (sum((v - mean) ** 2 for v in x) / samples) ** 0.5
            steps = [abs(b - a) for a, b in pairwise(x)]
            step = sum(steps) / len(steps) if steps else 0.0
            assert found[i, :, c] == pytest.approx([mean, spread, min(x), max(x), step], rel=1e-4, abs=1e-5)


def test_inside_the_training_range_the_score_is_the_forests() -> None:
    train = machine_windows(300, seed=1)
    detector = KIND.fit(train, QUICK, 3, no_progress)
    expected = -detector.forest.score_samples(features(train))
    np.testing.assert_array_equal(detector.score(train).score, expected)


def test_outside_it_the_score_goes_on_growing() -> None:
    detector = KIND.fit(machine_windows(300, seed=1), QUICK, 3, no_progress)
    far = np.stack([np.full((16, 4), level, dtype=np.float32) for level in (4.0, 6.0, 8.0, 10.0)])
    found = features(far)
    assert len(np.unique(detector.forest.score_samples(found))) == 1, "the forest itself is saturated"
    assert (np.diff(detector.score(far).score) > 0).all()


def test_the_stored_sample_is_bounded() -> None:
    arrays = KIND.fit(machine_windows(300, seed=1), {**QUICK, "sample_rows": 64}, 3, no_progress).arrays()
    assert arrays["sample"].shape == (64, 20)
    with pytest.raises(BundleFormatError, match="found 64"):
        KIND.load({**QUICK, "sample_rows": 64}, {**arrays, "seed": np.array([-1], dtype=np.int64)})
    with pytest.raises(BundleFormatError, match="found 300"):
        KIND.load({**QUICK, "sample_rows": 64}, KIND.fit(machine_windows(300, seed=1), QUICK, 3, no_progress).arrays())


def test_a_spread_of_zero_is_refused() -> None:
    arrays = KIND.fit(machine_windows(50, seed=1), QUICK, 3, no_progress).arrays()
    with pytest.raises(BundleFormatError, match="spread"):
        KIND.load(QUICK, {**arrays, "spread": np.zeros(20, dtype=np.float32)})


def test_another_seed_grows_other_trees() -> None:
    train = machine_windows(300, seed=1)
    one, two = (KIND.fit(train, QUICK, seed, no_progress).score(train).score for seed in (1, 2))
    assert not np.array_equal(one, two)
