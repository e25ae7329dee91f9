"""One real Apache Kafka for all tests of a session, shared by the workers of pytest-xdist."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.kafka import broker


def shared_broker(folder: Path, owner_pid: int) -> list[str]:
    """Start the broker of a folder unless another worker has; return its servers.

    It is started by a process of its own, so that no worker has it as a child: it ends with `owner_pid`.
    """
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if broker.read_state(folder) is None:
            command = [sys.executable, broker.__file__, "start", "--dir", str(folder), "--owner", str(owner_pid)]
            answer = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
            if answer.returncode != 0:
                pytest.fail(f"no broker to test with: {answer.stderr}", pytrace=False)
        return broker.KafkaCluster(folder, owner_pid=0).servers


@pytest.fixture(scope="session")
def kafka_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """`host:port` of a running Apache Kafka, one broker; topics and groups need names of their own."""
    alone = "PYTEST_XDIST_WORKER" not in os.environ
    base = tmp_path_factory.getbasetemp()
    folder = (base if alone else base.parent) / "kafka"
    # Under xdist the parent is the controller, which outlives all workers.
    yield shared_broker(folder, os.getpid() if alone else os.getppid())
    if alone:
        broker.KafkaCluster(folder, owner_pid=0).stop(clean=False)
