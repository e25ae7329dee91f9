from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river.stats import RollingQuantile

from stream_ad.core.thresholds.base import Calibration, Phase, log_scores, spread_of
from stream_ad.core.thresholds.quantile import BINS, Quantile, bin_edges, seed_counts
from tests.core.judged import calibration

SLOT = np.zeros(1, np.int32)
QUIET = np.zeros(1, np.uint8)


def one(threshold: Quantile) -> Quantile:
    threshold.grow(1)
    return threshold


def test_bins_rise_and_reach_from_the_floor_to_far_above_the_calibration() -> None:
    for scores in (calibration().score, np.ones(200), np.zeros(200), np.r_[np.zeros(100), np.ones(100) * 1e6]):
        logs = log_scores(scores)
        edges = bin_edges(logs, spread_of(logs))

        assert edges.shape == (BINS + 1,)
        assert (np.diff(edges) > 0).all()
        assert edges[0] < np.log(1e-12)
        assert edges[-1] >= logs.max() + np.log(1e9) - 1e-6
        # The finely divided range covers the calibration from its median up.
        assert edges[56] < np.median(logs) <= logs.max() < edges[184]


def test_the_seed_keeps_every_share_of_the_tail() -> None:
    cell = np.random.default_rng(0).integers(0, BINS, 5_000)
    counts = seed_counts(cell, 1_000)

    above = np.cumsum(np.bincount(cell, minlength=BINS)[::-1]) / 5
    assert counts.sum() == 1_000
    np.testing.assert_allclose(np.cumsum(counts[::-1]), above, atol=0.5)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), q=st.sampled_from([0.5, 0.9, 0.99, 0.999]), rows=st.integers(1, 400))
def test_the_followed_quantile_equals_a_full_count(seed: int, q: float, rows: int) -> None:
    rng = np.random.default_rng(seed)
    threshold = one(Quantile(calibration(seed), q, memory_rows=200, seed_rows=150, feedback=0.0))
    shift = rng.uniform(-6, 6)
    for value in np.exp(shift + rng.standard_normal(rows)):
        threshold.learn(SLOT, np.array([value]), QUIET)

    state = threshold.snapshot()
    logs = log_scores(calibration(seed).score)
    edges = bin_edges(logs, spread_of(logs))
    counts = state["young"][0].astype(np.int64) + state["old"][0]
    want = counts.sum() * (1.0 - q)
    above = counts[::-1].cumsum()[::-1]
    found = int(np.flatnonzero(above >= want)[-1])
    inside = (want - (above[found] - counts[found])) / counts[found]
    level = edges[found + 1] - inside * (edges[found + 1] - edges[found])
    assert counts.sum() == state["young_rows"][0] + state["old_rows"][0] <= 250
    assert threshold.limits(SLOT)[0] == pytest.approx(np.exp(level), rel=1e-9)


def test_forgetting_leaves_the_limit_where_it_is_on_average() -> None:
    rng = np.random.default_rng(3)
    threshold = Quantile(calibration(), 0.99, memory_rows=1_000, seed_rows=999, feedback=0.0)
    threshold.grow(200)
    slots = np.arange(200, dtype=np.int32)
    for _ in range(3_000):
        threshold.learn(slots, np.exp(0.3 * rng.standard_normal(200)), np.zeros(200, np.uint8))

    logs = np.log(threshold.limits(slots)) / 0.3
    assert logs.mean() == pytest.approx(2.326, abs=0.12)


def test_agrees_with_rivers_rolling_quantile_on_a_stationary_stream() -> None:
    scores = np.exp(0.3 * np.random.default_rng(5).standard_normal(9_000))
    threshold = one(Quantile(Calibration(scores[:1_000].copy()), 0.99, memory_rows=5_000, feedback=0.0))
    river = RollingQuantile(q=0.99, window_size=4_000)
    gaps = []
    for row, score in enumerate(scores):
        threshold.learn(SLOT, np.array([score]), QUIET)
        river.update(float(score))
        if row > 5_000 and row % 50 == 0:
            gaps.append(np.log(threshold.limits(SLOT)[0] / river.get()))

    # The windows differ (2,500 to 5,000 rows against 4,000): about two standard errors of the quantile.
    assert abs(np.mean(gaps)) < 0.02
    assert np.max(np.abs(gaps)) < 0.1


def test_nothing_older_than_the_memory_counts() -> None:
    threshold = one(Quantile(calibration(), 0.99, memory_rows=1_000, feedback=0.0))
    for score in np.r_[np.full(700, 50.0), np.full(1_000, 0.1)]:
        threshold.learn(SLOT, np.array([score]), QUIET)

    assert threshold.limits(SLOT)[0] == pytest.approx(0.1, rel=0.2)


def test_feedback_lifts_at_openings_and_sinks_when_quiet_as_the_budget_says() -> None:
    seed = calibration()
    spread = spread_of(log_scores(seed.score))
    threshold = one(Quantile(seed, 0.9, feedback=0.1))
    threshold.learn(SLOT, np.array([1.0]), np.array([Phase.OPENED], np.uint8))
    lifted = threshold.snapshot()["offset"][0]
    threshold.learn(SLOT, np.array([1.0]), QUIET)

    assert lifted == pytest.approx(0.1 * spread)
    assert threshold.snapshot()["offset"][0] == pytest.approx(0.1 * spread * (1 - 0.1))


def test_a_device_that_hardly_varies_is_not_alarmed_to_spend_the_budget() -> None:
    rng = np.random.default_rng(0)
    threshold = one(Quantile(calibration(), 0.99, memory_rows=500, seed_rows=100, feedback=1.0))
    over = 0
    for row in range(4_000):
        score = 1 + 1e-4 * rng.uniform(-1, 1)
        over += int(row > 1_000 and score > threshold.limits(SLOT)[0])
        threshold.learn(SLOT, np.array([score]), QUIET)

    assert over == 0


def test_the_factor_scales_the_limit() -> None:
    limits = [one(Quantile(calibration(), factor=factor)).limits(SLOT)[0] for factor in (1.0, 2.0)]

    assert limits[1] == pytest.approx(2 * limits[0])


def test_a_new_slots_limit_is_near_the_calibrations_quantile() -> None:
    seed = calibration(rows=5_000)

    assert one(Quantile(seed, 0.99)).limits(SLOT)[0] == pytest.approx(seed.quantile(0.99), rel=0.03)
    assert one(Quantile(seed, 0.99, seed_rows=0)).limits(SLOT)[0] == pytest.approx(seed.quantile(0.99), rel=0.03)
