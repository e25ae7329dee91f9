from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from stream_ad.service.role import Exit
from stream_ad.service.supervisor import BackOff
from tests.service.processes import events, finish, python, turns, wait_for

SHELL = "tests.service.tiny_supervisor"


def pid(folder: Path) -> int:
    path = folder / "pid"
    text = path.read_text() if path.exists() else ""
    return int(text) if text else 0


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    return tmp_path / "one", tmp_path / "two"


def started(lines: list[dict[str, Any]], child: str) -> int:
    return sum(line["event"] == "role_started" and line["child"] == child for line in lines)


@pytest.mark.process
def test_a_killed_child_is_restarted_and_a_stop_drains_all(folders: tuple[Path, Path]) -> None:
    one, two = folders
    process = python(SHELL, f"work:{one}", f"work:{two}")
    wait_for(lambda: turns(one) > 3 and turns(two) > 3)
    first = pid(one)
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: pid(one) not in (0, first) and turns(one) > 3)
    process.terminate()
    code, lines, _ = finish(process)

    assert code == Exit.DONE
    assert started(lines, "one") == 2
    assert started(lines, "two") == 1
    ended = [line for line in lines if line["event"] == "role_ended"]
    assert [(line["child"], line["by_signal"], line["restart_in_s"]) for line in ended] == [("one", "SIGKILL", 0.2)]
    assert (one / "drained").exists()
    assert (two / "drained").exists()
    assert "stopped" in events(lines)  # the children's own lines come through


@pytest.mark.process
def test_a_failed_child_comes_back(folders: tuple[Path, Path]) -> None:
    one, _ = folders
    process = python(SHELL, f"once:{one}")
    wait_for(lambda: (one / "failed").exists() and turns(one) > 5)
    process.send_signal(signal.SIGINT)
    code, lines, _ = finish(process)

    assert code == Exit.DONE
    assert [line["exit_code"] for line in lines if line["event"] == "role_ended"] == [Exit.BROKEN]


@pytest.mark.process
def test_a_stopped_process_is_killed_for_its_missing_heartbeat(folders: tuple[Path, Path]) -> None:
    one, _ = folders
    process = python(SHELL, f"work:{one}", "heartbeat_s=-2.0")  # plus the grace: three seconds
    wait_for(lambda: turns(one) > 3)
    first = pid(one)
    os.kill(first, signal.SIGSTOP)
    wait_for(lambda: pid(one) != first)
    process.terminate()
    code, lines, _ = finish(process)

    assert code == Exit.DONE
    assert "role_hung" in events(lines)


@pytest.mark.process
def test_a_configuration_error_at_the_start_ends_the_supervisor(folders: tuple[Path, Path]) -> None:
    one, two = folders
    code, lines, _ = finish(python(SHELL, f"config:{one}", f"work:{two}"))

    assert code == Exit.CONFIGURATION
    assert any(line.get("message") == "stream.bundle: expected a folder, found nothing" for line in lines)
    assert started(lines, "one") == 1


@pytest.mark.process
def test_children_that_do_not_drain_are_killed(folders: tuple[Path, Path]) -> None:
    one, _ = folders
    process = python(SHELL, f"drain-hang:{one}", "shutdown_s=0.5")
    wait_for(lambda: turns(one) > 3)
    process.terminate()
    code, lines, _ = finish(process)

    assert code == Exit.BROKEN
    assert "killing_roles" in events(lines)
    assert not psutil.pid_exists(pid(one))


@pytest.mark.process
@pytest.mark.skipif(sys.platform != "linux", reason="the parent-death signal is Linux's")
def test_children_do_not_outlive_a_killed_supervisor(folders: tuple[Path, Path]) -> None:
    one, two = folders
    process = python(SHELL, f"work:{one}", f"work:{two}")
    wait_for(lambda: turns(one) > 3 and turns(two) > 3)
    process.kill()
    children = [pid(one), pid(two)]
    wait_for(lambda: not any(alive(child) for child in children))
    process.communicate()

    assert (one / "drained").exists()
    assert (two / "drained").exists()


def alive(number: int) -> bool:
    try:
        return psutil.Process(number).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.process
def test_back_off_doubles_to_its_limit() -> None:
    back_off = BackOff()
    waits = [back_off.wait_s(failures, int(Exit.BROKEN)) for failures in range(1, 12)]

    assert waits == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30, 30, 30])
    assert back_off.wait_s(100_000, -9) == 30
    assert back_off.wait_s(1, int(Exit.FENCED)) == 5
    assert back_off.wait_s(1, int(Exit.CONFIGURATION)) == 30
    assert back_off.wait_s(1, 2) == 30
