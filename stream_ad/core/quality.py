"""Quality flags of a window, and the rule that makes a window unscorable."""

from __future__ import annotations

from enum import IntFlag

import numpy as np

from stream_ad.core.batches import BoolArray, Float32Array, UInt32Array


class Quality(IntFlag):
    """Bits of the `quality` column."""

    GAPS = 1 << 0
    """Some cells had no sample and no held value."""
    HELD = 1 << 1
    """Some cells were filled with the channel's last value."""
    DUPLICATE = 1 << 2
    """Several readings fell into a cell of the window; the first per channel counts."""
    OUT_OF_ORDER = 1 << 3
    """Some readings arrived after younger ones of the device (within the lateness)."""
    IDLE_CLOSED = 1 << 4
    """Closed by log time because the device was silent, not by its watermark."""
    BAD_VALUE = 1 << 5
    """The device sent values that are not finite numbers; they count as missing."""
    CLIPPED = 1 << 6
    """Values exceeded the clip, in training standard deviations: the window was scaled down before scoring, and the
    excess counts in the score."""
    CHANNEL_MISSING = 1 << 7
    """At least one channel is below the bundle's minimum coverage while another is not."""
    CHANNEL_STUCK = 1 << 8
    """At least one channel that always moved in training did not move in the window."""
    UNSCORABLE = 1 << 9
    """No score: coverage is too low."""
    AFRESH = 1 << 10
    """Input was lost before it was scored, and the device started with empty state after the loss, so its limit has
    learned little. Set on the first `pipeline.AFRESH_ROWS` rows of each device."""

    FLEET_SCALE = 1 << 11
    """The model has scales of single devices but not of this one: it was normalised with the fleet's."""


SENSOR_FAULT = np.uint32(Quality.CHANNEL_MISSING | Quality.CHANNEL_STUCK)


def coverage_flags(coverage: Float32Array, minimum: float) -> tuple[UInt32Array, BoolArray]:
    """Check windows by their share of cells with a value.

    A window is unscorable when fewer than half of its channels reach the minimum. A window with
    some channels below it is scored (the gap is filled with the training mean) and flagged.

    Args:
        coverage: float32[n, c], 0..1.
        minimum: a channel below this counts as missing, 0..1.

    Returns:
        uint32[n] flags to add, and bool[n], True where the window can be scored.
    """
    present = coverage >= minimum
    share = present.mean(axis=1) if coverage.shape[1] else np.zeros(len(coverage))
    scorable = share >= 0.5
    flags = np.zeros(len(coverage), np.uint32)
    flags[scorable & (share < 1.0)] |= np.uint32(Quality.CHANNEL_MISSING)
    flags[~scorable] |= np.uint32(Quality.UNSCORABLE)
    return flags, scorable
