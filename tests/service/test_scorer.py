"""How often a scorer commits."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import islice

import pytest

from stream_ad.config import LocalTransport
from stream_ad.io.local.log import LocalLog
from stream_ad.io.transport import Partition
from tests.crashes.conftest import make_stream, pump_bundle
from tests.support.e2e import Stream, fleet_records
from tests.support.roles import open_scorer

__all__ = ["make_stream", "pump_bundle"]


@pytest.mark.parametrize(("age_s", "is_hastened"), [(0, True), (60, False)])
def test_an_alert_hastens_the_commit_unless_it_is_late_already(
    make_stream: Callable[..., Stream], age_s: int, is_hastened: bool
) -> None:
    stream = make_stream(partitions=1, commit={"every_s": 3_600.0, "poll_records": 100_000, "max_rows": 1_000_000})
    assert isinstance(stream.settings.transport, LocalTransport)
    writer = LocalLog(stream.settings.transport.path, clock=lambda: time.time_ns() - age_s * 1_000_000_000)
    writer.append(stream.settings.stream.readings_topic, islice(fleet_records(duration_s=600), 900))
    writer.close()
    role = open_scorer(stream)
    role._last_commit = time.monotonic()
    end = stream.ends()[Partition(stream.settings.stream.readings_topic, 0)]
    deadline = time.monotonic() + 60
    while not any(owned.replay.offset == end for owned in role._owned.values()):
        role.turn(0.01)
        assert time.monotonic() < deadline
    time.sleep(0.2)
    role.turn(0.0)
    outcome = role.metrics.registry.get_sample_value("stream_ad_commits_total", {"outcome": "landed"})
    pending = sum(len(owned.pending.alerts) for owned in role._owned.values())
    assert (bool(outcome), bool(pending)) == (is_hastened, not is_hastened)
    role.close()
    assert stream.outcome() == stream.reference()
