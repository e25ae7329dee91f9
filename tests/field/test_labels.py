"""Rows that a recording marks as faults do not train; the mark is never a channel."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from stream_ad.core.model import Channel, WindowShape
from stream_ad.io.recordings.labels import is_label, to_marks
from stream_ad.io.recordings.layouts import Layout
from stream_ad.io.recordings.recordings import read
from stream_ad.training.windows import cut_windows
from tests.field.plant import Plant
from tests.field.signals import CHANNELS, machine, stamp

ROWS, LONG = 3_000, 60
STARTS = range(500, ROWS, 500)


def recorded(label: str, word: Callable[[bool], str] | None, disturbed: bool = True) -> Iterator[str]:
    values = machine(ROWS)
    marked = np.zeros(ROWS, bool)
    for start in STARTS:
        marked[start : start + LONG] = True
    if disturbed:
        values[marked, 1] *= 0.7
    yield ",".join(["time", *CHANNELS, *([label] if word else [])])
    for row, cells in enumerate(values):
        yield ",".join([stamp(row), *(f"{cell:.4f}" for cell in cells), *([word(bool(marked[row]))] if word else [])])


@pytest.mark.parametrize(
    ("label", "yes", "no"),
    [
        ("anomaly", "1", "0"),
        ("label", "1.0", "0.0"),
        ("is_fault", "true", "false"),
        ("Is Anomaly", "True", "False"),
        ("Normal/Attack", "Attack", "Normal"),
        ("label", "bearing", "normal"),
        ("fault_number", "17", "0"),
        ("outlier", "-1", "1"),
        ("ATT_FLAG", "1", "-999"),
        ("attack", "yes", "no"),
        ("machine_status", "BROKEN", "NORMAL"),
        ("labels", "1", ""),
    ],
)
def test_marked_rows_are_left_out_of_training(label: str, yes: str, no: str, plant: Plant) -> None:
    path = plant.file("r.csv", recorded(label, lambda is_marked: yes if is_marked else no))
    recording = read(path)

    assert recording.channels == tuple(sorted(CHANNELS))
    assert recording.faults.sum() == LONG * len(STARTS)
    shape = WindowShape(10**9, 64, 16)
    windows = cut_windows(recording, [Channel(name) for name in sorted(CHANNELS)], shape)
    first = recording.event_ns[0]
    inside = [
        (first + start * 10**9 < end) and (end - shape.samples * 10**9 < first + (start + LONG) * 10**9)
        for end in windows.end_ns.tolist()
        for start in STARTS
    ]
    assert not any(inside)
    assert len(windows) > 80


def test_training_says_so_and_finds_the_same_fault_again(plant: Plant) -> None:
    plant.file("normal.csv", recorded("anomaly", lambda is_marked: str(int(is_marked))))
    said = plant.ok("init", "normal.csv", "--name", "p").out
    plant.quiet()
    trained = plant.ok("train", "normal.csv", "--no-baseline")
    today = machine(900, seed=4)
    today[400:500, 1] *= 0.7
    lines = [",".join([stamp(10**5 + row), *(f"{cell:.4f}" for cell in cells)]) for row, cells in enumerate(today)]
    plant.file("today.csv", [",".join(["time", *CHANNELS]), *lines])
    plant.ok("send", "today.csv", "--device", "normal")
    plant.drain()

    note = "300 of 3,000 rows are marked as faults by 'anomaly': training skips them"
    assert note in said
    assert note in trained.err
    assert any(plant.scores()["is_anomaly"].to_pylist())


def test_a_limit_is_that_of_the_rows_that_are_not_marked(plant: Plant) -> None:
    limits = {}
    for name, disturbed in (("faulty", True), ("clean", False)):
        plant.file(f"{name}.csv", recorded("fault", lambda is_marked: str(int(is_marked)), disturbed))
        plant.ok("init", f"{name}.csv", "--name", name, "--out", f"{name}.toml")
        card = plant.ok("train", f"{name}.csv", "-c", f"{name}.toml", "--no-baseline", "--json").json()
        limits[name] = next(iter(card["held_out"].values()))["limit"]

    assert limits["faulty"] == pytest.approx(limits["clean"], rel=1e-6)


def test_labels_of_long_recordings_mark_rows(plant: Plant) -> None:
    lines = ["time,tag,value,label"]
    for row in range(100):
        lines += [f"{stamp(row)},a,{row % 7},{int(row < 10)}", f"{stamp(row)},b,{row % 5},0"]
    found = read(plant.file("r.csv", lines))
    assert (found.channels, int(found.faults.sum())) == (("a", "b"), 10)

    tagged = ["time,tag,value"]
    for row in range(100):
        tagged += [f"{stamp(row)},{tag},{value}" for tag, value in (("a", row % 7), ("anomaly", int(row < 10)))]
    found = read(plant.file("t.csv", tagged))
    assert (found.channels, int(found.faults.sum())) == (("a",), 10)


def test_labels_of_json_are_booleans(plant: Plant) -> None:
    lines = [json.dumps({"time": stamp(n), "x": n % 7, "is_fault": n < 5}) for n in range(50)]

    found = read(plant.file("r.jsonl", lines))

    assert (found.channels, int(found.faults.sum())) == (("x",), 5)


def test_a_change_point_is_no_fault(plant: Plant) -> None:
    lines = [f"{stamp(n)},{n % 7},{int(n == 20)}" for n in range(50)]

    found = read(plant.file("r.csv", ["time,x,changepoint", *lines]))

    assert (found.channels, list(found.labels), int(found.faults.sum())) == (("x",), ["changepoint"], 0)


def test_a_stated_label_marks(plant: Plant) -> None:
    lines = [f"{stamp(n)},{n % 7},{'red' if n < 5 else 'ok'}" for n in range(50)]

    found = read(plant.file("r.csv", ["time,x,lamp", *lines]), Layout.parse("wide,labels=lamp"))

    assert (found.channels, int(found.faults.sum())) == (("x",), 5)


def test_what_is_no_label_stays_a_channel_or_text(plant: Plant) -> None:
    lines = [f"{stamp(n)},{n % 7},{n % 3},{'auto' if n % 2 else 'manual'}" for n in range(50)]

    found = read(plant.file("r.csv", ["time,x,state,status", *lines]))

    assert (found.channels, dict(found.labels)) == (("state", "x"), {})
    assert found.left_out["status"] == "no numbers"


@pytest.mark.parametrize("name", ["Fault", "IS_FAULT", "is fault", "Anomaly-Label", "isAnomaly", "ground truth"])
def test_names_of_labels(name: str) -> None:
    assert is_label(name)


@pytest.mark.parametrize("name", ["default", "fault_current", "label_temperature", "x"])
def test_names_of_others(name: str) -> None:
    assert not is_label(name)


def test_marks_of_numbers_that_are_not_whole_say_nothing() -> None:
    assert np.isnan(to_marks(np.array([0.1, 0.9, 1.0]))).all()
