"""Peaks over threshold: a generalised Pareto tail fitted to a device's quiet scores.

Siffer, Fouque, Termier, Largouët: Anomaly detection in streams with extreme value theory, KDD 2017.
"""

from __future__ import annotations

import numpy as np

from stream_ad.core.batches import Float64Array, Int32Array, UInt8Array
from stream_ad.core.thresholds.base import Calibration, Threshold, log_scores, spread_of
from stream_ad.errors import ConfigError

SHAPE_LIMIT = 0.5
"""Probability-weighted moments exist for shapes below this; the fit is clipped to it on both sides."""
PRIOR_PEAKS = 10.0
"""Weight, in peaks, of the prior shape 0 (an exponential tail)."""
TRACKING = 0.05
"""The tail's start rises by this share of the spread at each row above it."""
LEAST_GAP = 0.1
"""Minimum distance of the limit above the tail's start, as a share of the spread."""


class Spot(Threshold):
    """Limit = the score that a quiet row exceeds with probability `risk` (Siffer et al., eq. 1).

    It uses the log of the smoothed score, where tails are close to exponential and the shape is easy to estimate:
    `log limit = t + sigma / gamma ((risk n / n_t)^-gamma - 1)`, where `n_t` of `n` rows exceeded the tail's start `t`.
    Shape and scale come from the probability-weighted moments of the newest `peaks` excesses (Hosking and Wallis,
    Technometrics 1987): a closed form, instead of the paper's numerical likelihood.

    Unlike in the paper's SPOT, rows above the limit belong to the tail if they are quiet or open an incident: without
    them, the tail would be cut at the limit, which would then fall. Rows inside an incident are not learned. And `t`
    follows a changing level: it rises by `0.05 (1 - tail_share)` spreads at a row above it and falls by
    `0.05 tail_share` spreads at any other. After a fall of the level, the limit falls by about one spread in 1,000
    rows, and the tail is the new level's only after `peaks` new excesses. `n` and `n_t` are halved when `n_t` reaches
    twice `peaks`.

    The risk is per row: if excesses are clustered, fewer incidents open.

    Args:
        calibration: determines the first `t`, excesses and counts.
        risk: 0 < risk < tail_share.
        tail_share: share of rows above `t`, 0..1, exclusive.
        peaks: 20..200.

    Raises:
        ConfigError: an argument is out of range.
    """

    def __init__(
        self, calibration: Calibration, risk: float = 1e-4, tail_share: float = 0.02, peaks: int = 100
    ) -> None:
        if not 0 < risk < tail_share < 1 or not 20 <= peaks <= 200:
            raise ConfigError(
                "spot threshold: expected 0 < risk < tail_share < 1 and peaks in 20..200, "
                f"found {risk}, {tail_share}, {peaks}"
            )
        logs = log_scores(calibration.score)
        self._risk = risk
        self._tail_share = tail_share
        self._peaks = peaks
        self._spread = spread_of(logs)
        start = float(np.quantile(logs, 1 - tail_share))
        over = logs[logs > start]
        kept = over[-peaks:]
        ring = np.full(peaks, -np.inf, np.float32)
        ring[: len(kept)] = kept
        scale = min(1.0, 2 * peaks / (len(over) + 1))
        super().__init__(
            calibration,
            {
                "ring": ring,
                "next": np.uint16(len(kept) % peaks),
                "start": np.float64(start),
                "rows": np.float64(len(logs) * scale),
                "over": np.float64(len(over) * scale),
                "shape": np.float64(0),
                "scale": np.float64(0),
                "limit": np.float64(0),
            },
        )
        self._settle(self._fit, self._refresh)

    def _learn(self, device: Int32Array, score: Float64Array, phase: UInt8Array) -> None:
        """Count quiet and opening rows, keep their excesses, and update these slots' limits."""
        logs = log_scores(score)
        start = self["start"][device]
        is_over = logs > start
        self["rows"][device] += 1.0
        self["start"][device] = start + TRACKING * self._spread * (is_over - self._tail_share)
        if is_over.any():
            self._keep(device[is_over], logs[is_over])
        self._refresh(device)

    def _keep(self, device: Int32Array, logs: Float64Array) -> None:
        """Add peaks to the rings, count them, and refit these slots' tails."""
        at = self["next"][device]
        self["ring"][device, at] = logs
        self["next"][device] = (at + np.uint16(1)) % np.uint16(self._peaks)
        over = self["over"][device] + 1.0
        halve = np.where(over >= 2 * self._peaks, 0.5, 1.0)
        self["over"][device] = over * halve
        self["rows"][device] *= halve
        self._fit(device)

    def _fit(self, device: Int32Array) -> None:
        """Fit shape and scale from the probability-weighted moments of the excesses.

        Hosking and Wallis (Technometrics 1987), with plotting positions (i - 0.35) / m. With few peaks, the shape
        shrinks towards 0; the scale then preserves their mean.
        """
        excess = self["ring"][device].astype(np.float64) - self["start"][device, None]
        # Peaks below the moved start sort to the front and have no weight.
        excess = np.sort(np.where(excess > 0, excess, 0.0), axis=1)
        live = excess > 0
        count = live.sum(axis=1)
        rank = np.arange(1, self._peaks + 1) - (self._peaks - count)[:, None]
        some = np.maximum(count, 1)
        rest = np.where(live, 1.0 - (rank - 0.35) / some[:, None], 0.0)
        mean = excess.sum(axis=1) / some
        weighted = (excess * rest).sum(axis=1) / some
        below = mean - 2.0 * weighted
        # One or two equal excesses have no spread to fit: they get the clipped shape.
        raw = 2.0 - mean / np.where(below > 0, below, np.inf)
        shape = np.clip(raw, -SHAPE_LIMIT, SHAPE_LIMIT) * count / (count + PRIOR_PEAKS)
        self["shape"][device] = shape
        self["scale"][device] = mean * (1.0 - shape)

    def _refresh(self, device: Int32Array) -> None:
        """Update the limits of these slots (eq. 1; the logarithm is its limit for shape 0)."""
        share = np.maximum(self["over"][device], 1.0) / np.maximum(self["rows"][device], 1.0)
        # If even the tail's start is rarer than the risk, the minimum limit applies.
        log_ratio = np.maximum(np.log(share / self._risk), 0.0)
        shape = self["shape"][device]
        is_flat = np.abs(shape) < 1e-6
        shape = np.where(is_flat, 1.0, shape)
        reach = np.where(is_flat, log_ratio, np.expm1(shape * log_ratio) / shape)
        gap = np.maximum(self["scale"][device] * reach, LEAST_GAP * self._spread)
        self["limit"][device] = np.exp(np.minimum(self["start"][device] + gap, 690.0))
