"""Measures of verdicts against known truth, row by row.

They are point-wise: no row counts as found because another row of its event was.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stream_ad.core.batches import BoolArray, expect


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
        """Return the sum of both, to pool files or devices."""
        return Confusion(
            self.true_positive + other.true_positive,
            self.false_positive + other.false_positive,
            self.false_negative + other.false_negative,
            self.true_negative + other.true_negative,
        )

    @property
    def f1(self) -> float:
        """2 TP / (2 TP + FP + FN), 0..1: harmonic mean of precision TP / (TP + FP) and recall TP / (TP + FN)."""
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


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")
