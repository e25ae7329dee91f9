"""Fixtures of the whole test tree and the profile of hypothesis."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support import sockets
from tests.support.broker import kafka_broker

__all__ = ["kafka_broker"]

# Derandomised, so that a red build is red again; the deadline is off because machines differ.
settings.register_profile("ci", derandomize=True, deadline=None, max_examples=30, print_blob=True)
settings.register_profile("thorough", deadline=None, max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

# A job in the background of a shell script ignores SIGINT, and what it starts inherits that.
signal.signal(signal.SIGINT, signal.default_int_handler)

IN_PROCESSES = (
    "tests/benchmarks/",
    "tests/contracts/test_larger_faults.py",
    "tests/crashes/",
    "tests/e2e/",
    "tests/evaluation/",
    "tests/field/",
    "tests/reference/",
    "tests/simulators/test_pretrained.py",
)
"""Where tests start processes, or run whole roles, commands or trainings: all of them are marked `process`."""
STARTS = frozenset({"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.system"})
"""Audit events of the interpreter that precede a new process."""
NEEDED_BYTES = 6_000_000_000

_is_unit_test = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that need more than this process, and accept sockets that kafka-python leaves open."""
    for item in items:
        if item.get_closest_marker("broker") is not None:
            # It gives up closing them on a busy machine.
            item.add_marker(pytest.mark.filterwarnings("ignore:unclosed <socket.socket:ResourceWarning"))
        elif item.nodeid.startswith(IN_PROCESSES):
            item.add_marker(pytest.mark.process)


def _refuse_processes(event: str, _arguments: tuple[object, ...]) -> None:
    if event in STARTS and _is_unit_test:
        raise RuntimeError(f"{event}: a unit test starts no process; mark it `process`")


sys.addaudithook(_refuse_processes)


@pytest.fixture(autouse=True)
def _guard(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that starts a process and is not marked so, or leaves a socket open."""
    global _is_unit_test
    marked = {marker.name for marker in request.node.iter_markers()}
    _is_unit_test = not marked & {"process", "broker", "thorough"}
    sockets.forget()
    yield
    _is_unit_test = False
    if found := sockets.left_open():
        pytest.fail(f"sockets left open, made at {', '.join(found)}", pytrace=False)


def _use_memory_for_files() -> None:
    """Keep the tests' files in memory where there is room: a sync of the disk is no part of what they show."""
    memory = Path("/dev/shm")
    if memory.is_dir() and os.access(memory, os.W_OK):
        found = os.statvfs(memory)
        if found.f_bavail * found.f_frsize > NEEDED_BYTES:
            os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(memory))


_use_memory_for_files()


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    """Undo what `logs.configure` does to the process, so that no test hears more or less because of another."""
    root = logging.getLogger()
    handlers = list(root.handlers)
    levels = {name: logging.getLogger(name).level for name in ("", "stream_ad", "kafka")}
    yield
    root.handlers[:] = handlers
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    logging.captureWarnings(False)
