"""Notes on a recording before training: channels that stand still, and devices that differ tenfold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from stream_ad.core.batches import Float64Array
from stream_ad.io.recordings.recordings import Recording

TENFOLD = 10.0
NAMED = 5


def remarks(recording: Recording, channels: Sequence[str] | None = None) -> tuple[str, ...]:
    """Return notes on channels that never move and on devices with other levels or units.

    Args:
        recording: of any devices.
        channels: the channels to consider, None for all.
    """
    names = sorted(channels if channels is not None else recording.channels)
    at = [recording.channels.index(name) for name in names]
    return (*_still(names, recording.values[:, at]), *_unlike(recording, names, at))


def _still(names: Sequence[str], values: Float64Array) -> Iterator[str]:
    low, high = np.fmin.reduce(values, axis=0), np.fmax.reduce(values, axis=0)
    still = [name for name, same in zip(names, (low == high).tolist(), strict=True) if same]
    if not still:
        return
    what = "no channel moves in this recording" if len(still) == len(names) else f"{_listed(still)} never moved here"
    yield f"{what}: its scale is assumed; a change by 1 % of the level counts 3 deviations"


def _unlike(recording: Recording, names: Sequence[str], at: Sequence[int]) -> Iterator[str]:
    """Compare root mean squares, which reveal other levels and units, even at a level of 0."""
    if len(recording.devices) < 2:
        return
    size = len(recording.devices)
    device = recording.device
    found = []
    for name, column in zip(names, at, strict=True):
        values = recording.values[:, column]
        known = np.isfinite(values)
        count = np.bincount(device[known], minlength=size)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            level = np.sqrt(np.bincount(device[known], values[known] ** 2, minlength=size) / count)
        some = np.flatnonzero(np.isfinite(level) & (level > 0))
        if len(some) < 2 or level[some].max() < TENFOLD * level[some].min():
            continue
        lowest, highest = (int(some[pick(level[some])]) for pick in (np.argmin, np.argmax))
        low, high = (f"{recording.devices[number]} about {level[number]:.3g}" for number in (lowest, highest))
        found.append(f"{name} differs tenfold or more between devices ({low}, {high}): check unit and range")
    yield from found[:NAMED]
    if len(found) > NAMED:
        yield f"{len(found) - NAMED} more channels differ tenfold or more between devices"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
