"""Counters (energy meters, run hours): what they add is compared, in training and in service, whatever their level."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import chain

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
import pytest

from stream_ad.core.quality import Quality
from stream_ad.io.bundles import bundles
from tests.field.plant import Plant
from tests.field.signals import CHANNELS, machine, stamp

Values = npt.NDArray[np.float64]
NAMES = (*CHANNELS, "energy [kWh]")
START = 45_210.0
LATER = 200_000
TRAIN = ("--samples", "16", "--stride", "4", "--folds", "2", "--no-baseline")


def metered(rows: int, seed: int, at: float = START) -> Values:
    """Return the machine with a meter of what it took: a level that only rises, faster under load."""
    values = machine(rows, seed)
    return np.column_stack([values, at + np.cumsum(0.5 + 0.02 * (values[:, 3] - 12.0))])


def lines(values: Values, first: int = 0, device: str = "p1", header: bool = True) -> Iterator[str]:
    if header:
        yield ",".join(("time", "device", *NAMES))
    for row, cells in enumerate(values):
        texts = ("" if np.isnan(cell) else f"{cell:.4f}" for cell in cells)
        yield ",".join((stamp(first + row), device, *texts))


def documents(values: Values, device: str) -> Iterator[str]:
    for row, cells in enumerate(values.tolist()):
        known = {name: None if np.isnan(cell) else cell for name, cell in zip(NAMES, cells, strict=True)}
        yield json.dumps({"device": device, "ts": stamp(LATER + row), "values": known})


def trained(plant: Plant, *options: str) -> None:
    plant.file("normal.csv", lines(metered(2_000, 0)))
    plant.ok("init", "normal.csv", "--name", "p")
    plant.quiet()
    plant.ok("train", "normal.csv", "--counter", "energy [kWh]", *TRAIN, *options)


def judged(plant: Plant, days: Mapping[str, Values], wire: bool = False) -> dict[str, list[bool]]:
    """Send a day of each device and return the verdicts on its windows."""
    if wire:
        plant.append(document for device, values in days.items() for document in documents(values, device))
    else:
        parts = [lines(values, LATER, device, header=not at) for at, (device, values) in enumerate(days.items())]
        plant.file("today.csv", chain.from_iterable(parts))
        plant.ok("send", "today.csv")
    plant.drain()
    table = plant.scores()
    return {device: table.filter(pc.equal(table["device"], device))["is_anomaly"].to_pylist() for device in days}


def rolled(values: Values, size: float) -> Values:
    """Return a day in whose middle the meter's register of this size rolls over."""
    found = values.copy()
    found[:, 4] = (found[:, 4] - found[len(found) // 2, 4]) % size
    return found


def reset(values: Values) -> Values:
    found = values.copy()
    found[200:, 4] -= found[200, 4]
    return found


def gaps(values: Values) -> Values:
    found = values.copy()
    found[np.arange(len(found)) % 4 == 1, 4] = np.nan
    return found


HEALTHY = {
    "the level of a year later": metered(400, 3, at=9e6),
    "a rollover at 16 bits": rolled(metered(400, 3), 2**16),
    "a rollover at 10^5": rolled(metered(400, 3), 1e5),
    "a rollover at 10^9": rolled(metered(400, 3), 1e9),
    "a reset": reset(metered(400, 3)),
    "one sample in four missing": gaps(metered(400, 3)),
}


def too_fast() -> Values:
    values = metered(400, 3)
    values[200:, 4] += 4.0 * np.arange(200)
    return values


def still() -> Values:
    values = metered(400, 3)
    values[200:, 4] = values[200, 4]
    return values


@pytest.mark.parametrize("wire", [False, True], ids=["recording", "wire"])
def test_a_machine_is_healthy_at_any_level_of_its_meter_and_not_at_any_rate(plant: Plant, wire: bool) -> None:
    trained(plant)
    found = judged(plant, {**HEALTHY, "too fast": too_fast(), "still": still()}, wire)
    for name in HEALTHY:
        assert len(found[name]) > 90, name
        assert not any(found[name]), name
    for name in ("too fast", "still"):
        assert not any(found[name][:45]), name
        assert all(found[name][60:]), name
    opened = [alert for alert in plant.alerts() if alert["phase"] == "opened"]
    assert {alert["device"] for alert in opened} == {"too fast", "still"}
    assert all(alert["channels"][0]["channel"] == "energy [kWh]" for alert in opened)
    table = plant.scores()
    flags = np.array(table.filter(pc.equal(table["device"], "still"))["quality"])
    assert flags[-20] & Quality.CHANNEL_STUCK


def test_a_meter_that_adds_the_same_all_the_time_is_not_stuck(plant: Plant) -> None:
    trained(plant)
    values = metered(400, 3)
    values[:, 4] = START + 0.5 * np.arange(400)
    judged(plant, {"p1": values})
    assert not (np.array(plant.scores()["quality"]) & Quality.CHANNEL_STUCK).any()


def test_a_meter_that_reports_on_change_is_held(plant: Plant) -> None:
    trained(plant, "--hold", "energy [kWh]=1m")
    assert not any(judged(plant, {"p1": metered(400, 3, at=7e6)})["p1"])


def test_the_bundle_says_which_channels_are_counters(plant: Plant) -> None:
    trained(plant)
    folder = plant.settings().stream.bundle
    assert [channel.name for channel in bundles.load(folder).channels if channel.counter] == ["energy [kWh]"]
    assert "a counter" in plant.ok("bundle", "show", str(folder)).out
    bundles.verify(folder)


def test_without_the_option_the_counter_is_left_out_and_the_option_named(plant: Plant) -> None:
    plant.file("normal.csv", lines(metered(2_000, 0)))
    plant.ok("init", "normal.csv", "--name", "p")
    ran = plant.ok("train", "normal.csv", *TRAIN)
    assert "energy [kWh]" in ran.said
    assert "--counter" in ran.said
    assert [channel.name for channel in bundles.load(plant.settings().stream.bundle).channels] == sorted(CHANNELS)


def test_a_counter_that_is_not_there_is_refused(plant: Plant) -> None:
    plant.file("normal.csv", lines(metered(2_000, 0)))
    plant.ok("init", "normal.csv", "--name", "p")
    ran = plant("train", "normal.csv", "--counter", "steam", *TRAIN)
    assert ran.code != 0
    assert "--counter" in ran.err
    assert "'steam'" in ran.err
