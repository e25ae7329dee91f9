"""Published labelled data sets, as runs to train on and to judge."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from stream_ad.core.batches import BoolArray, Int64Array
from stream_ad.core.phases import cells_of, is_between
from stream_ad.errors import RecordingError
from stream_ad.io.recordings import recordings
from stream_ad.io.recordings.layouts import Layout
from stream_ad.io.recordings.recordings import Recording

SKAB_FOLDER = "valve1"
SKAB_TRAINING_ROWS = 400
SKAB_PERIOD_NS = 1_000_000_000
SKAB_LABEL = "anomaly"


@dataclass(frozen=True, slots=True)
class Run:
    """One labelled recording of one device: the first rows are normal operation, the rest is judged.

    Attributes:
        name: also the device's id.
        recording: all rows, in order of time.
        training_rows: number of rows before the first judged one.
        truth: bool[n - training_rows], the judged row is anomalous.
        period_ns: step of the grid.
    """

    name: str
    recording: Recording
    training_rows: int
    truth: BoolArray
    period_ns: int

    @property
    def training(self) -> Recording:
        """The rows for training and calibration: all of them, whatever their labels, as the protocols prescribe."""
        return replace(rows_of(self.recording, 0, self.training_rows), labels={})

    @property
    def judged_end_ns(self) -> Int64Array:
        """int64[n - training_rows], end of the window of stride 1 that closes with each judged row."""
        event_ns = self.recording.event_ns
        is_later = is_between(event_ns[:1], self.period_ns)
        cell = cells_of(event_ns[self.training_rows :], is_later, self.period_ns)
        return (cell + 1) * self.period_ns


def skab(path: Path) -> list[Run]:
    """Read the 16 runs of SKAB's `valve1` according to the published protocol: 400 training rows per file.

    Args:
        path: the folder `valve1`, or one that contains it, directly or under `skab` or `data`.

    Raises:
        RecordingError: the folder is missing, or a file is not a labelled SKAB run.
    """
    folder = _skab_folder(path)
    files = sorted(
        (file for file in folder.glob("*.csv") if re.fullmatch(r"[0-9]+", file.stem)), key=lambda file: int(file.stem)
    )
    if not files:
        raise RecordingError(f"{folder}: expected SKAB runs 0.csv, 1.csv, …, found none")
    return [_skab_run(file) for file in files]


def _skab_folder(path: Path) -> Path:
    for folder in (path, path / SKAB_FOLDER, path / "data" / SKAB_FOLDER, path / "skab" / SKAB_FOLDER):
        if folder.name == SKAB_FOLDER and folder.is_dir():
            return folder
    raise RecordingError(f"{path}: expected SKAB's folder {SKAB_FOLDER} in it, found none")


def _skab_run(file: Path) -> Run:
    name = f"{SKAB_FOLDER}-{file.stem}"
    # The times have no zone; its choice does not affect results.
    recording = recordings.read(file, Layout("skab"), zone="UTC", device=name)
    if SKAB_LABEL not in recording.labels:
        raise RecordingError(f"{file}: expected a column {SKAB_LABEL!r}")
    if len(recording) <= SKAB_TRAINING_ROWS:
        raise RecordingError(f"{file}: expected more than {SKAB_TRAINING_ROWS} rows, found {len(recording)}")
    truth = recording.labels[SKAB_LABEL][SKAB_TRAINING_ROWS:] > 0.5
    return Run(name, recording, SKAB_TRAINING_ROWS, truth, SKAB_PERIOD_NS)


def rows_of(recording: Recording, start: int, stop: int) -> Recording:
    """Return rows start..stop-1 of a recording."""
    rows = slice(start, stop)
    return replace(
        recording,
        device=recording.device[rows],
        event_ns=recording.event_ns[rows],
        values=np.ascontiguousarray(recording.values[rows]),
        bad=None if recording.bad is None else np.ascontiguousarray(recording.bad[rows]),
        labels={name: label[rows] for name, label in recording.labels.items()},
    )


def to_send(run: Run, context_rows: int) -> Recording:
    """Return what the device sends: some training rows, all judged rows, one reading without values.

    The context fills the first judged window. The last reading, one period later, only advances the device's time so
    that the last judged window closes.

    Args:
        run: the run.
        context_rows: training rows before the first judged row, at most all of them.
    """
    whole = run.recording
    part = rows_of(whole, run.training_rows - min(context_rows, run.training_rows), len(whole))
    width = len(whole.channels)
    return replace(
        part,
        device=np.append(part.device, np.int32(0)),
        event_ns=np.append(part.event_ns, part.event_ns[-1] + run.period_ns),
        values=np.concatenate([part.values, np.full((1, width), np.nan)]),
        bad=None if part.bad is None else np.concatenate([part.bad, np.zeros((1, width), np.bool_)]),
        labels={},
    )
