"""Numbers as exports of many countries have them: decided by all rows of a column, or refused with both readings."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from stream_ad.io.recordings import recordings, tables
from tests.field.plant import Plant
from tests.field.signals import machine, stamp


def german(value: float) -> str:
    return f"{value:,.2f}".translate(str.maketrans(",.", ".,"))


WRITTEN: dict[str, tuple[str, Callable[[float], str]]] = {
    "decimal commas": (";", lambda value: f"{value:.2f}".replace(".", ",")),
    "decimal commas in quotes": (",", lambda value: f'"{value:.2f}"'.replace(".", ",")),
    "decimal commas between tabs": ("\t", lambda value: f"{value:.2f}".replace(".", ",")),
    "English thousands": (";", lambda value: f"{value:,.2f}"),
    "German thousands": (";", german),
    "spaces": (";", lambda value: german(value).replace(".", " ")),
    "no-break spaces": (";", lambda value: german(value).replace(".", "\u00a0")),
    "narrow no-break spaces": (";", lambda value: german(value).replace(".", "\u202f")),
    "apostrophes": (",", lambda value: f"{value:,.2f}".replace(",", "'")),
    "units": (",", lambda value: f"{value:.2f} °C"),
    "units without a space": (",", lambda value: f"{value:.2f}%"),
    "units and decimal commas": (";", lambda value: f"{german(value)} l/min"),
    "exponents with commas": (";", lambda value: f"{value:.5E}".replace(".", ",")),
}


def rows(cells: list[str], mark: str = ",", header: str = "flow") -> Iterator[str]:
    yield f"time{mark}{header}"
    for number, cell in enumerate(cells):
        yield f"{stamp(number)}{mark}{cell}"


@pytest.mark.parametrize("name", WRITTEN)
def test_a_way_of_writing_is_read_as_it_is_meant(name: str, plant: Plant) -> None:
    mark, write = WRITTEN[name]
    values = np.round(40 * machine(200)[:, 0] - 1_000, 2)
    path = plant.file("r.csv", rows([write(value) for value in values.tolist()], mark))

    recording = recordings.read(path)
    ran = plant.ok("init", "r.csv")

    np.testing.assert_allclose(recording.values[:, 0], values, rtol=2e-5)
    assert "note" in ran.out


def test_all_files_decide(plant: Plant) -> None:
    """The first file alone would be read as 1.234 litres."""
    plant.file("r/1.csv", rows(["1.234", "2.345"], ";"))
    plant.file("r/2.csv", rows(["3.456,5", "4"], ";"))

    found = recordings.read(plant.folder / "r", device="p1")

    assert sorted(found.values[:, 0].tolist()) == [4, 1234, 2345, 3456.5]


def test_all_blocks_decide(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "BLOCK_BYTES", 80)
    cells = ["1.234"] * 20 + ["1.234,5"]

    found = recordings.read(plant.file("r.csv", rows(cells, ";")))

    assert found.values[:, 0].tolist() == [1234] * 20 + [1234.5]


def test_a_german_export_with_three_decimals_is_read(plant: Plant) -> None:
    lines = [f"{stamp(n)};{60 + n % 5},09;5,{100 + n}" for n in range(50)]
    path = plant.file("r.csv", ["time;temp;press", *lines])

    assert recordings.read(path).values[3].tolist() == [5.103, 63.09]  # channels in order of names


@pytest.mark.parametrize("mark", [";", "\t"])
def test_one_comma_and_three_digits_is_refused_with_both_readings(mark: str, plant: Plant) -> None:
    plant.file("r.csv", rows(["1,234", "1,235"], mark))

    refused = plant("init", "r.csv")
    comma = plant.ok("init", "r.csv", "--decimal", "comma")
    thousands = recordings.read(plant.folder / "r.csv", decimal="point")

    assert refused.code != 0
    assert "r.csv: line 2: column 'flow': '1,234' can be 1.234 (with a decimal comma) or 1234" in refused.err
    assert "--decimal comma or --decimal point" in refused.err
    assert "--decimal comma" in comma.out.split("Next:")[1]
    assert thousands.values[:, 0].tolist() == [1234, 1235]


def test_a_column_of_both_signs_is_refused_with_both_cells(plant: Plant) -> None:
    plant.file("r.csv", rows(["1,5", "2,5", "3.5"], ";"))

    refused = plant("init", "r.csv")

    assert refused.code != 0
    assert "r.csv: line 2" in refused.err
    assert "r.csv: line 4" in refused.err
    assert "'1,5'" in refused.err
    assert "'3.5'" in refused.err
    assert "--decimal" in refused.err


def test_two_units_in_a_column_are_refused_and_one_can_be_stated(plant: Plant) -> None:
    plant.file("r.csv", rows(["5 kW", "6 kW", "300 W"]))

    refused = plant("init", "r.csv")
    stated = plant.ok("init", "r.csv", "--unit", "flow=kW")

    assert refused.code != 0
    assert "r.csv: line 4: column 'flow': expected one unit, found '300 W' and '5 kW' (r.csv: line 2)" in refused.err
    assert "1 cells are not finite numbers" in stated.out
    assert "--unit flow=kW" in stated.out.split("Next:")[1]


def test_units_go_into_the_bundle(plant: Plant) -> None:
    values = machine(1_500)
    lines = [f"{stamp(n)},{row[0]:.3f} °C,{row[1]:.4f} bar" for n, row in enumerate(values)]
    plant.file("r.csv", ["time,temp,press", *lines])

    plant.ok("init", "r.csv", "--name", "p")
    ran = plant.ok("train", "r.csv")

    assert "units after the numbers: temp (°C), press (bar)" in ran.err
    shown = plant.ok("bundle", "show", "bundles/p").out
    assert "°C" in shown
    assert "bar" in shown


def test_units_of_a_long_recording_are_those_of_its_channels(plant: Plant) -> None:
    lines = [f"{stamp(n)},p1,{tag},{n % 7} {unit}" for n in range(40) for tag, unit in (("t", "°C"), ("p", "bar"))]
    path = plant.file("r.csv", ["time,device,tag,value", *lines])

    recording = recordings.read(path)

    assert recording.units == {"t": "°C", "p": "bar"}
    assert np.isfinite(recording.values).all()


def test_bad_input_among_decimal_commas_is_a_bad_cell(plant: Plant) -> None:
    path = plant.file("r.csv", rows(["1,5", "Bad Input", "2,5", "#N/A", ""], ";"))

    recording = recordings.read(path)

    assert recording.bad_cells == 2
    assert np.nansum(recording.values) == 4


def test_numbers_in_json_text_are_decided_as_well(plant: Plant) -> None:
    lines = (json.dumps({"time": stamp(n), "x": cell}) for n, cell in enumerate(["1,5", "2", "0,25"]))

    assert recordings.read(plant.file("r.jsonl", lines)).values[:, 0].tolist() == [1.5, 2, 0.25]


def test_plain_columns_stay_as_they_are(plant: Plant) -> None:
    """Three decimals in every cell, with a point: no other column says otherwise."""
    recording = recordings.read(plant.file("r.csv", rows(["1.234", "5.125", "1e3"])))

    assert recording.values[:, 0].tolist() == [1.234, 5.125, 1000]
    assert recording.notes == ()
