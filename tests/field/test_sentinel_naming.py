"""Values that stand for none are named by `init` with the option that takes them out; clean data names none."""

from __future__ import annotations

import numpy as np
import pytest

from stream_ad.io.recordings.sentinel_search import find_sentinels, sentinel_notes
from tests.field.plant import Plant
from tests.field.signals import CHANNELS, csv_lines, machine


@pytest.mark.parametrize("value", [-127, -9999, 32767, 65535, 1e20, -999.25, -1e30, -273.15, 9999.9])
def test_a_known_sentinel_is_named_with_its_option(value: float, plant: Plant) -> None:
    values = machine(300)
    values[[40, 90, 200], 0] = value
    plant.file("r.csv", csv_lines(values))

    ran = plant.ok("init", "r.csv")

    text = f"{value:.7g}"
    assert f"note      {text} is a recurring outlier in temp (3 cells)" in ran.out
    assert f"--missing temp={text}" in ran.out
    taken = plant.ok("init", "r.csv", "--force", "--missing", f"temp={value:.4f}")
    assert "recurring outlier" not in taken.out


def test_one_of_several_channels_is_named_once(plant: Plant) -> None:
    values = machine(300)
    values[50:60] = -9999
    plant.file("r.csv", csv_lines(values))

    ran = plant.ok("init", "r.csv")

    assert ran.out.count("recurring outlier") == 1
    assert "--missing -9999" in ran.out
    assert "(40 cells)" in ran.out
    assert "recurring outlier" not in plant.ok("init", "r.csv", "--force", "--missing", "-9999").out


def test_two_in_a_channel_are_both_named() -> None:
    values = machine(300)[:, 0]
    values[::50], values[::70] = -127, 32767

    assert set(find_sentinels(values)) == {-127, 32767}


def test_an_unknown_value_far_away_that_recurs_is_named() -> None:
    values = machine(300)[:, 0]
    values[::40] = -5555

    assert find_sentinels(values) == {-5555: 8}


def test_float32_is_seen_through() -> None:
    values = machine(300)[:, 0]
    values[::40] = float(np.float32(-9999.9))

    assert "--missing x=-9999.9" in sentinel_notes(["x"], values[:, np.newaxis])[0]


def test_large_negative_powers_can_be_typed() -> None:
    values = machine(300)[:, :2]
    values[::40] = -1e30

    assert "--missing=-1e+30" in sentinel_notes(["x", "y"], values)[0]


@pytest.mark.parametrize("seed", range(5))
def test_clean_machines_name_none(seed: int) -> None:
    assert sentinel_notes(CHANNELS, machine(2_000, seed)) == []


CLEAN = {
    "a machine that stops": np.where(np.arange(500) % 100 < 30, 0.0, 60 + np.sin(np.arange(500))),
    "a valve": np.where(np.arange(500) % 50 < 20, 100.0, 0.0),
    "a state": np.arange(500) % 3 * 1.0,
    "a register": np.arange(500) * 131.0,
    "a register at its end": np.minimum(np.arange(500) * 131.0, 32767),
    "one spike": np.r_[np.sin(np.arange(499)), -9999.0],
    "a constant": np.full(500, 32767.0),
    "bytes": np.random.default_rng(0).integers(0, 256, 500).astype(float),
    "mostly far away": np.where(np.arange(500) % 10 < 7, 999.0, np.sin(np.arange(500))),
    "heavy tails": np.round(np.random.default_rng(1).standard_cauchy(500), 1),
    "per cent": np.round(np.random.default_rng(2).uniform(0, 100, 500)),
    "few rows": np.r_[np.sin(np.arange(10)), -9999.0, -9999.0],
    "nothing": np.full(100, np.nan),
}


@pytest.mark.parametrize("name", CLEAN)
def test_what_is_no_sentinel_is_not_named(name: str) -> None:
    assert find_sentinels(CLEAN[name]) == {}
