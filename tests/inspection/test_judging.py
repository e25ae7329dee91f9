from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from stream_ad.inspection.facts import Lag, Status
from stream_ad.inspection.judging import Limits, is_lagging, warnings
from stream_ad.inspection.status import read_status
from tests.crashes.conftest import make_stream, pump_bundle
from tests.support.e2e import Stream
from tests.support.roles import worked_off

__all__ = ["make_stream", "pump_bundle"]

LIMITS = Limits(lag_s=60.0, checkpoint_s=100.0, part_s=100.0)


@pytest.fixture
def status(make_stream: Callable[..., Stream]) -> Status:
    stream = make_stream(partitions=1)
    scorer, archiver = worked_off(stream)
    found = read_status(stream.settings, stream.log)
    scorer.close()
    archiver.close()
    return found


def with_lag(status: Status, lag: Lag, unsaved_s: float = 0.0) -> Status:
    (part,) = status.partitions
    scoring = replace(part.scoring, lag=lag, unsaved_s=unsaved_s)
    return replace(status, partitions=(replace(part, scoring=scoring),))


def test_a_lag_that_grows_is_told_and_one_that_shrinks_is_not(status: Status) -> None:
    few, many = Lag(100, 15.0, 15.0), Lag(300, 20.0, 20.0)
    assert warnings(with_lag(status, many), with_lag(status, few), LIMITS) == [
        "partition 0: the scorer's lag is growing: from 100 to 300 records"
    ]
    assert warnings(with_lag(status, few), with_lag(status, many), LIMITS) == []
    assert warnings(with_lag(status, many), None, LIMITS) == []
    brief = Lag(300, 1.0, 1.0)  # the way between two commits
    assert warnings(with_lag(status, brief), with_lag(status, few), LIMITS) == []


def test_scores_that_wait_for_a_part_to_fill_are_no_lag(make_stream: Callable[..., Stream], status: Status) -> None:
    limits = Limits.of(make_stream(store={"part_max_age_s": 10.0}).settings, None, None, None)

    def waiting(lag: Lag) -> Status:
        (part,) = status.partitions
        return replace(status, partitions=(replace(part, archiving=replace(part.archiving, lag=lag)),))

    before, after = Lag(20, 9.0, 11.0), Lag(24, 11.0, 13.0)
    assert not is_lagging(waiting(after), limits)
    assert warnings(waiting(after), waiting(before), limits) == []
    assert is_lagging(waiting(Lag(60, 39.0, 40.0)), limits)
    assert warnings(waiting(Lag(60, 39.0, 40.0)), waiting(after), limits) == [
        "partition 0: the archiver's lag is growing: from 24 to 60 records"
    ]


def test_an_old_checkpoint_is_told_by_what_a_restart_reads_again(status: Status) -> None:
    assert warnings(with_lag(status, Lag(), unsaved_s=99.0), None, LIMITS) == []
    (line,) = warnings(with_lag(status, Lag(), unsaved_s=150.0), None, LIMITS)
    assert line.startswith("partition 0: the newest checkpoint is old (")
    assert line.endswith("a restart rereads 2 min 30 s of input")
