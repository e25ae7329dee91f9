"""`stream-ad run` as started by an operator: a supervisor with its roles, logging to a file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from stream_ad.config import Settings
from stream_ad.io.transport import Partition, Transport
from stream_ad.role_table import deciding_group

LONG_S = 180.0


class Service:
    """A supervisor and its roles.

    Args:
        settings: the stream's file.
        log: file to append the log to.
        options: settings by their environment names, without prefix.
    """

    def __init__(self, settings: Path, log: Path, **options: str) -> None:
        self.log = log
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "STREAM_AD__SERVICE__LOG_LEVEL": "info"}
        environment |= {f"STREAM_AD__{name}": value for name, value in options.items()}
        command = [sys.executable, "-m", "stream_ad.cli.main", "-c", str(settings), "--log-format", "json", "run"]
        self._from = log.stat().st_size if log.exists() else 0
        with log.open("ab") as file:
            self.process = subprocess.Popen(command, stderr=file, stdout=file, env=environment)

    def lines(self, event: str = "") -> list[dict[str, Any]]:
        """Return the log since this start, or only lines of one event."""
        with self.log.open("rb") as file:
            file.seek(self._from)
            texts = file.read().decode(errors="replace").splitlines()
        found = [json.loads(text) for text in texts if text.startswith("{") and text.endswith("}")]
        return [line for line in found if not event or line["event"] == event]

    def pid(self, child: str) -> int:
        """Return a role's newest process id."""
        return int([line["pid"] for line in self.lines("role_started") if line["child"] == child][-1])

    def moment(self, event: str, role: str, after_s: float) -> float:
        """Return when a role first logged an event after a moment, epoch seconds; nan if it did not."""
        for line in self.lines(event):
            at = datetime.fromisoformat(line["ts"]).timestamp()
            if line.get("child", line.get("role")) == role and at >= after_s:
                return at
        return float("nan")

    def processes(self) -> dict[str, psutil.Process]:
        """Return the roles' processes by name."""
        names = {line["child"] for line in self.lines("role_started")}
        return {name: psutil.Process(self.pid(name)) for name in names}

    def kill_all(self) -> None:
        """Kill all processes at once, as a power cut of the host does."""
        family = [self.process.pid, *(child.pid for child in psutil.Process(self.process.pid).children())]
        for pid in family:
            os.kill(pid, signal.SIGSTOP)  # none may notice another's end first
        for pid in family:
            os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        """Stop with SIGTERM.

        Raises:
            SystemExit: it failed.
        """
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        if self.process.wait(LONG_S) != 0:
            raise SystemExit(f"`stream-ad run` exited with {self.process.returncode}; see {self.log}")


class Progress:
    """Position of the scorer's group in partition 0 of the readings."""

    def __init__(self, settings: Settings, transport: Transport) -> None:
        self._transport = transport
        self._group = deciding_group(settings)
        self._partition = Partition(settings.stream.readings_topic, 0)

    def committed(self) -> int:
        """Return the next input offset to score."""
        position = self._transport.committed(self._group, self._partition)
        return 0 if position is None else position.offset

    def end(self) -> int:
        """Return the end of the readings."""
        return self._transport.bounds(self._partition)[1]

    def await_offset(self, offset: int, seconds: float = LONG_S) -> float:
        """Wait until an offset is committed; return when that was observed, epoch seconds."""
        await_it(lambda: self.committed() >= offset, seconds, f"offset {offset} committed")
        return time.time()


def await_it(what: Callable[[], bool], seconds: float, name: str) -> None:
    """Wait for a condition.

    Raises:
        SystemExit: time-out.
    """
    deadline = time.monotonic() + seconds
    while not what():
        if time.monotonic() > deadline:
            raise SystemExit(f"not within {seconds:g} s: {name}")
        time.sleep(0.03)
