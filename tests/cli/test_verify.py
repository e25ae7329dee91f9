"""`stream-ad verify` and `stream-ad compact`: what they say, their exit codes, and `scores` after them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stream_ad.cli.main import main
from tests.support.score_logs import Fleet, varied


@pytest.fixture
def filled(config: Path) -> Path:
    varied(config.parent / "scores", 0)
    varied(config.parent / "scores", 1)
    return config


def test_a_whole_log_is_proven(filled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-c", str(filled), "verify"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("ok    partition 0: 226 rows of 5 devices in 19 files; scores 0-19, input 0-")
    assert lines[-1].startswith("proven: no row missing or duplicated; 452 rows in 38 files")


def test_json(filled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-c", str(filled), "verify", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["ok"], found["gaps"]) == (True, [])
    assert [(one["partition"], one["rows"], one["scores"]) for one in found["partitions"]] == [
        (0, 226, [0, 19]),
        (1, 226, [0, 19]),
    ]


def test_a_gap_is_named_and_ends_with_1(filled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = sorted((filled.parent / "scores").glob("**/part-1-*.parquet"))
    paths[3].unlink()
    assert main(["-c", str(filled), "verify"]) == 1
    out = capsys.readouterr().out
    place = paths[4].relative_to(filled.parent / "scores").as_posix()
    text = "a gap in the scores offsets: expected a start at 3, found 4"
    assert f"GAP   partition 1: {place}: {text}" in out.splitlines()
    assert out.splitlines()[-1].startswith("1 gap(s); ")
    assert main(["-c", str(filled), "verify", "--json"]) == 1
    (gap,) = json.loads(capsys.readouterr().out)["gaps"]
    assert gap == {
        "partition": 1,
        "file": place,
        "device": "",
        "what": "a gap in the scores offsets",
        "expected": "a start at 3",
        "found": "4",
    }


def test_wrong_arguments_and_settings_end_with_2(filled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-c", str(filled), "verify", "--what"]) == 2
    assert main(["-c", str(filled.parent / "none.toml"), "verify"]) == 2
    assert main(["-c", str(filled), "compact", "--older-than-hours", "-1"]) == 2
    assert "expected at least 0" in capsys.readouterr().err


def test_another_folder_needs_no_settings(filled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    none = str(tmp_path / "none.toml")
    assert main(["-c", none, "verify", "--folder", str(filled.parent / "scores")]) == 0
    assert main(["-c", none, "verify", "--folder", str(tmp_path / "nowhere")]) == 1
    assert "expected parts, found none" in capsys.readouterr().err


def test_files_deleted_on_purpose_are_passed_over_on_request(filled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = sorted((filled.parent / "scores").glob("**/part-1-*.parquet"))
    for path in paths[:4]:
        path.unlink()
    assert main(["-c", str(filled), "verify"]) == 1
    assert "the first file: expected one written when there was no other" in capsys.readouterr().out
    assert main(["-c", str(filled), "verify", "--trimmed"]) == 0
    assert "starts at input offset 52, not at the beginning of the stream" in capsys.readouterr().out
    paths[6].unlink()
    assert main(["-c", str(filled), "verify", "--trimmed"]) == 1


def test_what_is_not_covered_is_said(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fleet = Fleet(config.parent / "scores")
    fleet.table(["a", "b"])
    fleet.part(["a", "b"])
    fleet.evict("a", back_s=1)
    fleet.part(["a", "b"])
    assert main(["-c", str(config), "verify"]) == 0
    out = capsys.readouterr().out
    assert "starts at input offset 2, not at the beginning of the stream" in out
    assert "1 times a device went back in time after its state was evicted, first a" in out


def test_windows_judged_again_are_in_the_summary(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fleet = Fleet(config.parent / "scores")
    fleet.part(["a", "b"] * 3)
    fleet.evict("a", back_s=2)
    fleet.part(["a", "b"] * 3, restart=True)
    assert main(["-c", str(config), "verify"]) == 0
    out = capsys.readouterr().out
    assert "2 windows were judged after a state reset" in out
    assert "proven: no row missing or duplicated, except 2 windows judged again" in out
    assert main(["-c", str(config), "verify", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["partitions"][0]["judged_again"] == 2


def test_compact_says_what_it_does_and_scores_stay_the_same(filled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = str(filled)
    assert main(["-c", config, "scores", "pump-0-2", "--json"]) == 0
    before = capsys.readouterr().out

    assert main(["-c", config, "compact", "--older-than-hours", "1e5"]) == 0  # nothing is as old
    assert capsys.readouterr().out.startswith("merged 0 files of 0 hour(s) into 0")
    assert main(["-c", config, "compact", "--dry-run"]) == 0
    planned = capsys.readouterr().out
    assert planned.splitlines()[0] == "ok    log_date=2026-01-01/log_hour=00: 12 files into 2, 128 rows"
    assert main(["-c", config, "compact"]) == 0
    assert capsys.readouterr().out.splitlines()[:2] == planned.splitlines()[:2]
    assert main(["-c", config, "compact"]) == 0
    assert capsys.readouterr().out.startswith("merged 0 files")

    assert main(["-c", config, "scores", "pump-0-2", "--json"]) == 0
    assert capsys.readouterr().out == before
    assert main(["-c", config, "verify"]) == 0
