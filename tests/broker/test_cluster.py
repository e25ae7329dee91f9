from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deploy.kafka import broker

pytestmark = pytest.mark.broker


def test_a_broker_ends_with_the_process_that_owns_it(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib\nfrom deploy.kafka.broker import KafkaCluster\n"
        f"cluster = KafkaCluster(pathlib.Path({str(tmp_path)!r}))\ncluster.start_all()\n"
        "print('up', flush=True)\nsys.stdin.read()"
    )
    root = Path(broker.__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"up\n"
        cluster = broker.KafkaCluster(tmp_path, owner_pid=0)
        assert cluster.alive(0)
        owner.send_signal(signal.SIGKILL)
        owner.wait()
    deadline = time.monotonic() + 10
    while cluster.alive(0) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not cluster.alive(0)


def test_missing_java_is_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    assert broker.main(["start", "--dir", str(tmp_path / "kafka")]) == 2
    assert "expected `java` on the PATH" in capsys.readouterr().err


def test_stop_without_a_cluster_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert broker.main(["stop", "--dir", str(tmp_path)]) == 2
    assert "no cluster here; start one first" in capsys.readouterr().err


def test_the_shared_broker_runs(kafka_broker: list[str]) -> None:
    assert len(kafka_broker) == 1
