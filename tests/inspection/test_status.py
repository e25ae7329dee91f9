from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from stream_ad.assembly import ensure_topics
from stream_ad.inspection.facts import Lag
from stream_ad.inspection.status import lag_of, read_status
from stream_ad.io.following import newest
from stream_ad.io.local.log import LocalLog
from stream_ad.io.transport import Partition, Record
from tests.crashes.conftest import make_stream, pump_bundle
from tests.support.e2e import Stream
from tests.support.roles import worked_off

__all__ = ["make_stream", "pump_bundle"]

S_NS = 1_000_000_000


def test_lag_of_many_records_is_told_by_their_times(tmp_path: Path) -> None:
    clock = iter(range(1, 10**6))
    log = LocalLog(tmp_path / "log.sqlite", clock=lambda: next(clock) * S_NS)
    log.ensure_topic("t", 1)
    for _ in range(5):
        log.append("t", [Record(b"v")] * 100)
    partition = Partition("t", 0)
    times = [int(ns) for raw in log.read(partition, 0, 500) for ns in raw.log_ns]
    for start in (0, 100, 250, 350, 499, 500):
        lag = lag_of(log, partition, start, 500)
        assert lag.records == 500 - start
        assert lag.seconds == ((times[-1] - times[start]) / 1e9 if start < 500 else 0.0)
    last = newest(log, partition)
    assert last is not None
    assert last.log_ns == times[-1]
    log.close()


def test_a_scores_topic_that_ends_with_commits_has_no_lag(make_stream: Callable[..., Stream]) -> None:
    stream = make_stream(partitions=1)
    ensure_topics(stream.settings, stream.log)
    scorer, archiver = worked_off(stream)
    scores = Partition(stream.settings.stream.scores_topic, 0)
    last = [int(raw.offset[-1]) for raw in stream.log.read(scores, *stream.log.bounds(scores))][-1]
    assert stream.log.bounds(scores)[1] > last + 1  # what the commit itself left
    assert read_status(stream.settings, stream.log).partitions[0].archiving.lag == Lag()
    scorer.close()
    archiver.close()
