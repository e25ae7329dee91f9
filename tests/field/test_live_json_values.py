"""Values as gateways write them in JSON, live and in a recording: a cell that is no number costs itself only."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from stream_ad.core.quality import Quality
from tests.field.plant import Plant
from tests.field.signals import CHANNELS, machine

T0 = 1_772_438_400_000
ROWS = 1_200
LIVE = 320
FAULT = 120
Values = dict[str, Any]


def raw(token: str) -> Callable[[Values], Values]:
    """Write `temp` as this token, which may be no JSON."""
    return lambda values: {**values, "temp": f"\0{token}\0"}


def changed(**cells: Any) -> Callable[[Values], Values]:
    return lambda values: {**values, **cells}


CLEAN: dict[str, Callable[[Values], Values]] = {
    "number": changed(),
    "bool": changed(running=True),
    "text-bool": changed(running="true"),
    "numbers-as-text": lambda values: {name: str(cell) for name, cell in values.items()},
    "padded-text": lambda values: {**values, "temp": f" {values['temp']} "},
    "plus": lambda values: raw(f"+{values['temp']}")(values),
}
MISSING: dict[str, Callable[[Values], Values]] = {
    "null": changed(temp=None),
    "empty-text": changed(temp=""),
    "absent": lambda values: {name: cell for name, cell in values.items() if name != "temp"},
}
BAD: dict[str, Callable[[Values], Values]] = {
    "text-state": changed(temp="Bad Input"),
    "quoted-nan": changed(temp="nan"),
    "excel-error": changed(temp="#N/A"),
    "nested": changed(temp={"value": 5}),
    "array": changed(temp=[5]),
    "too-large": changed(temp=1e300),
    "raw-nan": raw("nan"),
    "raw-minus-nan": raw("-nan"),
    "NaN": raw("NaN"),
    "Infinity": raw("-Infinity"),
    "msvc-nan": raw("-1.#IND"),
    "1e999": raw("1e999"),
}
KINDS = {**CLEAN, **MISSING, **BAD}


def lines(kind: str, rows: int, first: int, fault: int | None = None, seed: int = 1) -> Iterator[str]:
    table = np.round(machine(rows, seed), 3)
    if fault is not None:
        table[fault:, CHANNELS.index("press")] -= 2.0
    for row, cells in enumerate(table.tolist()):
        values = KINDS[kind]({**dict(zip(CHANNELS, cells, strict=True)), "running": 1})
        text = json.dumps({"device": kind, "ts": T0 + (first + row) * 1000, "values": values})
        yield text.replace('"\\u0000', "").replace('\\u0000"', "")


@pytest.fixture
def trained(plant: Plant) -> Plant:
    plant.file("normal.jsonl", lines("bool", ROWS, 0))
    plant.ok("init", "normal.jsonl", "--name", "live")
    plant.quiet()
    plant.ok("train", "normal.jsonl", "--no-baseline")
    return plant


def test_a_fault_is_found_whatever_the_cells_look_like(trained: Plant) -> None:
    streams = [list(lines(kind, LIVE, ROWS, FAULT)) for kind in KINDS]
    trained.append([line for at_once in zip(*streams, strict=True) for line in at_once])
    trained.drain()

    table = trained.scores()
    device, quality = np.array(table["device"].to_pylist()), np.asarray(table["quality"])
    flagged = (quality & int(Quality.BAD_VALUE)) != 0
    anomalous = np.asarray(table["is_anomaly"])
    scored = np.isfinite(np.asarray(table["score"].to_numpy(zero_copy_only=False), np.float64))
    for kind in KINDS:
        mine = device == kind
        assert scored[mine].sum() > 10, kind
        assert anomalous[mine].any(), kind
        assert flagged[mine].all() == (kind in BAD), kind
        assert flagged[mine].any() == (kind in BAD), kind


@pytest.mark.parametrize("kind", ["raw-nan", "NaN", "text-state", "numbers-as-text", "nested"])
def test_what_is_taken_live_is_taken_as_a_recording(plant: Plant, kind: str) -> None:
    plant.file("normal.jsonl", [*lines("number", ROWS, 0), *lines(kind, 50, ROWS)])
    plant.ok("init", "normal.jsonl", "--name", "live")

    plant.ok("train", "normal.jsonl", "--no-baseline")


def test_one_bad_sample_of_a_series_costs_that_sample(trained: Plant) -> None:
    rows = np.round(machine(LIVE, 1), 3)
    documents = []
    for first in range(0, LIVE, 64):
        block = {name: rows[first : first + 64, number].tolist() for number, name in enumerate(CHANNELS)}
        block["running"] = [True] * 64
        if first == 64:
            block["temp"][10] = "Bad Input"
            block["flow"][20] = [1]
        ts = {"start": T0 + (ROWS + first) * 1000, "step_ms": 1000}
        documents.append({"device": "p", "ts": ts, "values": block})
    trained.append(documents)
    trained.drain()

    table = trained.scores()
    coverage, quality = np.asarray(table["coverage"]), np.asarray(table["quality"])
    flagged = (quality & int(Quality.BAD_VALUE)) != 0
    assert 1 <= flagged.sum() < len(flagged)
    coverage, flagged = coverage[3:], flagged[3:]  # the first windows begin before the device did
    np.testing.assert_allclose(coverage[~flagged], 1.0)
    assert coverage.min() >= 1 - 2 / (64 * 5) - 1e-6


def test_a_bad_cell_of_a_recording_is_sent_as_one(trained: Plant) -> None:
    trained.file(
        "today.jsonl", [*lines("number", 200, ROWS), *lines("text-state", 200, ROWS), *lines("null", 200, ROWS)]
    )
    trained.ok("send", "today.jsonl")
    trained.drain()

    table = trained.scores()
    device = np.array(table["device"].to_pylist())
    flagged = (np.asarray(table["quality"]) & int(Quality.BAD_VALUE)) != 0
    assert flagged[device == "text-state"].all()
    assert not flagged[device != "text-state"].any()
