"""Runs a role that dies at a named step: the command line of `stream-ad` with a watcher of `stream_ad.io.steps`.

    python -m tests.crashes.dying --at "checkpoint written aside" -- -c stream.toml run scorer

`--serve` takes such commands from stdin, a line of JSON each, and forks for
each: a life then costs a fork and not half a second of imports.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from stream_ad.cli.main import leave
from stream_ad.io.wire.scores import prepare
from tests.crashes.steps import STEPS, arm

WARM = (
    "stream_ad.cli.run",
    "stream_ad.io.kafka.log",
    "stream_ad.io.local.log",
    "stream_ad.service.roles.archiver",
    "stream_ad.service.roles.scorer",
    "stream_ad.service.supervisor",
    "stream_ad.core.detectors.pca",
    "crc32c",
)
"""Imported before the first fork."""


def live(arguments: Sequence[str], at: str, call: int, number: int = signal.SIGKILL) -> int:
    """Run `stream-ad` with these arguments until it ends or comes to the step."""
    from stream_ad.cli.main import main

    if at:
        role = next(word for word in arguments if word in STEPS)
        arm(role, at, call, number)
    return main(arguments)


def serve() -> int:
    """Fork a life for each line of stdin; answer with its process number, then with how it ended."""
    _die_with_parent()
    for module in WARM:
        import_module(module)
    prepare()
    for line in sys.stdin:
        asked = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _be(asked)
        _say({"pid": pid})
        _, status = os.waitpid(pid, 0)
        _say({"ended": os.waitstatus_to_exitcode(status)})
    return 0


def _say(what: dict[str, int]) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def _be(asked: dict[str, Any]) -> None:
    """Be the child: never return."""
    code = 70
    try:
        _die_with_parent()
        log = os.open(asked["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        null = os.open(os.devnull, os.O_RDONLY)
        for fd, target in ((null, 0), (log, 1), (log, 2)):
            os.dup2(fd, target)
        code = live(asked["arguments"], asked["at"], asked["call"])
        sys.stderr.flush()
    finally:
        os._exit(code)


def _die_with_parent() -> None:
    set_parent_death_signal = 1
    ctypes.CDLL(None, use_errno=True).prctl(set_parent_death_signal, signal.SIGKILL)


class Lives:
    """Starts lives of roles, one after another, from one process that has imported everything."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.crashes.dying", "--serve"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self._server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)

    def start(self, config: Path, role: str, log: Path, at: str = "", call: int = 1) -> Life:
        """Start one; the one before must have ended."""
        arguments = ["-c", str(config), "--log-format", "json", "run", role]
        asked = {"arguments": arguments, "log": str(log), "at": at, "call": call}
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps(asked).encode() + b"\n")
        self._server.stdin.flush()
        return Life(self, int(self.answer(30.0)["pid"]), log)

    def answer(self, seconds: float) -> dict[str, Any]:
        """Read an answer.

        Raises:
            TimeoutError: none came in time.
        """
        assert self._server.stdout is not None
        if not select.select([self._server.stdout], [], [], seconds)[0]:
            raise TimeoutError(f"no answer within {seconds} s")
        found: dict[str, Any] = json.loads(self._server.stdout.readline())
        return found

    def close(self) -> None:
        """End the server, and a life with it."""
        for pipe in (self._server.stdin, self._server.stdout):
            assert pipe is not None
            pipe.close()
        self._server.kill()
        self._server.wait()


class Life:
    """A process of a role."""

    def __init__(self, lives: Lives, pid: int, log: Path) -> None:
        self.pid, self.log = pid, log
        self._lives = lives
        self._ended: int | None = None

    def end(self, seconds: float) -> int:
        """Wait for its end; return the exit code, a signal's number with a minus.

        Raises:
            TimeoutError: it lives on.
        """
        if self._ended is None:
            try:
                self._ended = int(self._lives.answer(seconds)["ended"])
            except TimeoutError as error:
                raise TimeoutError(f"still alive after {seconds} s: {self.text()[-3_000:]}") from error
        return self._ended

    def has_ended(self) -> bool:
        """Return whether it has."""
        try:
            self.end(0.0)
        except TimeoutError:
            return False
        return True

    def stop(self, seconds: float) -> int:
        """Ask it to stop, as soon as it listens to that, and wait for its end; return the exit code."""
        while not self.has_ended() and '"starting"' not in self.text():
            time.sleep(0.005)
        if not self.has_ended():
            os.kill(self.pid, signal.SIGTERM)
        return self.end(seconds)

    def text(self) -> str:
        """Return its log."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Run a role that dies at a named step.")
    parser.add_argument("--serve", action="store_true", help="take commands from stdin")
    parser.add_argument("--at", default="", help="name of the step, one of tests/crashes/steps.py")
    parser.add_argument("--call", type=int, default=1, help="die when it comes to the step for this time")
    parser.add_argument("--stop", action="store_true", help="stop there as SIGSTOP does, instead of dying")
    parser.add_argument("arguments", nargs="*", help="of stream-ad, after --")
    chosen = parser.parse_args()
    number = signal.SIGSTOP if chosen.stop else signal.SIGKILL
    return serve() if chosen.serve else live(chosen.arguments, chosen.at, chosen.call, number)


if __name__ == "__main__":
    leave(main())
