"""The log goes away under running roles and comes back: they say so and go on; nothing is lost or repeated."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from deploy.kafka.broker import KafkaCluster
from stream_ad.errors import UnreachableError
from tests.support.e2e import LONG_S, Stream, fleet_records, wait_until
from tests.support.supervised import Supervised, a_port


def send_patiently(stream: Stream, records: list[Any]) -> None:
    """Send when the log takes it again; what was sent twice would be two records."""

    def sent() -> bool:
        try:
            stream.log.bounds(next(iter(stream.ends())))
        except UnreachableError:
            return False
        return True

    wait_until(sent)
    stream.send(records)


def expect_alive(service: Supervised, seconds: float) -> None:
    """See that no role answers that it hangs, and that the supervisor goes on."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for number in (0, 1):
            status, text = service.page(number, "/livez")
            assert status in {0, 200}, text  # 0: nobody answers between two lives
            assert service.readiness(number)[0] != 200
        assert service.process.poll() is None
        time.sleep(0.2)


def go_on_and_prove(stream: Stream, service: Supervised, records: Iterator[Any]) -> None:
    """See that everything is worked off after the outage, with more readings, and prove it."""
    send_patiently(stream, list(islice(records, 400)))
    wait_until(service.are_ready, 2 * LONG_S)
    wait_until(stream.scored, 2 * LONG_S)
    wait_until(stream.archived, 2 * LONG_S)
    service.stop()
    stream.prove(at_least_alerts=3)


@pytest.mark.broker
def test_the_broker_is_killed_and_comes_back(
    make_stream: Callable[..., Stream], run_stream: Callable[[Stream], Supervised], tmp_path: Path
) -> None:
    with KafkaCluster(tmp_path / "kafka") as cluster:
        transport = {"kind": "kafka", "servers": cluster.servers, "session_timeout_s": 6.0, "request_timeout_s": 4.0}
        stream = make_stream(servers=cluster.servers, transport=transport, service={"http_port": a_port()})
        stream.change("commit", deadline_s=15.0)
        records = fleet_records(duration_s=3_600)
        service = run_stream(stream)
        stream.send(list(islice(records, 600)))
        wait_until(service.are_ready)
        wait_until(stream.scored)
        stream.send(list(islice(records, 300)))  # some of them are scored, some committed, some not

        cluster.kill(0)
        wait_until(lambda: all(service.readiness(number)[0] != 200 for number in (0, 1)))
        assert service.process.poll() is None
        told = [line["why"] for line in service.lines("unready")]
        # A role that the outage met inside a commit says nothing before the commit's deadline.
        told += [line["message"] for line in service.lines("failed")]
        told += [service.readiness(number)[1] for number in (0, 1)]
        assert any(cluster.servers[0] in why or "has not returned" in why for why in told), told
        expect_alive(service, 25.0)  # past the commit's deadline and a restart

        cluster.start(0)
        go_on_and_prove(stream, service, records)


def test_the_local_log_is_locked_and_set_free(
    make_stream: Callable[..., Stream], run_stream: Callable[[Stream], Supervised]
) -> None:
    stream = make_stream(service={"http_port": a_port()})
    records = fleet_records(duration_s=3_600)
    service = run_stream(stream)
    stream.send(list(islice(records, 600)))
    wait_until(service.are_ready)
    wait_until(stream.scored)
    stream.send(list(islice(records, 300)))

    blocker = sqlite3.connect(stream.folder / "log.sqlite", isolation_level=None, timeout=LONG_S)
    try:
        blocker.execute("BEGIN IMMEDIATE")
        wait_until(lambda: service.readiness(1)[0] == 503, 2 * LONG_S)
        assert "rejected" in service.readiness(1)[1] or service.lines("commit_rejected")
        assert service.process.poll() is None
    finally:
        blocker.close()

    go_on_and_prove(stream, service, records)
