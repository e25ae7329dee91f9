"""Score batches for tests, and a plain per-row rewriting of what deciding does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isnan, nan

import numpy as np

from stream_ad.core.batches import AlertKind, AlertPhase, Arrays, Float64Array, Int64Array, Keys, ScoreBatch
from stream_ad.core.incidents import IncidentRules
from stream_ad.core.quality import SENSOR_FAULT
from stream_ad.core.thresholds.base import Calibration, Phase, Threshold

SECOND_NS = 1_000_000_000
CHANNELS = ("current", "pressure", "vibration")


def calibration(seed: int = 0, rows: int = 1_000, spread: float = 0.3) -> Calibration:
    """Log-normal scores around 1."""
    return Calibration(np.exp(spread * np.random.default_rng(seed).standard_normal(rows)))


def score_batch(
    device: Sequence[int],
    score: Sequence[float] | Float64Array,
    end_s: Sequence[float] | None = None,
    quality: Sequence[int] | None = None,
    contribution: Sequence[Sequence[float]] | None = None,
    coverage: Sequence[Sequence[float]] | None = None,
) -> ScoreBatch:
    """Rows in emission order; without `end_s` a device's windows are a second apart."""
    slots = np.array(device, np.int32)
    n = len(slots)
    seen: dict[int, int] = {}
    sequence = np.zeros(n, np.int64)
    for row, slot in enumerate(slots.tolist()):
        sequence[row] = seen.get(slot, 0)
        seen[slot] = int(sequence[row]) + 1
    ends = (sequence + 1) * SECOND_NS if end_s is None else np.rint(np.array(end_s) * SECOND_NS).astype(np.int64)
    return ScoreBatch(
        keys=Keys(slots, ends, np.arange(n, dtype=np.int64), sequence),
        quality=np.zeros(n, np.uint32) if quality is None else np.array(quality, np.uint32),
        coverage=np.ones((n, 3), np.float32) if coverage is None else np.array(coverage, np.float32),
        score=np.array(score, np.float64),
        contribution=None if contribution is None else np.array(contribution, np.float32),
        model_id="abc",
    )


def rows_of(batch: ScoreBatch, rows: Int64Array) -> ScoreBatch:
    """The given rows as a batch."""
    contribution = None if batch.contribution is None else batch.contribution[rows]
    return ScoreBatch(
        batch.keys.take(rows),
        batch.quality[rows],
        batch.coverage[rows],
        batch.score[rows],
        contribution,
        batch.model_id,
    )


def assert_same_arrays(left: Arrays, right: Arrays) -> None:
    """Same names and the same bits."""
    assert left.keys() == right.keys()
    for name, array in left.items():
        assert array.dtype == right[name].dtype, name
        assert array.shape == right[name].shape, name
        assert array.tobytes() == right[name].tobytes(), name


@dataclass
class PlainDevice:
    """One device's rules written out with ifs; the threshold is a real one with a single slot."""

    rules: IncidentRules
    smoothing: float
    threshold: Threshold
    level: float = nan
    over_run: int = 0
    fault_run: int = 0
    kind: AlertKind | None = None
    opened_ns: int = 0
    trouble_ns: int = 0
    seen_ns: int = 0
    peak: float = nan
    told: float = nan
    version: int = 0
    is_relearning: bool = False
    opening_limit: float = nan
    judged_ns: int = 0
    judged_end_ns: int = 0
    messages: list[tuple[AlertPhase, AlertKind, int, int, int]] = field(default_factory=list)

    def step(self, score: float, end_ns: int, quality: int) -> tuple[float, float, bool, int]:
        """Return smoothed, limit, is_anomaly, incident."""
        slot = np.zeros(1, np.int32)
        smoothed = self._smooth(score)
        limit = float(self.threshold.limits(slot)[0])
        is_fault = bool(quality & int(SENSOR_FAULT))
        if not isnan(smoothed):
            self.over_run = self.over_run + 1 if smoothed > limit else 0
        if is_fault or not isnan(smoothed):
            self.fault_run = self.fault_run + 1 if is_fault else 0
        phase = Phase.QUIET
        self._settle(smoothed)
        if self.kind is None:
            phase = self._maybe_open(smoothed, limit, is_fault, end_ns)
        else:
            phase = self._go_on(smoothed, limit, is_fault, end_ns)
        self.seen_ns = end_ns
        if not isnan(smoothed):
            self.threshold.learn(slot, np.array([smoothed]), np.array([phase], np.uint8))
        return smoothed, limit, self.kind is not None, self.opened_ns if self.kind is not None else 0

    def _smooth(self, score: float) -> float:
        if isnan(score):
            return nan
        log = float(np.log(np.float64(max(score, 1e-12))))
        self.level = log if isnan(self.level) else (1.0 - self.smoothing) * self.level + self.smoothing * log
        return float(np.exp(np.float64(self.level)))

    def _maybe_open(self, smoothed: float, limit: float, is_fault: bool, end_ns: int) -> Phase:
        if is_fault and self.fault_run >= self.rules.sensor_windows:
            self.kind = AlertKind.SENSOR
        elif smoothed > limit and self.over_run >= self.rules.open_after_windows:
            self.kind = AlertKind.PROCESS
        else:
            return Phase.QUIET if isnan(self.opening_limit) else Phase.IN_INCIDENT
        self.opened_ns = self.trouble_ns = self.judged_end_ns = end_ns
        self.judged_ns = 0
        self.peak = smoothed
        self.version = 0
        self._tell(AlertPhase.OPENED, self.kind, end_ns)
        is_fresh = self.kind is AlertKind.PROCESS and isnan(self.opening_limit)
        if isnan(self.opening_limit):
            self.opening_limit = limit
        return Phase.OPENED if is_fresh else Phase.IN_INCIDENT

    def _settle(self, smoothed: float) -> None:
        """Outside an incident, note that the score is below the limit at which the last one opened."""
        if self.kind is None and smoothed <= self.opening_limit:
            self.opening_limit = nan

    def _go_on(self, smoothed: float, limit: float, is_fault: bool, end_ns: int) -> Phase:
        was_relearning = self.is_relearning
        self._follow(smoothed, limit, is_fault, end_ns)
        is_learned = was_relearning or self.is_relearning
        if self.kind is None:
            self.is_relearning = False
            self._settle(smoothed)
            is_learned |= isnan(self.opening_limit)
        return Phase.QUIET if is_learned else Phase.IN_INCIDENT

    def _follow(self, smoothed: float, limit: float, is_fault: bool, end_ns: int) -> None:
        assert self.kind is not None
        if not isnan(smoothed):
            self.peak = smoothed if isnan(self.peak) else max(self.peak, smoothed)
            self.judged_ns += min(end_ns - self.judged_end_ns, self.rules.step_ns)
            self.judged_end_ns = end_ns
        after_ns = self.rules.relearn_after_ns if self.threshold.learns else 0
        is_due = not self.is_relearning and after_ns > 0 and self.judged_ns >= after_ns
        self.is_relearning |= is_due
        exit_level = limit if isnan(self.peak) else max(limit, self.rules.exit_ratio * self.peak)
        if self.is_relearning:
            exit_level = self.opening_limit
        if is_fault if self.kind is AlertKind.SENSOR else smoothed > exit_level:
            self.trouble_ns = end_ns
        elif isnan(smoothed):
            self.trouble_ns += end_ns - self.seen_ns
        elif end_ns - self.trouble_ns >= self.rules.close_after_ns:
            self._tell(AlertPhase.RESOLVED, self.kind, end_ns)
            self.kind = None
            self.peak = self.told = nan
            return
        if is_due:
            self._tell(AlertPhase.UPDATED, AlertKind.REGIME, end_ns)
        elif smoothed > limit and (isnan(self.told) or self.peak >= self.rules.update_factor * self.told):
            self._tell(AlertPhase.UPDATED, self.kind, end_ns)

    def _tell(self, phase: AlertPhase, kind: AlertKind, end_ns: int) -> None:
        self.messages.append((phase, kind, self.version, self.opened_ns, end_ns))
        self.version += 1
        self.told = self.peak
