from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deploy.kafka.broker import first_of_free_ports
from stream_ad import errors
from stream_ad.service.role import ECHO_S, Exit, Pulse, exit_code, run_role
from tests.service.processes import events, finish, python, turns, wait_for
from tests.service.test_probes import get
from tests.service.tiny_role import TinyRole

TINY = "tests.service.tiny_role"


@pytest.mark.process
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_after_the_turn(tmp_path: Path, number: int) -> None:
    process = python(TINY, "work", str(tmp_path))
    wait_for(lambda: turns(tmp_path) > 3)
    process.send_signal(number)
    process.send_signal(number)  # the echo that service managers make is no second request
    code, lines, _ = finish(process)

    assert code == Exit.DONE
    assert events(lines) == ["starting", "opened", "ready", "stopping", "stopped"]
    assert (tmp_path / "drained").read_text() == (tmp_path / "turns").read_text()


@pytest.mark.process
def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    process = python(TINY, "drain-hang", str(tmp_path), "shutdown_s=60")
    wait_for(lambda: turns(tmp_path) > 3)
    process.terminate()
    time.sleep(ECHO_S + 0.1)
    process.terminate()
    code, _, _ = finish(process, 5)

    assert code == 128 + signal.SIGTERM


@pytest.mark.process
def test_a_drain_beyond_its_deadline_ends_with_stacks(tmp_path: Path) -> None:
    process = python(TINY, "drain-hang", str(tmp_path), "shutdown_s=0.3")
    wait_for(lambda: turns(tmp_path) > 3)
    process.terminate()
    code, lines, text = finish(process)

    assert code == Exit.BROKEN
    assert lines[-1]["event"] == "drain_deadline"
    assert "in close" in text


@pytest.mark.process
def test_a_hung_turn_is_ended_by_the_watchdog_with_stacks(tmp_path: Path) -> None:
    code, lines, text = finish(python(TINY, "hang", str(tmp_path), "heartbeat_s=0.4"))

    assert code == Exit.BROKEN
    assert lines[-1]["event"] == "hung"
    assert "in _trouble" in text


@pytest.mark.parametrize(
    ("mode", "code", "error"),
    [
        ("fence", Exit.FENCED, "FencedError"),
        ("config", Exit.CONFIGURATION, "ConfigError"),
        ("unreachable", Exit.BROKEN, "UnreachableError"),
        ("bug", Exit.BROKEN, "ZeroDivisionError"),
    ],
)
def test_an_error_is_one_log_line_and_an_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], mode: str, code: Exit, error: str
) -> None:
    lines = run_here(mode, tmp_path)

    assert lines["code"] == code
    last = lines["lines"][-1]
    assert (last["error"], last["exit_code"]) == (error, code)
    assert ("traceback" in last) == (mode == "bug")
    if mode == "unreachable":
        assert last["cause"] == "TimeoutError: timed out"
    assert not (tmp_path / "drained").exists()  # a broken role publishes nothing more
    assert capsys.readouterr().out == ""


def run_here(mode: str, folder: Path) -> dict[str, Any]:
    """Run the tiny role on this thread, with its log in memory."""
    import io
    import json

    from stream_ad.service import logs

    text = io.StringIO()
    logs.configure("info", "json", {"role": "tiny"}, text)
    pulse = Pulse(60.0)
    code = run_role(lambda: TinyRole(mode, folder), pulse, threading.Event(), shutdown_timeout_s=5)
    return {"code": code, "lines": [json.loads(line) for line in text.getvalue().splitlines()]}


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.FencedError, Exit.FENCED),
        (errors.BundleProbeError, Exit.CONFIGURATION),
        (errors.TopicError, Exit.CONFIGURATION),
        (errors.AccessError, Exit.CONFIGURATION),
        (errors.PartExistsError, Exit.BROKEN),
        (errors.DeadlineError, Exit.BROKEN),
        (errors.ContractError, Exit.BROKEN),
    ],
)
def test_exit_codes_by_class(error: Callable[[str], errors.StreamAdError], code: Exit) -> None:
    assert exit_code(error("x")) == code


def test_an_orphan_drains_when_the_pipe_breaks(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    stop = threading.Event()
    pulse = Pulse(60.0, writer, on_orphaned=stop.set)
    os.close(reader)
    code = run_role(lambda: TinyRole("work", tmp_path), pulse, stop, shutdown_timeout_s=5)
    os.close(writer)

    assert code == Exit.DONE
    assert (tmp_path / "drained").exists()


def test_beats_never_block_on_a_full_pipe() -> None:
    reader, writer = os.pipe()
    pulse = Pulse(60.0, writer)
    for _ in range(70_000):
        pulse.opened()
    assert pulse.age_s < 1
    pulse.close()
    os.close(reader)
    os.close(writer)


@pytest.mark.process
def test_a_role_in_a_call_that_does_not_return_is_not_ready(tmp_path: Path) -> None:
    port = first_of_free_ports()
    process = python(TINY, "hang", str(tmp_path), "heartbeat_s=8", f"port={port}")

    def is_unready() -> bool:
        status, text, _ = get(port, "/readyz")
        return status == 503 and "in a call that has not returned" in text

    wait_for(lambda: turns(tmp_path) == 3)
    wait_for(is_unready)
    assert "stream_ad_ready 0.0" in get(port, "/metrics")[1]
    assert get(port, "/livez")[0] == 200  # waiting for a broker that is gone is no reason to be killed
    assert finish(process)[0] == Exit.BROKEN  # for so long it is


LONG_RUN = """
import gc, sys
from collections import deque
from stream_ad.service.role import freeze_permanent_objects
modules = [[number] for number in range(1_000_000)]
gc.collect()
if sys.argv[1] == "aside":
    freeze_permanent_objects()
before = gc.get_stats()[2]["collections"]
fetched = deque(maxlen=20_000)
for _ in range(200_000):
    future = []
    future.append(future)  # a cycle, dropped when it is no longer young
    fetched.append(future)
print(gc.get_stats()[2]["collections"] - before)
"""


@pytest.mark.process
@pytest.mark.parametrize("how", ["as it is", "aside"])
def test_cycles_are_collected_soon_however_much_stays(how: str) -> None:
    found = subprocess.run([sys.executable, "-c", LONG_RUN, how], capture_output=True, text=True, check=True)
    collections = int(found.stdout)
    assert (collections >= 2) if how == "aside" else (collections == 0)


def test_what_follows_opening_is_done_once(tmp_path: Path) -> None:
    stop, seen = threading.Event(), list[str]()

    def opened() -> None:
        seen.append("opened")
        stop.set()

    pulse = Pulse(60.0)
    code = run_role(lambda: TinyRole("work", tmp_path), pulse, stop, shutdown_timeout_s=5, on_opened=opened)
    assert code == Exit.DONE
    assert seen == ["opened"]
