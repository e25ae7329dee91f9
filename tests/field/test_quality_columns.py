"""A value that its server does not call good is missing; what merely sounds like a quality stays a channel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from stream_ad.io.recordings.layouts import Layout
from stream_ad.io.recordings.quality_columns import judge
from stream_ad.io.recordings.recordings import Recording, read
from tests.field.plant import Plant
from tests.field.signals import stamp

ROWS = 60
POOR = range(10, 15)
GOOD_AND_BAD = [
    ("Good", "Bad"),
    ("GOOD", "Uncertain"),
    ("good", "Bad, Sensor Failure"),
    ("Good [192]", "Bad [0]"),
    ("Good, non-specific", "Uncertain, last usable value"),
    ("ok", "error"),
    ("192", "0"),
    ("192", "28"),
    ("216", "64"),
    ("0xC0", "0x18"),
    ("0", "2147483648"),
    ("0", "1073741824"),
    ("0", "-2147483648"),
    ("0x00000000", "0x80340000"),
    ("1", "0"),
    ("true", "false"),
    ("valid", "invalid"),
    ("100", "0"),
]


def wide(plant: Plant, head: str, good: str, bad: str, extra: str = "") -> Recording:
    rows = [f"{stamp(n)},{n % 7},{bad if n in POOR else good},{n % 5}{extra}" for n in range(ROWS)]
    return read(plant.file("r.csv", [head, *rows]))


def missing(recording: Recording) -> dict[str, list[int]]:
    return {
        name: np.flatnonzero(np.isnan(recording.values[:, place])).tolist()
        for place, name in enumerate(recording.channels)
    }


@pytest.mark.parametrize(("good", "bad"), GOOD_AND_BAD)
def test_a_quality_beside_a_channel_is_for_that_channel(good: str, bad: str, plant: Plant) -> None:
    cells = [f'"{cell}"' for cell in (good, bad)]
    found = wide(plant, "time,temp,temp_quality,flow", *cells)

    assert missing(found) == {"temp": list(POOR), "flow": []}
    assert found.left_out["temp_quality"] == "quality"
    assert any(
        "5 values are missing because their quality is not good, by 'temp_quality'" in note for note in found.notes
    )
    assert found.bad_cells == 0


@pytest.mark.parametrize(
    "name",
    ["temp.Quality", "temp Quality", "Temp_Quality", "temp.Status", "temp_status", "tempQuality", "temp:quality",
     "Quality of temp", "Quality(temp)", "temp_StatusCode", "temp/quality", "temp-quality"],
)  # fmt: skip
def test_however_it_is_called(name: str, plant: Plant) -> None:
    assert missing(wide(plant, f"time,temp,{name},flow", "Good", "Bad")) == {"temp": list(POOR), "flow": []}


@pytest.mark.parametrize("name", ["Quality", "quality", "OPC Quality", "StatusCode", "Status", "data_quality"])
@pytest.mark.parametrize(("good", "bad"), [("Good", "Bad"), ("192", "0")])
def test_one_quality_is_for_the_whole_row(name: str, good: str, bad: str, plant: Plant) -> None:
    assert missing(wide(plant, f"time,temp,{name},flow", good, bad)) == {"temp": list(POOR), "flow": list(POOR)}


@pytest.mark.parametrize("name", ["Quality", "Status", "StatusCode", "OPC_Quality"])
@pytest.mark.parametrize(("good", "bad"), GOOD_AND_BAD[:9])
def test_values_of_a_historian_have_one_each(name: str, good: str, bad: str, plant: Plant) -> None:
    rows = []
    for n in range(ROWS):
        rows += [f'{stamp(n)},a,{n % 7},"{bad if n in POOR else good}"', f'{stamp(n)},b,{n % 5},"{good}"']
    found = read(plant.file("r.csv", [f"TimeStamp,TagName,Value,{name}", *rows]))

    assert missing(found) == {"a": list(POOR), "b": []}
    assert any("5 values are missing because their quality" in note for note in found.notes)


def test_a_quality_may_be_stated(plant: Plant) -> None:
    rows = [f"{stamp(n)},{n % 7},{'Bad' if n in POOR else 'Good'}" for n in range(ROWS)]
    path = plant.file("r.csv", ["time,temp,Guete", *rows])

    assert missing(read(path, Layout.parse("wide,quality=Guete"))) == {"temp": list(POOR)}


def test_quality_in_parquet(plant: Plant) -> None:
    columns = {
        "time": [stamp(n) for n in range(ROWS)],
        "temp": [float(n % 7) for n in range(ROWS)],
        "temp_quality": pa.array([0 if n in POOR else 192 for n in range(ROWS)], pa.int32()),
    }
    pa.parquet.write_table(pa.table(columns), plant.folder / "r.parquet")

    assert missing(read(plant.folder / "r.parquet")) == {"temp": list(POOR)}


def test_zeros_alone_are_good_and_it_is_said(plant: Plant) -> None:
    found = wide(plant, "time,temp,Quality,flow", "0", "0")

    assert missing(found) == {"temp": [], "flow": []}
    assert any("0 alone, taken for OPC UA's Good" in note for note in found.notes)


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("steam_quality", "0.95", "0.93"),
        ("water_quality", "7.2", "6.9"),
        ("temp_quality", "0.95", "0.93"),
        ("valve_status", "1", "0"),
        ("temp_status", "1", "0"),
        ("Status", "1", "0"),
        ("Status", "3", "7"),
    ],
)
def test_what_measures_stays_a_channel(name: str, good: str, bad: str, plant: Plant) -> None:
    found = wide(plant, f"time,temp,{name},flow", good, bad)

    assert name in found.channels
    assert missing(found)["temp"] == []


@pytest.mark.parametrize("words", [("running", "stopped"), ("auto", "manual"), ("A", "B")])
def test_words_of_another_kind_judge_nothing(words: Sequence[str], plant: Plant) -> None:
    found = wide(plant, "time,temp,Status,flow", *words)

    assert missing(found) == {"temp": [], "flow": []}


def test_nothing_said_is_good() -> None:
    judged = judge(["Good", "", "Bad"], [5, 3, 1], False)

    assert judged is not None
    assert judged.bad == (False, False, True)
