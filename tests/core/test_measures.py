from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from stream_ad.core.measures import Confusion, confusion

labelled = st.lists(st.tuples(st.booleans(), st.integers(0, 6)), min_size=1, max_size=40)


def columns(rows: list[tuple[bool, int]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([row[0] for row in rows], np.bool_), np.array([row[1] for row in rows], np.float64)


@given(rows=labelled, limit=st.integers(0, 7))
def test_row_measures_equal_their_formulas(rows: list[tuple[bool, int]], limit: int) -> None:
    truth, score = columns(rows)
    flagged = score >= limit
    got = confusion(truth, flagged)

    tp = sum(t and f for t, f in zip(truth, flagged, strict=True))
    fp = sum(f and not t for t, f in zip(truth, flagged, strict=True))
    fn = sum(t and not f for t, f in zip(truth, flagged, strict=True))
    assert got == Confusion(tp, fp, fn, len(rows) - tp - fp - fn)
    if truth.any():
        assert got.f1 == pytest.approx(f1_score(truth, flagged))
        assert got.missed_alarm_rate == pytest.approx(100 * fn / truth.sum())
    if not truth.all():
        assert got.false_alarm_rate == pytest.approx(100 * fp / (~truth).sum())


def test_nothing_to_measure_is_nan() -> None:
    none = Confusion(0, 0, 0, 0)

    assert all(math.isnan(value) for value in (none.f1, none.false_alarm_rate, none.missed_alarm_rate))
    assert none + Confusion(1, 2, 3, 4) == Confusion(1, 2, 3, 4)
