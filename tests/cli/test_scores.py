from __future__ import annotations

import json
from argparse import ArgumentTypeError
from pathlib import Path

import pytest

from stream_ad.cli.main import main
from stream_ad.cli.output import duration_s, duration_text, moment_ns
from tests.support.scores import CHANNELS, ROWS, START_NS, write_log


@pytest.fixture
def filled(config: Path) -> Path:
    write_log(config.parent / "scores")
    return config


def test_the_table_for_people(filled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scores", "pump-0-0", "-c", str(filled), "--rows", "3"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("pump-0-0  200 windows · 2 incidents · 5 unscored · 2026-01-01 00:00:00 – ")
    assert "vibration" in out
    assert "newest 3 windows" in out
    assert "\x1b" not in out


def test_json_rows_and_incidents(filled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scores", "pump-0-0", "-c", str(filled), "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == ROWS
    assert (rows[100]["score"], rows[100]["incident"]) == (None, None)
    assert rows[60]["incident"] == "2026-01-01T00:13:20.000000Z"
    assert main(["scores", "pump-0-0", "-c", str(filled), "--json", "--incidents"]) == 0
    incidents = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [incident["windows"] for incident in incidents] == [30, 10]


def test_an_unknown_device_is_told_with_near_ids(filled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scores", "pump-0-1", "-c", str(filled)]) == 1
    assert "no rows of device 'pump-0-1'; recent devices: pump-0-0" in capsys.readouterr().err


def test_an_empty_score_log_is_told(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scores", "pump-0-0", "-c", str(config)]) == 1
    assert "start the archiver with `stream-ad run`" in capsys.readouterr().err


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_a_plot_is_drawn(filled: Path, ending: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = filled.parent / f"pump.{ending}"
    assert main(["scores", "pump-0-0", "-c", str(filled), "--plot", str(path), "--rows", "0"]) == 0
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG" if ending == "png" else b"<?xml")
    if ending == "svg":
        text = content.decode()
        assert all(name in text for name in (*CHANNELS, "pump-0-0", "smoothed", "limit", "still open"))
    assert f"plot written to {path}" in capsys.readouterr().out


def test_a_plot_with_an_unknown_ending_is_refused(filled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scores", "pump-0-0", "-c", str(filled), "--plot", "x.docx"]) == 2
    assert "ends in .png, .svg, .pdf" in capsys.readouterr().err


def test_durations_and_moments() -> None:
    assert [duration_s(text) for text in ("90s", "1.5m", "2h", "1d")] == [90, 90, 7_200, 86_400]
    assert [duration_text(s) for s in (0.0851, 12.5, 250, 3_600, 11_100, 200_000)] == [
        "85 ms",
        "12.5 s",
        "4 min 10 s",
        "1 h",
        "3 h 5 min",
        "2 d 7 h",
    ]
    before_ns = moment_ns("now")
    hour_ago_ns = moment_ns("1h") + 3_600_000_000_000
    assert before_ns <= hour_ago_ns <= moment_ns("now")
    assert moment_ns("2026-01-01T01:00:00+01:00") == START_NS
    for wrong in ("", "h", "-1h", "1y", "yesterday", "2026-01-01", "nan s"):
        with pytest.raises(ArgumentTypeError, match="expected a time"):
            moment_ns(wrong)
