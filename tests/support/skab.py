"""Files in SKAB's layout, made up; and where the real ones may lie."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

CHANNELS = (
    "Accelerometer1RMS",
    "Accelerometer2RMS",
    "Current",
    "Pressure",
    "Temperature",
    "Thermocouple",
    "Voltage",
    "Volume Flow RateRMS",
)
ROWS = 520
FAULT = slice(440, 480)
SKIPPED = 30
"""Every so many rows the clock steps two seconds, as SKAB's does."""


def write_runs(folder: Path, runs: int, rows: int = ROWS) -> Path:
    """Write `valve1/<k>.csv`: channels that follow one load, a fault that breaks it; return `folder`."""
    (folder / "valve1").mkdir(parents=True)
    for number in range(runs):
        write_run(folder / "valve1" / f"{number}.csv", seed=number, rows=rows)
    return folder


def write_run(path: Path, seed: int, rows: int = ROWS) -> None:
    """Write one run."""
    rng = np.random.default_rng(seed)
    load = np.sin(np.arange(rows) / 9 + rng.uniform(0, 6))[:, None]
    values = 20 + load * rng.uniform(0.5, 2.0, len(CHANNELS)) + 0.2 * rng.standard_normal((rows, len(CHANNELS)))
    values[FAULT, 2:4] += 3.0
    anomaly = np.zeros(rows)
    anomaly[FAULT] = 1.0
    changepoint = np.abs(np.diff(anomaly, prepend=0.0))
    begin = datetime(2020, 3, 9, 10, 14, 33, tzinfo=UTC)
    lines = ["datetime;" + ";".join(CHANNELS) + ";anomaly;changepoint"]
    for row in range(rows):
        moment = begin + timedelta(seconds=row + row // SKIPPED)
        cells = ";".join(f"{value:.6g}" for value in values[row])
        lines.append(f"{moment:%Y-%m-%d %H:%M:%S};{cells};{anomaly[row]:.1f};{changepoint[row]:.1f}")
    path.write_text("\n".join(lines) + "\n")


def real_skab() -> Path | None:
    """Return the folder of the real data set: in `STREAM_AD_DATA`, else in `../shared/data`; None without it."""
    stated = os.environ.get("STREAM_AD_DATA")
    data = Path(stated) if stated else Path(__file__).parents[3] / "shared" / "data"
    return data / "skab" if (data / "skab" / "valve1").is_dir() else None
