"""What a run did and found, and its log."""

from __future__ import annotations

import json
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(slots=True)
class Report:
    """What a run did and found; `problems` empty means proven."""

    seed: int
    problems: list[str] = field(default_factory=list)
    minutes: float = 0.0
    kills: dict[str, int] = field(default_factory=dict)
    broker_kills: dict[str, int] = field(default_factory=dict)
    done: dict[str, int] = field(default_factory=dict)
    fenced: int = 0
    slept_on: dict[str, int] = field(default_factory=dict)
    ended_by_themselves: dict[str, int] = field(default_factory=dict)
    readings: int = 0
    messages: int = 0
    rows: int = 0
    alerts: int = 0
    dead_letters: int = 0
    missing: int = 0
    repeated: int = 0
    longest_without_commit_s: float = 0.0
    longest_partition_without_commit_s: float = 0.0
    first_commit_after_kill_s: dict[str, float] = field(default_factory=dict)
    in_sync_after_broker_s: dict[str, float] = field(default_factory=dict)
    journal: dict[str, int] = field(default_factory=dict)
    checkpoint_disk: str = ""
    verbs: dict[str, str] = field(default_factory=dict)

    @property
    def is_proven(self) -> bool:
        """Whether everything was compared and nothing was wrong."""
        return not self.problems and self.rows > 0


class Log:
    """What happened when, a line each, on stderr and in `chaos.jsonl`; any thread."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w")
        self._begun = time.monotonic()
        self._lock = threading.Lock()

    def __call__(self, what: str, **fields: object) -> None:
        """Write a line."""
        at_s = round(time.monotonic() - self._begun, 2)
        text = " ".join(f"{name}={value}"[:300] for name, value in fields.items())
        with self._lock:
            if self._file.closed:
                return
            self._file.write(json.dumps({"at_s": at_s, "what": what, **fields}, default=str) + "\n")
            self._file.flush()
            sys.stderr.write(f"{at_s:8.2f}  {what:<12} {text}\n")
            sys.stderr.flush()

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._file.close()
