"""A device that sends readings and gets no score is named, with the option that helps."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.field.plant import Plant
from tests.field.seen import trained_folder
from tests.field.signals import CHANNELS, START, machine

START_MS = int(START.timestamp() * 1000) + 100_000_000
HOURS = 4_000
"""Rows of a second, more than an hour."""


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_folder(tmp_path_factory.mktemp("trained"))


@pytest.fixture
def trained(plant: Plant, once: Path) -> Plant:
    shutil.copytree(once, plant.folder, dirs_exist_ok=True)
    return plant


Wanted = Callable[[int], tuple[str, ...]]
"""The channels that a device sends at a row."""


def readings(device: str, wanted: Wanted, rows: int = HOURS, first: int = 0) -> Iterator[dict[str, Any]]:
    for row, values in enumerate(machine(rows, seed=3).tolist(), first):
        named = wanted(row)
        if named:
            cells = dict(zip(CHANNELS, values, strict=True))
            yield {"device": device, "ts": START_MS + 1_000 * row, "values": {name: cells[name] for name in named}}


def whole(_: int) -> tuple[str, ...]:
    return CHANNELS


def every_tenth(row: int) -> tuple[str, ...]:
    return CHANNELS if row % 10 == 0 else ()


def in_turn(row: int) -> tuple[str, ...]:
    return (CHANNELS[row % 4],)


def mostly_slow(row: int) -> tuple[str, ...]:
    return CHANNELS if row % 30 == 0 else ("temp",)


def one_only(_: int) -> tuple[str, ...]:
    return ("temp",)


def looked_at(plant: Plant) -> tuple[dict[str, Any], list[str]]:
    found = plant("status", "--json").json()
    return found["intake"]["unscored"], [line for line in found["warnings"] if "windows was scored" in line]


@pytest.mark.parametrize(
    ("wanted", "lack", "option"),
    [
        (every_tenth, "slow", "--period 10s"),
        (in_turn, "apart", "--hold '"),
        (mostly_slow, "apart", "=90s'"),
        (one_only, "absent", "their own stream"),
    ],
)
def test_a_device_without_a_score_is_named_with_what_helps(
    trained: Plant, wanted: Wanted, lack: str, option: str
) -> None:
    trained.append(readings("good", whole))
    trained.append(readings("poor", wanted))
    trained.drain()

    found, (line,) = looked_at(trained)
    (device,) = found["devices"]
    assert (found["count"], device["device"], device["lack"]) == (1, "poor", lack)
    assert device["seconds"] > 3_500
    assert line.startswith("device poor (partition 0) sends readings, but none of its windows was scored for 1 h")
    assert option in line
    assert "WARN unscored" in trained("check").out


def test_a_device_whose_channels_have_other_names_is_named(trained: Plant) -> None:
    trained.append(
        {"device": "odd", "ts": START_MS + 1_000 * row, "values": {"t": 1.0, "p": 2.0}} for row in range(HOURS)
    )
    trained.drain()

    found, (line,) = looked_at(trained)
    assert found["devices"][0]["lack"] == "nothing"
    assert "compare the names" in line


def test_a_device_that_was_scored_gets_an_hour(trained: Plant) -> None:
    def later(row: int) -> tuple[str, ...]:
        return CHANNELS if row < 1_000 else every_tenth(row)

    trained.append(readings("p1", later, rows=3_000))
    trained.drain()
    assert looked_at(trained) == ({"count": 0, "devices": []}, [])

    trained.append(readings("p1", later, rows=2_000, first=3_000))
    trained.drain()
    assert looked_at(trained)[0]["count"] == 1


def test_a_device_that_is_scored_again_is_not_named(trained: Plant) -> None:
    trained.append(readings("p1", every_tenth))
    trained.append(readings("p1", whole, rows=300, first=HOURS))
    trained.drain()

    assert looked_at(trained) == ({"count": 0, "devices": []}, [])


def test_a_device_that_comes_back_after_hours_is_not_named(trained: Plant) -> None:
    trained.append(readings("p1", whole, rows=400))
    trained.append(readings("p1", whole, rows=100, first=40_000))
    trained.drain()

    assert looked_at(trained) == ({"count": 0, "devices": []}, [])


def test_many_are_counted_and_some_named(trained: Plant) -> None:
    for number in range(6):
        trained.append(readings(f"poor-{number}", every_tenth, rows=1_500))
    trained.drain()

    found = plant_lines(trained)
    assert looked_at(trained)[0]["count"] == 6
    assert sum("none of its windows was scored" in line for line in found) == 3
    assert any("3 more devices send readings" in line for line in found)


def plant_lines(plant: Plant) -> list[str]:
    return list(plant("status", "--json").json()["warnings"])
