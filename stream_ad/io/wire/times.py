"""Times on the wire -> UTC nanoseconds.

A time is epoch milliseconds (an integer or a float) or RFC 3339 text with an offset. Integers are exact; a float keeps
its full double precision (about 0.25 µs today), without a second rounding; text is exact to the nanosecond, further
digits are truncated.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from typing import Any

import numpy as np

from stream_ad.core.batches import Float64Array, Int64Array

MIN_MS = 631_152_000_000
"""1990-01-01: anything older comes from a clock that was never set, or is not epoch milliseconds."""
MAX_MS = 9_214_646_400_000
"""2262-01-01, the last new year that fits into int64 nanoseconds."""
MIN_NS, MAX_NS = MIN_MS * 1_000_000, MAX_MS * 1_000_000

EXPECTED = "expected epoch milliseconds from 1990 to 2261, or RFC 3339 text with an offset"

_RFC_3339 = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ]([0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.([0-9]+))?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def time_ns(value: object) -> int | None:
    """Return one time in nanoseconds, or None if it is not a time or out of range."""
    if isinstance(value, int):
        return value * 1_000_000 if MIN_MS <= value <= MAX_MS else None  # True and False are out of range
    if isinstance(value, float):
        if not MIN_MS <= value <= MAX_MS:
            return None
        whole = math.floor(value)
        return whole * 1_000_000 + round((value - whole) * 1e6)
    nanoseconds = rfc3339_ns(value) if isinstance(value, str) else None
    return nanoseconds if nanoseconds is not None and MIN_NS <= nanoseconds <= MAX_NS else None


def rfc3339_ns(text: str) -> int | None:
    """Return RFC 3339 text with an offset as nanoseconds, for any year, or None."""
    match = _RFC_3339.fullmatch(text)
    if match is None:
        return None
    date, clock, fraction, zone = match.groups()
    try:
        moment = datetime.fromisoformat(f"{date}T{clock}{'+00:00' if zone in 'Zz' else zone}")
        since = moment - _EPOCH
    except (ValueError, OverflowError):
        return None
    return (since.days * 86_400 + since.seconds) * 1_000_000_000 + int((fraction or "0")[:9].ljust(9, "0"))


def milliseconds_ns(ms: Float64Array) -> Int64Array:
    """Return float64[...] epoch milliseconds, all within MIN_MS..MAX_MS, as nanoseconds."""
    whole = np.floor(ms)
    return whole.astype(np.int64) * 1_000_000 + np.rint((ms - whole) * 1e6).astype(np.int64)


def grid_ns(samples: int, step_ms: float | Float64Array) -> Int64Array:
    """Return each sample's offset from the start of an even series: i * step_ms in float64, rounded to ns.

    Args:
        samples: number of samples.
        step_ms: milliseconds between two samples; one number, or float64[m, 1] for m series at once.
    """
    return np.rint(np.arange(samples, dtype=np.float64) * step_ms * 1e6).astype(np.int64)


def grid_fits(start_ns: int, samples: int, step_ms: Any) -> bool:
    """Return whether a step is a positive number and the series ends before 2262."""
    if isinstance(step_ms, bool) or not isinstance(step_ms, int | float):
        return False
    return step_ms > 0 and start_ns + (samples - 1) * float(step_ms) * 1e6 <= MAX_NS
