from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stream_ad.cli.main import main
from stream_ad.core.batches import Alert, AlertKind, AlertPhase
from stream_ad.io.local.log import LocalLog
from stream_ad.io.transport import Partition, Record
from stream_ad.io.wire.alerts import encode

TOPIC = "sensor.alerts.v1"
START_NS = 1_767_225_600_000_000_000
HOUR_NS = 3_600_000_000_000


def alert(device: str, phase: AlertPhase = AlertPhase.OPENED, stream: str = "pumps", version: int = 0) -> Alert:
    return Alert(
        id=f"id-{device}",
        version=version,
        phase=phase,
        kind=AlertKind.PROCESS,
        stream=stream,
        device=device,
        opened_end_ns=START_NS,
        end_ns=START_NS + version * 16_000_000_000,
        opened_offset=1,
        offset=7,
        score=3.2,
        limit=1.0,
        peak=3.2,
        channels=(("vibration", 0.8), ("current", 0.2)),
        model_id="abc123",
        reason="score 3.2 is 3.2 times its limit 1; vibration 80 %, current 20 %",
    )


class Topic:
    def __init__(self, folder: Path) -> None:
        self.now_ns = time.time_ns() - 5 * HOUR_NS
        self.log = LocalLog(folder / "log.sqlite", clock=lambda: self.now_ns)
        self.log.ensure_topic(TOPIC, 3)

    def send(self, *alerts: Alert) -> None:
        self.now_ns += HOUR_NS
        for one in alerts:
            self.now_ns += 1_000
            self.log.append(TOPIC, [encode(one, Partition("sensor.readings.v1", 1), "c0ffee")])


@pytest.fixture
def topic(config: Path) -> Iterator[Topic]:
    topic = Topic(config.parent)
    yield topic
    topic.log.close()


def test_alerts_are_a_line_each_in_the_order_of_publication(
    config: Path, topic: Topic, capsys: pytest.CaptureFixture[str]
) -> None:
    devices = [f"pump-{k}" for k in range(9)]
    topic.send(*(alert(device) for device in devices))
    topic.send(alert("pump-3", AlertPhase.RESOLVED, version=1))
    assert main(["alerts", "-c", str(config)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [re.search(r"pump-\d", line)[0] for line in lines] == [*devices, "pump-3"]  # type: ignore[index]
    assert re.split(r"\s{2,}", lines[0]) == [
        "2026-01-01 00:00:00",
        "▲ opened",
        "pump-0",
        "process",
        "score 3.2 is 3.2 times its limit 1; vibration 80 %, current 20 %",
    ]
    assert "✓ resolved" in lines[-1]
    assert "\x1b" not in "".join(lines)


def test_json_is_the_message_with_its_place(config: Path, topic: Topic, capsys: pytest.CaptureFixture[str]) -> None:
    topic.send(alert("pump-1"))
    assert main(["alerts", "--json", "-c", str(config)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["id"], found["phase"], found["device"]) == ("id-pump-1", "opened", "pump-1")
    assert found["channels"][0] == {"channel": "vibration", "share": 0.8}
    assert found["input"] == {"topic": "sensor.readings.v1", "partition": 1, "opened_offset": 1, "offset": 7}
    assert (found["log"]["topic"], found["log"]["offset"]) == (TOPIC, 0)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], ["pump-1", "pump-2", "motor-1"]),
        (["--device", "pump-*"], ["pump-1", "pump-2"]),
        (["--since", "150m"], ["motor-1"]),
        (["--since", "now"], []),
        (["--all-streams"], ["pump-1", "fan-1", "pump-2", "motor-1"]),
    ],
)
def test_filters(
    config: Path, topic: Topic, capsys: pytest.CaptureFixture[str], options: list[str], expected: list[str]
) -> None:
    topic.send(alert("pump-1"), alert("fan-1", stream="fans"))
    topic.send(alert("pump-2"))
    topic.send(alert("motor-1"))
    topic.now_ns += 2 * HOUR_NS
    assert main(["-c", str(config), "alerts", "--json", *options]) == 0
    assert [json.loads(line)["device"] for line in capsys.readouterr().out.splitlines()] == expected


def test_what_is_no_alert_is_skipped_and_told(config: Path, topic: Topic, capsys: pytest.CaptureFixture[str]) -> None:
    topic.log.append(TOPIC, [Record(b"{}", partition=2)])
    topic.send(alert("pump-1"))
    assert main(["-c", str(config), "alerts"]) == 0
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 1
    assert f"skipped {TOPIC}/2@0: alert message" in captured.err


def test_a_missing_topic_is_1_and_a_wrong_time_2(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-c", str(config), "alerts"]) == 1
    assert main(["-c", str(config), "alerts", "--since", "2026-01-01T00:00:00"]) == 2
    assert "with its zone" in capsys.readouterr().err


@pytest.mark.process
def test_following_prints_alerts_as_they_come(config: Path, topic: Topic) -> None:
    command = [sys.executable, "-m", "stream_ad.cli.main", "-c", str(config), "alerts", "--follow", "--json"]
    topic.send(alert("pump-1"))
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["device"] == "pump-1"
    topic.send(alert("pump-2"))
    assert json.loads(process.stdout.readline())["device"] == "pump-2"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=10)
    assert (process.returncode, err) == (130, "")


@pytest.mark.process
def test_a_reader_that_has_enough_is_no_failure(config: Path, topic: Topic) -> None:
    command = [sys.executable, "-m", "stream_ad.cli.main", "-c", str(config), "alerts", "--follow"]
    topic.send(alert("pump-1"))
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    topic.send(alert("pump-2"))
    with process.stderr:
        code, err = process.wait(timeout=10), process.stderr.read()
    assert (code, err) == (0, "")
