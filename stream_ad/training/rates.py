"""How often a recording's devices and channels report, compared with a model's grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from stream_ad.core.batches import BoolArray, Float64Array, Int64Array
from stream_ad.core.model import Channel, Fill
from stream_ad.io.recordings.recordings import Recording

SECOND = 1_000_000_000
STEPS = (1, 2, 3, 5, 10, 15, 20, 30)
ROUND_NS = (
    *(1_000_000 * step for step in (1, 2, 5, 10, 20, 50, 100, 200, 500)),
    *(SECOND * step for step in STEPS),
    *(60 * SECOND * step for step in STEPS),
    *(3_600 * SECOND * step for step in (1, 2, 3, 6, 12, 24)),
)
"""Durations that people would choose."""
UNITS = ((86_400 * SECOND, "d"), (3_600 * SECOND, "h"), (60 * SECOND, "m"), (SECOND, "s"), (1_000_000, "ms"))


@dataclass(frozen=True, slots=True)
class Rates:
    """Which cells of a grid have values.

    Attributes:
        cells: int64[d], cells in which a device has any value.
        step_ns: int64[d], a device's usual interval between such cells; 0 if it has fewer than two.
        filled: float64[d, c], share of these cells in which the channel has its own value; NaN without cells.
    """

    cells: Int64Array
    step_ns: Int64Array
    filled: Float64Array

    @classmethod
    def of(cls, recording: Recording, channels: Sequence[Channel], period_ns: int) -> Rates:
        """Count; O(n c + n log n).

        Args:
            recording: contains all of the channels.
            channels: c of them.
            period_ns: of the grid.
        """
        at = [recording.channels.index(channel.name) for channel in channels]
        present = np.isfinite(recording.values[:, at])
        rows = np.flatnonzero(present.any(axis=1))
        device = recording.device[rows]
        cell = (recording.event_ns[rows] + period_ns // 2) // period_ns
        order = np.lexsort((cell, device))
        rows, device, cell = rows[order], device[order], cell[order]
        first = np.ones(len(rows), np.bool_)
        first[1:] = (device[1:] != device[:-1]) | (cell[1:] != cell[:-1])
        starts = np.flatnonzero(first)
        count = len(recording.devices)
        own = device[starts]
        cells = np.bincount(own, minlength=count)
        filled = np.full((count, len(at)), np.nan)
        if len(starts):
            per_cell: BoolArray = np.logical_or.reduceat(present[rows], starts, axis=0)
            for number in range(len(at)):
                with np.errstate(invalid="ignore"):
                    filled[:, number] = np.bincount(own, per_cell[:, number], minlength=count) / cells
        step_ns = np.zeros(count, np.int64)
        for number in np.flatnonzero(cells > 1).tolist():
            mine = cell[starts[np.searchsorted(own, number, "left") : np.searchsorted(own, number, "right")]]
            step_ns[number] = int(np.median(np.diff(mine))) * period_ns
        return cls(cells, step_ns, filled)

    def slow_devices(self, period_ns: int, least: float) -> Int64Array:
        """Return the devices that report too rarely for any window of this grid to reach a coverage of `least`."""
        return np.flatnonzero(self.step_ns * least > period_ns)

    def slow_channels(self, least: float) -> Int64Array:
        """Return the channels that too often have no value when others of the device have one."""
        known = self.filled > 0
        slow = known & (self.filled < least)
        return np.flatnonzero(slow.sum(axis=0) * 2 > known.sum(axis=0))


def hold_age_ns(recording: Recording, channel: str) -> int:
    """Return how long a slow channel's value must be held: a round number, at least twice its usual interval."""
    column = recording.values[:, recording.channels.index(channel)]
    rows = np.flatnonzero(np.isfinite(column))
    rows = rows[np.lexsort((recording.event_ns[rows], recording.device[rows]))]
    steps = np.diff(recording.event_ns[rows])[np.diff(recording.device[rows]) == 0]
    steps = steps[steps > 0]
    if not len(steps):
        return int(recording.event_ns[-1] - recording.event_ns[0]) + 1
    return round_ns(max(2 * float(np.median(steps)), 1.2 * float(np.quantile(steps, 0.99))))


def round_ns(least_ns: float) -> int:
    """Return the shortest round duration of at least this length."""
    for round_one in ROUND_NS:
        if round_one >= least_ns:
            return round_one
    day = ROUND_NS[-1]
    return int(-(-least_ns // day)) * day


def span_text(duration_ns: int) -> str:
    """Return a duration in the format of options: 250ms, 90s, 1h."""
    for unit_ns, unit in UNITS:
        if duration_ns >= unit_ns and duration_ns % unit_ns == 0:
            return f"{duration_ns // unit_ns}{unit}"
    return f"{duration_ns / SECOND:g}s"


def holding(channels: Sequence[Channel], ages_ns: dict[str, int]) -> tuple[Channel, ...]:
    """Return the channels, some of them with their last value held for an age."""
    return tuple(
        replace(channel, fill=Fill.HOLD, hold_max_age_ns=ages_ns[channel.name]) if channel.name in ages_ns else channel
        for channel in channels
    )
