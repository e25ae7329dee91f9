from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_ad.core.batches import Arrays, Int32Array, ReadingBatch, Refused, WindowBatch
from stream_ad.core.model import Channel, Fill, WindowShape
from stream_ad.core.windowing import TimeRules, Windowing
from tests.core.naive_windowing import NaiveReading, NaiveWindow, NaiveWindowing

SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND


@dataclass(frozen=True)
class Case:
    shape: WindowShape
    channels: tuple[Channel, ...]
    rules: TimeRules
    records: tuple[tuple[int, int, tuple[NaiveReading, ...]], ...]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    period = draw(st.sampled_from([SECOND, 250_000_000, 3]))
    shape = WindowShape(period, draw(st.integers(1, 9)), draw(st.integers(1, 12)))
    holds = draw(st.lists(st.integers(0, 6), min_size=2, max_size=2))
    channels = tuple(
        Channel(name, fill=Fill.HOLD if age else Fill.NAN, hold_max_age_ns=age * period)
        for name, age in zip("ab", holds, strict=True)
    )
    idle = draw(st.integers(2, 40))
    rules = TimeRules(draw(st.integers(0, 12)) * period // 2, idle * period, draw(st.integers(0, 200)) * period)
    records = []
    offset, log = 0, START
    clocks = [START] * 3
    for _ in range(draw(st.integers(1, 40))):
        offset += draw(st.integers(1, 3))
        log += draw(st.sampled_from([0, 0, 1, 1, 2, idle // 2, idle, 3 * idle, -3])) * period
        readings = []
        for _ in range(draw(st.integers(0, 6))):
            device = draw(st.integers(0, 2))
            jump = draw(st.sampled_from([1, 1, 1, 1, 0, 2, 5, -1, -4, -20, 90, 400]))
            clocks[device] += jump * period
            event = clocks[device] + draw(st.integers(-period // 2, period // 2))
            values = tuple(draw(st.sampled_from([math.nan, 1.0, 2.0, 3.0, 4.0])) for _ in "ab")
            readings.append(NaiveReading(device, event, offset, values, draw(st.integers(0, 9)) == 0))
        records.append((offset, log, tuple(readings)))
    return Case(shape, channels, rules, tuple(records))


def batch_of(records: tuple[tuple[int, int, tuple[NaiveReading, ...]], ...]) -> tuple[ReadingBatch, Int32Array]:
    rows = [reading for _, _, readings in records for reading in readings]
    device = np.array([r.device for r in rows], np.int32)
    batch = ReadingBatch(
        ids=("0", "1", "2"),
        device=device,
        event_ns=np.array([r.event_ns for r in rows], np.int64),
        offset=np.array([r.offset for r in rows], np.int64),
        values=np.array([r.values for r in rows], np.float64).reshape(len(rows), 2),
        record_offset=np.array([offset for offset, _, _ in records], np.int64),
        record_log_ns=np.array([log for _, log, _ in records], np.int64),
        is_bad=np.array([r.bad for r in rows], np.bool_),
    )
    return batch, device


def run(case: Case, cuts: list[int], through_snapshot: bool = False) -> tuple[list[WindowBatch], list[Refused]]:
    windowing = fresh(case)
    batches, refused = [], []
    edges = [0, *sorted(cuts), len(case.records)]
    for a, b in itertools.pairwise(edges):
        records = case.records[a:b]
        batch, slot = batch_of(records)
        windows, letters = windowing.add(slot, batch)
        batches.append(windows)
        refused += letters
        if through_snapshot:
            state: Arrays = windowing.snapshot(3)
            windowing = fresh(case)
            windowing.restore(state)
    return batches, refused


def fresh(case: Case) -> Windowing:
    windowing = Windowing(case.shape, case.channels, case.rules)
    windowing.grow(3)
    return windowing


def naive(case: Case) -> NaiveWindowing:
    reference = NaiveWindowing(case.shape, case.channels, case.rules)
    for offset, log, readings in case.records:
        reference.record(offset, log, readings)
    reference.windows.sort(key=lambda w: (w.offset, w.device, w.end_ns))
    return reference


def columns(batches: list[WindowBatch]) -> list[NaiveWindow]:
    return [
        NaiveWindow(
            int(b.keys.device[i]),
            int(b.keys.end_ns[i]),
            int(b.keys.offset[i]),
            int(b.keys.sequence[i]),
            tuple(tuple(float(v) for v in row) for row in b.values[i]),
            tuple(float(v) for v in b.coverage[i]),
            int(b.quality[i]),
        )
        for b in batches
        for i in range(len(b))
    ]


def assert_same(found: list[NaiveWindow], wanted: list[NaiveWindow]) -> None:
    assert [(w.device, w.end_ns, w.offset, w.sequence, w.quality) for w in found] == [
        (w.device, w.end_ns, w.offset, w.sequence, w.quality) for w in wanted
    ]
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(np.array(a.values), np.array(b.values))
        np.testing.assert_allclose(a.coverage, b.coverage, atol=1e-6)


@settings(max_examples=60)
@given(case=cases())
def test_windows_equal_those_made_one_reading_at_a_time(case: Case) -> None:
    reference = naive(case)
    batches, refused = run(case, [])
    assert_same(columns(batches), reference.windows)
    assert sum(r.rows for r in refused) == len(reference.refused)
    assert sorted({(r.offset, str(r.reason)) for r in refused}) == sorted(set(reference.refused))


@settings(max_examples=40)
@given(case=cases(), data=st.data())
def test_poll_boundaries_and_snapshots_do_not_change_windows(case: Case, data: st.DataObject) -> None:
    cuts = data.draw(st.lists(st.integers(0, len(case.records)), max_size=6))
    whole = columns(run(case, [])[0])
    assert_same(columns(run(case, cuts)[0]), whole)
    assert_same(columns(run(case, cuts, through_snapshot=True)[0]), whole)


def test_a_wrong_clock_of_one_device_does_not_make_another_late() -> None:
    shape = WindowShape(SECOND, 4, 4)
    rules = TimeRules(0, 100 * SECOND, 1000 * SECOND)
    readings = [NaiveReading(0, START + 900 * SECOND, 0, (1.0, 1.0))]
    readings += [NaiveReading(1, START + k * SECOND, 0, (1.0, 1.0)) for k in range(9)]
    case = Case(shape, (Channel("a"), Channel("b")), rules, ((0, START, tuple(readings)),))
    batches, refused = run(case, [])
    assert refused == []
    assert [w.device for w in columns(batches)] == [1, 1]


@pytest.mark.parametrize("gap", [10, 1_000, 10_000_000])
def test_a_long_gap_costs_no_windows(gap: int) -> None:
    shape = WindowShape(SECOND, 4, 2)
    rules = TimeRules(0, 10**6 * SECOND, 10**9 * SECOND)
    readings = tuple(NaiveReading(0, START + k * SECOND, 0, (1.0, 1.0)) for k in (0, 1, 2, 3, gap, gap + 1))
    case = Case(shape, (Channel("a"), Channel("b")), rules, ((0, START, readings),))
    assert_same(columns(run(case, [])[0]), naive(case).windows)
