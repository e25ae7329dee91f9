"""`send` puts every reading of a recording into the log, keyed by device, when it is due."""

from __future__ import annotations

import argparse
import json
import signal
import threading
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from stream_ad.cli import send
from stream_ad.cli.main import build_parser, main
from stream_ad.cli.send import paced, planned, read_recording, read_speed, shift_to
from stream_ad.config import load
from stream_ad.io.local.log import LocalLog
from stream_ad.io.transport import Partition, Record
from stream_ad.io.wire.producing import Message
from stream_ad.io.wire.readings import Decoder

SECOND = 10**9
START_NS = 1_583_748_873 * SECOND
ROWS = 20


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working folder with a recording of two devices and its settings."""
    monkeypatch.chdir(tmp_path)
    lines = [f"{START_NS // SECOND + n},pump-{d},{n},{n * d}" for n in range(ROWS) for d in (1, 2)]
    (tmp_path / "r.csv").write_text("\n".join(["ts,device,flow,pressure", *lines]))
    assert main(["init", "r.csv", "--name", "pumps"]) == 0
    return tmp_path


def sent(folder: Path) -> list[tuple[str, int, float, float]]:
    """Return all readings in the log, by device and time."""
    log = LocalLog(folder / "data" / "log.sqlite")
    rows = []
    topic = log.topic("sensor.readings.v1")
    for number in range(topic.partitions):
        partition = Partition(topic.name, number)
        for raw in log.read(partition, *log.bounds(partition)):
            decoded = Decoder(["flow", "pressure"]).decode(raw)
            assert not decoded.refused
            batch = decoded.readings
            assert {key.decode() for key in raw.keys if key} == set(batch.ids)
            rows += [
                (batch.ids[device], event_ns, *values)
                for device, event_ns, values in zip(
                    batch.device.tolist(), batch.event_ns.tolist(), batch.values.tolist(), strict=True
                )
            ]
    log.close()
    return sorted(rows)


EXPECTED = [(f"pump-{d}", START_NS + n * SECOND, float(n), float(n * d)) for d in (1, 2) for n in range(ROWS)]


@pytest.mark.parametrize("form", ["json", "series", "arrow"])
def test_every_reading_is_sent_once(form: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()

    assert main(["send", "r.csv", "--format", form, "--samples", "6", "--json"]) == 0

    assert sent(here) == EXPECTED
    out, err = capsys.readouterr()
    summary = json.loads(out)
    assert (summary["rows"], summary["records"], summary["complete"]) == (40, 40 if form == "json" else 8, True)
    assert "created topic sensor.readings.v1 with 4 partitions" in err
    assert "sent 40 rows of 2 devices" in err


def test_a_topic_that_is_there_stays_as_it_is(here: Path) -> None:
    settings = load(here / "stream.toml", {})
    log = LocalLog(here / "data" / "log.sqlite")
    log.ensure_topic(settings.stream.readings_topic, 2)
    log.close()

    assert main(["send", "r.csv", "--device", "pump-2"]) == 0

    assert {row[0] for row in sent(here)} == {"pump-2"}


def test_a_recording_is_sent_in_its_own_time(here: Path) -> None:
    start = time.monotonic()
    assert main(["send", "r.csv", "--speed", "40"]) == 0
    assert time.monotonic() - start >= 0.45
    assert sent(here) == EXPECTED


def test_shifted_times_end_now(here: Path) -> None:
    before = time.time_ns()
    assert main(["send", "r.csv", "--shift-to-now"]) == 0

    rows = sent(here)
    last = max(row[1] for row in rows)
    assert before - 2 * SECOND <= last <= time.time_ns()
    assert max(row[1] for row in rows) - min(row[1] for row in rows) == (ROWS - 1) * SECOND


@pytest.mark.parametrize("speed", [0.5, 1.0, 1.7, 20.0, None])
def test_no_shifted_reading_is_ahead_of_the_clock(speed: float | None) -> None:
    now, first, last = 1_700_000_000_123_456_789, START_NS, START_NS + 1000 * SECOND
    shift = shift_to(now, first, last, speed)

    assert shift % SECOND == 0
    for event in range(first, last + 1, 50 * SECOND):
        due = now if speed is None else now + (event - first) / speed
        assert event + shift <= due
    closest = min(
        (now if speed is None else now + (event - first) / speed) - (event + shift) for event in (first, last)
    )
    assert closest < 1.01 * SECOND


def test_a_loop_goes_on_in_later_times(here: Path) -> None:
    words = ["send", "r.csv", "--device", "pump-1", "--loop", "--format", "json", "--samples", "1"]
    args = build_parser({"send": send}).parse_args(words)
    recording = read_recording(args)

    due = [message.due_ns for message in islice(planned(recording, args), 3 * ROWS)]

    assert due == [START_NS + n * SECOND for n in range(3 * ROWS)]


def test_a_loop_ends_well_when_stopped(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    timer = threading.Timer(0.5, signal.raise_signal, [signal.SIGINT])
    timer.start()
    try:
        assert main(["send", "r.csv", "--loop", "--speed", "100"]) == 0
    finally:
        timer.cancel()
    assert "sent " in capsys.readouterr().err
    assert len(sent(here)) >= 2 * ROWS


def test_batches_wait_for_their_last_message() -> None:
    def plan() -> Iterator[Message]:
        for due_ms in (0, 0, 100, 200):
            yield Message(due_ms * 10**6, 1, Record(b""))

    now = [5.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    seen = [(len(batch), round(now[0] - 5.0, 6)) for batch in paced(plan(), 1.0, lambda: now[0], sleep)]

    assert seen == [(2, 0.0), (1, 0.1), (1, 0.2)]


def test_devices_that_the_scorer_skips_are_named(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = here / "stream.toml"
    settings.write_text(settings.read_text().replace('devices = "*"', 'devices = "pump-1*"'))

    assert main(["send", "r.csv"]) == 0

    assert "note: devices that do not match 'pump-1*' will be skipped by the scorer: pump-2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["none.csv"], 1, "no such file"),
        (["r.csv", "-c", "none.toml"], 2, "none.toml: cannot be read"),
        (["r.csv", "--speed", "0"], 2, "expected max or a number above 0"),
        (["r.csv", "--speed", "fast"], 2, "expected max or a number above 0"),
        (["r.csv", "--format", "xml"], 2, "invalid choice"),
        (["r.csv", "--samples", "0"], 2, "at least 1"),
        (["r.csv", "--loop", "--shift-to-now"], 2, "--speed of at most 1"),
        (["r.csv", "--device", "pump-9"], 1, "no such device: 'pump-9'"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    arguments: list[str], code: int, message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["send", *arguments]) == code
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err


def test_speeds() -> None:
    assert read_speed("max") is None
    assert read_speed("2.5") == 2.5
    for text in ("inf", "nan", "-1"):
        with pytest.raises(argparse.ArgumentTypeError, match=text):
            read_speed(text)
