"""CSV as loggers, historians and spreadsheets write it: read as meant, or refused with the line and what to do."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from stream_ad.io.bundles.manifest import read_manifest
from stream_ad.io.recordings import tables
from stream_ad.io.recordings.recordings import Recording, read
from tests.field.plant import Plant
from tests.field.signals import stamp

ROWS = [(stamp(row), f"{60 + row % 7 / 10:.2f}", f"{5 + row % 5 / 10:.3f}") for row in range(120)]
WANTED = [[float(press), float(temp)] for _, temp, press in ROWS]


def lines(separator: str = ",", rows: Sequence[Sequence[str]] = ROWS) -> str:
    return "".join(separator.join(row) + "\n" for row in rows)


HEAD = "time,temp,press\n"
BODY = lines()
ANNOTATED = (
    "#group,false,false,true,true,false,false,true,true\n"
    "#datatype,string,long,dateTime:RFC3339,dateTime:RFC3339,dateTime:RFC3339,double,string,string\n"
    "#default,_result,,,,,,,\n"
    ",result,table,_start,_stop,_time,_value,_field,_measurement\n"
)


def annotated(place: int, name: str) -> str:
    return "".join(f",,0,{stamp(0)},{stamp(999)},{row[0]},{row[place]},{name},pump\n" for row in ROWS)


TEXTS: dict[str, str | bytes] = {
    "plain": HEAD + BODY,
    "preamble": "Logger XYZ,serial 12\nFirmware 3.1\n\n" + HEAD + BODY,
    "preamble of as many cells": "Plant,Line 3,North\nExported,by,admin\n" + HEAD + BODY,
    "preamble with a date": "Exported 2026-03-02 08:00:00\nRange,2026-03-01,2026-03-02\n" + HEAD + BODY,
    "preamble with separators": "Station: A;B;C\n" + HEAD + BODY,
    "long preamble": "".join(f"Parameter {n},{n},{n * 2}\n" for n in range(150)) + HEAD + BODY,
    "hash comments": "# export of line 3\n# unit: SI, bar\n" + HEAD + BODY,
    "comments between rows": HEAD + lines(rows=ROWS[:50]) + "# paused, by hand\n\n#,,\n" + lines(rows=ROWS[50:]),
    "semicolon comments": "; export of line 3\n; by hand\n" + HEAD + BODY,
    "header in a comment": "# export\n#time,temp,press\n" + BODY,
    "units row": HEAD + ",degC,bar\n" + BODY,
    "units row in brackets": HEAD + "[s],[°C],[bar]\n" + BODY,
    "units row of rates": "time,temp,press\n,°C,1/min\n" + BODY,
    "Campbell": '"TOA5","CR1000","CR1000","1234"\n"TIMESTAMP","temp","press"\n"TS","Deg C","Volts"\n"","Avg","Smp"\n'
    + BODY,
    "types row": HEAD + "datetime,double,double\n" + BODY,
    "sep line": "sep=;\ntime;temp;press\n" + lines(";"),
    "sep line of commas": "sep=,\n" + HEAD + BODY,
    "semicolons": "time;temp;press\n" + lines(";"),
    "pipes": "time|temp|press\n" + lines("|"),
    "tabs": "time\ttemp\tpress\n" + lines("\t"),
    "header repeated": HEAD + lines(rows=ROWS[:60]) + HEAD + lines(rows=ROWS[60:]),
    "whole files joined": "Logger XYZ\n\n"
    + HEAD
    + lines(rows=ROWS[:60])
    + "Logger XYZ\n\n"
    + HEAD
    + lines(rows=ROWS[60:]),
    "units repeated": HEAD + ",degC,bar\n" + lines(rows=ROWS[:60]) + HEAD + ",degC,bar\n" + lines(rows=ROWS[60:]),
    "footer": HEAD + BODY + "Average,60.0,5.0\n",
    "footer of another length": HEAD + BODY + "END OF DATA\n",
    "footer of many lines": HEAD
    + BODY
    + "\nMin,60.0,5.0\nMax,61,6\nTotal rows: 120\nExported by admin on 2026-03-02\n",
    "trailing commas": HEAD + lines(",", [(*row, "") for row in ROWS]),
    "trailing commas in the header too": "time,temp,press,\n" + lines(",", [(*row, "") for row in ROWS]),
    "trailing comma in the header alone": "time,temp,press,\n" + BODY,
    "blank lines": "\n\n" + HEAD + "\n" + BODY.replace("\n", "\n\n", 9) + "\n\n",
    "lines of nothing but separators": HEAD + lines(rows=ROWS[:9]) + ",,\n" + lines(rows=ROWS[9:]) + ",,\n,,\n",
    "newline in a quoted header": '"time","temp\n","\npress"\n' + BODY,
    "all quoted": '"time","temp","press"\n' + "".join(",".join(f'"{c}"' for c in row) + "\n" for row in ROWS),
    "spaces around names": " time , temp , press \n" + BODY,
    "CR line ends": (HEAD + BODY).replace("\n", "\r"),
    "CRLF line ends": (HEAD + BODY).replace("\n", "\r\n"),
    "mixed line ends": HEAD.replace("\n", "\r\n") + lines(rows=ROWS[:40]) + lines(rows=ROWS[40:]).replace("\n", "\r"),
    "CR CR LF": (HEAD + BODY).replace("\n", "\r\r\n"),
    "no line end at the end": (HEAD + BODY).rstrip("\n"),
    "byte order mark": (HEAD + BODY).encode("utf-8-sig"),
    "UTF-16 LE": (HEAD + BODY).encode("utf-16"),
    "UTF-16 BE with its mark": b"\xfe\xff" + (HEAD + BODY).encode("utf-16-be"),
    "UTF-16 LE without a mark": (HEAD + BODY).encode("utf-16-le"),
    "UTF-16 BE without a mark": (HEAD + BODY).encode("utf-16-be"),
    "UTF-16, comments and CRLF": ("# °C\n" + HEAD + BODY).replace("\n", "\r\n").encode("utf-16"),
    "NUL bytes": (HEAD + lines(rows=ROWS[:9]) + "\0\0\0\0\n\0" + lines(rows=ROWS[9:])).encode() + b"\0" * 4096,
    "cut within its last row": HEAD + BODY + "2026-03-02T08:30:00Z,60.",
    "Influx": ANNOTATED + annotated(1, "temp") + "\n" + ANNOTATED + annotated(2, "press"),
    "time not first": "temp,press,time\n" + lines(rows=[(t, p, s) for s, t, p in ROWS]),
}


def check(recording: Recording) -> None:
    assert recording.channels == ("press", "temp")
    np.testing.assert_allclose(recording.values, WANTED, rtol=1e-6)
    assert recording.event_ns.tolist() == [recording.event_ns[0] + n * 10**9 for n in range(len(ROWS))]
    assert recording.bad_cells == 0


@pytest.mark.parametrize("name", TEXTS)
def test_files_as_people_have_them_are_read(name: str, plant: Plant) -> None:
    check(read(plant.file("r.csv", TEXTS[name])))


@pytest.mark.parametrize("name", [name for name in TEXTS if name not in ("cut within its last row", "NUL bytes")])
def test_where_a_file_is_cut_into_pieces_changes_nothing(
    name: str, plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = plant.file("r.csv", TEXTS[name])
    whole = read(path)
    monkeypatch.setattr("stream_ad.io.recordings.csv_text.HEAD_CHARACTERS", 64)
    monkeypatch.setattr("stream_ad.io.recordings.csv_text.HEAD_LINES", 200)
    monkeypatch.setattr(tables, "BLOCK_BYTES", 100)

    assert read(path).notes == whole.notes
    check(read(path))


def test_it_may_be_gzipped_whatever_its_name(plant: Plant) -> None:
    check(read(plant.file("r.csv", gzip.compress((HEAD + BODY).encode("utf-16")))))


def test_what_is_left_out_is_said(plant: Plant) -> None:
    plant.file("r.csv", "Logger\n# c\n" + HEAD + lines(rows=ROWS[:60]) + HEAD + lines(rows=ROWS[60:]) + "Average,1,2\n")

    said = plant.ok("init", "r.csv").said

    assert "lines skipped before the header: 1" in said
    assert "lines skipped that repeat the header or its preamble: 1" in said
    assert "lines skipped after the last reading: 1" in said


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "utf-16"])
@pytest.mark.parametrize("late", [False, True])
def test_degrees_are_degrees_in_every_encoding(encoding: str, late: bool, plant: Plant) -> None:
    head = HEAD + (",°C,bar\n" if not late else "")
    text = head + BODY * (400 if late else 1) + ("Mittelwert °C,60,5\n" if late else "")
    recording = read(plant.file("r.csv", text.encode(encoding)))

    assert recording.units == ({} if late else {"temp": "°C", "press": "bar"})
    assert recording.channels == ("press", "temp")


def test_units_reach_the_bundle(plant: Plant) -> None:
    rows = [(stamp(n), f"{np.sin(n) + n % 7:.3f}", f"{np.cos(n) + n % 5:.3f}") for n in range(1_500)]
    plant.file("r.csv", HEAD + "[s],[°C],(bar)\n" + lines(rows=rows))
    plant.ok("init", "r.csv", "--name", "p")
    plant.ok("train", "r.csv", "--unit", "press=mbar")

    channels = read_manifest(plant.folder / "bundles" / "p").channels
    assert {channel.name: channel.unit for channel in channels} == {"temp": "°C", "press": "mbar"}


def test_a_header_of_three_thousand_columns_is_read(plant: Plant) -> None:
    names = [f"AREA_{n // 100:02d}.UNIT_{n % 100:03d}.PT_{n:05d}.PV" for n in range(3_000)]
    text = (
        "time," + ",".join(names) + "\n" + "".join(f"{stamp(n)}," + ",".join(["1.5"] * 3_000) + "\n" for n in range(30))
    )

    recording = read(plant.file("r.csv", text))

    assert (len(recording), recording.channels) == (30, tuple(sorted(names)))
    assert (recording.values == 1.5).all()


def _csv(plant: Plant) -> Path:
    return plant.file("r.csv", "time,temp,temp,press\n" + lines(rows=[(s, t, t, p) for s, t, p in ROWS]))


def _parquet(plant: Plant) -> Path:
    columns = [pa.array(range(9)), pa.array([1.0] * 9), pa.array([2.0] * 9)]
    table = pa.Table.from_arrays(columns, names=["time", "temp", "temp"])
    pa.parquet.write_table(table, plant.folder / "r.parquet")
    return plant.folder / "r.parquet"


def _jsonl(plant: Plant) -> Path:
    return plant.file("r.jsonl", [f'{{"time": "{row[0]}", "temp": 1, "temp": 2}}' for row in ROWS])


def _wire(plant: Plant) -> Path:
    return plant.file(
        "r.ndjson", [f'{{"ts": "{row[0]}", "values": {{"temp": 1, "x": "\\u00e9", "temp": 2}}}}' for row in ROWS]
    )


@pytest.mark.parametrize("make", [_csv, _parquet, _jsonl, _wire])
def test_two_columns_of_one_name_are_refused_by_name(make: Callable[[Plant], Path], plant: Plant) -> None:
    ran = plant("init", make(plant).name, "--zone", "UTC")

    assert ran.code == 1
    assert "found duplicates: temp" in ran.err


def test_json_with_quotes_in_texts_is_no_repeated_name(plant: Plant) -> None:
    rows = [f'{{"time": "{row[0]}", "temp": {row[1]}, "press": {row[2]}, "who": "a \\"b\\" \\u0022"}}' for row in ROWS]

    check(read(plant.file("r.jsonl", rows)))


REFUSED: dict[str, tuple[str | bytes, str]] = {
    "no header": (BODY, "line 1: expected column names, found '2026-03-02T00:00:00.000Z,60.00,5.000'"),
    "a short row": (
        HEAD + lines(rows=ROWS[:3]) + "2026-03-02T00:00:03Z,60\n" + BODY,
        "line 5: expected 3 cells, as in",
    ),
    "a long row": (HEAD + lines(rows=ROWS[:3]) + "2026-03-02T00:00:03Z,60,5,1\n" + BODY, "line 5: expected 3 cells"),
    "decimal commas between commas": (
        "time,temp\n" + "".join(f"{stamp(n)},60,{n % 10}\n" for n in range(99)),
        "line 1: expected a name for each of the 3 cells of line 2, found 2 names",
    ),
    "words between rows": (
        HEAD + lines(rows=ROWS[:3]) + "Power failure,,\n" + lines(rows=ROWS[3:]),
        "line 5: .*Power failure",
    ),
    "an unreadable first time": (HEAD + "Unknown,1,2\n" + BODY, "line 2: .*'Unknown'"),
    "an open quote": (HEAD + lines(rows=ROWS[:3]) + '"' + BODY * 40, "line "),
    "an empty file": ("", "line 1: expected column names, found none"),
    "blank lines alone": ("\n\n \n", "line 1: expected column names, found none"),
    "an Excel workbook": (b"PK\x03\x04" + bytes(99), "an Excel workbook or a zip archive"),
    "Parquet": (b"PAR1" + bytes(99), "a name that ends in .parquet"),
    "bytes of two encodings": (
        HEAD.encode() + "# é\n".encode() + BODY.encode() + b"\xb0\n",
        "line 123: expected UTF-8",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_refused_with_its_line(name: str, plant: Plant) -> None:
    text, message = REFUSED[name]
    plant.file("r.csv", text)

    ran = plant("init", "r.csv")

    assert ran.code == 1
    assert re.search(message, ran.err, re.IGNORECASE), ran.err
