"""Row numbers and counters are told from what measures: also from what only seems to rise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_ad.core.batches import Float64Array
from stream_ad.io.recordings.rising import is_counter, is_row_number

N = 2_000
I: Float64Array = np.arange(N, dtype=np.float64)  # noqa: E741 - the row
NOISE: Float64Array = np.random.default_rng(5).normal(size=N)
ONE = np.zeros(N, np.int32)

COUNTERS: dict[str, Any] = {
    "energy_kwh": 45_210.5 + 0.0031 * I,
    "a plain count": 1e9 + np.cumsum(np.random.default_rng(1).poisson(0.7, N)),
    "rounded hours": np.floor((8_211 + I / 360) * 100) / 100,
    "stands at night": 100 + 0.5 * np.cumsum(I % 1_000 < 600),
    "starts again": np.where(I < 1_300, 5_000 + 2 * I, 2 * (I - 1_300)),
    "rolls over": (65_000 + 3 * I) % 65_536,
    "gaps": np.where(I % 7 == 3, np.nan, 10 + 0.25 * I),
    "missing at first": np.where(I < 300, np.nan, 10 + 0.25 * I),
}
OTHERS: dict[str, Any] = {
    "noise": 60 + NOISE,
    "slow drift with noise": 60 + 0.01 * I + NOISE,
    "little noise on a ramp": 60 + 0.01 * I + 0.02 * NOISE,
    "a warm-up": 20 + 60 * (1 - np.exp(-I / 200)),
    "steps of a set-point": np.floor(I / 500),
    "a slow temperature in tenths": np.floor((20 + I / 1_000) * 10) / 10,
    "constant": np.full(N, 3.0),
    "sawtooth": I % 50,
    "falling": 1e6 - I,
    "triangle": np.minimum(I, N - I),
    "below nought": -5_000 + 0.5 * I,
    "ramp and back": np.where(I < 1_900, I, 1_000.0),
    "empty": np.full(N, np.nan),
    "an angle": (I * 7) % 360,
}


@pytest.mark.parametrize("name", COUNTERS)
def test_counters_are_known(name: str) -> None:
    assert is_counter("x", COUNTERS[name], ONE)


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("called", ["x", "Energy total"])
def test_what_measures_is_no_counter(name: str, called: str) -> None:
    if called == "x" or name not in ("a warm-up", "a slow temperature in tenths"):
        assert not is_counter(called, OTHERS[name], ONE)


@pytest.mark.parametrize("make", [lambda n: np.arange(n) * 1.0, lambda n: 20 + 0.1 * np.arange(n)])
def test_a_short_ramp_is_no_counter_unless_it_is_called_one(make: Callable[[int], Float64Array]) -> None:
    device = np.zeros(60, np.int32)

    assert not is_counter("temperature", make(60), device)
    assert is_counter("energy_kwh", make(60), device)
    assert is_counter("Betriebsstunden", make(60), device)
    assert not is_counter("energy_kwh", make(10), device[:10])


def test_a_counter_rises_on_every_device() -> None:
    device = np.repeat(np.arange(2, dtype=np.int32), N)

    assert is_counter("x", np.concatenate([9_000 + I, 10 + 0.5 * I]), device)
    assert not is_counter("x", np.concatenate([9_000 + I, 60 + NOISE]), device)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("RECORD", 111_868_400 + np.arange(50)),
        ("x", 111_868_400 + np.arange(400)),
        ("x", np.tile(np.arange(200), 3)),
        ("index", np.arange(0, 500, 10)),
        ("row_number", np.arange(3)),
        ("id", np.concatenate([np.arange(300), np.arange(300)])),
    ],
)
def test_row_numbers_are_known(name: str, values: Float64Array) -> None:
    assert is_row_number(name, values.astype(np.float64), np.zeros(len(values), np.int32), False)


def test_row_numbers_of_each_device_are_known() -> None:
    device = np.tile(np.arange(2, dtype=np.int32), 300)

    assert is_row_number("x", np.repeat(np.arange(300.0), 2), device, False)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("flow", np.arange(30.0)),
        ("flow", 60 + NOISE),
        ("index", 60 + NOISE),
        ("id", np.full(500, 7.0)),
        ("x", np.arange(500) * 2.0),
        ("record", np.array([])),
        ("x", np.full(500, np.nan)),
    ],
)
def test_what_measures_is_no_row_number(name: str, values: Float64Array) -> None:
    assert not is_row_number(name, values, np.zeros(len(values), np.int32), False)


@given(st.lists(st.floats(allow_infinity=False), max_size=300), st.booleans(), st.sampled_from(["x", "id", "energy"]))
def test_any_column_is_judged(cells: list[float], unnamed: bool, name: str) -> None:
    values, device = np.array(cells, np.float64), np.zeros(len(cells), np.int32)

    with np.errstate(all="ignore"):
        is_row_number(name, values, device, unnamed)
        is_counter(name, values, device)
