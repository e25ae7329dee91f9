"""Sliding quantile of a device's quiet scores, kept to its budget by feedback from incidents."""

from __future__ import annotations

import numpy as np

from stream_ad.core.batches import Float64Array, Int32Array, Int64Array, UInt8Array, UInt16Array
from stream_ad.core.thresholds.base import SCORE_FLOOR, Calibration, Phase, Threshold, log_scores, spread_of
from stream_ad.errors import ConfigError

BINS = 240
OUTER = 56
"""Bins on each side of the central range."""
ABOVE_MAXIMUM = np.log(1e9)
"""Range of the bins above the calibration's maximum, in log score."""
SPARE = 10.0
"""Feedback lowers the limit at most until this many budgets of the quiet rows are above it."""
LIFT = 4.0
"""Feedback raises the limit by at most this many spreads of the log score."""
YOUNG_ROWS = 100
"""A histogram with fewer rows has no usable tail; the calibration's quantile is used instead."""


class Quantile(Threshold):
    """Limit = factor x exp(offset) x the quantile of a device's quiet smoothed scores.

    A device's scores are counted in 240 bins over the log score: 128 equal bins around the calibration, and 56 on each
    side that widen towards 1e-12 and 1e9 times the calibration's maximum. There are two generations of counts; when the
    younger one has half of `memory_rows`, it replaces the older one. So the newest half to whole of `memory_rows`
    count, and nothing older: with decaying counts, an old high level would determine a quantile of 0.999 for ten
    half-lives. The calibration is a new slot's older generation. The quantile is interpolated within its bin.

    `1 - quantile` is the budget: the wanted share of quiet windows that open an incident. Each opening raises the
    offset by `feedback` spreads (standard deviation of the calibration's log scores), each quiet row lowers it by
    `feedback (1 - quantile)` spreads: in the long run these balance, for any distribution and memory. The offset is
    limited to a rise of 4 spreads, and to the level with ten budgets of the quiet rows above it, so that a device with
    nearly constant scores raises no alerts only to use its budget.

    Rows inside an incident are not learned. With a budget far below `1 / memory_rows`, the histogram's quantile is the
    maximum of the remembered scores: use `Spot` instead.

    Args:
        calibration: determines initial histogram, bins and spread.
        quantile: 0..1, exclusive.
        memory_rows: 100..60000.
        seed_rows: weight of the calibration in a new slot, in rows, 0..60000.
        factor: > 0.
        feedback: >= 0; 0: none.

    Raises:
        ConfigError: an argument is out of range.
    """

    def __init__(
        self,
        calibration: Calibration,
        quantile: float = 0.999,
        memory_rows: int = 5_000,
        seed_rows: int = 1_000,
        factor: float = 1.0,
        feedback: float = 0.1,
    ) -> None:
        if not 0 < quantile < 1 or not 0 < factor < np.inf or not 0 <= feedback < np.inf:
            raise ConfigError(
                "quantile threshold: expected 0 < quantile < 1, factor > 0 and feedback >= 0, "
                f"found {quantile}, {factor}, {feedback}"
            )
        if not 100 <= memory_rows <= 60_000 or not 0 <= seed_rows <= 60_000:
            raise ConfigError(
                "quantile threshold: expected memory_rows in 100..60000 and seed_rows in 0..60000, "
                f"found {memory_rows}, {seed_rows}"
            )
        logs = log_scores(calibration.score)
        self._budget = 1.0 - quantile
        self._generation = memory_rows // 2
        self._log_factor = float(np.log(factor))
        self._spread = spread_of(logs)
        self._step = feedback * self._spread
        self._edges = bin_edges(logs, self._spread)
        # Shares of rows above a level: the budget, and the most that feedback may use.
        self._shares = np.array([self._budget, min(SPARE * self._budget, 0.5)])
        quantile_cell = self._bin(np.quantile(logs, [quantile]))
        self._young_level = float(self._edges[quantile_cell[0] + 1])
        seed = seed_counts(self._bin(logs), seed_rows)
        # `at` is the bin where each share of the rows is reached, counted from the top; `over` counts the rows in the
        # bins above. Updating them incrementally avoids a sum over all bins per row.
        super().__init__(
            calibration,
            {
                "young": np.zeros(BINS, np.uint16),
                "old": seed,
                "young_rows": np.int32(0),
                "old_rows": np.int32(seed_rows),
                "at": np.full(2, BINS - 1, np.int16),
                "over": np.zeros(2, np.int32),
                "offset": np.float64(0),
                "limit": np.float64(0),
            },
        )
        self._settle(self._refresh)

    def _learn(self, device: Int32Array, score: Float64Array, phase: UInt8Array) -> None:
        """Count quiet and opening rows, move the offset, and update these slots' limits."""
        cell = self._bin(log_scores(score))
        self["young"][device, cell] += np.uint16(1)
        self["over"][device] += cell[:, None] > self["at"][device]
        rows = self["young_rows"][device] + np.int32(1)
        self["young_rows"][device] = rows
        is_full = rows >= self._generation
        if is_full.any():
            self._forget(device[is_full])
        self["offset"][device] += np.where(phase == Phase.OPENED, self._step, -self._step * self._budget)
        self._refresh(device)

    def _bin(self, logs: Float64Array) -> Int64Array:
        inner = self._edges[1:-1]
        return np.searchsorted(inner, logs, side="right").astype(np.int64)

    def _forget(self, device: Int32Array) -> None:
        """Replace the older generation by the younger one, and start an empty one."""
        counts = self["young"][device]
        self["old"][device] = counts
        self["young"][device] = 0
        self["old_rows"][device] = self["young_rows"][device]
        self["young_rows"][device] = 0
        above = np.cumsum(counts[:, ::-1], axis=1, dtype=np.int32)
        below = (above[:, None, :] < (above[:, -1:] * self._shares)[:, :, None]).sum(axis=2)
        at = BINS - 1 - below
        row = np.arange(len(device))[:, None]
        self["at"][device] = at
        self["over"][device] = above[row, below] - counts[row, at]

    def _refresh(self, device: Int32Array) -> None:
        """Clamp the offsets and update the limits of these slots."""
        total = self["young_rows"][device] + self["old_rows"][device]
        want = total[:, None] * self._shares
        self._follow(device, want)
        at, over = self["at"][device], self["over"][device]
        low, high = self._edges[at[:, 0]], self._edges[at[:, 0] + 1]
        inside = (want[:, 0] - over[:, 0]) / np.maximum(self._counted(device, at[:, 0]), 1)
        level = high - np.clip(inside, 0.0, 1.0) * (high - low)
        # The upper edge, so that a device with all scores in one bin stays below its limit.
        least = np.minimum(self._edges[at[:, 1] + 1] - level, 0.0)
        if (is_new := total < min(YOUNG_ROWS, self._generation)).any():
            level = np.where(is_new, self._young_level, level)
            least = np.where(is_new, 0.0, least)
        offset = np.clip(self["offset"][device], least, LIFT * self._spread)
        self["offset"][device] = offset
        self["limit"][device] = np.exp(np.minimum(level + offset + self._log_factor, 690.0))

    def _follow(self, device: Int32Array, want: Float64Array) -> None:
        """Move `at` and `over` until `over < want <= over + counted[at]`.

        Args:
            device: int32[k].
            want: float64[k, 2], rows that must be above each level. An empty slot (0 wanted) ends at the top bin.
        """
        slot = np.repeat(device, 2)
        at, over, goal = self["at"][device].reshape(-1), self["over"][device].reshape(-1), want.reshape(-1)
        moving = np.flatnonzero((over >= goal) & (at < BINS - 1))
        while len(moving):
            at[moving] += 1
            over[moving] -= self._counted(slot[moving], at[moving])
            moving = moving[(over[moving] >= goal[moving]) & (at[moving] < BINS - 1)]
        moving = np.flatnonzero(over + self._counted(slot, at) < goal)
        while len(moving):
            over[moving] += self._counted(slot[moving], at[moving])
            at[moving] -= 1
            moving = moving[over[moving] + self._counted(slot[moving], at[moving]) < goal[moving]]
        self["at"][device] = at.reshape(-1, 2)
        self["over"][device] = over.reshape(-1, 2)

    def _counted(self, device: Int32Array, cell: Int64Array) -> Int32Array:
        """Return int32[k], the rows of both generations in one bin of each slot."""
        counted: Int32Array = np.add(self["young"][device, cell], self["old"][device, cell], dtype=np.int32)
        return counted


def bin_edges(logs: Float64Array, spread: float) -> Float64Array:
    """Return the edges of the bins over the log score.

    Args:
        logs: float64[m], log scores of the calibration.
        spread: > 0, their standard deviation.

    Returns:
        float64[241], ascending.
    """
    median, top = float(np.median(logs)), float(logs.max())
    reach = max(top - median, spread)
    fine = np.linspace(median - reach, top + reach, BINS - 2 * OUTER + 1)
    width = fine[1] - fine[0]
    low_end = min(float(np.log(SCORE_FLOOR)), fine[0]) - 1.0
    below = fine[0] - _widening(width, fine[0] - low_end)
    above = fine[-1] + _widening(width, max(ABOVE_MAXIMUM - reach, OUTER * width))
    return np.concatenate([below[::-1], fine, above])


def _widening(first: float, total: float) -> Float64Array:
    """Return OUTER ascending distances that end at `total`; steps grow by a constant ratio."""
    low, high = 1e-6, 1.0
    powers = np.arange(1, OUTER + 1)
    for _ in range(60):
        middle = (low + high) / 2
        too_far = first * np.expm1(OUTER * np.log1p(middle)) / middle > total
        low, high = (low, middle) if too_far else (middle, high)
    steps = np.expm1(powers * np.log1p(low))
    return np.asarray(steps / steps[-1] * total, np.float64)


def seed_counts(cell: Int64Array, rows: int) -> UInt16Array:
    """Scale the calibration's histogram to a number of rows.

    The number of rows at or above each bin is scaled and rounded, to keep the tail's share.

    Args:
        cell: int64[m], the bin of each calibration score.
        rows: sum of the result.

    Returns:
        uint16[240].
    """
    above = np.cumsum(np.bincount(cell, minlength=BINS)[::-1])
    scaled = np.rint(above * (rows / len(cell))).astype(np.int64)
    counts: UInt16Array = np.diff(scaled, prepend=0)[::-1].astype(np.uint16)
    return counts
