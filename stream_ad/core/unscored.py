"""Devices that send readings but get no score: since when, and why."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from stream_ad.core.batches import BoolArray, Float64Array, Int32Array, Int64Array, UInt32Array, WindowBatch
from stream_ad.core.model import Model
from stream_ad.core.quality import Quality
from stream_ad.core.ring import NEVER
from stream_ad.core.slot_state import SlotState

HOUR_NS = 3_600_000_000_000
"""A device whose windows were scored before is reported after this long without a score, event time."""
FIRST_NS = 600_000_000_000
"""A device that never had a score is reported after this long: it is unlikely to get one."""
LEAST_WINDOWS = 3
"""Minimum number of windows before a report: a device's first one is seldom complete."""
TOGETHER = 1.5
"""Readings are assumed to contain all channels if cells with any value are at most this many times as many as cells
with a value of the densest channel."""

SUMS = ("windows", "any", "coverage")
"""State that is summed over a period without a score."""


class Lack(StrEnum):
    """Why a device's windows cannot be scored."""

    SLOW = "slow"
    """Its readings arrive more slowly than the grid's cells."""
    APART = "apart"
    """Its channels arrive separately, or some of them slowly."""
    ABSENT = "absent"
    """It does not send half of the bundle's channels."""
    NOTHING = "nothing"
    """None of its readings had a value for a channel of the bundle."""


@dataclass(frozen=True, slots=True)
class UnscoredDevice:
    """A device without a scored window.

    Attributes:
        device: its id.
        since_ns: event time at which the period without a score began.
        newest_ns: event time of its newest reading.
        lack: the reason.
        channel: the scarcest channel (for `APART`, among those that arrive at all); "" for `SLOW` and `NOTHING`.
        interval_s: seconds between two readings (`SLOW`) or two values of the channel (`APART`), estimated; else 0.
    """

    device: str
    since_ns: int
    newest_ns: int
    lack: Lack
    channel: str = ""
    interval_s: float = 0.0


class Unscored(SlotState):
    """Windows of each device since its last score; 8 c + 25 bytes per slot.

    The state depends only on the sequence of windows, not on batch boundaries.
    """

    def __init__(self, model: Model) -> None:
        self._names = [channel.name for channel in model.channels]
        self._minimum = model.min_coverage
        self._period_ns = model.window.period_ns
        self._least_ns = LEAST_WINDOWS * max(model.window.samples, model.window.stride) * model.window.period_ns
        super().__init__(
            {
                "since": np.array(NEVER, np.int64),
                "is_new": np.array(True),
                "windows": np.array(0, np.int64),
                "any": np.array(0, np.float64),
                "coverage": np.zeros(len(self._names), np.float64),
            }
        )

    def add_new(self, slots: Int32Array, event_ns: Int64Array) -> None:
        """Record the first reading of new devices.

        Args:
            slots: int32[k], distinct.
            event_ns: int64[k].
        """
        self["since"][slots] = event_ns

    def take(self, windows: WindowBatch, quality: UInt32Array) -> None:
        """Record windows.

        Args:
            windows: n windows, in emission order.
            quality: uint32[n], with the flag of those that were not scored.
        """
        slot = windows.keys.device
        since, is_new = self["since"], self["is_new"]
        unscored = (quality & np.uint32(Quality.UNSCORABLE)) != 0
        scored = slot[~unscored]
        ended = scored[since[scored] != NEVER]
        if len(ended):
            for name in SUMS:
                self[name][ended] = 0
            since[ended], is_new[ended] = NEVER, False
        if not unscored.any():
            return
        last_scored = np.full(len(since), -1, np.int64)
        last_scored[scored] = np.flatnonzero(~unscored)  # for equal indices the last write wins
        rows = np.flatnonzero(unscored)
        rows = rows[rows > last_scored[slot[rows]]]
        self._begin(slot[rows], windows.keys.end_ns[rows])
        is_filled = ~np.isnan(windows.values[rows])
        np.add.at(self["windows"], slot[rows], 1)
        np.add.at(self["any"], slot[rows], is_filled.any(axis=2).mean(axis=1))
        np.add.at(self["coverage"], slot[rows], windows.coverage[rows].astype(np.float64))

    def _begin(self, slot: Int32Array, end_ns: Int64Array) -> None:
        """Start a period for devices that had a score until now; a new device's period starts at its first reading."""
        since, is_new = self["since"], self["is_new"]
        first, at = np.unique(slot, return_index=True)
        begins = since[first] == NEVER
        # A first reading far ahead of its time was refused: a new device's period starts earlier.
        earlier = begins | (is_new[first] & (since[first] > end_ns[at]))
        since[first[earlier]] = end_ns[at[earlier]]

    def due(self, newest_ns: Int64Array, is_heard: BoolArray) -> Int64Array:
        """Return the slots of devices without a score for too long, the longest first.

        Args:
            newest_ns: int64[k], event time of each slot's newest reading, NEVER without one.
            is_heard: bool[k], whether the slot's device has sent readings lately.
        """
        k = len(newest_ns)
        since, is_new = self["since"][:k], self["is_new"][:k]
        limit = np.maximum(np.where(is_new, FIRST_NS, HOUR_NS), self._least_ns)
        known = is_heard & (since != NEVER) & (newest_ns != NEVER)
        slots = np.flatnonzero(known & (newest_ns - np.where(known, since, 0) >= limit))
        return slots[np.lexsort((slots, since[slots]))]

    def describe(self, slot: int, device: str, newest_ns: int) -> UnscoredDevice:
        """Return the reason why a device's windows are not scored."""
        windows = max(int(self["windows"][slot]), 1)
        coverage, filled = self["coverage"][slot] / windows, float(self["any"][slot]) / windows
        lack = lack_of(coverage, filled, self._minimum)
        channel, interval_s = "", 0.0
        if lack is Lack.SLOW:
            interval_s = self._period_ns / 1e9 / filled
        elif lack is Lack.ABSENT:
            channel = self._names[int(np.argmin(coverage))]
        elif lack is Lack.APART:
            thin = int(np.argmin(np.where(coverage > 0, coverage, 2)))
            channel, interval_s = self._names[thin], self._period_ns / 1e9 / float(coverage[thin])
        return UnscoredDevice(device, int(self["since"][slot]), newest_ns, lack, channel, interval_s)


def lack_of(coverage: Float64Array, filled: float, minimum: float) -> Lack:
    """Return why windows cannot be scored.

    Args:
        coverage: float64[c], the mean share of cells with a value, per channel.
        filled: the mean share of cells with a value of any channel.
        minimum: the share a channel needs.
    """
    densest = float(coverage.max(initial=0.0))
    if densest == 0.0:
        return Lack.NOTHING
    is_sparse = (coverage > 0) & (coverage < minimum)
    if densest >= minimum:
        return Lack.APART if is_sparse.any() else Lack.ABSENT
    return Lack.APART if filled >= minimum or filled > TOGETHER * densest else Lack.SLOW
