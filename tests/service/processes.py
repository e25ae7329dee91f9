"""Real processes for the tests of the shell: start, wait with a bound, read their logs."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def wait_for(what: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait until `what` holds.

    Raises:
        TimeoutError: it did not within `seconds`.
    """
    end = time.monotonic() + seconds
    while not what():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds} s: {what}")
        time.sleep(0.01)


def python(*arguments: str) -> subprocess.Popen[str]:
    """Start `python -m …` with its stderr in a pipe."""
    return subprocess.Popen(
        [sys.executable, "-m", *arguments], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def finish(process: subprocess.Popen[str], seconds: float = 60.0) -> tuple[int, list[dict[str, Any]], str]:
    """Wait for the end; return the exit code, the log lines and all of stderr; stdout must be empty."""
    try:
        out, text = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    if out:
        raise ValueError(f"expected nothing on stdout, found {out!r}")
    return process.returncode, [json.loads(line) for line in text.splitlines() if line.startswith("{")], text


def events(lines: list[dict[str, Any]]) -> list[str]:
    """Return the event names in order."""
    return [line["event"] for line in lines]


def turns(folder: Path) -> int:
    """Return how many turns the tiny role in `folder` has done."""
    path = folder / "turns"
    text = path.read_text() if path.exists() else ""
    return int(text) if text else 0
