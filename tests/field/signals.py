"""Made-up machines: four channels that follow one load, as numbers and as text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
import numpy.typing as npt

CHANNELS = ("temp", "press", "flow", "current")
START = datetime(2026, 3, 2, tzinfo=UTC)


def machine(rows: int, seed: int = 0) -> npt.NDArray[np.float64]:
    """Return float64[rows, 4]: temperature, pressure, flow and current of a machine that follows a slow load."""
    rng = np.random.default_rng(seed)
    load = _autoregression(rng, rows, 0.98, 0.2)
    columns = [
        60 + 3 * load + _autoregression(rng, rows, 0.5, 0.3),
        5 + 0.4 * load + _autoregression(rng, rows, 0.5, 0.05),
        80 + 6 * load + _autoregression(rng, rows, 0.5, 0.6),
        12 + 0.8 * load + _autoregression(rng, rows, 0.5, 0.1),
    ]
    return np.stack(columns, axis=1)


def stamp(row: int, step_s: float = 1.0, start: datetime = START) -> str:
    """Return the time of a row as ISO 8601 in UTC, with milliseconds."""
    return (start + timedelta(seconds=step_s * row)).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def csv_lines(
    values: npt.NDArray[np.float64],
    device: str = "p1",
    channels: Sequence[str] = CHANNELS,
    step_s: float = 1.0,
    first: int = 0,
    header: bool = True,
) -> Iterator[str]:
    """Yield a CSV of one device: time, device, a column per channel."""
    if header:
        yield ",".join(("time", "device", *channels))
    for row, cells in enumerate(values):
        yield ",".join((stamp(first + row, step_s), device, *(f"{cell:.4f}" for cell in cells)))


def _autoregression(rng: np.random.Generator, rows: int, weight: float, spread: float) -> npt.NDArray[np.float64]:
    found = np.empty(rows)
    last = 0.0
    for row, shock in enumerate(rng.normal(0, spread, rows)):
        last = weight * last + shock
        found[row] = last
    return found
