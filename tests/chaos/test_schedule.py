from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from tests.chaos.schedule import ARCHIVERS, SCORERS, SPARE, Act, Aim, Plan, draw

PLAN = Plan(seed=5, kills=200, broker_kills=10, spread_s=1_500.0, session_s=6.0, swaps=20)


@pytest.mark.parametrize("seed", range(5))
def test_a_schedule_is_the_seeds_and_holds_what_is_planned(seed: int) -> None:
    plan = replace(PLAN, seed=seed)
    schedule = draw(plan)
    assert schedule == draw(plan)
    assert schedule != draw(replace(plan, seed=seed + 1))
    acts = Counter(entry.act for entry in schedule.processes)
    assert acts[Act.KILL] == 200
    assert acts[Act.SWAP] == 20
    assert acts[Act.STOP] >= 10
    assert acts[Act.DISK] >= 3
    assert {entry.aim for entry in schedule.brokers} == set(Aim)
    assert len(schedule.brokers) == 10
    for lane in (schedule.processes, schedule.brokers):
        assert 0.8 * plan.spread_s * 0.8 < sum(entry.after_s for entry in lane) < 1.2 * plan.spread_s


@pytest.mark.parametrize("seed", range(5))
def test_only_who_is_there_is_met_and_the_crew_is_whole_at_the_end(seed: int) -> None:
    present = set(range(SCORERS))
    for entry in draw(replace(PLAN, seed=seed)).processes:
        if entry.act is Act.JOIN:
            assert entry.index not in present
            present.add(entry.index)
        elif entry.role == "scorer":
            assert entry.index in present
            present -= {entry.index} if entry.act is Act.LEAVE else set()
        elif entry.role:
            assert entry.index < ARCHIVERS
        if entry.act is Act.STOP:
            assert entry.lasts_s > PLAN.session_s
        assert SCORERS <= len(present) <= SPARE + 1
    assert len(present) == SCORERS


def test_more_broker_kills_leave_the_processes_alone() -> None:
    assert draw(PLAN).processes == draw(replace(PLAN, broker_kills=3)).processes
