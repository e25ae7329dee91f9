"""Which device a file is: its name without dates, so that tomorrow's file is the device that was trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from stream_ad.errors import RecordingError
from stream_ad.io.recordings.file_devices import check_apart, file_devices

DATED = [
    "2026-03-02", "20260302", "2026_03_02", "2026.03.02",
    "02.03.2026", "02-03-2026", "02032026", "2026-03", "202603",
    "2026", "2026-03-02T08-00-00", "20260302_080000", "20260302T080000Z", "202603020800", "20260302080000",
    "2026-03-02_08-00",
    "2026-03-02 08.00.00", "2026030208", "2026-03-02_001", "2026-03-02-part2", "2026-03-02 (1)", "20260302_3",
    "2026-03-02_2026-03-08", "20260302-20260308", "2026-03-02_to_2026-03-08", "2026-W10", "2026-W10-1", "KW10_2026",
    "2026-061", "02-Mar-2026", "2026-Mar-02", "Mar-02-2026", "march_2026", "1772409600", "1772409600000", "26-03-02",
    "2026-03-02T08:00:00+0100", "03-22-2026", "2026-03-02T08",
]  # fmt: skip


@pytest.mark.parametrize("stem", DATED)
def test_a_name_that_is_a_date_is_the_stream(stem: str, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (found,) = file_devices([tmp_path / "new" / f"{stem}.csv"], tmp_path / "new", "line")

    assert (found.name, found.is_dated) == ("line", True)


@pytest.mark.parametrize("form", ["pump3_{}", "{}_pump3", "pump3-{}", "pump3 {}", "{}.pump3", "pump3.{}"])
@pytest.mark.parametrize("date", ["2026-03-02", "20260302", "2026-03-02T080000", "02.03.2026", "2026-W10", "2026-03"])
def test_what_is_no_date_names_the_device(form: str, date: str, tmp_path: Path) -> None:
    (found,) = file_devices([tmp_path / f"{form.format(date)}.csv.gz"], tmp_path, "line")

    assert (found.name, found.is_dated) == ("pump3", True)


@pytest.mark.parametrize(
    "stem",
    [
        "pump-1",
        "pump1",
        "3",
        "10",
        "log_001",
        "line3",
        "P-101-12",
        "unit_2001",
        "SN20261",
        "rds_cpu_e47b3b",
        "12345678",
        "a",
    ],
)
def test_a_name_without_a_date_stays(stem: str, tmp_path: Path) -> None:
    (found,) = file_devices([tmp_path / f"{stem}.csv"], tmp_path, "line")

    assert (found.name, found.is_dated) == (stem, False)


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["a/2026-03-02.csv", "a/2026-03-03.csv", "b/2026-03-02.csv"], ["a", "a", "b"]),
        (["2026/03/02.csv", "2026/03/03.csv"], ["line", "line"]),
        (["p1/2026/03/02.csv", "p2/2026/03/02.csv"], ["p1", "p2"]),
        (["2026-03-02/p1.csv", "2026-03-02/p2.csv", "2026-03-03/p1.csv"], ["p1", "p2", "p1"]),
        (["a/0.csv", "b/0.csv"], ["a-0", "b-0"]),
        (["a/p_2026-03-02.csv", "b/p_2026-03-02.csv"], ["a-p", "b-p"]),
        (["p1_2026-03-02.csv", "p2_2026-03-02.csv", "p1_2026-03-03.csv"], ["p1", "p2", "p1"]),
        (["2026-03-02.csv", "p1.csv"], ["line", "p1"]),
    ],
)
def test_folders_name_devices_where_files_do_not(files: list[str], names: list[str], tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    paths = [tmp_path / "logs" / file for file in files]

    assert [found.name for found in file_devices(paths, tmp_path / "logs", "line")] == names


def test_without_a_stream_the_folder_is_the_device(tmp_path: Path) -> None:
    (found,) = file_devices([tmp_path / "press" / "2026-03-02.csv"], tmp_path / "press" / "*.csv")

    assert found.name == "press"


@pytest.mark.parametrize(("start", "is_refused"), [(0, True), (30, True), (60, False), (99, False), (100, False)])
def test_files_of_one_device_follow_each_other(start: int, is_refused: bool, tmp_path: Path) -> None:
    spans = [("p", tmp_path / "2.csv", start, start + 100), ("p", tmp_path / "1.csv", 0, 100), ("q", tmp_path, 0, 100)]
    if is_refused:
        with pytest.raises(RecordingError, match=r"overlapping times; .*--device NAME"):
            check_apart(spans)
    else:
        check_apart(spans)
