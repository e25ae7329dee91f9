"""Times as exports of plants have them: read right by the whole column, or refused with both readings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from stream_ad.io.recordings.recordings import read
from tests.field.plant import Plant

START = datetime(2026, 3, 2, 8, tzinfo=UTC)


def rows(
    write: Callable[[datetime], str], count: int = 300, step_s: float = 1, header: str = "time,temp"
) -> Iterator[str]:
    yield header
    for number in range(count):
        yield f"{write(START + timedelta(seconds=number * step_s))},{60 + number % 7}.5"


def plain(pattern: str) -> Callable[[datetime], str]:
    return lambda moment: moment.strftime(pattern)


READ: dict[str, Callable[[datetime], str]] = {
    "slashes": plain("%Y/%m/%d %H:%M:%S"),
    "year first without leading zeros": lambda moment: f"{moment.year}-{moment.month}-{moment.day} {moment:%H:%M:%S}",
    "milliseconds after a colon": lambda moment: f"{moment:%Y-%m-%d %H:%M:%S}:000",
    "a named zone": lambda moment: f"{moment + timedelta(hours=1):%Y-%m-%d %H:%M:%S} CET",
    "a named zone without a space": lambda moment: f"{moment + timedelta(hours=1):%Y-%m-%d %H:%M:%S}CET",
    "a name of a month": plain("%d-%b-%Y %H:%M:%S"),
    "month names in capitals": lambda moment: f"{moment:%d-%b-%y %I.%M.%S.000000 %p}".upper(),
    "a name of a month first": plain('"%b %d, %Y %I:%M:%S %p"'),
    "Java": lambda moment: f"{moment + timedelta(hours=1):%Y-%m-%dT%H:%M:%S}+01:00[Europe/Berlin]",
    "nanoseconds": lambda moment: f"{moment:%Y-%m-%dT%H:%M:%S}.000000000Z",
    "DB2": lambda moment: f"{moment:%Y-%m-%d-%H.%M.%S}.000000",
    "Japanese": plain("%Y年%m月%d日 %H時%M分%S秒"),
}


@pytest.mark.parametrize("name", READ)
def test_a_format_with_one_reading_is_read(name: str, plant: Plant) -> None:
    plant.file("r.csv", rows(READ[name]))

    found = plant.ok("init", "r.csv", "--zone", "UTC", "--json").json()

    assert found["start_ns"] == int(START.timestamp()) * 10**9
    assert found["period_ns"] == 10**9


ORDERS = {
    "%d.%m.%Y %H:%M:%S": "day-first",
    "%d/%m/%Y %H:%M": "day-first",
    "%d-%m-%Y %H.%M.%S": "day-first",
    "%m/%d/%Y %I:%M:%S %p": "month-first",
    "%m-%d-%Y %H:%M:%S": "month-first",
    "%m.%d.%Y %H:%M:%S": "month-first",
}


@pytest.mark.parametrize("pattern", ORDERS)
def test_day_and_month_are_told_apart_by_all_rows(pattern: str, plant: Plant) -> None:
    """Only rows of later files have a day above 12."""
    for part in range(3):
        moments = [START + timedelta(hours=4 * (40 * part + number)) for number in range(40)]
        plant.file(f"r/{part}.csv", ["time,temp", *(f"{moment.strftime(pattern)},1.5" for moment in moments)])

    ran = plant.ok("init", "r", "--zone", "UTC", "--device", "p1")

    assert "2026-03-02 08:00:00 to 2026-03-22 04:00:00" in ran.out
    assert f"times are read as {ORDERS[pattern]} dates" in ran.out


@pytest.mark.parametrize("pattern", ORDERS)
def test_an_ambiguous_column_is_refused_with_both_readings_and_read_as_stated(pattern: str, plant: Plant) -> None:
    plant.file("r.csv", rows(plain(pattern), step_s=60))

    refused = plant("init", "r.csv", "--zone", "UTC")
    read_back = plant.ok("init", "r.csv", "--zone", "UTC", "--time-format", pattern)

    assert refused.code != 0
    assert "r.csv: line 2: " in refused.err
    assert "can be 2026-03-02 08:00:00 (day-first) or 2026-02-03 08:00:00 (month-first)" in refused.err or (
        "can be 2026-02-03 08:00:00 (day-first) or 2026-03-02 08:00:00 (month-first)" in refused.err
    )
    assert f'--time-format "{pattern}"' in refused.err
    assert "2026-03-02 08:00:00 to 2026-03-02 12:59:00" in read_back.out
    assert f"--time-format '{pattern}'" in read_back.out.split("Next:")[1]


def test_day_first_can_be_stated_by_name(plant: Plant) -> None:
    plant.file("r.csv", rows(plain("%d/%m/%Y %H:%M:%S")))

    assert "2026-03-02 08:00:00 to" in plant.ok("init", "r.csv", "--zone", "UTC", "--time-format", "day-first").out


def test_a_recording_that_goes_on_over_midnight_settles_it(plant: Plant) -> None:
    plant.file("r.csv", rows(plain("%d/%m/%Y %H:%M"), count=48, step_s=1800))

    assert "2026-03-02 08:00:00 to 2026-03-03 07:30:00" in plant.ok("init", "r.csv", "--zone", "UTC").out


@pytest.mark.parametrize("pattern", ["%d/%m/%y %H:%M", "%m/%d/%y %H:%M", "%y-%m-%d %H:%M"])
def test_a_year_of_two_digits_is_read_only_where_it_is_clear(pattern: str, plant: Plant) -> None:
    plant.file("r.csv", rows(plain(pattern), step_s=60))

    refused = plant("init", "r.csv", "--zone", "UTC")

    assert refused.code != 0
    assert f'--time-format "{pattern}"' in refused.err
    assert "2026-03-02 08:00:00 to" in plant.ok("init", "r.csv", "--zone", "UTC", "--time-format", pattern).out


def test_rows_that_need_opposite_orders_are_both_named(plant: Plant) -> None:
    plant.file("r.csv", ["time,temp", "13/03/2026 08:00,1", "13/03/2026 08:01,1", "03/14/2026 08:02,1"])

    refused = plant("init", "r.csv", "--zone", "UTC")

    assert refused.code != 0
    assert "r.csv: line 4: '03/14/2026 08:02' can only be month-first" in refused.err
    assert "'13/03/2026 08:00' (r.csv: line 2) can only be day-first" in refused.err


@pytest.mark.parametrize("step_s", [900, 60])
def test_24_hours_is_midnight_of_the_next_day(step_s: int, plant: Plant) -> None:
    def write(moment: datetime) -> str:
        if moment.strftime("%H%M") == "0000":
            return f"{moment - timedelta(days=1):%Y-%m-%d} 24:00"
        return moment.strftime("%Y-%m-%d %H:%M")

    plant.file("r.csv", rows(write, count=2 * 86_400 // step_s, step_s=step_s))

    found = plant.ok("init", "r.csv", "--zone", "UTC", "--json").json()

    assert found["period_ns"] == step_s * 10**9
    assert found["irregular"] == 0
    assert "1 of" not in found["notes"]


TWO_COLUMNS: dict[str, tuple[str, Callable[[datetime], str], float]] = {
    "date and time": ("Date,Time", plain("%Y-%m-%d,%H:%M:%S"), 1),
    "time and date": ("Time,Date", plain("%H:%M:%S,%Y-%m-%d"), 1),
    "German": ("Datum,Uhrzeit", plain("%d.%m.%Y,%H:%M:%S"), 60),
    "American": ("date,time", plain("%m/%d/%Y,%I:%M:%S %p"), 60),
    "with formats in the names": ("Date (MM/DD/YYYY),Time (HH:MM:SS)", plain("%m/%d/%Y,%H:%M:%S"), 60),
    "a date with midnight": ("date,time", plain("%Y-%m-%d 00:00:00,%H:%M:%S"), 1),
    "a clock with the day 0 of Excel": ("date,time", plain("%Y-%m-%d,1899-12-30 %H:%M:%S"), 1),
    "digits": ("date,time", plain("%Y%m%d,%H%M%S"), 1),
    "date and hour": ("date,hour", lambda moment: f"{moment:%Y-%m-%d},{moment.hour}", 3600),
    "date, hour and minute": ("date,hour,minute", lambda m: f"{m:%Y-%m-%d},{m.hour},{m.minute}", 60),
    "year to hour": ("year,month,day,hour", lambda m: f"{m.year},{m.month},{m.day},{m.hour}", 3600),
    "year to second": (
        "Year,Month,Day,Hour,Minute,Second",
        lambda m: f"{m.year},{m.month},{m.day},{m.hour},{m.minute},{m.second}",
        1,
    ),
}


@pytest.mark.parametrize("name", TWO_COLUMNS)
def test_date_and_time_in_columns_of_their_own(name: str, plant: Plant) -> None:
    header, write, step_s = TWO_COLUMNS[name]
    plant.file("r.csv", rows(write, 20 * 3600 if step_s < 60 else 2_000, step_s, f"{header},temp"))

    found = plant.ok("init", "r.csv", "--zone", "UTC", "--json").json()

    assert found["channels"] == ["temp"]
    assert found["start_ns"] == int(START.timestamp()) * 10**9
    assert found["period_ns"] == step_s * 10**9
    assert found["irregular"] == 0
    assert f"the time is read from the columns {', '.join(sorted(header.split(','), key=_rank))}" in found["notes"]


def _rank(name: str) -> int:
    plain_name = name.split(" ")[0].lower()
    return ["date", "datum", "year", "month", "day", "time", "uhrzeit", "hour", "minute", "second"].index(plain_name)


def test_two_columns_can_be_stated(plant: Plant) -> None:
    plant.file("r.csv", rows(plain("%Y-%m-%d,%H:%M:%S"), header="logged on,at,temp"))

    ran = plant.ok("init", "r.csv", "--zone", "UTC", "--layout", "wide,time=logged on+at")

    assert "2026-03-02 08:00:00 to 2026-03-02 08:04:59" in ran.out
    assert "wide,time=logged on+at" in ran.out.split("Next:")[1]


def test_a_column_whose_name_has_a_plus_is_taken_as_it_is(plant: Plant) -> None:
    plant.file("r.csv", rows(plain("%Y-%m-%d %H:%M:%S"), header="date+time,temp"))

    assert "2026-03-02 08:00:00 to" in plant.ok("init", "r.csv", "--zone", "UTC", "--layout", "wide,time=date+time").out


def test_the_cell_is_shown_as_it_was_written(plant: Plant) -> None:
    plant.file("r.csv", ["time,temp", "2026-03-02 08:00:00z,1", "2026-03-02 8 o'Clock,2", "2026-03-02 08:00:02z,3"])

    refused = plant("init", "r.csv")

    assert refused.code != 0
    assert "r.csv: line 3: " in refused.err
    assert "2026-03-02 8 o'Clock" in refused.err


@pytest.mark.parametrize("cell", ["1969-12-31 23:59:59", "0001-01-01 00:00:00", "2099-01-01", "9999-12-31 23:59:59"])
def test_a_time_that_cannot_be_is_refused(cell: str, plant: Plant) -> None:
    plant.file("r.csv", ["time,temp", "2026-03-02 08:00:00,1", f"{cell},2"])

    refused = plant("init", "r.csv", "--zone", "UTC")

    assert refused.code != 0
    assert "r.csv: line 3: expected a time from 1990-01-01 to " in refused.err
    assert f"found '{cell}', which is {cell[:10]}" in refused.err


def test_the_repeated_hour_of_autumn_is_read_by_the_order_of_rows(plant: Plant) -> None:
    true = [datetime(2025, 10, 25, 20, tzinfo=UTC) + timedelta(minutes=10 * number) for number in range(72)]
    change = datetime(2025, 10, 26, 1, tzinfo=UTC)
    walls = [moment + timedelta(hours=2 if moment < change else 1) for moment in true]
    path = plant.file("r.csv", ["time,temp", *(f"{wall:%Y-%m-%d %H:%M},1.5" for wall in walls)])

    recording = read(path, zone="Europe/Berlin")

    assert recording.event_ns.tolist() == [int(moment.timestamp()) * 10**9 for moment in true]
    assert any("according to the row order, 6 of them are in its second pass" in note for note in recording.notes)


def test_the_repeated_hour_in_a_long_recording_sorted_by_tag(plant: Plant) -> None:
    true = [datetime(2025, 10, 25, 23, tzinfo=UTC) + timedelta(minutes=15 * number) for number in range(16)]
    change = datetime(2025, 10, 26, 1, tzinfo=UTC)
    walls = [moment + timedelta(hours=2 if moment < change else 1) for moment in true]
    lines = [f"p1,{tag},{wall:%Y-%m-%d %H:%M},1.5" for tag in ("a", "b") for wall in walls]
    path = plant.file("r.csv", ["device,tag,time,value", *lines])

    recording = read(path, zone="Europe/Berlin")

    assert recording.event_ns.tolist() == [int(moment.timestamp()) * 10**9 for moment in true]
    assert np.isfinite(recording.values).all()


def test_the_skipped_hour_of_spring_is_noted(plant: Plant) -> None:
    moments = [datetime(2026, 3, 29, 1) + timedelta(minutes=10 * number) for number in range(24)]
    plant.file("r.csv", ["time,temp", *(f"{moment:%Y-%m-%d %H:%M},1.5" for moment in moments)])

    ran = plant.ok("init", "r.csv", "--zone", "Europe/Berlin")

    assert "6 times are in an hour that a clock change skips: check --zone" in ran.out


def test_files_of_different_kinds_are_read_each_in_its_own(plant: Plant) -> None:
    plant.file("r/1.csv", ["time,temp", "2026-03-02T08:00:00Z,1", "2026-03-02T08:00:01Z,2"])
    plant.file("r/2.csv", ["time,temp", "1772438402,3", "1772438403,4"])

    found = plant.ok("init", "r", "--device", "p1", "--json").json()

    assert found["period_ns"] == 10**9
    assert found["rows"] == 4


def test_a_format_goes_all_the_way_to_train_and_send(plant: Plant) -> None:
    plant.file("r.csv", rows(plain("%d/%m/%Y %H:%M:%S"), count=2_000))
    options = ("--zone", "UTC", "--time-format", "%d/%m/%Y %H:%M:%S")

    plant.ok("init", "r.csv", *options, "--name", "p")
    plant.quiet()
    plant.ok("train", "r.csv", *options, "--detector", "pca")
    plant.ok("send", "r.csv", *options)
    plant.drain()

    assert plant.scores()["end"][0].as_py() < START + timedelta(minutes=5)
