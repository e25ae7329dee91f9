"""Scoring: normalise, fill, scale down, score in padded chunks of fixed size, raise to the scores of far values.

A detector always gets chunks of one size, padded with zeros, so that a row's score has the same bits at any position
and with any poll boundaries. A larger deviation never scores lower: see `overrange`, and
docs/adr/0018-larger-never-lower.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stream_ad.core.batches import BoolArray, Float32Array, Float64Array, Int64Array, ScoreBatch, WindowBatch
from stream_ad.core.detectors.base import Scores, check_scores
from stream_ad.core.device_scales import DeviceScales
from stream_ad.core.model import Model, Normaliser
from stream_ad.core.overrange import MOST, NEAR, draw_in, growth, with_far
from stream_ad.core.quality import Quality, coverage_flags

CHUNK = 128


class Scoring:
    """Scores windows with one model; holds no state that a result depends on."""

    def __init__(self, model: Model, chunk: int = CHUNK) -> None:
        self.model = model
        self._chunk = chunk
        # Expanded to a whole window: broadcasting over a few channels is slow.
        shape = (model.window.samples, len(model.channels))
        self._center = np.ascontiguousarray(np.broadcast_to(model.normaliser.center, shape)).ravel()
        self._inverse = np.ascontiguousarray(np.broadcast_to(1.0 / model.normaliser.scale, shape)).ravel()
        self._clip = float(model.normaliser.clip)
        blank = np.zeros((chunk, *shape), np.float32)
        center = model.detector.score(blank)
        self._explains = center.contribution is not None
        self._least, self._near = 0.0, self._clip
        if (overrange := model.overrange) is not None:
            # A deviation from the training mean may at first approach the detector's mean slightly.
            least = float(center.score[0])
            self._least = least if least <= float(model.calibration.score.min()) else 0.0
            self._near = min(self._clip, NEAR * float(overrange.reach.min()))
        self._ids: Sequence[str] | None = None
        self._rows: Int64Array = np.zeros(0, np.int64)
        self._moves = np.array([channel.always_moves for channel in model.channels], np.bool_)
        self._counters = np.array([channel.counter for channel in model.channels], np.bool_)

    def score(self, windows: WindowBatch, ids: Sequence[str] = ()) -> ScoreBatch:
        """Score closed windows; a window without enough samples keeps a NaN score and a flag.

        Args:
            windows: n of them.
            ids: the device of each slot; unused if the model has no scales of single devices.
        """
        n, _, channels = windows.values.shape
        flags, scorable = coverage_flags(windows.coverage, self.model.min_coverage)
        quality = windows.quality | flags
        stuck = self._stuck(windows.values)
        quality[stuck.any(axis=1)] |= np.uint32(Quality.CHANNEL_STUCK)
        missing = (windows.coverage < self.model.min_coverage) & scorable[:, None]
        score: Float64Array = np.full(n, np.nan)
        contribution: Float32Array = np.full((n, channels), np.nan, np.float32)
        rows = np.flatnonzero(scorable)
        if len(rows):
            values = windows.values if len(rows) == n else windows.values[rows]
            known: Int64Array | None = None
            if self.model.scales is not None:
                known = self._scale_rows(self.model.scales, ids)[windows.keys.device[rows]]
                quality[rows[known < 0]] |= np.uint32(Quality.FLEET_SCALE)
            found, clipped = self._chunks(values, known)
            score[rows] = found.score
            quality[rows[clipped]] |= np.uint32(Quality.CLIPPED)
            if found.contribution is not None:
                contribution[rows] = found.contribution
                # The detector's contribution of an absent channel refers to the training mean.
                contribution[missing | (windows.coverage == 0)] = np.nan
        return ScoreBatch(
            keys=windows.keys,
            quality=quality,
            coverage=windows.coverage,
            score=score,
            contribution=contribution if self._explains else None,
            model_id=self.model.model_id,
            faulty=stuck | missing,
        )

    def _scale_rows(self, scales: DeviceScales, ids: Sequence[str]) -> Int64Array:
        """Return the row of each slot's device; looked up again only when slots change hands."""
        if ids is not self._ids:
            self._ids, self._rows = ids, scales.rows(ids)
        return self._rows

    def score_values(self, values: Float64Array) -> Scores:
        """Score raw windows, float64[n, t, c] with NaN for missing samples, whatever their coverage.

        Those of devices with a scale of their own are in the fleet's frame (`DeviceScales.in_frame`).
        """
        return self._chunks(values)[0]

    def _chunks(self, values: Float64Array, known: Int64Array | None = None) -> tuple[Scores, BoolArray]:
        """Score raw windows; `known` has the row of each device in the scales (`DeviceScales.rows`), or is None."""
        scales, normaliser = self.model.scales, self.model.normaliser
        n, samples, channels = values.shape
        chunk = np.zeros((self._chunk, samples, channels), np.float32)
        wide = np.empty((self._chunk, samples * channels))
        score: Float64Array = np.empty(n)
        contributions: list[Float32Array] = []
        clipped = np.zeros(n, np.bool_)
        for start in range(0, n, self._chunk):
            raw = values[start : start + self._chunk]
            rows = len(raw)
            if known is not None and scales is not None:
                at = known[start : start + rows]
                raw = scales.in_frame(raw, at, normaliser.center, normaliser.scale)
            chunk[rows:] = 0.0
            outside = self._normalise(raw, wide[:rows], chunk[:rows])
            far = self._draw_in(wide[:rows], chunk[:rows], outside, clipped[start : start + rows])
            found = check_scores(self.model.detector.score(chunk), self._chunk, channels)
            found = with_far(Scores(np.maximum(found.score, self._least), found.contribution), outside, far)
            score[start : start + rows] = found.score[:rows]
            if found.contribution is not None:
                contributions.append(found.contribution[:rows])
        joined = np.concatenate(contributions) if contributions else None
        return Scores(score, joined), clipped

    def _normalise(self, raw: Float64Array, wide: Float64Array, out: Float32Array) -> Int64Array:
        """Write normalised windows, gaps filled in `out` alone, and return the rows that may have a far value."""
        flat = out.reshape(len(out), -1)
        with np.errstate(over="ignore"):  # what is beyond float32, or float64, is drawn in
            np.subtract(raw.reshape(len(raw), -1), self._center, out=wide)
            np.multiply(wide, self._inverse, out=wide)
            flat[...] = wide
        high, low = flat.max(axis=1), flat.min(axis=1)  # NaN if there is any
        if np.isnan(high).any():
            fill_gaps(out)
            high, low = flat.max(axis=1), flat.min(axis=1)
        return np.flatnonzero(np.maximum(high, -low) > self._near)

    def _draw_in(self, wide: Float64Array, out: Float32Array, rows: Int64Array, clipped: BoolArray) -> Float64Array:
        """Draw the windows of some rows within the clip, and return float64[k, c], what their far values score."""
        exact = wide[rows].reshape(len(rows), *out.shape[1:])
        fill_gaps(exact)
        np.clip(exact, -MOST, MOST, out=exact)
        largest = np.abs(exact).max(axis=1)
        beyond = largest.max(axis=1) > self._clip
        clipped[rows[beyond]] = True
        out[rows[beyond]] = draw_in(exact[beyond], self._clip)
        overrange = self.model.overrange
        if overrange is None:
            return np.zeros_like(largest)
        return overrange.score * growth(largest / overrange.reach)

    def _stuck(self, values: Float64Array) -> BoolArray:
        """Return bool[n, c]: the channel always moved in training and stands still in the window."""
        n, samples, channels = values.shape
        stuck = np.zeros((n, channels), np.bool_)
        if samples < 2 or not self._moves.any():
            return stuck
        first = values[:, 0]
        maybe = (first == values[:, samples // 2]) & (first == values[:, -1]) & self._moves
        rows = np.flatnonzero(maybe.any(axis=1))
        if len(rows):
            stuck[rows] = (values[rows] == first[rows, None]).all(axis=1) & self._moves
            stuck[rows] &= (first[rows] == 0) | ~self._counters  # one that always adds the same moves
        return stuck


def normalise(values: Float64Array, normaliser: Normaliser) -> Float32Array:
    """Return raw windows, float64[n, t, c], as a detector is fitted on them: float32, scaled, filled, cut, finite."""
    wide = (values - normaliser.center) * (1.0 / normaliser.scale)
    with np.errstate(over="ignore"):  # what is beyond float32 is cut as well
        out = wide.astype(np.float32)
    fill_gaps(out)
    return np.clip(out, -normaliser.clip, normaliser.clip, out=out)


def fill_gaps(values: Float32Array | Float64Array) -> None:
    """Fill missing samples in place: the value before, else the one after, else 0 (the training mean).

    Args:
        values: float32 or float64[n, t, c], normalised.
    """
    rows = np.flatnonzero(np.isnan(values).any(axis=(1, 2)))
    if len(rows) == 0:
        return
    part = values[rows]
    samples = part.shape[1]
    step = np.arange(samples)[None, :, None]
    present = ~np.isnan(part)
    before = np.maximum.accumulate(np.where(present, step, -1), axis=1)
    after = np.minimum.accumulate(np.where(present, step, samples)[:, ::-1], axis=1)[:, ::-1]
    source = np.where(before >= 0, before, np.where(after < samples, after, 0))
    filled = np.take_along_axis(part, source, axis=1)
    values[rows] = np.nan_to_num(filled, nan=0.0)
