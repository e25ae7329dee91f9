"""A logger that starts a file a day is one device, in training, in service and tomorrow."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.field.plant import Plant
from tests.field.signals import CHANNELS, machine, stamp

DAY = 240
"""Rows, one in six minutes."""


def day(number: int, seed: int = 0, fault: bool = False) -> Iterator[str]:
    values = machine(DAY, seed=seed + number)
    if fault:
        values[DAY // 2 :, 1] *= 0.6
    yield ",".join(("time", *CHANNELS))
    for row, cells in enumerate(values):
        yield ",".join((stamp(number * DAY + row, 360), *(f"{cell:.3f}" for cell in cells)))


OPTIONS = ("--samples", "16", "--no-baseline")


@pytest.mark.parametrize(
    ("form", "device"),
    [
        ("logs/2026-03-{:02d}.csv", "line"),
        ("logs/202603{:02d}_000000.csv", "line"),
        ("logs/{:02d}.03.2026.csv", "line"),
        ("logs/press 4 2026-03-{:02d}.csv", "press 4"),
        ("logs/2026/03/{:02d}.csv", "line"),
        ("logs/2026-03-{:02d}/press4.csv", "press4"),
    ],
)
def test_files_of_days_are_one_device(form: str, device: str, plant: Plant) -> None:
    for number in range(6):
        plant.file(form.format(number + 2), day(number))
    said = plant.ok("init", "logs", "--name", "line").out
    assert "devices: 1 " in said
    assert "named by date are one device" in said or "press4" in device
    plant.quiet()
    plant.ok("train", "logs", *OPTIONS)

    tomorrow = plant.file(form.format(9).replace("logs/", "new/"), day(7, fault=True))
    sent = plant.ok("send", str(tomorrow.relative_to(plant.folder)))
    plant.drain()

    assert set(plant.scores()["device"].to_pylist()) == {device}
    assert {alert["device"] for alert in plant.alerts()} <= {device}
    assert (
        device == "press4" or f"1 file(s) named by date are one device, {device!r}; --device NAME overrides" in sent.err
    )


def test_a_name_that_is_given_goes_first(plant: Plant) -> None:
    plant.file("logs/2026-03-02.csv", day(0))
    plant.file("logs/2026-03-03.csv", day(1))

    assert plant.ok("init", "logs", "--device", "press", "--json").json()["devices"] == 1
    assert "named by date" not in plant.ok("init", "logs", "--device", "press", "--force").out


def test_two_machines_whose_names_look_like_dates_are_refused(plant: Plant) -> None:
    plant.file("logs/unit_20010112.csv", day(0))
    plant.file("logs/unit_20010113.csv", day(0, seed=9))

    ran = plant("init", "logs")

    assert ran.code == 1
    assert "unit_20010112.csv" in ran.err
    assert "--device NAME" in ran.err


def test_machines_in_a_file_each_stay_apart(plant: Plant) -> None:
    plant.file("logs/pump1.csv", day(0))
    plant.file("logs/pump2.csv", day(0, seed=9))

    assert plant.ok("init", "logs", "--json").json()["devices"] == 2


def test_a_column_of_devices_goes_before_names(plant: Plant) -> None:
    for number in range(2):
        lines = list(day(number))
        rows = [f"p{row % 2},{line}" for row, line in enumerate(lines[1:])]
        plant.file(f"logs/2026-03-0{number + 2}.csv", [f"device,{lines[0]}", *rows])

    found = plant.ok("init", "logs", "--json").json()

    assert found["devices"] == 2
    assert not any("named by date" in note for note in found["notes"])
