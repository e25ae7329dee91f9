"""What every threshold keeps, whatever its rule."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_ad.core.batches import Float64Array, Int32Array, UInt8Array
from stream_ad.core.thresholds.base import Calibration, Phase, Threshold
from stream_ad.core.thresholds.catalog import THRESHOLDS, make_threshold
from stream_ad.errors import ConfigError, ContractError
from tests.core.judged import assert_same_arrays, calibration

MAKERS: dict[str, Callable[[Calibration], Threshold]] = {
    "fixed": lambda seed: make_threshold("fixed", seed, {}),
    "quantile": lambda seed: make_threshold("quantile", seed, {}),
    "quantile, short memory": lambda seed: make_threshold(
        "quantile", seed, {"quantile": 0.95, "memory_rows": 130, "seed_rows": 120}
    ),
    "quantile, no seed": lambda seed: make_threshold("quantile", seed, {"seed_rows": 0, "feedback": 0.0}),
    "quantile, largest": lambda seed: make_threshold("quantile", seed, {"memory_rows": 60_000, "seed_rows": 60_000}),
    "spot": lambda seed: make_threshold("spot", seed, {}),
    "spot, few peaks": lambda seed: make_threshold("spot", seed, {"risk": 1e-3, "tail_share": 0.1, "peaks": 20}),
    "spot, largest": lambda seed: make_threshold("spot", seed, {"peaks": 200}),
}
LEARNING = [name for name in MAKERS if name != "fixed"]
every = pytest.mark.parametrize("name", MAKERS)


def make(name: str, slots: int = 6, seed: Calibration | None = None) -> Threshold:
    threshold = MAKERS[name](seed or calibration())
    threshold.grow(slots)
    return threshold


def slots_of(*device: int) -> Int32Array:
    return np.array(device, np.int32)


def teach(threshold: Threshold, device: Int32Array, scores: Float64Array, phase: Phase = Phase.QUIET) -> None:
    """Offer rows of scores float64[rows, k] to k slots."""
    for score in scores:
        threshold.learn(device, score, np.full(len(device), phase, np.uint8))


def noise(rows: int, k: int, seed: int = 1) -> Float64Array:
    return np.exp(0.3 * np.random.default_rng(seed).standard_normal((rows, k)))


def phases(rows: int, k: int, seed: int = 2) -> UInt8Array:
    return np.random.default_rng(seed).choice(3, (rows, k), p=[0.8, 0.1, 0.1]).astype(np.uint8)


def test_the_catalogue_is_covered() -> None:
    assert {name.split(",")[0] for name in MAKERS} == set(THRESHOLDS)


@every
def test_it_says_whether_it_learns(name: str) -> None:
    threshold = make(name)
    before = threshold.limits(slots_of(0)).tolist()
    teach(threshold, slots_of(0), 50 * noise(300, 1))

    assert threshold.learns == (threshold.limits(slots_of(0)).tolist() != before)


@every
def test_a_restored_snapshot_goes_on_with_the_same_bits(name: str) -> None:
    device, first, then, phase = slots_of(4, 0, 2), noise(300, 3), noise(300, 3, 9), phases(300, 3)
    one = make(name)
    teach(one, device, first)
    state = one.snapshot()
    kept = {key: array.copy() for key, array in state.items()}
    two = make(name, 0)
    two.restore(state)
    for score, part in zip(then, phase, strict=True):
        assert one.limits(device).tobytes() == two.limits(device).tobytes()
        one.learn(device, score, part)
        two.learn(device, score, part)

    assert_same_arrays(one.snapshot(), two.snapshot())
    assert_same_arrays(state, kept)


@every
@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 1_000), shift=st.sampled_from([0.0, -3.0, 4.0]))
def test_slots_do_not_touch_each_other_however_calls_are_grouped(name: str, seed: int, shift: float) -> None:
    rng = np.random.default_rng(seed)
    device, scores, phase = slots_of(5, 1, 3, 0), np.exp(shift) * noise(40, 4, seed), phases(40, 4, seed)
    together, apart = make(name), make(name)
    for score, part in zip(scores, phase, strict=True):
        together.learn(device, score, part)
        for at in rng.permutation(4):
            apart.learn(device[at : at + 1], score[at : at + 1], part[at : at + 1])
        assert together.limits(device).tobytes() == b"".join(apart.limits(slots_of(slot)).tobytes() for slot in device)

    assert_same_arrays(together.snapshot(), apart.snapshot())
    fresh = make(name)
    assert together.limits(slots_of(2, 4)).tobytes() == fresh.limits(slots_of(2, 4)).tobytes()


@every
def test_reset_returns_to_the_seed_and_growing_keeps_what_was_learned(name: str) -> None:
    threshold, fresh = make(name), make(name, 40)
    teach(threshold, slots_of(0, 1), 2 * noise(50, 2))
    learned = threshold.limits(slots_of(0, 1))
    threshold.grow(3)
    threshold.grow(40)
    assert threshold.limits(slots_of(0, 1)).tobytes() == learned.tobytes()

    threshold.reset(slots_of(1, 0))

    assert_same_arrays(threshold.snapshot(), fresh.snapshot())


@every
def test_rows_inside_an_incident_are_not_learned(name: str) -> None:
    threshold, fresh = make(name), make(name)
    teach(threshold, slots_of(0, 3), 50 * noise(100, 2), Phase.IN_INCIDENT)

    assert_same_arrays(threshold.snapshot(), fresh.snapshot())


@pytest.mark.parametrize("name", LEARNING)
@pytest.mark.parametrize("factor", [0.35, pytest.param(50.0, marks=pytest.mark.thorough)])
def test_a_level_that_became_quiet_is_learned(name: str, factor: float) -> None:
    threshold = make(name)
    if name == "quantile, largest" and factor < 1:
        pytest.skip("it remembers 60,000 rows; the rule is the same as with fewer")
    scores = factor * noise(16_000 if "spot" in name and factor < 1 else 6_000, 1)
    teach(threshold, slots_of(0), scores)

    limit = threshold.limits(slots_of(0))[0]
    assert np.quantile(scores, 0.4) < limit < 3 * scores.max()


@every
@pytest.mark.parametrize("level", [0.0, 1e-9, 1.0, 1e30])
def test_constant_scores_give_finite_limits_that_they_do_not_exceed(name: str, level: float) -> None:
    threshold = make(name, seed=Calibration(np.full(300, level)))
    for _ in range(400):
        limit = threshold.limits(slots_of(0))[0]
        assert np.isfinite(limit)
        assert limit > 0
        assert name == "fixed" or limit > level  # a fixed limit may lie anywhere
        threshold.learn(slots_of(0), np.array([level]), np.zeros(1, np.uint8))


@every
def test_zero_scores_among_others_are_fine(name: str) -> None:
    scores = noise(500, 1) * (np.arange(500) % 3 > 0)[:, None]
    threshold = make(name, seed=Calibration(scores[:, 0].copy()))
    teach(threshold, slots_of(0), scores)

    assert 0.5 < threshold.limits(slots_of(0))[0] < np.inf


@every
def test_absurd_scores_leave_limits_finite(name: str) -> None:
    threshold = make(name)
    teach(threshold, slots_of(0), np.array([[1e300], [0.0], [1e308], [5e-324]] * 100))

    assert 0 < threshold.limits(slots_of(0))[0] < np.inf


@every
def test_a_device_takes_at_most_a_kilobyte(name: str) -> None:
    assert sum(array.nbytes for array in make(name, 10).snapshot().values()) <= 10 * 1024


@every
def test_state_is_slot_first_and_foreign_state_is_refused(name: str) -> None:
    threshold = make(name, 6)
    state = threshold.snapshot()
    key = sorted(state)[0]

    assert all(len(array) == 6 for array in state.values())
    with pytest.raises(ContractError):
        threshold.restore({})
    with pytest.raises(ContractError):
        threshold.restore({**state, key: state[key].astype(np.complex128)})
    with pytest.raises(ContractError):
        threshold.restore({**state, key: state[key][None]})


@every
def test_no_rows_are_no_work(name: str) -> None:
    threshold = make(name)
    threshold.learn(slots_of(), np.zeros(0), np.zeros(0, np.uint8))
    threshold.reset(slots_of())

    assert threshold.limits(slots_of()).shape == (0,)
    assert_same_arrays(threshold.snapshot(), make(name).snapshot())


def test_unknown_kinds_arguments_and_values_are_refused() -> None:
    for kind, wrong in (
        ("median", {}),
        ("fixed", {"level": 1}),
        ("fixed", {"limit": 0.0}),
        ("fixed", {"quantile": 1.0}),
        ("quantile", {"quantile": 0.0}),
        ("quantile", {"memory_rows": 70_000}),
        ("quantile", {"feedback": -1.0}),
        ("spot", {"risk": 0.5}),
        ("spot", {"peaks": 5}),
    ):
        with pytest.raises(ConfigError):
            make_threshold(kind, calibration(), wrong)
