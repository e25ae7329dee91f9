"""Registers with large values and small steps keep them in recordings, on the wire, in training and in scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from stream_ad.core.batches import Float64Array
from stream_ad.core.quality import Quality
from stream_ad.io.bundles import bundles
from stream_ad.io.recordings import recordings
from stream_ad.io.transport import Partition, RawBatch
from stream_ad.io.wire.encode import ARROW_HEADERS, encode_arrow, encode_reading, encode_series
from stream_ad.io.wire.readings import Decoder
from tests.field.plant import Plant
from tests.field.signals import machine, stamp

LEVELS = (1e9, 123_456_789_012.0)
ROWS = 1_100


def register(rows: int, seed: int) -> Float64Array:
    """Return float64[rows], a reading that moves by steps of 1 around its level."""
    steps = np.random.default_rng(seed).choice([-1.0, 1.0], rows)
    walk = np.cumsum(steps)
    return np.asarray(walk - np.round(np.linspace(0, walk[-1], rows)))


def lines(level: float, rows: int, seed: int, first: int = 0, stuck: bool = False) -> list[str]:
    """Return a CSV with a register at a level beside two channels of a machine."""
    values, moving = machine(rows, seed), register(rows, seed)
    if stuck:
        moving[rows // 2 :] = moving[rows // 2]
    return ["time,device,reg,press,temp"] + [
        f"{stamp(first + row)},p1,{int(level + moving[row])},{values[row, 1]:.4f},{values[row, 0]:.4f}"
        for row in range(rows)
    ]


def run(plant: Plant, level: float, form: str, stuck: bool) -> pa.Table:
    """Train, send and score a day in a folder; return its scores."""
    plant.file("normal.csv", lines(level, ROWS, 1))
    plant.file("today.csv", lines(level, 400, 2, first=100_000, stuck=stuck))
    plant.ok("init", "normal.csv", "--name", "p")
    plant.quiet()
    plant.ok("train", "normal.csv", "--no-baseline")
    plant.ok("send", "today.csv", "--format", form)
    plant.drain()
    return plant.scores()


@pytest.fixture
def plants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[Plant, Plant]:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    return Plant(tmp_path / "a", capsys), Plant(tmp_path / "b", capsys)


@pytest.mark.parametrize("form", ["json", "arrow"])
def test_a_register_at_a_thousand_million_scores_as_one_at_zero(
    plants: tuple[Plant, Plant], form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for plant, level in zip(plants, (1e9, 0.0), strict=True):
        monkeypatch.chdir(plant.folder)
        found.append(run(plant, level, form, stuck=False))

    high, low = (np.asarray(table["score"]) for table in found)
    np.testing.assert_allclose(high, low, rtol=1e-5, atol=1e-5)
    assert not (np.asarray(found[0]["quality"]) & int(Quality.CHANNEL_STUCK)).any()


@pytest.mark.parametrize("level", LEVELS)
def test_a_register_that_stands_still_is_seen_and_one_that_moves_is_not(plant: Plant, level: float) -> None:
    table = run(plant, level, "series", stuck=True)

    stuck = (np.asarray(table["quality"]) & int(Quality.CHANNEL_STUCK)) != 0
    assert not stuck[: len(stuck) // 2 - 1].any()
    assert stuck[-3:].all()
    model = bundles.load(plant.settings().stream.bundle)
    assert [channel.always_moves for channel in model.channels if channel.name == "reg"] == [True]
    assert 0.5 < model.normaliser.scale[[c.name for c in model.channels].index("reg")] < 100


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_a_recording_keeps_every_step(plant: Plant, ending: str) -> None:
    values = 1e9 + np.arange(50.0)
    path = plant.folder / f"r.{ending}"
    if ending == "csv":
        plant.file("r.csv", ["time,reg", *(f"{stamp(row)},{value:.0f}" for row, value in enumerate(values))])
    elif ending == "jsonl":
        plant.file("r.jsonl", [f'{{"ts": "{stamp(row)}", "reg": {value:.0f}}}' for row, value in enumerate(values)])
    else:
        pyarrow.parquet.write_table(pa.table({"ts": [stamp(row) for row in range(50)], "reg": values}), path)

    np.testing.assert_array_equal(recordings.read(path).values[:, 0], values)


def test_the_wire_keeps_every_step() -> None:
    values = 1e9 + np.arange(4.0)
    payloads = [
        (encode_reading("d", 1_772_438_400_000, {"reg": values[0]}), ()),
        (encode_series("d", 1_772_438_400_000, 1000, {"reg": values}), ()),
        (encode_arrow(["d"] * 4, 1_772_438_400_000 + 1000 * np.arange(4), {"reg": values}), ARROW_HEADERS),
    ]
    raw = RawBatch(
        partition=Partition("r", 0),
        offset=np.arange(3),
        log_ns=np.full(3, 1_772_438_500_000_000_000),
        keys=[b""] * 3,
        values=[value for value, _ in payloads],
        headers=[headers for _, headers in payloads],
        next_offset=3,
    )

    found = Decoder(["reg"]).decode(raw).readings.values[:, 0]

    np.testing.assert_array_equal(found, np.concatenate([values[:1], values, values]))
