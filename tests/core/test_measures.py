from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score, precision_score, recall_score

from stream_ad.core.measures import Confusion, Spans, average_precision, best_f1, confusion, match_events
from stream_ad.errors import ContractError

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
    if flagged.any():
        assert got.precision == pytest.approx(precision_score(truth, flagged))
    if truth.any():
        assert got.recall == pytest.approx(recall_score(truth, flagged))
        assert got.f1 == pytest.approx(f1_score(truth, flagged))
        assert got.missed_alarm_rate == pytest.approx(100 * fn / truth.sum())
    if not truth.all():
        assert got.false_alarm_rate == pytest.approx(100 * fp / (~truth).sum())


@given(rows=labelled)
def test_ranking_measures_equal_their_references(rows: list[tuple[bool, int]]) -> None:
    truth, score = columns(rows)
    best = best_f1(truth, score)
    if not truth.any():
        assert math.isnan(average_precision(truth, score))
        assert math.isnan(best.f1)
        return
    tries = {limit: confusion(truth, score >= limit).f1 for limit in np.unique(score)}
    assert average_precision(truth, score) == pytest.approx(average_precision_score(truth, score))
    assert best.f1 == pytest.approx(max(tries.values()))
    assert tries[best.limit] == pytest.approx(best.f1)


def test_nothing_to_measure_is_nan() -> None:
    none = Confusion(0, 0, 0, 0)

    assert all(math.isnan(value) for value in (none.precision, none.recall, none.f1, none.false_alarm_rate))
    assert none + Confusion(1, 2, 3, 4) == Confusion(1, 2, 3, 4)


def test_unscored_rows_are_refused() -> None:
    with pytest.raises(ContractError, match="finite"):
        average_precision(np.array([True]), np.array([np.nan]))


span_lists = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 30), st.integers(0, 8)), max_size=6)


def spans(rows: list[tuple[int, int, int]]) -> Spans:
    table = np.array(rows, np.int64).reshape(-1, 3)
    return Spans(table[:, 0].copy(), table[:, 1].copy(), table[:, 1] + table[:, 2])


@given(truth=span_lists, raised=span_lists, grace=st.integers(0, 5))
def test_events_are_found_by_the_first_incident_that_overlaps(
    truth: list[tuple[int, int, int]], raised: list[tuple[int, int, int]], grace: int
) -> None:
    report = match_events(spans(truth), spans(raised), grace)

    def touches(event: tuple[int, int, int], incident: tuple[int, int, int]) -> bool:
        (d, s, n), (e, t, m) = event, incident
        return d == e and t <= s + n + grace and t + m >= s

    for at, event in enumerate(truth):
        starts = [incident[1] for incident in raised if touches(event, incident)]
        assert report.is_found[at] == bool(starts)
        assert report.delay_ns[at] == (max(0, min(starts) - event[1]) if starts else 0)
    assert report.is_false.tolist() == [not any(touches(event, incident) for event in truth) for incident in raised]
    assert report.found + report.missed == len(truth)
    assert report.false == report.is_false.sum()
    if report.found:
        assert report.median_delay_ns == np.median(report.delay_ns[report.is_found])
    else:
        assert math.isnan(report.median_delay_ns)


def test_wrong_spans_are_refused() -> None:
    one = np.zeros(1, np.int64)
    with pytest.raises(ContractError, match="end_ns >= start_ns"):
        Spans(one, one + 1, one)
    with pytest.raises(ContractError, match="grace"):
        match_events(Spans(one, one, one), Spans(one, one, one), -1)
