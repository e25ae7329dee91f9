"""Exports of historians, loggers and plants: read for what they are, and advice that works when it is typed."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from datetime import datetime, timedelta

import numpy as np
import pytest

from stream_ad.errors import RecordingError
from stream_ad.io.recordings.recordings import Recording, read
from tests.field.plant import Plant

START = datetime(2026, 3, 25, 8)
ROWS = 240


def stamp(row: float, form: str = "%Y-%m-%d %H:%M:%S") -> str:
    return (START + timedelta(seconds=row)).strftime(form)


def said(recording: Recording) -> str:
    return "\n".join(recording.notes)


@pytest.mark.parametrize(
    ("head", "separator", "form"),
    [
        ("_NAME,_TIMESTAMP,_VALUE,_QUALITY", ",", "%Y-%m-%d %H:%M:%S.000"),
        ('"VarName";"TimeString";"VarValue";"Validity"', ";", "%d.%m.%Y %H:%M:%S"),
        ("Tag Name,Time Stamp,Value,Status", ",", "%d-%b-%y %H:%M:%S"),
        ("Messstelle;Zeitstempel;Wert;Status", ";", "%d.%m.%Y %H:%M:%S"),
    ],
)
def test_tags_of_one_value_column_are_channels(head: str, separator: str, form: str, plant: Plant) -> None:
    cells = [
        ("temp" if row % 2 else "press", stamp(row, form), f"{60 if row % 2 else 5}.5", "192") for row in range(ROWS)
    ]
    file = plant.file("export.csv", [head, *map(separator.join, cells)])

    found = read(file, zone="UTC")

    assert found.channels == ("press", "temp")
    assert [float(np.nanmean(column)) for column in found.values.T] == [5.5, 60.5]


@pytest.mark.parametrize("head", ["Maschine", "Device ID", "Machine-Name", "Anlage"])
def test_machines_are_kept_apart_by_other_names_of_their_column(head: str, plant: Plant) -> None:
    rows = [f"M{row % 2 + 1},{stamp(row)},{60 + row % 3}.1" for row in range(ROWS)]

    found = read(plant.file("line.csv", [f"{head},time,temp", *rows]), zone="UTC")

    assert sorted(found.devices) == ["M1", "M2"]


@pytest.mark.parametrize("head", ["Time (s)", "time [s]", "Time[s]"])
def test_elapsed_times_with_a_unit_in_the_name_need_only_a_start(head: str, plant: Plant) -> None:
    file = plant.file("rig.csv", [f"{head},temp", *(f"{row * 0.5},{60 + row % 3}.1" for row in range(ROWS))])

    with pytest.raises(RecordingError, match="--start"):
        read(file)
    assert np.diff(read(file, start="2026-03-02T08:00:00Z").event_ns).tolist() == [500_000_000] * (ROWS - 1)


def test_the_header_of_a_labview_file_stands_below_lines_that_name_times(plant: Plant) -> None:
    lines = ["LabVIEW Measurement\t", "Separator\tTab", "Date\t2026/03/25", "Time\t08:00:00.1", "***End_of_Header***\t"]
    lines += ["Channels\t2\t\t", "Date\t2026/03/25\t2026/03/25\t", "Time\t08:00:00.1\t08:00:00.1\t"]
    lines += [
        "X_Dimension\tTime\tTime\t",
        "X0\t0.0\t0.0\t",
        "***End_of_Header***\t\t\t",
        "X_Value\ttemp\tpress\tComment",
    ]
    file = plant.file(
        "rig.tsv", [*lines, *(f"{row}.000000\t{60 + row % 3}.1\t{5 + row % 2}.2\t" for row in range(ROWS))]
    )

    ran = plant.ok("init", str(file), "--layout", "wide,time=X_Value", "--start", "2026-03-25T08:00:00Z")

    assert "press, temp" in ran.said


@pytest.mark.parametrize(
    ("form", "step_s", "repeated"), [("%Y-%m-%d %H:%M", 10, 200), ("%d/%m/%Y %H:%M", 15, 180), ("%H:%M:%S", 0.5, 120)]
)
def test_rows_that_share_a_time_are_counted(form: str, step_s: float, repeated: int, plant: Plant) -> None:
    form = form if "%d" in form else "%Y-%m-%d " + form
    file = plant.file("log.csv", ["time,temp", *(f"{stamp(row * step_s, form)},{row % 7}.1" for row in range(ROWS))])

    assert f"{repeated} of {ROWS} rows have values at a time that already has some" in said(read(file, zone="UTC"))


def test_values_that_complete_a_row_of_the_same_time_are_no_repetition(plant: Plant) -> None:
    cells = [f"{stamp(row // 2)},{'60.1' if row % 2 else ''},{'' if row % 2 else '5.2'}" for row in range(ROWS)]

    assert "already" not in said(read(plant.file("log.csv", ["time,temp,press", *cells]), zone="UTC"))


@pytest.mark.parametrize("value", ["2147483647", "3.402823466e+38", "-9999.9", "-127", "9999999.5", "-1e30"])
def test_the_option_proposed_for_a_sentinel_takes_it_out(value: str, plant: Plant) -> None:
    cells = [value if row % 40 == 7 else f"{20 + row % 23 / 10}" for row in range(ROWS)]
    plant.file(
        "log.csv", ["time,temp,s", *(f"{stamp(row)}Z,{60 + row % 3}.1,{cell}" for row, cell in enumerate(cells))]
    )

    proposed = re.search(r"add (--missing.*)", plant.ok("init", "log.csv").said)

    assert proposed
    ran = plant.ok("init", "log.csv", "--force", *shlex.split(proposed[1]))
    assert "6 cells hold a value of --missing" in ran.said


@pytest.mark.parametrize(
    ("name", "fault", "normal"),
    [
        ("anomaly", "1", "-1"),
        ("label", "-1", "1"),
        ("Störung", "1", "0"),
        ("Fehler", "1", "0"),
        ("Status", "Störung", "OK"),
    ],
)
def test_faults_are_marked_by_the_rarer_and_in_other_tongues(name: str, fault: str, normal: str, plant: Plant) -> None:
    cells = (f"{stamp(row)},{60 + row % 3}.1,{fault if 100 < row < 120 else normal}" for row in range(ROWS))

    found = read(plant.file("log.csv", [f"time,temp,{name}", *cells]), zone="UTC")

    assert found.channels == ("temp",)
    assert int(found.faults.sum()) == 19


def test_a_label_that_marks_most_rows_is_doubted(plant: Plant) -> None:
    file = plant.file("log.csv", ["time,temp,label", *(f"{stamp(row)},{60 + row % 3}.1,1" for row in range(ROWS))])

    assert "if the column means something else" in said(read(file, zone="UTC"))


@pytest.mark.parametrize("name", ["part-{:05d}", "Export ({})", "Mar{}", "run{}"])
def test_numbered_files_that_follow_one_another_may_be_one_machine(name: str, plant: Plant) -> None:
    for part in range(3):
        cells = (f"{stamp(row)},{60 + row % 3}.1" for row in range(80 * part, 80 * part + 80))
        plant.file(f"logs/{name.format(part)}.csv", ["time,temp", *cells])

    assert "if they are one machine, add --device NAME" in said(read(plant.folder / "logs", zone="UTC"))
    assert "machine" not in said(read(plant.folder / "logs", zone="UTC", device="p1"))


def test_numbered_files_of_one_time_are_machines(plant: Plant) -> None:
    for part in range(3):
        plant.file(f"logs/pump{part}.csv", ["time,temp", *(f"{stamp(row)},{60 + row % 3}.1" for row in range(80))])

    assert "machine" not in said(read(plant.folder / "logs", zone="UTC"))


@pytest.mark.parametrize(
    ("line", "advice"),
    [
        (lambda row: f"{stamp(row)}  60.1  5.2", "separated by , ; tab or |"),
        (lambda row: f"{stamp(row)},60.1" + (",5.2" if row > 200 else ""), "a spreadsheet drops separators"),
    ],
)
def test_refusals_say_what_to_do(line: Callable[[int], str], advice: str, plant: Plant) -> None:
    head = "time      temp   press" if "  " in line(0) else "time,temp,press"

    with pytest.raises(RecordingError, match=re.escape(advice)):
        read(plant.file("log.csv", [head, *map(line, range(ROWS))]), zone="UTC")


def test_a_series_in_a_recording_is_refused_with_what_to_do(plant: Plant) -> None:
    with pytest.raises(RecordingError, match="write an object per row"):
        read(plant.file("log.jsonl", ['{"device": "a", "ts": ["2026-03-02T08:00:00Z"], "values": {"temp": [1]}}']))
