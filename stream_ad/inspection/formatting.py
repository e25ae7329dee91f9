"""Formats times and durations for people."""

from __future__ import annotations

import math
from datetime import UTC, datetime

NS = 1_000_000_000


def time_text(ns: int, seconds: bool = True) -> str:
    """Return UTC nanoseconds as `2026-03-01 12:00:05`, or as RFC 3339 with microseconds if not `seconds`."""
    moment = datetime.fromtimestamp(ns // NS, UTC)
    if seconds:
        return moment.strftime("%Y-%m-%d %H:%M:%S")
    return moment.strftime("%Y-%m-%dT%H:%M:%S") + f".{ns % NS // 1_000:06d}Z"


def duration_text(seconds: float) -> str:
    """Return a duration for people: `85 ms`, `12.5 s`, `4 min 10 s`, `3 h 5 min`."""
    if not math.isfinite(seconds):
        return "—"
    if seconds < 1:
        return f"{seconds * 1_000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.3g} s"
    whole = round(seconds)
    for unit, size, part, small in (("min", 60, "s", 1), ("h", 3_600, "min", 60), ("d", 86_400, "h", 3_600)):
        if whole < size * (60 if unit == "min" else 24) or unit == "d":
            rest = whole % size // small
            return f"{whole // size} {unit}" + (f" {rest} {part}" if rest else "")
    return f"{whole} s"


def count_text(number: int, what: str) -> str:
    """Return a count with its noun: `1 partition`, `2 partitions`."""
    return f"{number} {what}" + ("" if number == 1 else "s")
