"""Scales of single devices: against normalising each by hand, wherever a poll is cut, and over a swap."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_ad.core.batches import Float64Array, Judged, UInt32Array
from stream_ad.core.device_scales import DeviceScales
from stream_ad.core.model import Model, Normaliser
from stream_ad.core.quality import Quality
from stream_ad.core.scoring import Scoring
from stream_ad.core.thresholds.base import Calibration
from stream_ad.core.thresholds.catalog import make_threshold
from stream_ad.errors import ContractError
from stream_ad.training.normalising import assumed, fit, smallest_steps
from stream_ad.training.windows import Windows
from tests.support.pipelines import fleet_log, small_model, small_pipeline

MODEL = small_model()


def scaled(*names: str) -> Model:
    """Return a model that knows devices at levels of their own."""
    rng = np.random.default_rng(len(names))
    center = MODEL.normaliser.center + rng.normal(size=(len(names), 3))
    scale = MODEL.normaliser.scale * rng.uniform(0.5, 2.0, (len(names), 3))
    return replace(MODEL, scales=DeviceScales(tuple(sorted(names)), center, scale))


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(0, 300))
@settings(max_examples=20, deadline=None)
def test_windows_in_the_frame_equal_each_device_by_its_own_normaliser(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    model = scaled("a", "b")
    assert model.scales is not None
    values = rng.normal(10, 3, (n, 8, 3))
    values[rng.random(values.shape) < 0.1] = np.nan
    row = model.scales.rows([("a", "b", "other")[k] for k in rng.integers(0, 3, n)])
    before = values.copy()
    framed = model.scales.in_frame(values, row, model.normaliser.center, model.normaliser.scale)
    np.testing.assert_array_equal(values, before)
    found = Scoring(model).score_values(framed).score
    for number in range(-1, 2):
        own = model.normaliser
        if number >= 0:
            own = Normaliser(model.scales.center[number], model.scales.scale[number], own.clip)
        expected = Scoring(replace(MODEL, normaliser=own)).score_values(values[row == number]).score
        np.testing.assert_allclose(found[row == number], expected, rtol=1e-4, atol=1e-9)


@given(seed=st.integers(0, 50), cuts=st.lists(st.integers(1, 119), max_size=6))
@settings(max_examples=15, deadline=None)
def test_poll_boundaries_do_not_change_results(seed: int, cuts: list[int]) -> None:
    log = fleet_log(seed)
    model = scaled("pump-0", "pump-2")
    whole = small_pipeline(model).step(log).judged
    pipeline = small_pipeline(model)
    edges = sorted({0, *cuts, len(log.record_offset)})
    parts: list[Judged] = []
    for start, stop in itertools.pairwise(edges):
        parts += pipeline.step(log.cut(start, stop)).judged
        again = small_pipeline(model)
        again.restore(pipeline.snapshot())
        pipeline = again
    for one, other in zip(joined(parts), joined(whole), strict=True):
        np.testing.assert_array_equal(one, other)
    for judged in (*whole, *parts):
        flagged = (judged.verdicts.scores.quality & np.uint32(Quality.FLEET_SCALE)) != 0
        unscorable = (judged.verdicts.scores.quality & np.uint32(Quality.UNSCORABLE)) != 0
        unknown = np.array([judged.ids[code] in ("pump-1", "pump-3") for code in judged.device])
        np.testing.assert_array_equal(flagged, unknown & ~unscorable)


def joined(parts: Sequence[Judged]) -> tuple[Float64Array, UInt32Array]:
    return (
        np.concatenate([part.verdicts.smoothed for part in parts]),
        np.concatenate([part.verdicts.scores.quality for part in parts]),
    )


def test_a_swapped_model_has_other_devices() -> None:
    log = fleet_log(3)
    old, new = scaled("pump-0"), scaled("pump-1", "pump-2")
    pipeline = small_pipeline(old)
    pipeline.step(log)
    pipeline.swap(new, make_threshold("fixed", new.calibration, {}), 0, "another")
    later = replace(log, event_ns=log.event_ns + 10**13)
    later = replace(later, record_log_ns=log.record_log_ns + 10**13)
    seen = set()
    for part in pipeline.step(later).judged:
        scores = part.verdicts.scores
        flagged = (scores.quality & np.uint32(Quality.FLEET_SCALE)) != 0
        late = (scores.keys.end_ns > int(log.event_ns.max()) + 10**12) & np.isfinite(scores.score)
        seen |= {(part.ids[code], bool(flag)) for code, flag in zip(part.device[late], flagged[late], strict=True)}
    assert ("pump-0", True) in seen
    assert ("pump-1", False) in seen
    assert ("pump-0", False) not in seen


def test_without_scales_nothing_is_flagged() -> None:
    for part in small_pipeline(MODEL).step(fleet_log(1)).judged:
        assert not (part.verdicts.scores.quality & np.uint32(Quality.FLEET_SCALE)).any()


@pytest.mark.parametrize("names", [("b", "a"), ("a", "a")])
def test_names_are_sorted_and_unique(names: tuple[str, str]) -> None:
    with pytest.raises(ContractError, match="unique names in sorted order"):
        DeviceScales(names, np.zeros((2, 3)), np.ones((2, 3)))


def cut(values: Float64Array, device: list[int]) -> Windows:
    n = len(values)
    return Windows(values, np.array(device, np.int32), np.arange(n), np.ones((n, values.shape[2]), np.float32))


def test_fitted_scales_equal_moments_of_each_device() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal([[[1.0, 50.0]]], [[[0.1, 5.0]]], (400, 8, 2))
    device = (np.arange(400) % 2).tolist()
    values[1::2] *= 10
    values[rng.random(values.shape) < 0.1] = np.nan
    fitted = fit(cut(values, device), ("y", "x"), 10.0, 1.0)
    assert fitted.scales is not None
    assert fitted.scales.devices == ("x", "y")
    for row, part in ((0, values[1::2]), (1, values[::2])):
        np.testing.assert_allclose(fitted.scales.center[row], np.nanmean(part, axis=(0, 1)), rtol=0.03)
        np.testing.assert_allclose(fitted.scales.scale[row], np.nanstd(part, axis=(0, 1)), rtol=0.03)
    np.testing.assert_allclose(fitted.normaliser.center, np.nanmean(values, axis=(0, 1)))
    np.testing.assert_allclose(fitted.normaliser.scale, np.nanstd(values, axis=(0, 1)))


def test_a_device_of_one_window_has_a_scale_and_one_without_any_has_none() -> None:
    values = np.random.default_rng(1).normal(size=(41, 8, 2))
    fitted = fit(cut(values, [0] * 20 + [1] * 20 + [2]), ("a", "b", "c", "d"), 10.0, 0.25)
    assert fitted.scales is not None
    assert fitted.scales.devices == ("a", "b", "c")


def test_one_device_has_no_scale_beside_the_fleets() -> None:
    values = np.random.default_rng(1).normal(size=(40, 8, 2))
    assert fit(cut(values, [0] * 40), ("a",), 10.0, 1.0).scales is None
    assert fit(cut(values, [0, 1] * 20), ("a", "b"), 10.0, 1.0, per_device=False).scales is None


def test_scales_of_channels_that_hardly_move_are_assumed() -> None:
    mean = np.array([[5.0, 0.0, 50.0, 5.0, 0.01]])
    std = np.array([[0.0, 0.0, 0.5, 3e-6, 0.1]])
    steps = np.array([np.inf, np.inf, 1e-4, 1e-4, 1.0])
    scale, still = assumed(mean, std, steps)
    np.testing.assert_allclose(scale, [[0.05 / 3, 1 / 3, 0.5, 2e-4, 0.1]])
    assert still.tolist() == [[True, True, False, True, False]]


def test_smallest_steps_of_channels() -> None:
    values = np.array([[[1.0, 5.0, np.nan], [1.5, 5.0, 2.0], [1.25, 5.0, np.nan]]])
    assert smallest_steps(values).tolist() == [0.25, np.inf, np.inf]


@pytest.mark.parametrize("kind", ["quantile", "spot", "fixed"])
def test_no_limit_lies_below_the_floor_whatever_is_learned(kind: str) -> None:
    threshold = make_threshold(kind, Calibration(np.zeros(250), floor=0.5), {})
    threshold.grow(2)
    device = np.arange(2, dtype=np.int32)
    for _ in range(50):
        threshold.learn(device, np.zeros(2), np.zeros(2, np.uint8))
    assert (threshold.limits(device) >= 0.5).all()
    again = make_threshold(kind, Calibration(np.zeros(250), floor=0.5), {})
    again.grow(2)
    again.restore(threshold.snapshot())
    np.testing.assert_array_equal(again.limits(device), threshold.limits(device))
