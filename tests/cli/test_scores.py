from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from stream_ad.cli.main import main
from stream_ad.cli.output import duration_s, duration_text, moment_ns
from stream_ad.inspection.scores import find_incidents, load_device
from stream_ad.io.score_log import log as score_log
from stream_ad.io.spans import Span, Spans
from stream_ad.io.wire.scores import decode
from tests.support.scores import CHANNELS, START_NS, STRIDE_NS, messages, verdicts

ROWS = 200


def write_log(folder: Path, rows: int = ROWS) -> None:
    """Write one device with an incident over rows 50..79 and one from 190 on, and holes in the scores."""
    rng = np.random.default_rng(3)
    parts = rng.gamma(2.0, 0.05, (rows, 3))
    parts[50:80, 2] *= 60
    parts[50:80, 0] *= 10
    parts[rows - 10 :, 1] *= 40
    score = parts.sum(axis=1)
    score[100:105] = np.nan
    incident = np.zeros(rows, np.int64)
    incident[50:80] = START_NS + 50 * STRIDE_NS
    incident[rows - 10 :] = START_NS + (rows - 10) * STRIDE_NS
    batch = verdicts(0, rows, score=score.tolist(), incident=incident.tolist(), contribution=parts.tolist())
    half = rows // 2
    for part, start in enumerate((0, half)):
        (record,) = messages(batch.take(np.arange(start, start + half)), (start, start + half))
        table = decode(record.value, record.headers).table
        spans = Spans(Span(start, start + half))
        score_log.write_part(folder, 0, Span(part, part + 1), [table], START_NS, "topic", spans, {})


@pytest.fixture
def filled(config: Path) -> Path:
    write_log(config.parent / "scores")
    return config


def test_incidents_name_their_channels(filled: Path) -> None:
    scores = load_device(filled.parent / "scores", "pump-0-0", None)
    assert (len(scores), scores.channels) == (ROWS, CHANNELS)
    assert int(np.isnan(scores.score).sum()) == 5
    first, second = scores.incidents
    assert (first.opened_ns, first.end_ns) == (START_NS + 50 * STRIDE_NS, START_NS + 79 * STRIDE_NS)
    assert (first.windows, first.is_open, first.channels[0][0]) == (30, False, "vibration")
    assert (second.windows, second.is_open, second.channels[0][0]) == (10, True, "pressure")
    assert first.peak == pytest.approx(float(np.max(scores.smoothed[50:80])))


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


def test_last_counts_from_the_newest_row(filled: Path) -> None:
    scores = load_device(filled.parent / "scores", "pump-0-0", 10 * STRIDE_NS)
    assert len(scores) == 10


def test_only_the_newest_revision_of_a_window_counts(filled: Path) -> None:
    folder = filled.parent / "scores"
    batch = verdicts(199, 1, score=[9.0])
    (record,) = messages(batch, (ROWS, ROWS + 1))
    table = decode(record.value, record.headers).table
    at = table.schema.get_field_index("revision")
    table = table.set_column(at, table.schema.field(at), [np.ones(len(table), np.uint16)])
    score_log.write_part(folder, 0, Span(2, 3), [table], START_NS, "topic", Spans(Span(ROWS, ROWS + 1)), {})
    scores = load_device(folder, "pump-0-0", None)
    assert (len(scores), float(scores.score[-1])) == (ROWS, 9.0)


def test_an_unknown_device_is_told_with_near_ids(filled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scores", "pump-0-1", "-c", str(filled)]) == 1
    assert "no rows of device 'pump-0-1'; lately there were pump-0-0" in capsys.readouterr().err


def test_an_empty_score_log_is_told(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scores", "pump-0-0", "-c", str(config)]) == 1
    assert "has an archiver run" in capsys.readouterr().err


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_a_plot_is_drawn(filled: Path, ending: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = filled.parent / f"pump.{ending}"
    assert main(["scores", "pump-0-0", "-c", str(filled), "--plot", str(path), "--rows", "0"]) == 0
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG" if ending == "png" else b"<?xml")
    if ending == "svg":
        text = content.decode()
        assert all(name in text for name in (*CHANNELS, "pump-0-0", "smoothed", "limit", "still open"))
    assert f"drawn to {path}" in capsys.readouterr().out


@pytest.mark.parametrize("rows", [1, 2])
def test_a_plot_of_few_rows_without_contributions(tmp_path: Path, rows: int) -> None:
    from stream_ad.inspection.pictures import save
    from stream_ad.inspection.scores import DeviceScores

    nothing = np.full(rows, np.nan)
    end_ns = START_NS + np.arange(rows, dtype=np.int64) * STRIDE_NS
    zeros = np.zeros(rows, np.int64)
    scores = DeviceScores("p", (), end_ns, nothing, nothing, np.ones(rows), zeros > 0, zeros, None, ())
    save(scores, tmp_path / "p.png", "t")
    assert (tmp_path / "p.png").stat().st_size > 1_000


def test_a_plot_with_an_unknown_ending_is_refused(filled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scores", "pump-0-0", "-c", str(filled), "--plot", "x.docx"]) == 2
    assert "ends in .png, .svg, .pdf" in capsys.readouterr().err


def test_incidents_that_touch_are_two() -> None:
    end = np.arange(1, 7, dtype=np.int64)
    incident = np.array([2, 2, 4, 4, 0, 6])
    ones = np.ones(6)
    found = find_incidents((), end, ones, ones, incident, None)
    assert [(one.opened_ns, one.end_ns, one.is_open) for one in found] == [(2, 2, False), (4, 4, False), (6, 6, True)]


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
    now_ns = START_NS
    assert moment_ns("1h", now_ns) == START_NS - 3_600_000_000_000
    assert moment_ns("2026-01-01T01:00:00+01:00", now_ns) == START_NS
    for wrong in ("", "h", "-1h", "1y", "yesterday", "2026-01-01", "nan s"):
        with pytest.raises(ValueError, match="expected a time"):
            moment_ns(wrong, now_ns)
