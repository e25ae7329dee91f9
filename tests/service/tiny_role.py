"""A tiny role in a process of its own: `python -m tests.service.tiny_role MODE FOLDER [key=value …]`.

It counts turns into FOLDER/turns and leaves a mark FOLDER/drained when it was drained.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from stream_ad.errors import ConfigError, FencedError, UnreachableError
from stream_ad.service import logs
from stream_ad.service.metrics import RoleMetrics
from stream_ad.service.role import Plain, Pulse, die_with_parent, run_role, stop_on_signals, supervised


class TinyRole:
    """Works, hangs or fails as told."""

    def __init__(self, mode: str, folder: Path) -> None:
        self.name = "tiny"
        self.metrics = RoleMetrics("tiny", "pumps", "a")
        self._mode, self._folder, self._turns = mode, folder, 0

    def open(self) -> None:
        if self._mode == "config":
            raise ConfigError("stream.bundle: expected a folder, found nothing")

    def turn(self, wait_s: float) -> bool:
        self._turns += 1
        (self._folder / "turns").write_text(str(self._turns))
        if self._turns == 3:
            self._trouble()
        time.sleep(min(wait_s, 0.02))
        return True

    def _trouble(self) -> None:
        if self._mode == "hang":
            threading.Event().wait()
        if self._mode == "fence":
            raise FencedError("expected generation 4, found 5")
        if self._mode == "unreachable":
            raise UnreachableError("no answer from broker:9092 within 15 s") from TimeoutError("timed out")
        if self._mode == "bug":
            raise ZeroDivisionError("division by zero")
        if self._mode == "once" and not (self._folder / "failed").exists():
            (self._folder / "failed").touch()
            raise UnreachableError("the first time only")

    def close(self) -> None:
        if self._mode == "drain-hang":
            threading.Event().wait()
        (self._folder / "drained").write_text(str(self._turns))

    def ready(self) -> tuple[bool, str]:
        return (False, "waiting") if self._mode == "unready" else (True, "3 partitions")

    def health(self) -> Mapping[str, Plain]:
        return {"turns": self._turns}


def main(mode: str, folder: Path, heartbeat_s: float = 60.0, shutdown_s: float = 5.0, port: int = -1) -> int:
    logs.configure("info", "json", {"role": "tiny"})
    (folder / "pid").write_text(str(os.getpid()))
    stop = threading.Event()
    stop_on_signals(stop)
    fd, parent = supervised()
    if parent is not None and not die_with_parent(parent):
        return 0
    pulse = Pulse(heartbeat_s, fd, on_orphaned=stop.set)
    http = None if port < 0 else ("127.0.0.1", port)
    return run_role(lambda: TinyRole(mode, folder), pulse, stop, shutdown_timeout_s=shutdown_s, http=http)


if __name__ == "__main__":
    options = dict(item.split("=") for item in sys.argv[3:])
    sys.exit(
        main(
            sys.argv[1],
            Path(sys.argv[2]),
            float(options.get("heartbeat_s", 60)),
            float(options.get("shutdown_s", 5)),
            int(options.get("port", -1)),
        )
    )
