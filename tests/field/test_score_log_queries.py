"""What the pages tell people to type against the score log, on logs as they are after months."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from stream_ad.io.score_log import log as score_log
from tests.field.plant import Plant
from tests.support.score_logs import Fleet, as_format_1

ROOT = Path(__file__).parents[2]
SETTINGS = """
[stream]
name = "pumps"
bundle = "bundles/p"

[transport]
kind = "local"
path = "data/log.sqlite"

[store]
scores = "data/scores"
checkpoints = "data/checkpoints"
"""


def one_liners() -> list[str]:
    """The commands in Python of the pages, as they are typed."""
    found = []
    for page in ("docs/score-log.md", "docs/tutorial.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL):
            found += [line for line in re.findall(r'python -c ".*?[^\\]"', block, re.DOTALL) if "data/scores" in line]
    return found


@pytest.fixture
def months(plant: Plant) -> Plant:
    """A log of three hours; in the second a channel more, in the third one less."""
    plant.file("stream.toml", SETTINGS)
    fleet = Fleet(plant.folder / "data" / "scores", channels=("flow", "temp"))
    for hour, channels in enumerate((("flow", "temp"), ("current", "flow", "temp"), ("current", "flow"))):
        fleet.channels = channels
        for _ in range(3):
            fleet.part(["pump-1", "pump-2"], hour)
    return plant


def typed(plant: Plant, line: str) -> str:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "COLUMNS": "200"}
    ran = subprocess.run(
        ["bash", "-c", line], cwd=plant.folder, env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, f"{line}\n{ran.stderr}"
    return ran.stdout


def test_the_pages_have_a_line_for_each_program() -> None:
    assert {word for line in one_liners() for word in ("duckdb", "polars", "pandas") if f"import {word}" in line} == {
        "duckdb",
        "polars",
        "pandas",
    }


@pytest.mark.process
@pytest.mark.parametrize("line", one_liners(), ids=lambda line: line[18:40])
def test_what_the_pages_say_runs_before_and_after_a_compaction(months: Plant, line: str) -> None:
    for module in ("polars", "pandas"):
        if f"import {module}" in line:
            pytest.importorskip(module)
    before = typed(months, line)
    months.ok("compact", "--older-than-hours", "0")
    after = typed(months, line)

    assert "current" in before or "contribution" not in line or "['current']" in line
    assert sorted(re.findall(r"\d+\.\d+", before)) == sorted(re.findall(r"\d+\.\d+", after))


def test_each_row_and_channel_is_in_what_programs_read(months: Plant) -> None:
    pandas, polars = pytest.importorskip("pandas"), pytest.importorskip("polars")
    months.ok("compact", "--older-than-hours", "0")

    frame = pandas.read_parquet("data/scores")
    assert len(frame) == 18
    channels = {channel for row in frame["contribution"].dropna() for channel, _ in row}
    assert channels == {"current", "flow", "temp"}
    entries = polars.read_parquet("data/scores/**/*.parquet").select(polars.col("contribution").map.entries())
    assert set(entries.explode("contribution").unnest("contribution")["key"].to_list()) >= channels


@pytest.mark.process
def test_a_log_of_both_formats_becomes_one_of_the_new(months: Plant) -> None:
    folder = months.folder / "data" / "scores"
    before = score_log.read(folder)
    for part in score_log.parts(folder)[:5]:
        as_format_1(part.path)
    assert score_log.read(folder).equals(before)
    assert "proven" in months.ok("verify").said

    months.ok("compact", "--older-than-hours", "0")
    assert "proven" in months.ok("verify").said
    assert score_log.read(folder).equals(before)
    for line in one_liners():
        if "duckdb" in line:
            typed(months, line)
    assert "no hour" in months.ok("compact", "--older-than-hours", "0").said or len(score_log.parts(folder)) == 5


def test_what_was_merged_in_the_old_format_is_written_anew_under_its_name(months: Plant) -> None:
    folder = months.folder / "data" / "scores"
    months.ok("compact", "--older-than-hours", "0")
    before, names = score_log.read(folder), [part.path for part in score_log.parts(folder)]
    for path in names:
        as_format_1(path)

    months.ok("compact", "--older-than-hours", "0")
    assert [part.path for part in score_log.parts(folder)] == names
    assert score_log.read(folder).equals(before)
    assert "proven" in months.ok("verify").said
    stamps = [path.stat().st_mtime_ns for path in names]
    months.ok("compact", "--older-than-hours", "0")
    assert [path.stat().st_mtime_ns for path in names] == stamps


def test_a_device_that_is_not_there_is_one_line_after_a_compaction_too(months: Plant) -> None:
    months.ok("compact", "--older-than-hours", "0")
    ran = months("scores", "pump-3")

    assert ran.code not in (0, 70)
    assert "no rows of device 'pump-3'; recent devices: pump-" in ran.said
    assert "recent devices:" in months("scores", "UNKNOWN").said
