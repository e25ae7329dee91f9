"""`stream-ad run` as a process, with its pages and its log."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from deploy.kafka.broker import first_of_free_ports
from tests.support.e2e import LONG_S, Stream


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
        return self.page(number, "/readyz")

    def metric(self, number: int, name: str) -> float:
        """Return a metric of a role, summed over its labels."""
        families = text_string_to_metric_families(self.page(number, "/metrics")[1])
        return sum(sample.value for family in families for sample in family.samples if sample.name == name)

    def page(self, number: int, path: str) -> tuple[int, str]:
        """Return status and text of a role's page; (0, "") if nobody answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port + number}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def are_ready(self) -> bool:
        """Return whether both roles say that they are ready."""
        return all(self.readiness(number)[0] == 200 for number in (0, 1))

    def lines(self, event: str) -> list[dict[str, Any]]:
        """Return the log's lines of one event."""
        texts = self.log.read_text(errors="replace").splitlines()
        found = [json.loads(text) for text in texts if text.startswith("{") and text.endswith("}")]
        return [line for line in found if line["event"] == event]

    def stop(self) -> None:
        """End it in an orderly way."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(LONG_S) == 0, self.log.read_text()

    def end(self) -> None:
        """Make sure that nothing is left."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def run_stream() -> Iterator[Callable[[Stream], Supervised]]:
    """Run streams under a supervisor; all are ended after the test."""
    started: list[Supervised] = []

    def run(stream: Stream) -> Supervised:
        started.append(Supervised(stream))
        return started[-1]

    yield run
    for one in started:
        one.end()


def a_port() -> int:
    """Return a port that is free, as are the two above."""
    return first_of_free_ports(1, 2)
