"""Recordings of a few hundred readings train with nothing set, and a refusal names a command that works."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from tests.field.plant import Plant, Ran
from tests.field.signals import csv_lines, stamp


def noise(rows: int, channels: int, seed: int = 7) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return np.random.default_rng(seed).normal(size=(rows, channels))


def train(plant: Plant, *words: str) -> Ran:
    return plant("train", "normal.csv", "--no-baseline", "--out", "bundle", "--replace", *words)


def recorded(plant: Plant, rows: int, channels: int, step_s: float = 1.0) -> None:
    names = [f"c{number}" for number in range(channels)]
    plant.file("normal.csv", csv_lines(noise(rows, channels), channels=names, step_s=step_s))


@pytest.mark.parametrize(
    ("rows", "channels", "step_s"),
    [(600, 2, 1), (500, 12, 180), (300, 1, 300), (150, 3, 60), (60, 1, 1), (850, 52, 180)],
)
def test_a_few_hundred_readings_train_with_nothing_set(plant: Plant, rows: int, channels: int, step_s: float) -> None:
    recorded(plant, rows, channels, step_s)
    plant.ok("init", "normal.csv", "--name", "p")
    ran = train(plant)
    assert ran.code == 0, ran.said
    assert "too few for windows of 64 samples" in ran.err or "64 samples, stride 16" in ran.out


def test_it_says_how_far_to_trust_the_limit(plant: Plant) -> None:
    recorded(plant, 500, 12)
    assert "the limit rests on about 62 independent windows" in train(plant).err
    recorded(plant, 8_000, 2)
    assert "note" not in train(plant).err


def test_a_long_recording_has_the_usual_windows(plant: Plant) -> None:
    recorded(plant, 4_000, 2)
    assert "(64 samples, stride 16)" in train(plant).out


def test_a_fault_after_a_short_recording_is_found(plant: Plant) -> None:
    recorded(plant, 600, 2)
    today = noise(300, 2, seed=8)
    today[150:220, 1] += 8
    plant.file("today.csv", csv_lines(today, channels=["c0", "c1"], first=10_000))
    plant.ok("init", "normal.csv", "--name", "p")
    plant.quiet()
    plant.ok("train", "normal.csv")
    plant.ok("send", "today.csv")
    plant.drain()
    assert "opened" in {alert["phase"] for alert in plant.alerts()}


@pytest.mark.parametrize(
    "stated", [("--samples", "256", "--stride", "64"), ("--samples", "500"), ("--stride", "100"), ("--folds", "40")]
)
def test_a_refusal_names_a_command_that_works(plant: Plant, stated: tuple[str, ...]) -> None:
    recorded(plant, 600, 2)
    ran = train(plant, "--set", "variance=0.8", *stated)
    if ran.code == 0:  # what was not stated followed
        return
    assert "found" in ran.err
    named = next(line for line in ran.err.splitlines() if "stream-ad train" in line)
    words = shlex.split(named[named.index("stream-ad train") :])
    assert {"--set", "variance=0.8", "--out", "bundle"} <= set(words)
    again = plant(*words[1:])
    assert again.code == 0, again.said


def test_stated_numbers_win(plant: Plant) -> None:
    recorded(plant, 600, 2)
    assert "(20 samples, stride 1)" in train(plant, "--samples", "20", "--stride", "1").out
    assert "(32 samples, stride 8)" in train(plant, "--samples", "32").out
    assert "stride 4)" in train(plant, "--stride", "4").out


@pytest.mark.parametrize("rows", [2, 20, 40])
def test_too_few_readings_are_refused_with_how_many_it_takes(plant: Plant, rows: int) -> None:
    recorded(plant, rows, 2)
    ran = train(plant)
    assert ran.code != 0
    assert f"expected at least 50 readings at different times, found {rows}" in ran.err


def test_many_devices_of_few_readings_train(plant: Plant) -> None:
    lines = list(csv_lines(noise(100, 2), "d0", ["a", "b"]))
    for number in range(1, 12):
        lines += csv_lines(noise(100, 2, number), f"d{number}", ["a", "b"], header=False)
    plant.file("normal.csv", lines)
    ran = train(plant)
    assert ran.code == 0, ran.said


def shared(*parts: str) -> Path:
    stated = os.environ.get("STREAM_AD_DATA")
    folder = (Path(stated) if stated else Path(__file__).parents[3] / "shared" / "data").joinpath(*parts)
    if not folder.is_dir():
        pytest.skip(f"the data set {parts[0]} is not here (STREAM_AD_DATA names the folder)")
    return folder


def test_500_rows_of_process_data_train(plant: Plant) -> None:
    table = pq.read_table(shared("tennessee_eastman") / "normal.parquet").slice(0, 500)
    names = [name for name in table.column_names if name.startswith(("xmeas", "xmv"))]
    assert len(names) == 52
    times = pa.array([stamp(row, 180.0) for row in range(500)])
    pa.csv.write_csv(pa.table({"time": times, **{name: table[name] for name in names}}), "normal.csv")
    plant.ok("init", "normal.csv", "--name", "p")
    ran = train(plant)
    assert ran.code == 0, ran.said


def test_the_first_15_percent_of_public_streams_train(plant: Plant) -> None:
    refused = []
    files = sorted(shared("nab").glob("*/*.csv"))
    assert len(files) >= 27
    for path in files:
        lines = path.read_text(encoding="utf-8").splitlines()
        plant.file("normal.csv", lines[: 1 + int((len(lines) - 1) * 0.15)])
        looked = plant("init", "normal.csv", "--name", "p", "--force")
        ran = train(plant, "--zone", "UTC")
        if looked.code or ran.code:
            refused.append(f"{path.name}: {looked.err}{ran.err}")
    assert not refused
