"""The valid times of a recording: from 1990 to tomorrow."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

FIRST_S = 631_152_000
"""1990-01-01: earlier times come from clocks never set, empty cells, or numbers in another unit."""
DAY_S = 86_400
YEAR_ONE_S, YEAR_9999_S = -62_135_596_800, 253_402_300_799


@dataclass(frozen=True, slots=True)
class Bounds:
    """The first and the last valid second since 1970, UTC."""

    first_s: int
    last_s: int

    @classmethod
    def at(cls, now_s: float) -> Bounds:
        """Return the bounds for a reader whose clock is at `now_s`: to the end of tomorrow."""
        return cls(FIRST_S, (int(now_s) // DAY_S + 2) * DAY_S - 1)

    @classmethod
    def now(cls) -> Bounds:
        """Return the bounds by this machine's clock."""
        return cls.at(time.time())

    def refusal(self, second: int, cell: str, basis: str) -> str:
        """Return a message that a time is outside, with its interpretation and advice."""
        last = shown(self.last_s)[:10]
        return (
            f"expected a time from 1990-01-01 to {last}, found {cell}, which is {shown(second)} read as {basis}; "
            + self._guess(second)
        )

    def _guess(self, second: int) -> str:
        if second > self.last_s:
            return "check the clocks of the device and of this machine, or set --time-format"
        return "a clock never set, an empty cell or another unit looks like this: set --time-format, or remove the row"


def shown(second: int) -> str:
    """Return seconds since 1970 as `2026-03-02 08:00:00`, for any number."""
    if not YEAR_ONE_S <= second <= YEAR_9999_S:
        return "a time outside the years 1 to 9999"
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=second)
    return f"{moment.year:04d}-{moment:%m-%d %H:%M:%S}"
