"""How good verdicts are against known truth: row by row, by ranking, and incident by incident.

Row measures are point-wise: no row counts as found because another row of its event was.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stream_ad.core.batches import BoolArray, Float64Array, Int64Array, expect
from stream_ad.errors import ContractError


@dataclass(frozen=True, slots=True)
class Confusion:
    """Rows by truth and verdict.

    A ratio whose denominator is 0 is NaN: there was nothing to measure.

    Attributes:
        true_positive: anomalous rows that were flagged.
        false_positive: normal rows that were flagged.
        false_negative: anomalous rows that were not flagged.
        true_negative: normal rows that were not flagged.
    """

    true_positive: int
    false_positive: int
    false_negative: int
    true_negative: int

    def __add__(self, other: Confusion) -> Confusion:
        """Return the counts of both: how files or devices are pooled."""
        return Confusion(
            self.true_positive + other.true_positive,
            self.false_positive + other.false_positive,
            self.false_negative + other.false_negative,
            self.true_negative + other.true_negative,
        )

    @property
    def precision(self) -> float:
        """TP / (TP + FP), 0..1."""
        return _ratio(self.true_positive, self.true_positive + self.false_positive)

    @property
    def recall(self) -> float:
        """TP / (TP + FN), 0..1."""
        return _ratio(self.true_positive, self.true_positive + self.false_negative)

    @property
    def f1(self) -> float:
        """2 TP / (2 TP + FP + FN), 0..1: harmonic mean of precision and recall."""
        return _ratio(2 * self.true_positive, 2 * self.true_positive + self.false_positive + self.false_negative)

    @property
    def false_alarm_rate(self) -> float:
        """FAR: 100 FP / (FP + TN), per cent of the normal rows."""
        return 100 * _ratio(self.false_positive, self.false_positive + self.true_negative)

    @property
    def missed_alarm_rate(self) -> float:
        """MAR: 100 FN / (TP + FN), per cent of the anomalous rows."""
        return 100 * _ratio(self.false_negative, self.true_positive + self.false_negative)


def confusion(truth: BoolArray, flagged: BoolArray) -> Confusion:
    """Count rows by truth and verdict.

    Args:
        truth: bool[n], the row is anomalous.
        flagged: bool[n], the row was called anomalous.

    Raises:
        ContractError: other dtypes, or different lengths.
    """
    expect("truth", truth, np.bool_, (None,))
    expect("flagged", flagged, np.bool_, truth.shape)
    found = int((truth & flagged).sum())
    flags, anomalies = int(flagged.sum()), int(truth.sum())
    return Confusion(found, flags - found, anomalies - found, len(truth) - flags - anomalies + found)


def average_precision(truth: BoolArray, score: Float64Array) -> float:
    """Return the sum over distinct scores, highest first, of (R_k - R_{k-1}) P_k.

    P_k and R_k are precision and recall when every row with at least the k-th score is flagged;
    rows with equal scores enter together. NaN without an anomalous row. Costs a sort.

    Args:
        truth: bool[n].
        score: float64[n], finite, higher is more anomalous.

    Raises:
        ContractError: other dtypes, different lengths, or a score that is not finite.
    """
    _, found, flagged = _ranked(truth, score)
    anomalies = int(truth.sum())
    if anomalies == 0:
        return float("nan")
    return float((np.diff(found, prepend=0) / anomalies * (found / flagged)).sum())


@dataclass(frozen=True, slots=True)
class BestF1:
    """The best F1 that any limit reaches: an oracle's, because it needs the labels.

    Attributes:
        f1: the value, 0..1; NaN without an anomalous row.
        limit: a row is flagged when its score is at least this; the highest such limit.
    """

    f1: float
    limit: float


def best_f1(truth: BoolArray, score: Float64Array) -> BestF1:
    """Return the maximum over limits of 2 TP / (2 TP + FP + FN). Costs a sort.

    Args:
        truth: bool[n].
        score: float64[n], finite, higher is more anomalous.

    Raises:
        ContractError: other dtypes, different lengths, or a score that is not finite.
    """
    limits, found, flagged = _ranked(truth, score)
    anomalies = int(truth.sum())
    if anomalies == 0:
        return BestF1(float("nan"), float("nan"))
    f1 = 2 * found / (flagged + anomalies)
    at = int(np.argmax(f1))
    return BestF1(float(f1[at]), float(limits[at]))


@dataclass(frozen=True, slots=True)
class Spans:
    """Stretches of event time of devices: true events, or incidents.

    Attributes:
        device: int64[k], any numbering shared by what is compared.
        start_ns: int64[k], first instant.
        end_ns: int64[k], last instant, >= start_ns.
    """

    device: Int64Array
    start_ns: Int64Array
    end_ns: Int64Array

    def __post_init__(self) -> None:
        expect("device", self.device, np.int64, (None,))
        expect("start_ns", self.start_ns, np.int64, self.device.shape)
        expect("end_ns", self.end_ns, np.int64, self.device.shape)
        if (self.end_ns < self.start_ns).any():
            raise ContractError("spans: expected end_ns >= start_ns")

    def __len__(self) -> int:
        return len(self.device)


@dataclass(frozen=True, slots=True)
class EventReport:
    """Events against incidents.

    Attributes:
        is_found: bool[events], an incident of the device overlaps the event (and its grace).
        delay_ns: int64[events], from the event's start to the start of the first incident that
            overlaps it; 0 if that was open before, and where the event was missed.
        is_false: bool[incidents], the incident overlaps no event.
    """

    is_found: BoolArray
    delay_ns: Int64Array
    is_false: BoolArray

    @property
    def found(self) -> int:
        """Number of events found."""
        return int(self.is_found.sum())

    @property
    def missed(self) -> int:
        """Number of events missed."""
        return int((~self.is_found).sum())

    @property
    def false(self) -> int:
        """Number of incidents that overlap no event."""
        return int(self.is_false.sum())

    @property
    def median_delay_ns(self) -> float:
        """Median of `delay_ns` over the events found; NaN if none was."""
        return float(np.median(self.delay_ns[self.is_found])) if self.found else float("nan")


def match_events(events: Spans, incidents: Spans, grace_ns: int = 0) -> EventReport:
    """Match true events with incidents of the same device by overlap in time.

    An event reaches from its start to its end plus the grace, both included. One incident may
    find several events, and several incidents one event. Costs events x incidents.

    Args:
        events: the truth.
        incidents: what was raised.
        grace_ns: how long after an event's end an incident still belongs to it, >= 0.

    Raises:
        ContractError: a negative grace.
    """
    if grace_ns < 0:
        raise ContractError(f"match_events: expected grace_ns >= 0, found {grace_ns}")
    is_same = events.device[:, None] == incidents.device[None, :]
    is_before_end = incidents.start_ns[None, :] <= events.end_ns[:, None] + grace_ns
    touches = is_same & is_before_end & (incidents.end_ns[None, :] >= events.start_ns[:, None])
    is_found = touches.any(axis=1)
    latest = np.iinfo(np.int64).max
    first = np.where(touches, incidents.start_ns[None, :], latest).min(axis=1, initial=latest)
    delay = np.where(is_found, np.maximum(first, events.start_ns) - events.start_ns, 0)
    return EventReport(is_found, delay, ~touches.any(axis=0))


def _ranked(truth: BoolArray, score: Float64Array) -> tuple[Float64Array, Int64Array, Int64Array]:
    """Return distinct scores, highest first, with the anomalous rows and all rows at or over each."""
    expect("truth", truth, np.bool_, (None,))
    expect("score", score, np.float64, truth.shape)
    if not np.isfinite(score).all():
        raise ContractError("measures: expected finite scores; leave unscored rows out")
    order = np.argsort(-score, kind="stable")
    ranked = score[order]
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True)) if len(ranked) else np.zeros(0, np.int64)
    return ranked[last], np.cumsum(truth[order], dtype=np.int64)[last], last.astype(np.int64) + 1


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")
