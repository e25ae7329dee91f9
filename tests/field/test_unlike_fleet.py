"""Machines of one type at levels of their own: each is judged by what it does by itself."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pytest

from stream_ad.core.quality import Quality
from stream_ad.training.normalising import fit
from stream_ad.training.windows import Windows
from tests.field.plant import Plant
from tests.field.signals import CHANNELS, csv_lines, machine

Values = npt.NDArray[np.float64]
FLEET = 6
LATER = 100_000
SAMPLES = ("--samples", "32", "--stride", "16", "--no-baseline")


def levels(number: int) -> Values:
    rng = np.random.default_rng(100 + number)
    return np.array([rng.uniform(35, 95), rng.uniform(2, 12), rng.uniform(20, 200), rng.uniform(4, 40)])


def small(rows: int, seed: int) -> Values:
    """Return what a machine does around its level; its temperature moves by about .3 by itself."""
    values: Values = machine(rows, seed)
    moved: Values = (values - machine(20_000, 9).mean(axis=0)) * 0.1
    return moved


def fleet(rows: int, seed: int = 0, numbers: range = range(FLEET)) -> dict[str, Values]:
    return {f"p{number:02d}": small(rows, seed + number) + levels(number) for number in numbers}


def write(plant: Plant, name: str, devices: Mapping[str, Values], first: int = 0) -> None:
    lines: list[str] = []
    for device, values in devices.items():
        lines += csv_lines(values, device, first=first, header=not lines)
    plant.file(name, lines)


def trained(plant: Plant, devices: Mapping[str, Values], *words: str) -> str:
    write(plant, "normal.csv", devices)
    plant.ok("init", "normal.csv", "--name", "p", "--force")
    plant.quiet()
    return plant.ok("train", "normal.csv", *SAMPLES, *words).err


def scored(plant: Plant, devices: Mapping[str, Values]) -> None:
    write(plant, "live.csv", devices, LATER)
    plant.ok("send", "live.csv")
    plant.drain()


def alarmed(plant: Plant) -> set[str]:
    table = plant.scores()
    return {d for d, is_one in zip(table["device"].to_pylist(), table["is_anomaly"].to_pylist(), strict=True) if is_one}


def flagged(plant: Plant) -> set[str]:
    table = plant.scores()
    bits = np.array(table["quality"].to_pylist()) & int(Quality.FLEET_SCALE)
    return {d for d, bit in zip(table["device"].to_pylist(), bits.tolist(), strict=True) if bit}


@pytest.mark.parametrize("detector", ["pca", "mahalanobis"])
@pytest.mark.parametrize("alone", [True, False])
def test_a_rise_of_forty_of_its_own_sigmas_is_found_in_a_fleet_as_alone(
    plant: Plant, detector: str, alone: bool
) -> None:
    numbers = range(3, 4) if alone else range(FLEET)
    trained(plant, fleet(1_500, numbers=numbers), "--detector", detector)
    live = fleet(900, 50, numbers)
    live["p03"][500:, 0] += 12
    scored(plant, live)
    assert "p03" in alarmed(plant)
    table = plant.scores()
    mine = np.array([device == "p03" for device in table["device"].to_pylist()])
    late = np.array(table["smoothed"].to_pylist())[mine][-10:]
    assert (late > 5 * np.array(table["limit"].to_pylist())[mine][-10:]).all()
    assert not flagged(plant)


def test_a_unit_of_its_own_is_named_and_no_alarm(plant: Plant) -> None:
    known = fleet(1_500)
    known["p02"][:, 1] *= 1_000  # mbar, not bar
    note = trained(plant, known)
    assert "press differs tenfold" in note
    assert "p02" in note
    looked = plant.ok("init", "normal.csv", "--name", "p", "--force").said
    assert "press differs tenfold" in looked
    plant.quiet()
    live = fleet(900, 50)
    live["p02"][:, 1] *= 1_000
    live["p02"][500:, 1] -= 1_000.0
    scored(plant, live)
    assert alarmed(plant) == {"p02"}


def test_an_unknown_device_is_scored_with_the_fleets_scale_and_flagged_until_trained(plant: Plant) -> None:
    trained(plant, fleet(1_500))
    known = fleet(600, 50, range(FLEET + 1))
    scored(plant, known)
    assert flagged(plant) == {"p06"}
    table = plant.scores()
    rows = [n for n, device in enumerate(table["device"].to_pylist()) if device == "p06"]
    assert np.isfinite(np.array(table["score"].to_pylist())[rows][2:]).all()


def test_a_stopped_unknown_device_is_found(plant: Plant) -> None:
    trained(plant, fleet(1_500))
    live = {"p09": small(900, 60) + levels(0)}
    live["p09"][500:] = 0.0
    scored(plant, live)
    assert alarmed(plant) == {"p09"}


def test_a_device_of_few_rows_leans_on_the_fleet(plant: Plant) -> None:
    known = fleet(1_500)
    known["p05"] = known["p05"][:96]
    trained(plant, known)
    scored(plant, fleet(600, 50))
    assert not alarmed(plant)
    assert not flagged(plant)


def test_a_channel_that_stands_still_on_one_device_has_the_others_scale(plant: Plant) -> None:
    known = fleet(1_500)
    known["p01"][:, 3] = levels(1)[3]
    trained(plant, known)
    live = fleet(600, 50)  # now it moves like the others'
    scored(plant, live)
    assert "p01" not in alarmed(plant)


def test_scale_fleet_keeps_one_scale_for_all(plant: Plant) -> None:
    trained(plant, fleet(1_500), "--scale", "fleet")
    scored(plant, fleet(300, 50, range(FLEET + 1)))
    assert not flagged(plant)


def test_devices_alike_are_not_reported(plant: Plant) -> None:
    note = trained(plant, {f"p{n}": machine(1_500, n) for n in range(3)})
    assert "tenfold" not in note
    assert len(CHANNELS) == 4


def test_devices_that_are_alike_share_centre_and_scale() -> None:
    """What lies between pumps that started and stopped at other times is chance, and must not lift the limit."""
    rng = np.random.default_rng(4)
    values = rng.normal(50.0, 2.0, (400, 16, 2))
    device = np.arange(400, dtype=np.int32) % 4
    values += 0.2 * rng.normal(size=4)[device][:, None, None]
    ends = np.arange(400, dtype=np.int64)
    ones = np.ones((400, 2), np.float32)
    alike = fit(Windows(values, device, ends, ones), list("abcd"), 10.0, 1.0)
    assert alike.scales is not None
    assert np.abs(alike.scales.center - alike.normaliser.center).max() < 0.02
    assert np.abs(np.log(alike.scales.scale / alike.normaliser.scale)).max() < 0.02
    values[device == 1] += 20.0
    unlike = fit(Windows(values, device, ends, ones), list("abcd"), 10.0, 1.0)
    assert unlike.scales is not None
    assert unlike.scales.center[1] == pytest.approx(values[device == 1].mean(axis=(0, 1)), abs=0.1)


def limit_of(plant: Plant, devices: Mapping[str, Values], *words: str) -> float:
    """Return the 99 % limit that `train` finds."""
    write(plant, "normal.csv", devices)
    options = (*SAMPLES, *words, "--out", "bundle", "--replace", "--name", "p", "--json")
    card = plant.ok("train", "normal.csv", *options).json()
    return float(card["held_out"]["pca"]["limit"])


@pytest.mark.parametrize("numbers", [range(2), range(FLEET)])
def test_another_unit_of_a_device_changes_no_limit(plant: Plant, numbers: range) -> None:
    known = fleet(1_500, numbers=numbers)
    plain = limit_of(plant, known)
    known["p01"] *= 1_000
    # Spreads are then taken as each device's own, chance included, where devices that are alike share theirs.
    assert limit_of(plant, known) == pytest.approx(plain, rel=0.3)


@pytest.mark.parametrize("rows", [18, 20])
def test_a_device_of_less_than_one_window_neither_lifts_the_limit_nor_alarms(plant: Plant, rows: int) -> None:
    known = fleet(1_500)
    plain = limit_of(plant, known, "--stride", "8")
    few = {**known, "p09": small(rows, 60) + 10 * levels(0)}
    assert limit_of(plant, few, "--stride", "8") == pytest.approx(plain, rel=0.2)
    trained(plant, few, "--replace", "--stride", "8")
    scored(plant, {"p09": small(600, 61) + 10 * levels(0)})
    assert not flagged(plant)
    table = plant.scores()
    scores, limit = (np.array(table[name].to_pylist(), np.float64) for name in ("smoothed", "limit"))
    assert np.nanmax(scores) < 5 * np.nanmax(limit)
