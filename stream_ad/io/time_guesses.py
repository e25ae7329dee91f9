"""Guesses what a refused time might be: another unit or epoch, or the digits of a date."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FIRST, LAST = datetime(1990, 1, 1, tzinfo=UTC), datetime(2050, 1, 1, tzinfo=UTC)
"""Only guesses between these times are made."""
SHOWN = 2

_S_1904 = 2_082_844_800
_UNITS: tuple[tuple[str, float, float], ...] = (  # name, value at 1970, units per second
    ("epoch seconds", 0, 1),
    ("epoch microseconds", 0, 1e6),
    ("epoch nanoseconds", 0, 1e9),
    ("a Windows FILETIME", 116_444_736_000_000_000, 1e7),
    (".NET ticks", 621_355_968_000_000_000, 1e7),
    ("seconds since 1904 (LabVIEW)", _S_1904, 1),
    ("milliseconds since 1904", _S_1904 * 1e3, 1e3),
    ("an Excel date", 25_569, 1 / 86_400),
)
_COMPACT = {8: "%Y%m%d", 10: "%Y%m%d%H", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}
_NUMBER = re.compile(r"[0-9]{4,19}(\.[0-9]{1,9})?")
_NAIVE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}(:[0-9]{2}([.,][0-9]+)?)?")


def guess(value: object) -> str:
    """Return "; might be ..." for a refused time, or "" if nothing fits."""
    if isinstance(value, str):
        text = value.strip()
        if _NAIVE.fullmatch(text):
            return "; it has no offset: append Z for UTC, or such as +01:00"
        if not _NUMBER.fullmatch(text):
            return ""
        found = [*_numbers(float(text), text), *_at("epoch milliseconds", float(text), 0, 1e3)]
        return f"; digits in quotes: might be {_joined(found)}; send epoch milliseconds without quotes" if found else ""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return ""
    if not 0 < value < 1e19:
        return ""
    found = list(_numbers(float(value), str(value)))
    return f"; might be {_joined(found)}; send epoch milliseconds" if found else ""


def _numbers(value: float, digits: str) -> Iterator[str]:
    for name, origin, per_s in _UNITS:
        yield from _at(name, value, origin, per_s)
    pattern = _COMPACT.get(len(digits))
    if pattern is not None and digits.isdigit():
        try:
            moment = datetime.strptime(digits, pattern).replace(tzinfo=UTC)
        except ValueError:
            return
        if FIRST <= moment < LAST:
            yield f"the digits of a date ({moment:%Y-%m-%d %H:%M})"


def _at(name: str, value: float, origin: float, per_s: float) -> Iterator[str]:
    since_s = (value - origin) / per_s
    if abs(since_s) < 4e9 and FIRST <= (moment := EPOCH + timedelta(seconds=since_s)) < LAST:
        yield f"{name} ({moment:%Y-%m-%dT%H:%M:%SZ})"


def _joined(found: list[str]) -> str:
    return " or ".join(found[:SHOWN])
