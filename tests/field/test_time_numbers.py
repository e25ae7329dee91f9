"""Times that are numbers: of every count that is known, within 1990 to tomorrow; all else is refused in sight."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.field.plant import Plant
from tests.io.recordings.times.time_texts import UNITS, counted

START_S = int(datetime(2026, 3, 2, 8, tzinfo=UTC).timestamp())
NS = 10**9


def rows(cells: list[str], header: str = "time,temp") -> Iterator[str]:
    yield header
    for number, cell in enumerate(cells):
        yield f"{cell},{60 + number % 7}.5"


def cells_of(unit: str, step_s: int = 1, count: int = 200) -> list[str]:
    return [counted((START_S + number * step_s) * NS, *UNITS[unit]) for number in range(count)]


@pytest.mark.parametrize("unit", UNITS)
def test_a_count_that_is_known_is_read_and_named(unit: str, plant: Plant) -> None:
    plant.file("r.csv", rows(cells_of(unit)))

    found = plant.ok("init", "r.csv", "--zone", "UTC", "--json").json()

    assert found["start_ns"] == START_S * NS
    assert found["period_ns"] == NS
    assert found["irregular"] == 0
    assert unit.startswith("epoch") or f"--time-format {unit} makes this explicit" in found["notes"][0]


@pytest.mark.parametrize("unit", ["epoch_ms", "filetime", "ticks"])
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_also_from_typed_files(unit: str, kind: str, plant: Plant) -> None:
    cells = [int(Decimal(cell)) for cell in cells_of(unit)]
    if kind == "jsonl":
        plant.file("r.jsonl", (json.dumps({"ts": cell, "temp": number % 5}) for number, cell in enumerate(cells)))
    else:
        pq.write_table(pa.table({"ts": cells, "temp": np.arange(len(cells)) % 5}), plant.folder / "r.parquet")

    found = plant.ok("init", f"r.{kind}", "--zone", "UTC", "--json").json()

    assert (found["start_ns"], found["period_ns"]) == (START_S * NS, NS)


@pytest.mark.parametrize("decimals", [5, 6, 8, 10])
@pytest.mark.parametrize("comma", [False, True])
def test_excel_serials_with_few_digits_keep_their_period(decimals: int, comma: bool, plant: Plant) -> None:
    step_s = 60 if decimals < 8 else 1
    cells = [f"{(START_S + number * step_s) / 86_400 + 25_569:.{decimals}f}" for number in range(200)]
    mark = ";" if comma else ","
    lines = [f"{cell.replace('.', ',') if comma else cell}{mark}{number % 7}" for number, cell in enumerate(cells)]
    plant.file("r.csv", [f"time{mark}temp", *lines])

    found = plant.ok("init", "r.csv", "--zone", "UTC", "--json").json()

    assert found["period_ns"] == step_s * NS
    assert found["irregular"] == 0
    assert found["start_ns"] == START_S * NS


@pytest.mark.parametrize(
    ("pattern", "step_s"), [("%Y%m%d", 86_400), ("%Y%m%d%H", 3_600), ("%Y%m%d%H%M", 60), ("%Y%m%d%H%M%S", 1)]
)
def test_dates_in_digits_are_dates(pattern: str, step_s: int, plant: Plant) -> None:
    first = START_S // step_s * step_s
    cells = [datetime.fromtimestamp(first + number * step_s, UTC).strftime(pattern) for number in range(90)]
    plant.file("r.csv", rows(cells))

    found = plant.ok("init", "r.csv", "--zone", "UTC", "--json").json()

    assert (found["start_ns"], found["period_ns"]) == (first * NS, step_s * NS)
    assert "--time-format compact makes this explicit" in found["notes"][0]


@pytest.mark.parametrize(
    ("header", "scale", "name"),
    [("time,temp", 1, "elapsed_s"), ("t [ms],temp", 1_000, "elapsed_ms"), ("Time (min),temp", 1 / 60, "elapsed_min")],
)
def test_elapsed_time_needs_a_start_and_counts_from_it(header: str, scale: float, name: str, plant: Plant) -> None:
    cells = [f"{number * 0.6 * scale:.2f}" for number in range(200)]
    plant.file("r.csv", rows(cells, header))
    column = header.split(",")[0]
    layout = ("--layout", f"wide,time={column}")

    refused = plant("init", "r.csv", *layout)
    found = plant.ok("init", "r.csv", *layout, "--start", "2026-03-02T08:00:00Z", "--json").json()

    assert refused.code != 0
    assert "r.csv: line 2: " in refused.err
    assert "--start 2026-03-02T08:00:00Z" in refused.err
    assert found["start_ns"] == START_S * NS
    assert found["period_ns"] == 600_000_000
    assert f"(--time-format {name})" in found["notes"][0]


def test_the_unit_of_elapsed_times_can_be_stated(plant: Plant) -> None:
    plant.file("r.csv", rows([str(number * 250) for number in range(50)]))

    ran = plant.ok("init", "r.csv", "--start", "2026-03-02T08:00:00Z", "--time-format", "elapsed_ms")

    assert "period    250 ms" in ran.out
    assert "--time-format elapsed_ms --start 2026-03-02T08:00:00Z" in ran.out.split("Next:")[1]


def test_a_start_without_a_zone_takes_the_stated_one(plant: Plant) -> None:
    plant.file("r.csv", rows([f"{number / 10}" for number in range(50)]))

    found = plant.ok("init", "r.csv", "--start", "2026-03-02 09:00", "--zone", "Europe/Berlin", "--json").json()

    assert found["start_ns"] == START_S * NS


@pytest.mark.parametrize(
    ("cell", "says"),
    [
        ("20261302080000", "20261302080000"),  # month 13
        ("20260230080000", "20260230080000"),
        ("20990302080000", "2099-03-02 08:00:00 as dates of 14 digits"),
        ("4102444800", "2100-01-01 00:00:00 as epoch seconds"),
        ("4102444800000", "2100-01-01 00:00:00 as epoch milliseconds"),
        ("0", "--start"),
        ("-62135596800", "-62135596800"),
        ("5000000000000000000000", "5000000000000000000000"),
        ("1e300", "1e300"),
        ("61101.33333", "--time-format mjd"),
        ("2461101.83333", "--time-format julian"),
        ("1.77244E+12", "a spreadsheet dropped its last 7 digits"),
    ],
)
def test_a_number_that_is_no_time_is_refused_with_what_it_might_be(cell: str, says: str, plant: Plant) -> None:
    plant.file("r.csv", rows([cell] * 3))

    refused = plant("init", "r.csv", "--zone", "UTC")

    assert refused.code != 0
    assert "r.csv: line 2: " in refused.err
    assert says in refused.err


@pytest.mark.parametrize("odd", ["0", "1772438400000", "253402300799", "-1"])
def test_one_row_of_another_unit_is_named(odd: str, plant: Plant) -> None:
    plant.file("r.csv", rows([*cells_of("epoch_s"), odd]))

    refused = plant("init", "r.csv")

    assert refused.code != 0
    assert "r.csv: line 202: expected epoch seconds from 1990-01-01 to " in refused.err
    assert f"found '{odd}'" in refused.err


def test_a_date_after_tomorrow_among_dates_in_digits_is_named(plant: Plant) -> None:
    plant.file("r.csv", rows(["20260302", "20260303", "20990304"]))

    refused = plant("init", "r.csv", "--zone", "UTC")

    assert refused.code != 0
    assert "r.csv: line 4: expected a time from 1990-01-01 to " in refused.err
    assert "found '20990304', which is 2099-03-04" in refused.err
