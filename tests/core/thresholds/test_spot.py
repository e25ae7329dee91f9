from __future__ import annotations

import numpy as np
import pytest
from libspot import Spot as LibSpot

from stream_ad.core.thresholds.base import Calibration
from stream_ad.core.thresholds.spot import Spot

SLOT = np.zeros(1, np.int32)
QUIET = np.zeros(1, np.uint8)
STREAMS = {
    "exponential tail": lambda rng, n: rng.exponential(1.0, n),
    "light tail": lambda rng, n: rng.standard_normal(n),
    "bounded": lambda rng, n: rng.uniform(0, 3, n),
}


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("seed", [0, 1])
def test_agrees_with_libspot_on_the_same_log_scores(name: str, seed: int) -> None:
    logs = STREAMS[name](np.random.default_rng(seed), 14_000)
    scores = np.exp(logs)
    threshold = Spot(Calibration(scores[:4_000].copy()), risk=1e-3, tail_share=0.02, peaks=200)
    threshold.grow(1)
    # With discard_anomalies off it keeps every excess, as ours does; it never says ANOMALY then.
    other = LibSpot(q=1e-3, low=False, discard_anomalies=False, level=0.98, max_excess=200)
    other.fit(logs[:4_000])
    gaps = []
    for row in range(4_000, len(logs)):
        if row % 100 == 0:
            gaps.append(np.log(threshold.limits(SLOT)[0]) - other.anomaly_threshold)
        other.step(float(logs[row]))
        threshold.learn(SLOT, scores[row : row + 1], QUIET)

    # Two estimators on 200 excesses, ours with a start that moves: in units of the log score's spread.
    assert abs(np.mean(gaps)) < 0.15 * logs.std()
    assert np.max(np.abs(gaps)) < 0.6 * logs.std()


@pytest.mark.parametrize("name", STREAMS)
def test_the_share_of_rows_over_the_limit_is_the_risk(name: str) -> None:
    rng = np.random.default_rng(4)
    devices, rows = 40, 4_000
    logs = STREAMS[name](rng, devices * rows).reshape(rows, devices)
    threshold = Spot(Calibration(np.exp(STREAMS[name](rng, 5_000))), risk=2e-3, tail_share=0.03)
    threshold.grow(devices)
    slots, over = np.arange(devices, dtype=np.int32), 0
    for score in np.exp(logs):
        is_over = score > threshold.limits(slots)
        over += int(is_over.sum())
        threshold.learn(slots, score, is_over.astype(np.uint8))

    assert 0.7 < over / logs.size / 2e-3 < 1.4


@pytest.mark.parametrize("shape", [-0.3, 0.0, 0.3])
def test_the_fit_finds_the_parameters_of_a_pareto_tail(shape: float) -> None:
    uniform = np.random.default_rng(7).uniform(size=(400, 5_000))
    excess = -np.log(uniform) if shape == 0 else (uniform**-shape - 1) / shape
    found = []
    for logs in excess[:60]:
        threshold = Spot(Calibration(np.exp(logs[:2_000])), risk=1e-4, tail_share=0.5, peaks=200)
        threshold.grow(1)
        found.append(threshold.snapshot()["shape"][0])

    # 200 peaks; the draw towards 0 takes a twentieth. The estimate is biased for heavy tails.
    assert np.mean(found) == pytest.approx(shape * 200 / 210, abs=0.06)
