"""Times: any instant written in a format that is understood is read back; what has two readings is refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_ad.errors import RecordingError
from stream_ad.io.recordings.times.bounds import Bounds
from stream_ad.io.recordings.times.column import FORMAT_NAMES, TimeColumn
from tests.io.recordings.times.time_texts import FORMATS, UNITS, counted

SECOND = 10**9
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NOON_OF_MANY = datetime(2026, 3, 28, 12, tzinfo=UTC)
"""A day above 12: with it in the column no two readings fit."""
INSTANTS = st.datetimes(datetime(1990, 1, 2), datetime(2026, 3, 27), timezones=st.just(UTC))


def ns(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(microseconds=1) * 1_000


def read(
    cells: Sequence[object], zone: str | None = "UTC", form: str | None = None, start: str | None = None
) -> list[int]:
    times = TimeColumn(zone, form, start)
    times.add(pa.array(cells), "row {}".format)
    return [int(one) for one in times.finish().event_ns]


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=5)
@given(moments=st.lists(INSTANTS, max_size=4))
def test_any_instant_is_read_back(name: str, moments: list[datetime]) -> None:
    """The resolution is the format's: what it does not write is cut first."""
    write, resolution_us, _ = FORMATS[name]
    cut = [
        EPOCH + (moment - EPOCH) // timedelta(microseconds=resolution_us) * timedelta(microseconds=resolution_us)
        for moment in [NOON_OF_MANY, *moments]
    ]

    assert read([write(moment) for moment in cut]) == [ns(moment) for moment in cut]


@pytest.mark.parametrize("name", [name for name, (_, _, pattern) in FORMATS.items() if pattern])
@settings(max_examples=5)
@given(moments=st.lists(INSTANTS, min_size=1, max_size=4))
def test_any_instant_is_read_back_by_its_stated_pattern(name: str, moments: list[datetime]) -> None:
    """Without a day above 12 as well: the pattern settles it."""
    write, resolution_us, pattern = FORMATS[name]
    cut = [
        EPOCH + (moment - EPOCH) // timedelta(microseconds=resolution_us) * timedelta(microseconds=resolution_us)
        for moment in moments
    ]

    assert read([write(moment) for moment in cut], form=pattern) == [ns(moment) for moment in cut]


@pytest.mark.parametrize("name", UNITS)
@settings(max_examples=8)
@given(data=st.data())
def test_any_instant_is_read_back_from_a_number(name: str, data: st.DataObject) -> None:
    """As text, and as integers where the unit is fine enough."""
    epoch_s, unit_ns = UNITS[name]
    earliest = datetime(2001, 6, 1) if name == "ticks" else datetime(1990, 6, 1)
    moments = data.draw(st.lists(st.datetimes(earliest, datetime(2026, 3, 27), timezones=st.just(UTC)), min_size=1))
    grain = max(1_000, unit_ns) if unit_ns < SECOND else 1_000
    wanted = [ns(moment) // grain * grain for moment in moments]
    texts = [counted(one, epoch_s, unit_ns) for one in wanted]

    assert read(texts) == wanted
    assert read(texts, form=name) == wanted
    if unit_ns < 10**6:
        assert read([int(text) for text in texts]) == wanted


@settings(max_examples=5)
@given(moments=st.lists(INSTANTS, min_size=1), unit=st.sampled_from(["s", "ms", "us"]))
def test_epoch_times_in_float64_are_read_to_the_microsecond(moments: list[datetime], unit: str) -> None:
    factor = {"s": SECOND, "ms": 10**6, "us": 10**3}[unit]
    found = read([float(Decimal(ns(moment)) / factor) for moment in moments])

    assert np.abs(np.array(found) - [ns(moment) for moment in moments]).max() <= 200


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=5))
def test_elapsed_times_count_from_the_start(milliseconds: list[int]) -> None:
    start = "2020-01-01T00:00:00Z"
    milliseconds = [one % (86_400_000 * 365) for one in milliseconds]
    expected = [ns(datetime(2020, 1, 1, tzinfo=UTC)) + one * 10**6 for one in milliseconds]

    assert read([f"{one / 1000:.3f}" for one in milliseconds], start=start) == expected
    assert read(milliseconds, form="elapsed_ms", start=start) == expected


@settings(max_examples=8)
@given(st.lists(st.one_of(st.text(max_size=30), st.from_regex(r"[0-9/:. -]{1,24}")), min_size=1, max_size=4))
def test_any_text_is_read_or_refused(cells: list[str]) -> None:
    for form in (None, "day_first", "%d.%m.%y %H:%M", "excel", "compact"):
        with suppress(RecordingError):
            found = read(cells, form=form)
            assert len(found) == len(cells)
            assert min(found) >= Bounds.now().first_s * SECOND - 86_400 * SECOND


@given(
    st.one_of(
        st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=4),
        st.lists(st.floats(), min_size=1, max_size=4),
    ),
    st.sampled_from([None, *FORMAT_NAMES]),
)
def test_any_number_is_read_or_refused(cells: list[float], form: str | None) -> None:
    start = "2020-01-01T00:00:00Z" if form and form.startswith("elapsed") else None
    with suppress(RecordingError):
        found = read(cells, form=form, start=start)
        assert min(found) >= Bounds.now().first_s * SECOND - 86_400 * SECOND


@pytest.mark.parametrize(
    ("cells", "zone", "expected"),
    [
        (["2026-03-02 23:45", "2026-03-02 24:00", "2026-03-03 00:15"], "UTC", "2026-03-03T00:00:00"),
        (["02.03.2026 24:00", "02.03.2026 24:00", "13.03.2026"], "UTC", "2026-03-03T00:00:00"),
        (["2026-03-02 08:00:00:123"] * 2, "UTC", "2026-03-02T08:00:00.123"),
        (["2026-03-02 08:00:00,123"] * 2, "UTC", "2026-03-02T08:00:00.123"),
        (["02.03.2026 08:00:00,5", "02.03.2026 08:00:00,5", "13.03.2026"], "UTC", "2026-03-02T08:00:00.5"),
        (["2026-03-02 08:00:00 CET"] * 2, "UTC", "2026-03-02T07:00:00"),
        (["2026-03-02 08:00:00CET"] * 2, None, "2026-03-02T07:00:00"),
        (["2026-07-02 08:00:00 CEST"] * 2, None, "2026-07-02T06:00:00"),
        (["2026-03-02 08:00:00 IST"] * 2, "Asia/Kolkata", "2026-03-02T02:30:00"),
        (["2026-03-02T08:00:00+01:00[Europe/Berlin]"] * 2, None, "2026-03-02T07:00:00"),
        (["2026-03-02 08:00:00UTC"] * 2, None, "2026-03-02T08:00:00"),
        (["2026-03-02 08:00:00 UTC+1"] * 2, None, "2026-03-02T07:00:00"),
        (["Mon, 02 Mar 2026 08:00:00 GMT"] * 2, None, "2026-03-02T08:00:00"),
        (["Mon Mar  2 08:00:00 2026"] * 2, "UTC", "2026-03-02T08:00:00"),
        (["02/Mar/2026:08:00:00 +0100"] * 2, None, "2026-03-02T07:00:00"),
        (["2 mars 2026 08h05"] * 2, "UTC", "2026-03-02T08:05:00"),
        (["2. März 2026 08:05"] * 2, "UTC", "2026-03-02T08:05:00"),
        (["02-MAR-26 08.00.00.500000 PM"] * 2, "UTC", "2026-03-02T20:00:00.5"),
        (["2026年3月2日 8時05分"] * 2, "UTC", "2026-03-02T08:05:00"),
        (["2026/3/2 下午 08:05:00"] * 2, "UTC", "2026-03-02T20:05:00"),
        (["3/13/2026 8:05:00\u202fPM"] * 2, "UTC", "2026-03-13T20:05:00"),
        (["13/3/2026 8:05:00 p. m."] * 2, "UTC", "2026-03-13T20:05:00"),
        (["3/13/2026 12:05 AM"] * 2, "UTC", "2026-03-13T00:05:00"),
        (["2026-03-02-08.00.00.123456"] * 2, "UTC", "2026-03-02T08:00:00.123456"),
        (["20260302T080000Z"] * 2, None, "2026-03-02T08:00:00"),
        (["20260302 080000"] * 2, "UTC", "2026-03-02T08:00:00"),
        (["28/02/26 08:00"] * 2, "UTC", "2026-02-28T08:00:00"),
        (["28-02-2026 08.00.05", "02-03-2026 08.00.05"], "UTC", "2026-03-02T08:00:05"),
        (["03/02/2026 23:59", "03/03/2026 00:00"], "UTC", "2026-03-03T00:00:00"),
        (["46083,33333333"] * 2, "UTC", "2026-03-02T08:00:00"),
        ([20260302080000123] * 2, "UTC", "2026-03-02T08:00:00.123"),
        (["1.772438400123E+12"] * 2, None, "2026-03-02T08:00:00.123"),
    ],
)
def test_neighbours(cells: list[object], zone: str | None, expected: str) -> None:
    assert read(cells, zone)[1] == ns(datetime.fromisoformat(expected).replace(tzinfo=UTC))


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (["02/03/2026 08:00"], r"row 0: '02/03/2026 08:00' can be 2026-03-02 08:00:00 \(day-first\) or 2026-02-03"),
        (["02/03/2026 08:00"], r'--time-format "%d/%m/%Y %H:%M" or --time-format "%m/%d/%Y %H:%M"'),
        (["02.03.26"], "or 2002-03-26 00:00:00 .year-first"),
        (["13/03/2026", "03/14/2026"], r"'03/14/2026' can only be month-first, but '13/03/2026' \(row 0\) can only"),
        (["30/02/2026"], "row 0: expected a valid date and time of day, found '30/02/2026'"),
        (["2026-03-02 25:00"], "row 0: expected a valid date"),
        (["2026-03-02 24:01"], "row 0: expected a valid date"),
        (["2026-03-02 08:00:00 IST"], "'IST' after the time is unknown or has several meanings.*--zone Asia/Kolkata"),
        (["2026-03-02 08:00 +25:00"], "offset of at most 18 hours"),
        (["13/03/2026 13:05 PM"], "expected a valid date and time of day"),
        (["08:00:00"], "expected a date with the time, found '08:00:00'; .*--start"),
        (["yesterday"], "row 0: expected an ISO 8601 time or another known one, found 'yesterday'; .*--time-format"),
        (["1969-12-31"], "expected a time from 1990-01-01 to .* found '1969-12-31', which is 1969-12-31"),
        (["0001-01-01 00:00:00"], "found '0001-01-01 00:00:00', which is 0001-01-01"),
        (["2099-01-01 00:00:00z"], "found '2099-01-01 00:00:00z', which is 2099-01-01"),
        (["9999-12-31"], "found '9999-12-31', which is 9999-12-31"),
        (["01/01/1970"], "found '01/01/1970', which is 1970-01-01"),
        ([0.0, 0.1], "--start 2026-03-02T08:00:00Z"),
        ([61101.5], "if these are modified Julian dates, --time-format mjd"),
        ([20990302080000], "2099-03-02 08:00:00 as dates of 14 digits"),
        ([20261302080000], "expected a time since 1970"),
        ([20260302, 20990302], "row 1: expected a time from 1990-01-01 to .* found 20990302, which is 2099-03-02"),
        ([1772438400, 0], "row 1: expected epoch seconds .* as in other rows, found 0"),
        ([1772438400, 1772438400000], "row 1: .* which would be 2026-03-02 08:00:00 as epoch milliseconds"),
        (["1.77244E+12"], "'1.77244E.12': a spreadsheet dropped its last 7 digits"),
        ([4102444800], "found 4102444800, which would be 2100-01-01 00:00:00 as epoch seconds"),
        ([float("nan")], "row 0: expected a time since 1970"),
        (["99999999999999999999999"], "row 0: expected a time since 1970"),
        (["2026-03-02 08:00", "red"], "row 1: expected an ISO 8601 time, as in other rows, found 'red'"),
        (["1772438400", "red"], "row 1: expected a time since 1970 or another number, as in other rows, found 'red'"),
    ],
)
def test_what_is_no_time_or_two_is_refused(cells: list[object], message: str) -> None:
    with pytest.raises(RecordingError, match=message):
        read(cells)


@pytest.mark.parametrize("kind", ["s", "ms", "us"])
@pytest.mark.parametrize("moment", [datetime(1601, 1, 1), datetime(1970, 1, 1), datetime(9999, 12, 31)])
def test_timestamps_of_other_centuries_are_refused(kind: str, moment: datetime) -> None:
    with pytest.raises(RecordingError, match="expected a time from 1990-01-01"):
        TimeColumn("UTC").add(pa.array([moment], pa.timestamp(kind)), str)


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ("%Q", "expected a directive of strptime or a name, found '%Q'"),
        ("%d.%m", "expected a year, a month and a day"),
        ("%d.%m.%Y %d", "each part of a time once"),
        ("%d.%m.%Y %", "expected a directive"),
        ("unix", "expected a strptime pattern .* or one of iso, day_first"),
        ("elapsed_s", "needs a start"),
    ],
)
def test_a_wrong_format_is_refused(form: str, message: str) -> None:
    with pytest.raises(RecordingError, match=message):
        read([1.5], form=form)


@pytest.mark.parametrize(
    ("cells", "form", "start", "message"),
    [
        (["2026-03-02"], None, "2026-03-02T00:00:00Z", "--start: only for elapsed times"),
        ([1.0], "excel", "2026-03-02T00:00:00Z", "--start: only for elapsed times"),
        (["red"], None, "2026-03-02T00:00:00Z", "--start: expected elapsed times"),
        ([1.0], None, "red", "--start: expected an ISO 8601 time"),
        (["02.03.2026"], "%Y-%m-%d", None, "row 0: expected a time as %Y-%m-%d, found '02.03.2026'"),
        (["red"], "filetime", None, "row 0: expected a number"),
        ([1e18], None, "2026-03-02T00:00:00Z", "expected a time from 1990"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    cells: list[object], form: str | None, start: str | None, message: str
) -> None:
    with pytest.raises(RecordingError, match=message):
        read(cells, form=form, start=start)


def test_the_whole_column_decides_not_its_first_block() -> None:
    column = TimeColumn("UTC")
    for number, cells in enumerate((["02/03/2026 08:00"], ["03/03/2026 08:00"], ["13/03/2026 08:00"])):
        column.add(pa.array(cells), f"block {number} row {{}}".format, "a.csv")

    times = column.finish()

    assert times.event_ns.tolist() == [ns(datetime(2026, 3, day, 8, tzinfo=UTC)) for day in (2, 3, 13)]
    assert times.notes == (
        'times are read as day-first dates: no other format matches all rows; --time-format "%d/%m/%Y %H:%M" '
        "makes this explicit",
    )


def test_clocks_without_dates_count_from_the_start_over_midnight() -> None:
    found = read(["23:59:59", "00:00:00", "0:00:01.5"], start="2026-03-02T00:00:00Z")

    first = ns(datetime(2026, 3, 2, 23, 59, 59, tzinfo=UTC))
    assert found == [first, first + SECOND, first + 5 * SECOND // 2]


# A change of clocks


def wall(minutes: float, day: str = "2025-10-26") -> int:
    """A time on that day's clock, in minutes after 02:00."""
    return ns(datetime.fromisoformat(f"{day}T02:00:00").replace(tzinfo=UTC)) + round(minutes * 60 * SECOND)


def in_berlin(walls: Sequence[int], groups: Sequence[int] | None = None) -> tuple[list[int], tuple[str, ...]]:
    column = TimeColumn("Europe/Berlin")
    column.add(pa.array(walls, pa.timestamp("ns")), str)
    times = column.finish(None if groups is None else np.array(groups, np.int64))
    return times.event_ns.tolist(), times.notes


@given(
    step=st.sampled_from([1, 5, 15, 30, 60]),
    devices=st.integers(1, 3),
    reverse=st.booleans(),
)
def test_the_order_of_rows_tells_the_passes_of_a_repeated_hour(step: int, devices: int, reverse: bool) -> None:
    true = [wall(minutes) - 2 * 3600 * SECOND for minutes in range(-180, 240, step)]  # UTC
    change = wall(60) - 2 * 3600 * SECOND
    walls = [one + (2 if one < change else 1) * 3600 * SECOND for one in true]
    rows = [(one, seen, device) for one, seen in zip(true, walls, strict=True) for device in range(devices)]
    rows = rows[::-1] if reverse else rows

    found, notes = in_berlin([row[1] for row in rows], [row[2] for row in rows])

    assert found == [row[0] for row in rows]
    assert "according to the row order" in notes[0]


def test_one_pass_only_is_said_to_be_unclear() -> None:
    found, notes = in_berlin([wall(-30), wall(0), wall(30), wall(60)])

    assert np.diff(found).tolist() == [1800 * SECOND, 1800 * SECOND, 5400 * SECOND]
    assert notes == (
        "2 times are in an hour that a clock change repeats, and the row order does not determine which pass: "
        "the first is used",
    )


def test_rows_a_little_out_of_order_are_no_second_pass() -> None:
    walls = [wall(0), wall(2), wall(1), wall(59), wall(0), wall(2), wall(1), wall(59)]

    found, _ = in_berlin(walls)

    assert found[4] - found[0] == 3600 * SECOND
    assert found[2] - found[0] == 60 * SECOND


def test_a_skipped_hour_goes_on_evenly_and_is_noted() -> None:
    found, notes = in_berlin([wall(minutes, "2026-03-29") for minutes in (-30, 0, 30, 59)])

    assert np.diff(found).tolist() == [1800 * SECOND, 1800 * SECOND, 29 * 60 * SECOND]
    assert "3 times are in an hour that a clock change skips: check --zone" in notes[0]


@pytest.mark.parametrize("make", [lambda: TimeColumn("UTC", bounds=Bounds.at(0.0))])
def test_the_bounds_follow_the_clock(make: Callable[[], TimeColumn]) -> None:
    column = make()
    with pytest.raises(RecordingError, match="to 1970-01-02"):
        column.add(pa.array(["2026-03-02"]), str)
