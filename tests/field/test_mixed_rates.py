"""Tags and devices of different rates: named by `train`, with the option that helps, which then works."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from tests.field.plant import Plant, Ran
from tests.field.signals import csv_lines, machine, stamp

ROWS = 4_000


def long_lines(every: dict[str, int], rows: int = ROWS, step_s: float = 1.0) -> Iterator[str]:
    """A historian's export: a row per tag and time, each tag at a rate of its own."""
    rng = np.random.default_rng(1)
    yield "timestamp,device,tag,value"
    for row in range(rows):
        for tag, step in every.items():
            if row % step == 0:
                yield f"{stamp(row, step_s)},p1,{tag},{50 + rng.normal():.3f}"


def wide_lines(every: Sequence[int], rows: int = ROWS) -> Iterator[str]:
    """Columns that are empty most of the time."""
    rng = np.random.default_rng(1)
    yield "time,device," + ",".join(f"tag{step}" for step in every)
    for row in range(rows):
        cells = (f"{rng.normal():.3f}" if row % step == 0 else "" for step in every)
        yield f"{stamp(row)},p1," + ",".join(cells)


def train(plant: Plant, *words: str) -> Ran:
    return plant("train", "normal.csv", "--no-baseline", "--out", "bundle", "--replace", *words)


def named_command(ran: Ran) -> list[str]:
    assert ran.code != 0
    line = next(line for line in ran.err.splitlines() if "stream-ad train" in line)
    return shlex.split(line[line.index("stream-ad train") :])[1:]


def test_slow_tags_of_a_long_export_are_named_with_an_age_that_works(plant: Plant) -> None:
    plant.file("normal.csv", long_lines({"vibration": 1, "temperature": 30, "setpoint": 617}))
    plant.ok("init", "normal.csv", "--name", "p")
    ran = train(plant)
    words = named_command(ran)
    assert "temperature=1m" in words
    assert "setpoint=30m" in words
    assert "vibration" not in ran.err
    again = plant(*words)
    assert again.code == 0, again.said


@pytest.mark.parametrize("every", [(1, 5), (1, 2, 60), (3, 4, 5), (1, 30, 45)])
def test_columns_that_are_mostly_empty_are_named(plant: Plant, every: Sequence[int]) -> None:
    plant.file("normal.csv", wide_lines(every))
    again = plant(*named_command(train(plant)))
    assert again.code == 0, again.said


def test_half_of_the_values_are_enough(plant: Plant) -> None:
    plant.file("normal.csv", wide_lines((1, 2)))
    assert train(plant).code == 0


def test_a_short_recording_with_a_slow_tag_gets_windows_and_an_age(plant: Plant) -> None:
    plant.file("normal.csv", long_lines({"fast": 1, "slow": 10}, rows=500))
    again = plant(*named_command(train(plant)))
    assert again.code == 0, again.said


def test_milliseconds_and_minutes(plant: Plant) -> None:
    for step_s, age in ((0.01, "200ms"), (60.0, "20m")):
        plant.file("normal.csv", long_lines({"fast": 1, "slow": 10}, step_s=step_s))
        assert f"slow={age}" in named_command(train(plant))


@pytest.mark.parametrize("slower", [3, 10, 60])
def test_a_device_polled_more_slowly_is_named_with_the_option(plant: Plant, slower: int) -> None:
    lines = [*csv_lines(machine(6_000), "p1")]
    lines += csv_lines(machine(6_000 // slower, seed=2), "p2", step_s=slower, header=False)
    plant.file("normal.csv", lines)
    ran = train(plant)
    assert ran.code == 0, ran.said
    note = next(line for line in ran.err.splitlines() if line.startswith("note: p2"))
    assert f"every {slower}s" in note or f"every {slower // 60}m" in note
    option = note[note.index("--hold") :].split("'")[1]
    again = train(plant, "--hold", option)
    assert again.code == 0, again.said
    assert "p2" not in again.err


def test_a_device_without_a_channel_is_named(plant: Plant) -> None:
    lines = [*csv_lines(machine(2_000), "p1")]
    lines += (line.rsplit(",", 1)[0] + "," for line in csv_lines(machine(2_000, seed=2), "p2", header=False))
    plant.file("normal.csv", lines)
    ran = train(plant)
    assert ran.code == 0, ran.said
    assert "p2: no values of current" in ran.err


def test_a_period_shorter_than_the_readings_is_named(plant: Plant) -> None:
    plant.file("normal.csv", csv_lines(machine(2_000), step_s=5))
    words = named_command(train(plant, "--period", "1s"))
    assert words[words.index("--period") + 1] == "5s"
    again = plant(*words)
    assert again.code == 0, again.said


def test_bursts_train_on_windows_within_them(plant: Plant) -> None:
    lines = list(csv_lines(machine(24_000)))
    plant.file("normal.csv", [lines[0], *(line for row, line in enumerate(lines[1:]) if row % 600 < 20)])
    ran = train(plant)
    assert ran.code == 0, ran.said


def test_windows_left_out_for_a_channel_that_is_not_always_there_are_counted(plant: Plant) -> None:
    lines = list(csv_lines(machine(3_000)))
    half = [line.rsplit(",", 1)[0] + "," for line in lines[1_500:]]
    plant.file("normal.csv", [*lines[:1_500], *half])
    ran = train(plant)
    assert ran.code == 0, ran.said
    note = next(line for line in ran.err.splitlines() if "discarded" in line)
    assert "93 of 187 windows were discarded" in note
    assert "current" in note
    plant.file("normal.csv", lines)
    assert "discarded" not in train(plant).err


def test_each_note_is_given_once(plant: Plant) -> None:
    lines = list(csv_lines(machine(3_000)))
    plant.file("normal.csv", ["#,time" + lines[0][4:], *(f"{n}," + line for n, line in enumerate(lines[1:], 1))])
    notes = [line for line in train(plant).err.splitlines() if line.startswith("note")]
    assert len(notes) > 1
    assert len(notes) == len(set(notes))
