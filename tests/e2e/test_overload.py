"""6,000 records arrive at once: nothing is lost, and the scorer does not grow."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice

import psutil
import pytest

from stream_ad.config import LocalTransport
from stream_ad.io.transport import Record
from tests.crashes.test_kill import stop_outside_a_write
from tests.support.e2e import Process, Stream, fleet_records, wait_until

BLANKS = b" " * 15_000
"""Makes a backlog large in bytes, which is what could fill memory; JSON allows blanks."""
FIRST, BACKLOG = 800, 6_000
PATIENT = {"session_timeout_s": 60.0}
GROWTH_MB = 48.0
"""A poll's records, what a commit holds, the client's buffers; the backlog is 90 MB."""


def padded(records: Iterator[Record]) -> Iterator[Record]:
    for record in records:
        yield replace(record, value=record.value + BLANKS) if record.value.endswith(b"}") else record


def stop(stream: Stream, scorer: Process) -> None:
    """Stop a process, for less than its session."""
    if isinstance(stream.settings.transport, LocalTransport):
        stop_outside_a_write(scorer, stream)
    else:
        scorer.process.send_signal(signal.SIGSTOP)


def burst(stream: Stream) -> None:
    records = padded(fleet_records(duration_s=100_000))
    scorer, archiver = Process(stream, "scorer"), Process(stream, "archiver")
    try:
        scorer.await_event("opened")
        stream.send(list(islice(records, FIRST)))
        wait_until(stream.scored)
        resident = psutil.Process(scorer.process.pid)
        idle_mb = most_mb = resident.memory_info().rss / 1e6
        stop(stream, scorer)  # or it would read what comes as it comes
        stream.send(list(islice(records, BACKLOG)))
        scorer.process.send_signal(signal.SIGCONT)

        def watch() -> None:
            nonlocal most_mb
            scorer.expect_alive()
            archiver.expect_alive()
            most_mb = max(most_mb, resident.memory_info().rss / 1e6)

        wait_until(stream.scored, 240, each=watch)
        wait_until(stream.archived, 60, each=watch)
        assert [process.stop() for process in (scorer, archiver)] == [0, 0]
    finally:
        for process in (scorer, archiver):
            process.end()
    assert most_mb < idle_mb + GROWTH_MB, f"{idle_mb:.0f} MB idle, {most_mb:.0f} MB at most"
    stream.prove(at_least_alerts=3)


def test_a_burst_is_worked_off_on_the_local_log(make_stream: Callable[..., Stream]) -> None:
    burst(make_stream(partitions=1, transport=PATIENT))


@pytest.mark.broker
def test_a_burst_is_worked_off_on_kafka(make_stream: Callable[..., Stream], kafka_broker: list[str]) -> None:
    burst(make_stream(partitions=1, servers=kafka_broker, transport=PATIENT))
