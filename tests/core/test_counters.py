"""What counters add: against a loop over samples, and the falls that have a meaning."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_ad.core.batches import Float64Array
from stream_ad.core.counters import rates

NAN = float("nan")


def of(*levels: float) -> list[float]:
    """Return the rates of one window of one counter."""
    return [float(rate) for rate in rates(np.array(levels, np.float64)[None, :, None])[0, :, 0]]


def naive(levels: list[float]) -> Float64Array:
    """What a loop finds in levels that never fall."""
    found = np.full(len(levels), np.nan)
    known = [at for at, level in enumerate(levels) if not np.isnan(level)]
    for before, after in pairwise(known):
        found[before + 1 : after + 1] = (levels[after] - levels[before]) / (after - before)
    if len(known) > 1:
        found[: known[0] + 1] = found[known[0] + 1]
    return found


@given(st.lists(st.none() | st.integers(0, 9), min_size=1, max_size=20))
def test_rates_are_those_of_a_loop(steps: list[int | None]) -> None:
    levels, level = [], 1_000.0
    for step in steps:
        level += step or 0
        levels.append(NAN if step is None else level)
    np.testing.assert_array_equal(of(*levels), naive(levels))


def test_counters_do_not_touch_each_other() -> None:
    rng = np.random.default_rng(1)
    levels = np.cumsum(rng.integers(0, 5, (7, 12, 3)), axis=1).astype(np.float64)
    levels[rng.random(levels.shape) < 0.2] = np.nan
    levels[2, 6:, 1] = levels[3, 4:, 0] = 1.0
    found = rates(levels)
    for window in range(7):
        for counter in range(3):
            np.testing.assert_array_equal(found[window, :, counter], of(*levels[window, :, counter]))


@pytest.mark.parametrize("size", [2**16, 2**32, *(10**digits for digits in range(5, 10))])
def test_a_register_that_rolls_over_goes_on(size: float) -> None:
    assert of(size - 5, size - 3, size - 1, 1, 3) == [2, 2, 2, 2, 2]
    assert of(size - 5, size - 3, NAN, NAN, 3) == [2, 2, 2, 2, 2]
    assert of(size - 1, 1) == [2, 2]


@pytest.mark.parametrize("size", [2**16, 2**32])
def test_a_signed_register_goes_on_from_the_negative_end(size: float) -> None:
    half = size / 2
    assert of(half - 3, half - 1, 1 - half, 3 - half) == [2, 2, 2, 2]


def test_a_fast_counter_rolls_over_far_from_its_end() -> None:
    assert of(60_000, 62_000, 64_000, 464, 2_464) == [2_000] * 5


def test_over_a_reset_the_next_rate_is_taken() -> None:
    assert of(5_000, 5_002, 5_004, 0, 3) == [2, 2, 2, 3, 3]
    assert of(5_000, 5_002, NAN, 1, 3) == [2, 2, 2, 2, 2]
    assert of(99_000, 99_002, 0, 2) == [2, 2, 2, 2]


def test_a_new_value_far_beyond_the_steps_counts_from_nought() -> None:
    assert of(5_000, 5_002, 700, 702) == [2, 2, 700, 2]
    assert of(5_000, 5_002, NAN, 700, 702) == [2, 2, 350, 350, 2]


def test_over_a_correction_the_next_rate_is_taken() -> None:
    assert of(5_000, 5_002, 5_001, 5_003) == [2, 2, 2, 2]


def test_too_few_samples_have_no_rate() -> None:
    assert np.isnan(of(5.0)).all()
    assert np.isnan(of(NAN, 5.0, NAN)).all()
    assert np.isnan(of(NAN, NAN)).all()
