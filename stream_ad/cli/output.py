"""Printing shared by the commands: data on stdout, colour only on a terminal."""

from __future__ import annotations

import math
import sys
import time
from argparse import ArgumentTypeError
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING

from stream_ad.errors import ContractError
from stream_ad.inspection.formatting import NS as NS
from stream_ad.inspection.formatting import duration_text as duration_text
from stream_ad.inspection.formatting import time_text as time_text

if TYPE_CHECKING:
    from rich.console import Console

    from stream_ad.io.following import Stored

UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3_600.0, "d": 86_400.0, "w": 604_800.0}


def console() -> Console:
    """Return a console on stdout: coloured on a terminal, else plain text without wrapping."""
    from rich.console import Console

    class Honest(Console):
        """Raises on a broken pipe, so that `main` exits with 0; rich exits with 1."""

        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    terminal = sys.stdout.isatty()
    return Honest(highlight=False, emoji=False, soft_wrap=not terminal, width=None if terminal else 200)


def print_json(value: object) -> None:
    """Print a JSON object on one line; NaN and infinities become null."""
    import orjson

    sys.stdout.write(orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY, default=str).decode() + "\n")


def duration_s(text: str) -> float:
    """Parse an option's `90s`, `15m`, `1h` or `2d`.

    Raises:
        ArgumentTypeError: not a positive number with one of these units.
    """
    stripped = text.strip().lower()
    digits = stripped.rstrip("abcdefghijklmnopqrstuvwxyz")
    unit = stripped[len(digits) :]
    try:
        seconds = float(digits) * UNITS[unit]
    except (ValueError, KeyError):
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise ArgumentTypeError(f"expected a duration such as 90s, 15m, 1h or 2d, found {text!r}")
    return seconds


def moment_ns(text: str) -> int:
    """Parse an option's time: `now`, a duration ago (`1h`) or RFC 3339 with a zone; return UTC nanoseconds.

    Raises:
        ArgumentTypeError: it is none of these.
    """
    now_ns = time.time_ns()
    if text == "now":
        return now_ns
    with suppress(ArgumentTypeError):
        return now_ns - round(duration_s(text) * NS)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise ArgumentTypeError(
            f"expected a time with its zone (2026-03-01T12:00:00Z) or a duration (1h), found {text!r}"
        )
    return round(moment.timestamp() * 1_000_000) * 1_000


def warn_skipped(record: Stored, error: ContractError) -> None:
    """Print on stderr that a topic's record is unreadable and was skipped."""
    print(f"stream-ad: skipped {record.partition}@{record.offset}: {error}", file=sys.stderr)
