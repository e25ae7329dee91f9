"""Local time to UTC: offsets, zone names, and hours that a clock change repeats or skips."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stream_ad.core.batches import BoolArray, Int32Array, Int64Array
from stream_ad.errors import RecordingError

NS = 1_000_000_000
HOUR_NS = 3_600 * NS
ZONE_HINT = (
    "state the zone of the recording's clock: --zone UTC (or a name such as Europe/Berlin, or an offset such as +02:00)"
)
UTC_NAMES = ("UTC", "GMT", "Z", "ETC/UTC")
ABBREVIATIONS = {
    name: hours * 3_600
    for hours, names in {
        0: ("Z", "UTC", "GMT", "UT", "WET"),
        1: ("CET", "MEZ", "WEST"),
        2: ("CEST", "MESZ", "EET"),
        3: ("EEST", "MSK"),
        9: ("JST", "KST"),
        10: ("AEST",),
        11: ("AEDT",),
        12: ("NZST",),
        13: ("NZDT",),
        -4: ("EDT",),
        -5: ("EST", "CDT"),
        -6: ("MDT",),
        -7: ("MST", "PDT"),
        -8: ("PST", "AKDT"),
    }.items()
    for name in names
}
"""Unambiguous abbreviations. CST, IST, BST and others have several meanings and need --zone."""
OFFSET = re.compile(r"^(?:UTC|GMT)?([+-])(\d{1,2})(?::?(\d{2}))?$")


@dataclass(frozen=True, slots=True)
class Resolved:
    """Naive times in UTC.

    Attributes:
        event_ns: int64[n], UTC nanoseconds.
        second_pass: number of rows in a repeated hour assigned to its second pass.
        first_pass: number of rows in a repeated hour assigned to its first pass by the row order.
        unclear: number of rows in a repeated hour whose pass is unknown; the first was used.
        skipped: number of rows in an hour that the clock change skips; read as if the clock had not changed.
    """

    event_ns: Int64Array
    second_pass: int = 0
    first_pass: int = 0
    unclear: int = 0
    skipped: int = 0


def offsets_s(zones: pa.Array, zone: str | None, second: Int64Array, where: Callable[[int], str]) -> Int64Array:
    """Return int64[n], the offsets from UTC of zones as written.

    Args:
        zones: n texts such as `Z`, `+02:00`, `CET`.
        zone: the given zone, which resolves ambiguous abbreviations.
        second: int64[n], seconds since 1970 in local time.
        where: returns the place of a row, for errors.

    Raises:
        RecordingError: an unknown or ambiguous abbreviation.
    """
    coded = zones.dictionary_encode()
    codes = coded.indices.to_numpy(False)
    table = []
    for number, name in enumerate(coded.dictionary.to_pylist()):
        row = int(np.argmax(codes == number))
        table.append(_offset_s(name, zone, int(second[row]), where(row)))
    offsets: Int64Array = np.array(table, np.int64)[codes]
    return offsets


def resolve(naive_ns: Int64Array, zone: str, groups: Int64Array | Int32Array | None) -> Resolved:
    """Convert naive times in a zone; in a repeated hour the row order within a group determines the pass.

    Args:
        naive_ns: int64[n], nanoseconds since 1970 in local time, in file order.
        zone: name or offset.
        groups: int[n], rows with a common clock; None if all have one.

    Raises:
        RecordingError: the zone does not exist.
    """
    if zone.upper() in UTC_NAMES:
        return Resolved(naive_ns)
    column = pa.array(naive_ns, pa.timestamp("ns"))
    try:
        first, last = (
            _numbers(pc.assume_timezone(column, zone, ambiguous=side, nonexistent=side))
            for side in ("earliest", "latest")
        )
    except (pa.ArrowInvalid, pa.ArrowKeyError) as error:
        raise RecordingError(f"zone: {error}; {ZONE_HINT}") from error
    open_rows = np.flatnonzero(first != last)
    if not len(open_rows):
        return Resolved(first)
    back = pc.local_timestamp(pa.array(first[open_rows], pa.timestamp("ns", zone)))
    is_skipped = _numbers(back) != naive_ns[open_rows]
    skipped, repeated = open_rows[is_skipped], open_rows[~is_skipped]
    event_ns = first.copy()
    if len(skipped):
        earlier = pa.array(naive_ns[skipped] - 3 * HOUR_NS, pa.timestamp("ns"))
        event_ns[skipped] = _numbers(pc.assume_timezone(earlier, zone)) + 3 * HOUR_NS
    is_second, is_clear = _passes(naive_ns, repeated, groups)
    event_ns[repeated[is_second]] = last[repeated[is_second]]
    return Resolved(
        event_ns,
        second_pass=int(is_second.sum()),
        first_pass=int((is_clear & ~is_second).sum()),
        unclear=int((~is_clear).sum()),
        skipped=len(skipped),
    )


def _passes(
    naive_ns: Int64Array, repeated: Int64Array, groups: Int64Array | Int32Array | None
) -> tuple[BoolArray, BoolArray]:
    """Return which rows of a repeated hour are in its second pass, and where the row order determines it.

    Rows of a group and a day are in order of time, or all in reverse: the clock falls once, where the second pass
    begins. If it never falls there is only one pass, or the passes cannot be distinguished.
    """
    is_second, is_clear = np.zeros(len(repeated), bool), np.zeros(len(repeated), bool)
    if not len(repeated):
        return is_second, is_clear
    group = np.zeros(len(naive_ns), np.int64) if groups is None else groups.astype(np.int64)
    backwards = _backwards(naive_ns, group)
    day = naive_ns[repeated] // (86_400 * NS)
    keys, code = np.unique(np.stack([group[repeated], day]), axis=1, return_inverse=True)
    order = np.argsort(code.ravel(), kind="stable")
    starts = np.searchsorted(code.ravel()[order], np.arange(keys.shape[1]))
    for key, rows in enumerate(np.split(order, starts[1:])):
        if int(keys[0, key]) in backwards:
            rows = rows[::-1]
        walls = naive_ns[repeated[rows]]
        boundary = _boundary(walls)
        if boundary is not None:
            is_second[rows[boundary:]] = True
            is_clear[rows] = True
    return is_second, is_clear


def _boundary(walls: Int64Array) -> int | None:
    """Return the row at which the second pass begins, or None."""
    steps = np.diff(walls)
    falls = np.flatnonzero(steps < 0)
    if len(falls) > 1:  # slightly unordered rows, and one large fall
        falls = falls[steps[falls] <= -HOUR_NS // 2]
    if len(falls) == 1:
        return int(falls[0]) + 1
    if not len(falls) and len(walls) == 2 and walls[0] == walls[1]:  # one reading per hour
        return 1
    return None


def _backwards(naive_ns: Int64Array, group: Int64Array) -> set[int]:
    """Return the groups whose rows are in reverse order of time."""
    order = np.argsort(group, kind="stable")
    steps = np.diff(naive_ns[order])
    same = group[order][1:] == group[order][:-1]
    steps, owner = steps[same], group[order][1:][same]
    numbers, code = np.unique(owner, return_inverse=True)
    balance = np.bincount(code.ravel(), np.sign(steps).astype(np.float64), len(numbers))
    return {int(number) for number, sign in zip(numbers, balance, strict=True) if sign < 0}


def _offset_s(name: str, zone: str | None, second: int, where: str) -> int:
    found = OFFSET.match(name.upper())
    if found:
        seconds = int(found[2]) * 3_600 + int(found[3] or 0) * 60
        if seconds <= 18 * 3_600:
            return -seconds if found[1] == "-" else seconds
        raise RecordingError(f"{where}: expected an offset of at most 18 hours, found {name!r}")
    known = ABBREVIATIONS.get(name.upper())
    if known is not None:
        return known
    settled = _in_zone(name.upper(), zone, second)
    if settled is None:
        raise RecordingError(
            f"{where}: the zone {name!r} after the time is unknown or has several meanings; state the zone of the "
            "clock by its full name, for example --zone Asia/Kolkata"
        )
    return settled


def _in_zone(name: str, zone: str | None, second: int) -> int | None:
    """Return the offset of an abbreviation in a zone in the year around a time."""
    if zone is None or "/" not in zone:
        return None
    try:
        place = ZoneInfo(zone)
    except (ValueError, OSError):
        return None
    for month in range(12):
        moment = datetime.fromtimestamp(second + month * 30 * 86_400, UTC).astimezone(place)
        offset = moment.utcoffset()
        if (moment.tzname() or "").upper() == name and offset is not None:
            return int(offset.total_seconds())
    return None


def _numbers(column: pa.Array) -> Int64Array:
    return np.ascontiguousarray(column.cast(pa.int64()).to_numpy(False))
