"""Values in a recording that probably mean missing; reported, so that the user can add `--missing`."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence

import numpy as np

from stream_ad.core.batches import Float64Array, Int64Array

KNOWN = (
    *(-99.0, -999.0, -9999.0, -99999.0, -999999.0, 999.0, 9999.0, 99999.0, -99.9, -999.9, -9999.9, 999.9, 9999.9),
    *(-999.25, -127.0, -128.0, 255.0, 32767.0, -32768.0, 65535.0, 8388607.0, 2147483647.0, -2147483648.0),
    *(4294967295.0, -273.15, -6999.0, 6999.0, -7999.0, 7999.0, 1e20, -1e20, 1e30, -1e30, 1e31, 1e35),
)
"""Written by loggers, buses, integer overflows and file formats for "no value". Not 0: a machine may stop."""
LEAST_KNOWN, LEAST_OTHER = 2, 5
FAR_OTHER = 10.0
LEAST_ROWS, LEAST_DISTINCT = 20, 10
SHOWN = 3


def find_sentinels(values: Float64Array) -> dict[float, int]:
    """Return the recurring outliers of one channel, and how often each occurs.

    A value of `KNOWN` must recur and be further from all others than these are apart; any other value but 0 must recur
    five times and be ten times further. The others must be the majority.

    Args:
        values: float64[n], NaN missing.
    """
    values = values[np.isfinite(values)]
    if len(values) < LEAST_ROWS:
        return {}
    numbers, tally = np.unique(values, return_counts=True)
    counts: Int64Array = tally.astype(np.int64)
    singles = np.array(sorted({*KNOWN, *(float(np.float32(one)) for one in KNOWN)}))
    is_known = np.isin(numbers, singles)
    found = {
        float(number): int(count)
        for number, count in zip(numbers[is_known], counts[is_known], strict=True)
        if count >= LEAST_KNOWN and _is_apart(number, numbers[~is_known], counts[~is_known], len(values), 1.0)
    }
    for _ in range(2):  # one at each end
        rest = ~np.isin(numbers, list(found))
        ends = [place for place in np.flatnonzero(rest)[[0, -1]].tolist() if counts[place] >= LEAST_OTHER]
        for place in ends if rest.sum() > LEAST_DISTINCT else []:
            others = rest.copy()
            others[place] = False
            if numbers[place] and _is_apart(numbers[place], numbers[others], counts[others], len(values), FAR_OTHER):
                found[float(numbers[place])] = int(counts[place])
    return found


def sentinel_notes(channels: Sequence[str], values: Float64Array) -> list[str]:
    """Return one line per recurring outlier, with the option that removes it.

    Args:
        channels: c names.
        values: float64[n, c].
    """
    by_value: dict[float, dict[str, int]] = {}
    for place, channel in enumerate(channels):
        for value, count in find_sentinels(values[:, place]).items():
            by_value.setdefault(float(_typed(value)), {})[channel] = count
    order = sorted(by_value.items(), key=lambda item: -sum(item[1].values()))
    notes = [_note(value, counts) for value, counts in order[:SHOWN]]
    if len(order) > SHOWN:
        notes.append(f"{len(order) - SHOWN} more recurring outliers: they are shown once the first are --missing")
    return notes


def _is_apart(number: float, others: Float64Array, counts: Int64Array, rows: int, far: float) -> bool:
    if not len(others) or 2 * int(counts.sum()) <= rows:
        return False
    low, high = float(others[0]), float(others[-1])
    gap = low - number if number < low else number - high
    width = high - low
    if len(others) == 1:  # all others are equal: there is no width to compare with
        return gap > 100 * max(abs(low), 1.0)
    return gap > far * max(width, 0.1 * abs(low), 0.1 * abs(high))


def _note(value: float, counts: Mapping[str, int]) -> str:
    text = _typed(value)
    names = list(counts)
    typed = text if len(names) > 1 else f"{names[0]}={text}"
    joint = "=" if typed.startswith("-") and not re.fullmatch(r"-\d+|-\d*\.\d+", typed) else " "
    shown = ", ".join(names[:5]) + (f", … ({len(names):,} channels)" if len(names) > 5 else "")
    return (
        f"{text} is a recurring outlier in {shown} ({sum(counts.values()):,} cells): if it means no value, "
        f"add --missing{joint}{shlex.quote(typed)}"
    )


def _typed(value: float) -> str:
    """Return the shortest text, of seven digits or more, by which `--missing` finds the value."""
    for digits in range(7, 17):
        text = f"{value:.{digits}g}"
        if value in (float(text), float(np.float32(float(text)))):
            return text if "e" not in text or abs(value) >= 1e15 or value % 1 else f"{value:.0f}"
    return repr(value)
