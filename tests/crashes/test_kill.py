"""What a process leaves that died inside its first commit, and what one does that was stopped and wakes up late."""

from __future__ import annotations

import signal
from collections.abc import Callable
from itertools import islice

import psutil
import pytest
from kafka import KafkaProducer

from stream_ad.assembly import ensure_topics
from stream_ad.errors import UnreachableError
from stream_ad.io.transport import Record
from stream_ad.service.role import Exit
from tests.support.e2e import LONG_S, Process, Stream, fleet_records, wait_until


@pytest.mark.broker
def test_a_first_commit_that_died_is_no_reason_to_refuse(
    make_stream: Callable[..., Stream], kafka_broker: list[str]
) -> None:
    """What a transaction that was aborted leaves in the scores topic are no scores."""
    stream = make_stream(servers=kafka_broker, partitions=1)
    ensure_topics(stream.settings, stream.log)
    producer = KafkaProducer(bootstrap_servers=kafka_broker, transactional_id=f"{stream.settings.stream.name}-dead")
    producer.init_transactions()
    producer.begin_transaction()
    producer.send(stream.settings.stream.scores_topic, b"never public").get(30)
    producer.abort_transaction()
    producer.close()
    stream.send(list(islice(fleet_records(duration_s=60), 40)))
    process = Process(stream, "scorer")
    try:
        process.await_event("opened")
        wait_until(stream.scored, each=process.expect_alive)
        assert process.stop() == 0
    finally:
        process.end()
    assert stream.outcome() == stream.reference()


def test_a_stopped_scorer_that_wakes_up_late_publishes_nothing_twice(make_stream: Callable[..., Stream]) -> None:
    stream = make_stream(transport={"session_timeout_s": 1.5})
    records = fleet_records(duration_s=3_600)
    scorers = [Process(stream, "scorer", 0), Process(stream, "scorer", 1)]
    archiver = Process(stream, "archiver")
    try:
        for process in (*scorers, archiver):
            process.await_event("opened")
        stream.send(list(islice(records, 400)))
        wait_until(lambda: all(process.said("partition_gained") for process in scorers))
        wait_until(stream.scored)
        stop_outside_a_write(scorers[0], stream)
        stream.send(list(islice(records, 400)))
        wait_until(stream.scored, each=scorers[1].expect_alive)  # the other one has taken over
        scorers[0].process.send_signal(signal.SIGCONT)
        stream.send(list(islice(records, 100)))
        assert scorers[0].process.wait(LONG_S) == Exit.FENCED
        assert scorers[0].said("partition_lost")
        scorers[0] = Process(stream, "scorer", 0)  # as a supervisor would
        scorers[0].await_event("opened")
        stream.send(list(islice(records, 200)))
        wait_until(stream.scored)
        wait_until(stream.archived)
        assert [process.stop() for process in (*scorers, archiver)] == [0, 0, 0]
    finally:
        for process in (*scorers, archiver):
            process.end()
    stream.prove(at_least_alerts=3)


def stop_outside_a_write(process: Process, stream: Stream) -> None:
    """Stop a process where it does not hold the log's lock, which would hold back everybody."""
    while True:
        process.process.send_signal(signal.SIGSTOP)
        wait_until(lambda: psutil.Process(process.process.pid).status() == psutil.STATUS_STOPPED)
        try:
            stream.send([Record(b"a probe", b"pump-0001")])
            return
        except UnreachableError:
            process.process.send_signal(signal.SIGCONT)
