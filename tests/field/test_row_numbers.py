"""Columns that count rows or only rise are named and left out, so that a healthy machine is healthy tomorrow."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pyarrow as pa
import pyarrow.parquet
import pytest

from stream_ad.io.bundles.manifest import read_manifest
from stream_ad.io.recordings.recordings import read
from tests.field.plant import Plant
from tests.field.signals import CHANNELS, machine, stamp

ROWS = 1_500
HEAD = ("time", "device", *CHANNELS)


def rows(extra: Callable[[int], str] | None, first: int = 0, count: int = ROWS, at: int = 0) -> Iterator[str]:
    for row, cells in enumerate(machine(count, seed=first)):
        line = [stamp(first + row), "p1", *(f"{cell:.4f}" for cell in cells)]
        if extra is not None:
            line.insert(at, extra(row + first))
        yield ",".join(line)


def head(name: str, at: int = 0) -> str:
    names = list(HEAD)
    names.insert(at, name)
    return ",".join(names)


@pytest.mark.parametrize(
    ("name", "extra", "at", "said"),
    [
        ("", lambda row: str(row), 0, "row numbers are not used: column_1"),
        ("Unnamed: 0", lambda row: str(row), 0, "row numbers are not used: Unnamed: 0"),
        ("", lambda row: str(row + 1), 6, "row numbers are not used: column_7"),
        ("RECORD", lambda row: str(111_868_400 + row), 0, "row numbers are not used: RECORD"),
        ("Messung", lambda row: str(row), 2, "row numbers are not used: Messung"),
        ("No.", lambda row: str(10 * row), 0, "row numbers are not used: No."),
        (
            "energy_kwh",
            lambda row: f"{45_210.5 + row * 0.0031:.3f}",
            0,
            "counters, which only rise, are not used: energy_kwh",
        ),
        ("run_hours", lambda row: f"{8_211 + row / 36:.2f}", 4, "counters, which only rise, are not used: run_hours"),
        ("xyz", lambda row: f"{8_211 + row * 3 % 65_536}", 4, "counters, which only rise, are not used: xyz"),
        ("", lambda row: f"{row % 7 / 3:.2f}", 4, "columns without a name are not used: column_5"),
    ],
)
def test_what_counts_is_named_and_left_out(
    name: str, extra: Callable[[int], str], at: int, said: str, plant: Plant
) -> None:
    plant.file("normal.csv", [head(name, at), *rows(extra, at=at)])
    ran = plant.ok("init", "normal.csv", "--name", "p")
    trained = plant.ok("train", "normal.csv", "--no-baseline")

    assert said in ran.out.replace("'", "")
    assert said in trained.err.replace("'", "")
    assert [channel.name for channel in read_manifest(plant.folder / "bundles" / "p").channels] == sorted(CHANNELS)


def test_a_healthy_machine_is_healthy_three_days_later(plant: Plant) -> None:
    def counts(row: int) -> str:
        return f"{row % ROWS},{111_868_400 + row},{45_210.5 + row * 0.0031:.3f},{8_211 + row / 3600:.2f}"

    names = "#,RECORD,energy_kwh,run_hours,"
    plant.file("normal.csv", [names + ",".join(HEAD), *rows(counts)])
    plant.ok("init", "normal.csv", "--name", "p")
    plant.quiet()
    plant.ok("train", "normal.csv", "--detector", "mahalanobis", "--no-baseline")
    plant.file("later.csv", [names + ",".join(HEAD), *rows(counts, first=3 * 86_400)])
    plant.ok("send", "later.csv")
    plant.drain()

    scores = plant.scores().to_pydict()
    assert not any(scores["is_anomaly"])
    assert len(scores["score"]) > 50


def test_what_is_asked_for_by_name_is_kept(plant: Plant) -> None:
    lines = rows(lambda row: f"{row},{5 + row * 0.01:.2f}")
    path = plant.file("normal.csv", ["#,energy," + ",".join(HEAD), *lines])

    assert read(path).channels == tuple(sorted(CHANNELS))
    assert dict(read(path).left_out) == {"#": "row number", "energy": "counter"}
    assert read(path, keep=["energy,flow"]).channels == tuple(sorted([*CHANNELS, "energy"]))
    plant.ok("init", "normal.csv", "--name", "p")
    plant.ok("train", "normal.csv", "--no-baseline", "--channels", "energy,flow")
    assert [channel.name for channel in read_manifest(plant.folder / "bundles" / "p").channels] == ["energy", "flow"]


def test_an_index_of_pandas_in_parquet_is_left_out(plant: Plant) -> None:
    values = machine(ROWS)
    columns = {"time": [stamp(row) for row in range(ROWS)], "__index_level_0__": list(range(5, ROWS + 5))}
    columns |= dict(zip(CHANNELS, values.T.tolist(), strict=True))
    pa.parquet.write_table(pa.table(columns), plant.folder / "r.parquet")

    assert read(plant.folder / "r.parquet").channels == tuple(sorted(CHANNELS))


def test_a_file_of_nothing_but_counters_is_refused_with_their_names(plant: Plant) -> None:
    plant.file("r.csv", ["time,energy_kwh", *(f"{stamp(row)},{row * 0.5}" for row in range(500))])

    ran = plant("init", "r.csv")

    assert ran.code == 1
    assert "counters, which only rise, are not used: energy_kwh; train --counter NAME" in ran.err


def test_what_is_sent_has_counters_but_no_row_numbers(plant: Plant) -> None:
    names = "#,energy,anomaly,"
    plant.file("r.csv", [names + ",".join(HEAD), *rows(lambda row: f"{row},{5 + row * 0.01:.2f},0")])
    plant.ok("init", "r.csv", "--name", "p")
    sent = plant.ok("send", "r.csv")

    assert "row numbers are not used: #" in sent.err
    from stream_ad.assembly import open_transport
    from stream_ad.io.transport import Partition

    transport = open_transport(plant.settings())
    values = [
        value
        for number in range(4)
        for raw in transport.read(Partition("sensor.readings.v1", number), 0, 10**6)
        for value in raw.values
    ]
    transport.close()
    assert values
    assert all(b'"energy"' in value and b'"#"' not in value and b'"anomaly"' not in value for value in values)
