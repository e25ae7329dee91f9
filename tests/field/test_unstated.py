"""What the names of columns leave open: a time without a name is found, machines in one file are not mixed."""

from __future__ import annotations

import pytest

from stream_ad.io.recordings.layouts import Layout
from stream_ad.io.recordings.recordings import read
from tests.field.plant import Plant
from tests.field.signals import stamp

ROWS = 60


@pytest.mark.parametrize("name", ["", "Zeit", "Datum und Uhrzeit", "Unnamed: 0", "when"])
def test_the_one_column_of_times_is_the_time(name: str, plant: Plant) -> None:
    rows = [f"{stamp(n)},{n % 7},{n % 5}" for n in range(ROWS)]

    found = read(plant.file("r.csv", [f"{name},temp,press", *rows]))

    assert found.channels == ("press", "temp")
    assert len(found) == ROWS
    assert found.event_ns[1] - found.event_ns[0] == 10**9


@pytest.mark.parametrize("column", ["pump_name", "Halle", "site"])
def test_machines_in_one_file_are_not_taken_for_one(column: str, plant: Plant) -> None:
    rows = [f"{stamp(n)},P{k},{n % 7 + 10 * k}" for n in range(ROWS) for k in range(2)]
    path = plant.file("r.csv", [f"time,{column},temp", *rows])

    ran = plant("init", "r.csv")

    assert ran.code == 1
    assert f"add --layout wide,device={column} if it names the devices" in ran.err
    assert read(path, Layout.parse(f"wide,device={column}")).devices == ("P0", "P1")
    assert read(path, device="all").devices == ("all",)


def test_a_column_of_words_that_tells_nothing_apart_is_left_out(plant: Plant) -> None:
    rows = [f"{stamp(n // 2)},{'auto' if n % 3 else 'hand'},{n % 7}" for n in range(ROWS)]

    assert read(plant.file("r.csv", ["time,mode,temp", *rows])).channels == ("temp",)


INFLUX = ",result,table,_start,_stop,_time,_value,_field,_measurement,pump"


def test_series_of_influx_are_devices_by_their_tag(plant: Plant) -> None:
    rows = [f",,{k},{stamp(0)},{stamp(99)},{stamp(n)},{n % 7},temp,pumps,p{k}" for k in range(2) for n in range(ROWS)]
    path = plant.file("r.csv", ["#datatype,string,long,dateTime,dateTime,dateTime,double", INFLUX, *rows])

    ran = plant("init", "r.csv")

    assert ran.code == 1
    assert "--layout long,device=pump" in ran.err
    found = read(path, Layout.parse("long,device=pump"))
    assert (found.devices, found.channels) == (("p0", "p1"), ("temp",))


def test_a_pivoted_table_of_influx_has_only_what_was_measured(plant: Plant) -> None:
    rows = [f",,0,{stamp(n)},{n % 7},{n % 5},pump" for n in range(ROWS)]

    assert read(plant.file("r.csv", [",result,table,_time,temp,press,_measurement", *rows])).channels == (
        "press",
        "temp",
    )
