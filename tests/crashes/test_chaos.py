"""The short form of `make chaos`: three brokers, at least ten kills, one of a broker, and all of its proofs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from tests.chaos.run import Run, Size
from tests.chaos.schedule import Plan

KILLS = 12
SPREAD_S, RATE = 70.0, 60.0


@pytest.mark.broker
@pytest.mark.timeout(600)
def test_nothing_is_lost_or_repeated_in_a_short_chaos(tmp_path: Path) -> None:
    plan = Plan(seed=7, kills=KILLS, broker_kills=1, spread_s=SPREAD_S, session_s=6.0)
    size = Size(readings=round(SPREAD_S * RATE) * 64, rate=RATE, devices=80, partitions=4)
    report = Run(plan, size, tmp_path / "chaos").go()
    assert report.problems == [], asdict(report)
    assert report.is_proven
    assert sum(report.kills.values()) == KILLS
    assert sum(report.broker_kills.values()) == 1
    assert set(report.done) >= {"kill", "stop", "join", "leave", "disk"}
    assert report.readings >= size.readings
    assert (report.missing, report.repeated) == (0, 0)
    assert report.rows > report.messages
    assert report.alerts > 0
    assert report.dead_letters > 0
