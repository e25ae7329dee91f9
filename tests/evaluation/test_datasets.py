"""SKAB's folder and files become runs: 400 rows to train on, a truth for each later row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stream_ad.errors import RecordingError
from stream_ad.evaluation.datasets import skab, to_send
from tests.support.skab import CHANNELS, FAULT, ROWS, SKIPPED, write_run, write_runs

SECOND = 1_000_000_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_runs(tmp_path_factory.mktemp("data") / "skab", runs=2)


def test_a_run_has_400_training_rows_and_a_truth_for_each_later_row(folder: Path) -> None:
    run = skab(folder)[0]

    assert run.name == "valve1-0"
    assert run.recording.devices == ("valve1-0",)
    assert run.recording.channels == tuple(sorted(CHANNELS))
    assert len(run.training) == 400
    assert np.flatnonzero(run.truth).tolist() == list(range(FAULT.start - 400, FAULT.stop - 400))
    assert len(run.truth) == ROWS - 400


@pytest.mark.parametrize("part", ["valve1", ".", ".."])
def test_the_folder_may_be_the_runs_or_hold_them(part: str, folder: Path) -> None:
    assert [run.name for run in skab((folder / part).resolve())] == ["valve1-0", "valve1-1"]


def test_runs_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    (tmp_path / "valve1").mkdir()
    for number in (10, 9, 2):
        write_run(tmp_path / "valve1" / f"{number}.csv", seed=number)
    (tmp_path / "valve1" / "notes.csv").write_text("no run")

    assert [run.name for run in skab(tmp_path)] == ["valve1-2", "valve1-9", "valve1-10"]


def test_a_judged_row_belongs_to_the_window_that_ends_with_its_cell(folder: Path) -> None:
    run = skab(folder)[0]
    event_ns = run.recording.event_ns[400:]

    np.testing.assert_array_equal(run.judged_end_ns, event_ns + SECOND)
    assert SECOND < np.diff(event_ns).max() == 2 * SECOND, SKIPPED


def test_what_is_sent_is_context_then_the_judged_rows_then_an_empty_reading(folder: Path) -> None:
    run = skab(folder)[0]
    sent = to_send(run, context_rows=19)

    assert len(sent) == 19 + len(run.truth) + 1
    np.testing.assert_array_equal(sent.values[:-1], run.recording.values[400 - 19 :])
    np.testing.assert_array_equal(sent.event_ns[:-1], run.recording.event_ns[400 - 19 :])
    assert np.isnan(sent.values[-1]).all()
    assert sent.event_ns[-1] == run.recording.event_ns[-1] + SECOND


def test_a_folder_without_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="expected SKAB's folder valve1"):
        skab(tmp_path)
    (tmp_path / "valve1").mkdir()
    with pytest.raises(RecordingError, match="found none"):
        skab(tmp_path)


def test_a_run_that_is_too_short_is_refused(tmp_path: Path) -> None:
    write_runs(tmp_path, runs=1, rows=400)

    with pytest.raises(RecordingError, match="more than 400 rows"):
        skab(tmp_path)


def test_a_run_without_labels_is_refused(tmp_path: Path) -> None:
    write_runs(tmp_path, runs=1)
    file = tmp_path / "valve1" / "0.csv"
    lines = [line.rsplit(";", 2)[0] for line in file.read_text().splitlines()]
    file.write_text("\n".join(lines))

    with pytest.raises(RecordingError, match="anomaly"):
        skab(tmp_path)
