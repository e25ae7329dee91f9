"""Recordings: every format gives the same columns, and what cannot be read is named with its line."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_ad.errors import RecordingError
from stream_ad.io.recordings import tables
from stream_ad.io.recordings.layouts import Layout
from stream_ad.io.recordings.recordings import describe, pivot, read
from stream_ad.io.recordings.tables import find_files
from stream_ad.io.recordings.times.column import TimeColumn

START = datetime(2020, 3, 9, 10, 14, 33, tzinfo=UTC)
START_NS = int(START.timestamp()) * 10**9
SECOND = 10**9
SKAB = (
    "datetime;Accelerometer1RMS;Accelerometer2RMS;Volume Flow RateRMS;anomaly;changepoint\n"
    "2020-03-09 10:14:33;0.0265878;0.0401113;32.0;0.0;0.0\n"
    "2020-03-09 10:14:34;0.0261697;0.0404525;32.5;1.0;0.0\n"
)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def stamp(second: float) -> str:
    return (START + timedelta(seconds=second)).isoformat()


def wide_csv(path: Path, rows: int = 5) -> Path:
    lines = [f"{stamp(n)},pump-1,{n},{n * 10}" for n in range(rows)]
    return write(path, "\n".join(["time,device,flow,pressure", *lines]) + "\n")


# Formats


def _csv(path: Path) -> Path:
    return wide_csv(path / "r.csv")


def _gzip(path: Path) -> Path:
    target = path / "r.csv.gz"
    target.write_bytes(gzip.compress(wide_csv(path / "x.csv").read_bytes()))
    return target


def _bom_tabs(path: Path) -> Path:
    text = wide_csv(path / "x.csv").read_text().replace(",", "\t").replace("\n", "\r\n")
    return write(path / "r.tsv", "\ufeff" + text)


def _jsonl(path: Path) -> Path:
    rows = [{"time": stamp(n), "device": "pump-1", "flow": n, "pressure": n * 10.0} for n in range(5)]
    return write(path / "r.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def _wire(path: Path) -> Path:
    rows = [
        {"device": "pump-1", "ts": START_NS // 10**6 + n * 1000, "values": {"flow": n, "pressure": n * 10.0}}
        for n in range(5)
    ]
    return write(path / "r.ndjson", "\n".join(json.dumps(row) for row in rows))


def _parquet(path: Path) -> Path:
    target = path / "r.parquet"
    columns = {
        "timestamp": pa.array([START + timedelta(seconds=n) for n in range(5)], pa.timestamp("ms", "UTC")),
        "asset": pa.array(["pump-1"] * 5).dictionary_encode(),
        "flow": pa.array(range(5), pa.int16()),
        "pressure": pa.array([n * 10.0 for n in range(5)], pa.float32()),
    }
    pyarrow.parquet.write_table(pa.table(columns), target)
    return target


def _long(path: Path) -> Path:
    lines = [f"pump-1,{c},{stamp(n)},{v}" for n in range(5) for c, v in (("pressure", n * 10), ("flow", n))]
    return write(path / "r.csv", "\n".join(["device,channel,time,value", *lines]))


def _cut(path: Path) -> Path:
    lines = [f"{stamp(n)},pump-1,{n},{n * 10}" for n in range(5)]
    write(path / "r" / "1.csv", "\n".join(["time,device,flow,pressure", *lines[:3]]))
    write(path / "r" / "2.csv", "\n".join(["time,device,flow,pressure", *lines[3:]]))
    return path / "r"


@pytest.mark.parametrize("make", [_csv, _gzip, _bom_tabs, _jsonl, _wire, _parquet, _long, _cut])
def test_every_format_gives_the_same_columns(make: Callable[[Path], Path], tmp_path: Path) -> None:
    recording = read(make(tmp_path))

    assert recording.devices == ("pump-1",)
    assert recording.channels == ("flow", "pressure")
    assert recording.event_ns.tolist() == [START_NS + n * SECOND for n in range(5)]
    assert recording.values.tolist() == [[n, n * 10] for n in range(5)]
    assert recording.device.tolist() == [0] * 5
    assert (recording.bad_cells, recording.notes, recording.naive) == (0, (), False)


@pytest.mark.parametrize("make", [_csv, _jsonl, _parquet])
def test_small_blocks_change_nothing(
    make: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make(tmp_path)
    whole = read(path)
    monkeypatch.setattr(tables, "BLOCK_ROWS", 2)
    monkeypatch.setattr(tables, "BLOCK_BYTES", 80)

    cut = read(path)

    assert cut.values.tolist() == whole.values.tolist()
    assert cut.event_ns.tolist() == whole.event_ns.tolist()


def test_skab_is_known_by_its_header(tmp_path: Path) -> None:
    recording = read(write(tmp_path / "valve1" / "3.csv", SKAB), zone="UTC")

    assert recording.devices == ("3",)
    assert recording.channels == ("Accelerometer1RMS", "Accelerometer2RMS", "Volume Flow RateRMS")
    labels = [(name, label.tolist()) for name, label in recording.labels.items()]
    assert labels == [("anomaly", [0.0, 1.0]), ("changepoint", [0.0, 0.0])]
    assert recording.layout is not None
    assert recording.layout.name == "skab"
    assert recording.event_ns[0] == START_NS


def test_nab_keeps_repeated_times(tmp_path: Path) -> None:
    text = "timestamp,value\n2020-03-09 10:14:33,1\n2020-03-09 10:14:33,2\n2020-03-09 10:15:33,3\n"

    recording = read(write(tmp_path / "cpu.csv", text), zone="UTC")

    assert recording.layout is not None
    assert recording.layout.name == "nab"
    assert (recording.devices, recording.channels) == (("cpu",), ("value",))
    assert recording.values[:, 0].tolist() == [1, 2, 3]


def test_files_become_devices_in_order_of_their_numbers(tmp_path: Path) -> None:
    for name in ("10", "2", "1"):
        write(tmp_path / "valve1" / f"{name}.csv", SKAB)
    write(tmp_path / "valve1" / ".hidden.csv", "junk")
    write(tmp_path / "valve1" / "LICENSE.txt", "junk")

    assert read(tmp_path / "valve1", zone="UTC").devices == ("1", "2", "10")
    assert read(tmp_path / "valve1" / "1*.csv", zone="UTC").devices == ("1", "10")
    assert read(tmp_path / "valve1", zone="UTC", device="rig").devices == ("rig",)


def test_equal_file_names_in_two_folders_stay_two_devices(tmp_path: Path) -> None:
    write(tmp_path / "a" / "0.csv", SKAB)
    write(tmp_path / "b" / "0.csv", SKAB)

    assert read(tmp_path, zone="UTC").devices == ("a-0", "b-0")


def test_one_device_of_several_can_be_kept(tmp_path: Path) -> None:
    text = f"time,device,x\n{stamp(0)},a,1\n{stamp(0)},b,2\n{stamp(1)},a,3\n"
    path = write(tmp_path / "r.csv", text)

    recording = read(path, device="a")

    assert (recording.devices, recording.values[:, 0].tolist()) == (("a",), [1, 3])
    with pytest.raises(RecordingError, match="no such device: 'c'; found a, b"):
        read(path, device="c")


def test_rows_are_put_in_order_of_time_and_it_is_said(tmp_path: Path) -> None:
    text = f"time,device,x\n{stamp(2)},a,2\n{stamp(1)},b,1\n{stamp(0)},a,0\n"

    recording = read(write(tmp_path / "r.csv", text))

    assert recording.values[:, 0].tolist() == [0, 1, 2]
    assert recording.notes == ("1 rows were older than the row before: sorted",)


def test_channels_that_come_and_go_are_missing_elsewhere(tmp_path: Path) -> None:
    write(tmp_path / "1.csv", f"time,device,x\n{stamp(0)},a,1\n")
    write(tmp_path / "2.csv", f"time,device,y\n{stamp(1)},a,2\n")

    recording = read(tmp_path)

    np.testing.assert_array_equal(recording.values, np.array([[1, np.nan], [np.nan, 2]]))


def test_only_wanted_channels(tmp_path: Path) -> None:
    path = wide_csv(tmp_path / "r.csv")

    assert read(path, channels=["pressure"]).channels == ("pressure",)
    with pytest.raises(RecordingError, match="no such channel: 'speed'"):
        read(path, channels=["speed", "flow"])


# Cells


def test_bad_cells_are_missing_and_counted(tmp_path: Path) -> None:
    rows = ["1,ok,1e3", "oops,ok,Infinity", " 2.5 ,ok,", "NaN,ok,n/a", "1e39,ok,-.5"]
    text = "\n".join(["time,x,text,y", *(f"{stamp(n)},{row}" for n, row in enumerate(rows))])

    recording = read(write(tmp_path / "r.csv", text))

    assert recording.channels == ("x", "y")
    np.testing.assert_array_equal(recording.values[:, 0], np.array([1, np.nan, 2.5, np.nan, np.nan]))
    np.testing.assert_array_equal(recording.values[:, 1], np.array([1000, np.nan, np.nan, np.nan, -0.5]))
    assert recording.bad_cells == 5
    assert recording.notes == (
        "columns without numbers are not used: text",
        "5 cells are not finite numbers and count as missing",
    )


def test_decimal_commas_between_semicolons(tmp_path: Path) -> None:
    text = f"time;x\n{stamp(0)};1,5\n{stamp(1)};-2,25\n"

    assert read(write(tmp_path / "r.csv", text)).values[:, 0].tolist() == [1.5, -2.25]


def test_mixed_json_types_are_judged_cell_by_cell(tmp_path: Path) -> None:
    cells: list[object] = [1, "2.5", "broken", True, None, [1], 2**80]
    text = "\n".join(json.dumps({"ts": stamp(n), "x": cell}) for n, cell in enumerate(cells))

    recording = read(write(tmp_path / "r.jsonl", text))

    np.testing.assert_array_equal(recording.values[:, 0], np.array([1, 2.5, np.nan, 1, np.nan, np.nan, 2.0**80]))
    assert recording.bad_cells == 2
    assert recording.bad is not None
    assert np.flatnonzero(recording.bad[:, 0]).tolist() == [2, 5]


# Times


@pytest.mark.parametrize(
    ("texts", "zone", "expected"),
    [
        (["2020-03-09T10:14:33Z"], None, START_NS),
        (["2020-03-09 12:14:33+02:00"], None, START_NS),
        (["2020-03-09 12:14:33 +0200"], None, START_NS),
        (["2020-03-09 12:14:33+02"], None, START_NS),
        (["2020-03-09 10:14:33 UTC"], None, START_NS),
        (["2020-03-09t10:14:33.000000001z"], None, START_NS + 1),
        (["2020-03-09 10:14:33,5"], "UTC", START_NS + SECOND // 2),
        (["2020-03-09 10:14"], "utc", START_NS - 33 * SECOND),
        (["2020-03-09 11:14:33"], "Europe/Berlin", START_NS),
        (["2020-03-09 12:14:33"], "+02:00", START_NS),
        ([str(START_NS // SECOND)], None, START_NS),
        ([f"{START_NS // SECOND}.25"], None, START_NS + SECOND // 4),
        ([START_NS // 10**6], None, START_NS),
        ([START_NS // 10**3], None, START_NS),
        ([START_NS + 7], None, START_NS + 7),
        ([START_NS / 1e9 + 0.5], None, START_NS + SECOND // 2),
    ],
)
def test_times(texts: list[object], zone: str | None, expected: int) -> None:
    times = TimeColumn(zone)
    times.add(pa.array(texts), str)
    assert times.finish().event_ns.tolist() == [expected]


def test_the_unit_of_numbers_is_said(tmp_path: Path) -> None:
    text = f"ts,x\n{START_NS // 10**6},1\n{START_NS // 10**6 + 500},2\n"

    assert read(write(tmp_path / "r.csv", text)).time_basis == "epoch milliseconds"


def test_a_change_of_clocks_is_noted(tmp_path: Path) -> None:
    text = "time,x\n2020-10-25 01:30:00,1\n2020-10-25 02:30:00,2\n2020-10-25 03:30:00,3\n"

    recording = read(write(tmp_path / "r.csv", text), zone="Europe/Berlin")

    assert np.diff(recording.event_ns).tolist() == [3600 * SECOND, 2 * 3600 * SECOND]
    assert recording.naive
    assert "1 times are in an hour that a clock change repeats, and the row order" in recording.notes[0]


@pytest.mark.parametrize(
    ("text", "zone", "message"),
    [
        ("time,x\n2020-03-09 10:14:33,1\n", None, r"r.csv: line 2: the time has no zone; .*--zone UTC"),
        ("time,x\n2020-03-09 10:14:33,1\n", "Mars/Base", "zone: .*Mars/Base"),
        ("time,x\n2020-03-09 10:14:33Z,1\n2020-03-09 10:14:34,1\n", None, "line 3: expected a time with an offset"),
        ("time,x\n2020-03-09 10:14:33,1\n2020-03-09 10:14:34,1\n09.03.2020,1\n", "UTC", "line 4: expected an ISO 8601"),
        ("time,x\n2020-03-09 10:14:33,1\n,1\n", "UTC", "line 3: expected an ISO 8601 time"),
        ("time,x\n0,1\n1,1\n", None, "line 2: expected a time since 1970"),
        ("time,x\n1583748873,1\n1583748874000,1\n", None, "line 3: expected epoch seconds .* as in other rows"),
        ("time,x\n1583748873,1\nnan,1\n", None, "line 3: expected a time since 1970"),
        ("when,x\nMonday,1\n", "UTC", "expected a time column among 'when', 'x'; .*time=COLUMN"),
        (
            "time,x\n2020-03-09 10:14:33,1\n2020-03-09 10:14:34\n",
            "UTC",
            r"line 3: expected 2 cells, as in the header \(line 1\), found 1",
        ),
        ("time,x,x\n", "UTC", "unique column names, found duplicates: x"),
        ("time,x\n", "UTC", "expected rows, found none"),
        ("time\n2020-03-09 10:14:33\n", "UTC", "expected at least one channel"),
        ("time,x\n2020-03-09 10:14:33,red\n", "UTC", "columns of numbers, found 0"),
        ("", "UTC", "line 1: expected column names, found none"),
        (
            "time,device,x\n2020-03-09 10:14:33,a,1\n2020-03-09 10:14:33,,1\n",
            "UTC",
            "line 3: expected a device, found none",
        ),
    ],
)
def test_what_cannot_be_read_is_named(text: str, zone: str | None, message: str, tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match=message):
        read(write(tmp_path / "r.csv", text), zone=zone)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("r.jsonl", b'{"ts": 1583748873, "x": 1}\n{"ts": \n', "line 2: not JSON"),
        ("r.jsonl", b"[1]\n", "line 1: expected a JSON object"),
        ("r.jsonl", b'{"ts": [1, 2], "values": {"x": [1, 2]}}\n', "line 1: "),
        ("r.jsonl", b'{"ts": 1583748873, "x": 1}\n{"x": 1}\n', "line 2: expected a time, found none"),
        ("r.jsonl", b'{"ts": 1583748873, "x": "\xff"}\n', "not JSON"),
        ("r.jsonl", b"", "expected rows"),
        ("r.parquet", b"PAR1 no", "cannot be read"),
        ("r.csv.gz", b"not zipped", "cannot be read"),
        ("r.jsonl.gz", b"\x1f\x8bnot zipped", "cannot be read"),
        ("r.xlsx", b"", "expected a name that ends in"),
        ("r.csv", b"time,x\n\x00\x01\xff", "r.csv"),
    ],
)
def test_broken_files_are_refused(name: str, data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(RecordingError, match=message):
        read(path, zone="UTC")


def test_nothing_to_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="no such file"):
        read(tmp_path / "none.csv")
    with pytest.raises(RecordingError, match="in the folder, found none"):
        find_files(tmp_path)


def test_a_header_in_latin_letters_is_read(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_bytes(f"time,Temperatur °C\n{stamp(0)},20\n".encode("cp1252"))

    assert read(path).channels == ("Temperatur °C",)


# Layouts


def test_a_stated_layout_names_the_columns(tmp_path: Path) -> None:
    text = f"when,who,what,how much\n{stamp(0)},a,x,1\n{stamp(0)},a,y,2\n"
    layout = Layout.parse("long,time=when,device=who,channel=what,value=how much")

    recording = read(write(tmp_path / "r.csv", text), layout)

    assert (recording.channels, recording.values.tolist()) == (("x", "y"), [[1, 2]])


def test_stated_labels_are_no_channels(tmp_path: Path) -> None:
    text = f"time,x,fault,label\n{stamp(0)},1,1,0\n"

    recording = read(write(tmp_path / "r.csv", text), Layout.parse("wide,labels=fault+label"))

    assert recording.channels == ("x",)
    assert sorted(recording.labels) == ["fault", "label"]


@pytest.mark.parametrize("text", ["tall", "wide,colour=red", "long,time=", "long,time"])
def test_a_wrong_layout_is_refused(text: str) -> None:
    with pytest.raises(RecordingError, match="layout: expected"):
        Layout.parse(text)


# Long to wide


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 2), st.integers(0, 99)), max_size=40),
    st.permutations(["b", "a", "c"]),
)
def test_pivot_equals_a_plain_loop(cells: list[tuple[int, int, int, int]], names: list[str]) -> None:
    columns = np.array(cells, np.int64).reshape(-1, 4).T
    device, event_ns, channels, values = pivot(
        columns[0].astype(np.int32), columns[1], columns[2].astype(np.int32), columns[3], names
    )

    seen: dict[tuple[int, int], list[dict[str, float]]] = {}
    for who, when, what, value in cells:
        rows = seen.setdefault((who, when), [])
        row = next((row for row in rows if names[what] not in row), None)
        if row is None:
            rows.append(row := {})
        row[names[what]] = float(value)
    expected = [(key, row) for key in sorted(seen) for row in seen[key]]
    found = [
        ((who, when), {name: value for name, value in zip(channels, row, strict=True) if not np.isnan(value)})
        for who, when, row in zip(device.tolist(), event_ns.tolist(), values.tolist(), strict=True)
    ]
    assert channels == ("a", "b", "c")
    assert found == expected


# Description


def test_a_description_sees_the_period_through_gaps_and_jitter(tmp_path: Path) -> None:
    times = [0, 1.0002, 2, 2, 3, 60, 61.0004, 62]
    text = "\n".join(["time,x,y", *(f"{stamp(second)},{second},{'' if second > 3 else 1}" for second in times)])

    found = describe(read(write(tmp_path / "r.csv", text)))

    assert found.period_ns == SECOND
    assert (found.rows, found.devices, found.channels) == (8, 1, ("x", "y"))
    assert found.missing == (0.0, 0.375)
    assert found.irregular == pytest.approx(1 / 6)
    assert found.end_ns - found.start_ns == 62 * SECOND


@pytest.mark.parametrize(
    ("step_s", "expected_s"), [(86_400, 86_400), (0.019998, 0.02), (300, 300), (0.0333333, 0.0333)]
)
def test_a_period_is_rounded_only_where_it_is_nearly_round(step_s: float, expected_s: float, tmp_path: Path) -> None:
    text = "\n".join(["time,x", *(f"{START_NS + round(n * step_s * 1e9)},1" for n in range(10))])

    assert describe(read(write(tmp_path / "r.csv", text))).period_ns == round(expected_s * SECOND)


def test_one_time_has_no_period(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="two different times"):
        describe(read(write(tmp_path / "r.csv", f"time,x\n{stamp(0)},1\n{stamp(0)},2\n")))
