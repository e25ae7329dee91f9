"""Ways in which plants write times, for tests: how each is written, its resolution, and a pattern that states it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from decimal import Decimal

SECOND_US, MINUTE_US = 1_000_000, 60_000_000


def _plain(pattern: str) -> Callable[[datetime], str]:
    return lambda moment: moment.strftime(pattern)


def _millis(pattern: str, mark: str) -> Callable[[datetime], str]:
    return lambda moment: moment.strftime(pattern) + f"{mark}{moment.microsecond // 1000:03d}"


def _short(moment: datetime) -> str:
    """As Excel in the United States: no leading zeros, and no time at midnight."""
    half = "AM" if moment.hour < 12 else "PM"
    clock = f" {moment.hour % 12 or 12}:{moment.minute:02d}:{moment.second:02d} {half}"
    return f"{moment.month}/{moment.day}/{moment.year}" + (clock if moment.strftime("%H%M%S") != "000000" else "")


FORMATS: dict[str, tuple[Callable[[datetime], str], int, str]] = {
    "iso": (lambda moment: moment.isoformat(), 1, ""),
    "iso with a space": (_plain("%Y-%m-%d %H:%M:%S.%f"), 1, "%Y-%m-%d %H:%M:%S.%f"),
    "slashes": (_plain("%Y/%m/%d %H:%M:%S"), SECOND_US, "%Y/%m/%d %H:%M:%S"),
    "German": (_plain("%d.%m.%Y %H:%M:%S"), SECOND_US, "%d.%m.%Y %H:%M:%S"),
    "German with milliseconds": (_millis("%d.%m.%Y %H:%M:%S", ","), 1000, "%d.%m.%Y %H:%M:%S,%f"),
    "British": (_plain("%d/%m/%Y %H:%M"), MINUTE_US, "%d/%m/%Y %H:%M"),
    "Dutch": (_plain("%d-%m-%Y %H:%M:%S"), SECOND_US, "%d-%m-%Y %H:%M:%S"),
    "Danish": (_plain("%d-%m-%Y %H.%M.%S"), SECOND_US, "%d-%m-%Y %H.%M.%S"),
    "American": (_plain("%m/%d/%Y %I:%M:%S %p"), SECOND_US, "%m/%d/%Y %I:%M:%S %p"),
    "Excel in the United States": (_short, SECOND_US, "%m/%d/%Y %I:%M:%S %p"),
    "milliseconds after a colon": (_millis("%Y-%m-%d %H:%M:%S", ":"), 1000, "%Y-%m-%d %H:%M:%S:%f"),
    "named": (_plain("%d-%b-%Y %H:%M:%S"), SECOND_US, "%d-%b-%Y %H:%M:%S"),
    "PI": (_millis("%d-%b-%y %H:%M:%S", "."), 1000, "%d-%b-%y %H:%M:%S.%f"),
    "named in full": (_plain("%B %d, %Y %I:%M %p"), MINUTE_US, "%B %d, %Y %I:%M %p"),
    "ctime": (lambda moment: moment.ctime(), SECOND_US, "%a %b %d %H:%M:%S %Y"),
    "mail": (_plain("%a, %d %b %Y %H:%M:%S GMT"), SECOND_US, "%a, %d %b %Y %H:%M:%S %Z"),
    "Japanese": (_plain("%Y年%m月%d日 %H時%M分%S秒"), SECOND_US, ""),
    "basic": (_plain("%Y%m%dT%H%M%SZ"), SECOND_US, "%Y%m%dT%H%M%S%z"),
    "compact14": (_plain("%Y%m%d%H%M%S"), SECOND_US, "%Y%m%d%H%M%S"),
    "compact12": (_plain("%Y%m%d%H%M"), MINUTE_US, "%Y%m%d%H%M"),
    "compact8": (_plain("%Y%m%d"), 24 * 60 * MINUTE_US, "%Y%m%d"),
}
"""name -> how it is written, its resolution in microseconds, the strptime pattern ("" where there is none)."""

UNITS = {
    "epoch_s": (0, 10**9),
    "epoch_ms": (0, 10**6),
    "epoch_us": (0, 10**3),
    "epoch_ns": (0, 1),
    "filetime": (-11_644_473_600, 100),
    "ticks": (-62_135_596_800, 100),
    "labview": (-2_082_844_800, 10**9),
    "excel": (-2_209_161_600, 86_400 * 10**9),
    "matlab": (-62_167_219_200 - 86_400, 86_400 * 10**9),
}
"""Name -> seconds from 1970 to the count 0, and nanoseconds per count."""


def counted(event_ns: int, epoch_s: int, unit_ns: int) -> str:
    """Return an instant as a count, with the digits that tell it from its neighbours."""
    count = Decimal(event_ns - epoch_s * 10**9) / unit_ns
    return f"{count:.0f}" if unit_ns < 10**6 else f"{count:.{15 if unit_ns > 10**9 else 9}f}"
