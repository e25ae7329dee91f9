"""The log goes away under running roles and comes back: they say so and go on; nothing is lost or repeated."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from deploy.kafka.broker import KafkaCluster, free_ports
from stream_ad.errors import UnreachableError
from tests.support.e2e import LONG_S, Stream, fleet_records, wait_until


class Supervised:
    """`stream-ad run` with its pages and its log."""

    def __init__(self, stream: Stream) -> None:
        self._port = stream.settings.service.http_port
        self.log = stream.folder / "run.log"
        command = [sys.executable, "-m", "stream_ad.cli.main", "-c", str(stream.config), "--log-format", "json", "run"]
        with self.log.open("wb") as file:
            self.process = subprocess.Popen(command, stderr=file, stdout=file)

    def readiness(self, number: int) -> tuple[int, str]:
        """Return what a role's page says: 0 is the archiver's, 1 the scorer's; (0, "") between two lives."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port + number}/readyz", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def are_ready(self) -> bool:
        return all(self.readiness(number)[0] == 200 for number in (0, 1))

    def lines(self, event: str) -> list[dict[str, Any]]:
        texts = self.log.read_text(errors="replace").splitlines()
        found = [json.loads(text) for text in texts if text.startswith("{") and text.endswith("}")]
        return [line for line in found if line["event"] == event]

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(LONG_S) == 0, self.log.read_text()

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def run_stream() -> Iterator[Callable[[Stream], Supervised]]:
    started: list[Supervised] = []

    def run(stream: Stream) -> Supervised:
        started.append(Supervised(stream))
        return started[-1]

    yield run
    for one in started:
        one.end()


def a_port() -> int:
    """Return a port that is free, as are the two above, most likely."""
    return next(free_ports())


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
        assert any(str(cluster.servers[0]) in why for why in told), told

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
