"""What every front owes the pipe: the same rows however polls are cut, and rows that follow on each other."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_ad.core.batches import Judged, ReadingBatch
from stream_ad.core.deciding import Deciding
from stream_ad.core.front import Front, RowRules
from stream_ad.core.incidents import IncidentRules
from stream_ad.core.pipeline import PartitionPipeline, StepResult
from stream_ad.core.readings_front import ReadingsFront, row_rules
from stream_ad.core.thresholds.catalog import make_threshold
from stream_ad.core.windowing import TimeRules
from stream_ad.errors import ContractError
from tests.support.events_front import EVENT_RULES, Events, EventsFront
from tests.support.pipelines import CHANNELS, SECOND, fleet_log, small_model

WINDOWS, EVENT = small_model(), small_model(samples=1, stride=1)
TIMES = TimeRules(2 * SECOND, 20 * SECOND, 10**6 * SECOND)
RECORDS = 120


def events_of(log: ReadingBatch) -> Events:
    """Return readings as events, four of which share a nanosecond."""
    values = np.nan_to_num(log.values)
    event_ns = log.event_ns // (4 * SECOND) * (4 * SECOND)
    return Events(log.ids, log.device, event_ns, log.offset, values, log.record_offset, log.record_log_ns)


@dataclass(frozen=True)
class Case:
    """A kind of front: how to make one, its rules, and input for it."""

    make: Callable[[], Front[Any]]
    rules: RowRules
    records: Callable[[int], Any]


CASES = {
    "readings": Case(lambda: ReadingsFront(WINDOWS, TIMES), row_rules(WINDOWS, TIMES), fleet_log),
    "events": Case(lambda: EventsFront(EVENT), EVENT_RULES, lambda seed: events_of(fleet_log(seed))),
}


def pipe(case: Case) -> PartitionPipeline:
    front = case.make()
    deciding = Deciding(
        "s",
        CHANNELS,
        front.model.smoothing,
        make_threshold("quantile", front.model.calibration, {}),
        IncidentRules(close_after_ns=15 * SECOND, step_ns=case.rules.step_ns),
        case.rules.ends_rise,
    )
    return PartitionPipeline(front, deciding, evict_after_ns=400 * SECOND)


def run(case: Case, seed: int, cuts: list[int], through_snapshot: bool = False) -> list[StepResult]:
    pipeline, records, found = pipe(case), case.records(seed), []
    for start, stop in itertools.pairwise([0, *sorted(cuts), RECORDS]):
        found.append(pipeline.step(records.cut(start, stop)))
        if through_snapshot:
            state = pipeline.snapshot()
            pipeline = pipe(case)
            pipeline.restore(state)
    return found


def plain(judged: Judged) -> list[tuple[Any, ...]]:
    keys, verdicts = judged.verdicts.keys, judged.verdicts
    columns = (keys.end_ns, keys.offset, keys.sequence, verdicts.scores.score, verdicts.smoothed, verdicts.limit)
    return [
        (judged.ids[code], *(column[row].tobytes() for column in columns)) for row, code in enumerate(judged.device)
    ]


def story(results: list[StepResult]) -> tuple[list[tuple[Any, ...]], list[Any], list[Any]]:
    rows = [row for result in results for part in result.judged for row in plain(part)]
    alerts = [replace(alert, score=0.0) for result in results for alert in result.alerts]  # NaN is not equal to itself
    return rows, alerts, sorted((r.offset, r.reason, r.rows) for result in results for r in result.refused)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("through_snapshot", [False, True])
@settings(max_examples=4)
@given(seed=st.integers(0, 50), cuts=st.lists(st.integers(1, RECORDS - 1), max_size=6, unique=True))
def test_cuts_and_snapshots_change_nothing(name: str, through_snapshot: bool, seed: int, cuts: list[int]) -> None:
    expected = story(run(CASES[name], seed, []))
    assert story(run(CASES[name], seed, cuts, through_snapshot)) == expected
    assert expected[0]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("seed", range(4))
def test_a_devices_rows_follow_on_each_other(name: str, seed: int) -> None:
    case = CASES[name]
    newest: dict[str, tuple[int, int]] = {}
    offset, is_tied = -1, False
    for result in run(case, seed, [40, 80]):
        for part in result.judged:
            keys = part.verdicts.keys
            for code, end, at, sequence in zip(part.device, keys.end_ns, keys.offset, keys.sequence, strict=True):
                assert at >= offset
                offset = int(at)
                before = newest.get(part.ids[code])
                if before is not None and sequence:
                    assert sequence == before[0] + 1
                    assert end > before[1] or (end == before[1] and not case.rules.ends_rise)
                    is_tied = is_tied or end == before[1]
                newest[part.ids[code]] = (int(sequence), int(end))
    assert is_tied is not case.rules.ends_rise


@pytest.mark.parametrize("name", CASES)
def test_incidents_have_ids_of_their_own(name: str) -> None:
    seen = [(a.id, a.version) for seed in range(4) for a in story(run(CASES[name], seed, []))[1] if seed == 3]
    assert len(seen) == len(set(seen)) > 0


@pytest.mark.parametrize("name", CASES)
def test_a_snapshot_of_another_front_is_refused(name: str) -> None:
    pipeline = pipe(CASES[name])
    pipeline.step(CASES[name].records(1))
    (other,) = (case for key, case in CASES.items() if key != name)
    with pytest.raises(ContractError):
        pipe(other).restore(pipeline.snapshot())


@pytest.mark.parametrize("wrong", [{"look_back_ns": -1}, {"row_ns": -1}, {"step_ns": 0}])
def test_rules_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ContractError, match="front: expected"):
        replace(EVENT_RULES, **wrong)
