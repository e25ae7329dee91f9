"""Time columns of recordings: text, numbers or timestamps to UTC nanoseconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stream_ad.core.batches import Float64Array, Int64Array
from stream_ad.errors import RecordingError

OFFSET = r":\d{2}(\.\d+)?([+-]\d{2}(:?\d{2})?|Z)$"
EPOCH_UNITS = ((1e8, 1e11, "seconds", 10**9), (1e11, 1e14, "milliseconds", 10**6), (1e14, 1e17, "microseconds", 10**3))
"""From and below which size a number counts as which unit since 1970; times from 1973 to 5138."""
ZONE_HINT = (
    "state the zone of the recording's clock: --zone UTC (or a name such as Europe/Berlin, or an offset such as +02:00)"
)
UTC_NAMES = ("UTC", "GMT", "Z", "ETC/UTC")


@dataclass(frozen=True, slots=True)
class Times:
    """A time column that has been read.

    Attributes:
        event_ns: int64[n], UTC nanoseconds.
        basis: what the times rest on, for a person.
        naive: the times had no zone of their own.
        folded: times in an hour that a change of clocks repeats or skips.
    """

    event_ns: Int64Array
    basis: str
    naive: bool = False
    folded: int = 0


def read_times(column: pa.Array, zone: str | None, where: Callable[[int], str]) -> Times:
    """Read a time column.

    Text is ISO 8601, with an offset or, if `zone` is given, without; numbers are time since 1970 in
    seconds, milli-, micro- or nanoseconds, told apart by their size.

    Args:
        column: n values.
        zone: zone of naive times, or None.
        where: names a row in errors.

    Raises:
        RecordingError: an empty or unreadable time, a naive one without a stated zone, or both kinds mixed.
    """
    if column.null_count:
        raise RecordingError(f"{where(int(np.argmax(column.is_null().to_numpy(False))))}: expected a time, found none")
    kind = column.type
    if pa.types.is_dictionary(kind):
        return read_times(column.cast(kind.value_type), zone, where)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _read_text(column.cast(pa.string()), zone, where)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return _read_epoch(column, where)
    if pa.types.is_date(kind):
        column = column.cast(pa.timestamp("s"))
        kind = column.type
    if not pa.types.is_timestamp(kind):
        raise RecordingError(f"{where(0)}: expected a time, found a value of type {kind}")
    if kind.tz is None:
        return _read_naive(_cast(column, pa.timestamp("ns"), where), zone, where)
    return Times(_numbers(_cast(column, pa.timestamp("ns", "UTC"), where)), "the offset in the data")


def _read_text(column: pa.Array, zone: str | None, where: Callable[[int], str]) -> Times:
    for number in (pa.int64(), pa.float64()):
        try:
            return _read_epoch(column.cast(number), where)
        except pa.ArrowInvalid:
            continue
    column = pc.utf8_upper(pc.utf8_trim_whitespace(column))
    column = pc.replace_substring_regex(column, r",(\d+)", r".\1")
    column = pc.replace_substring_regex(column, r"\s*(UTC|GMT)$", "Z")
    column = pc.replace_substring_regex(column, r"\s+([+-]\d{2}(:?\d{2})?|Z)$", r"\1")
    aware = pc.match_substring_regex(column, OFFSET).to_numpy(False)
    if aware.all():
        return Times(_numbers(_cast(column, pa.timestamp("ns", "UTC"), where)), "the offset in the data")
    if aware.any():
        raise RecordingError(
            f"{where(int(np.argmin(aware)))}: expected a time with an offset, as in other rows, "
            f"found {column[int(np.argmin(aware))].as_py()[:80]!r}"
        )
    return _read_naive(_cast(column, pa.timestamp("ns"), where), zone, where)


def _read_naive(column: pa.Array, zone: str | None, where: Callable[[int], str]) -> Times:
    if zone is None:
        raise RecordingError(f"{where(0)}: the time has no zone; {ZONE_HINT}")
    basis = f"the stated zone {zone}"
    if zone.upper() in UTC_NAMES:
        return Times(_numbers(column), basis, naive=True)
    try:
        first, last = (
            _numbers(pc.assume_timezone(column, zone, ambiguous=side, nonexistent=side))
            for side in ("earliest", "latest")
        )
    except (pa.ArrowInvalid, pa.ArrowKeyError) as error:
        raise RecordingError(f"zone: {error}; {ZONE_HINT}") from error
    return Times(first, basis, naive=True, folded=int(np.count_nonzero(first != last)))


def _read_epoch(column: pa.Array, where: Callable[[int], str]) -> Times:
    values = column.to_numpy(False)
    size: Float64Array = np.abs(values.astype(np.float64))
    bounds = np.array([low for low, _, _, _ in EPOCH_UNITS] + [EPOCH_UNITS[-1][1]])
    unit = np.searchsorted(bounds, size, side="right")
    wrong = ~np.isfinite(size) | (unit == 0) | (size >= 9.2e18)
    wrong |= unit != unit[0] if len(unit) else False
    if wrong.any():
        row = int(np.argmax(wrong))
        raise RecordingError(
            f"{where(row)}: expected a time since 1970 in one unit (s, ms, µs or ns), found {values[row]}"
        )
    if not len(unit) or unit[0] == len(bounds):
        return Times(values.astype(np.int64), "epoch nanoseconds")
    _, _, name, factor = EPOCH_UNITS[unit[0] - 1]
    if values.dtype.kind == "f":
        # In two parts: whole units times the factor would exceed what float64 holds exactly.
        whole = np.floor(values)
        event_ns = whole.astype(np.int64) * factor + np.rint((values - whole) * factor).astype(np.int64)
    else:
        event_ns = values.astype(np.int64) * factor
    return Times(event_ns, f"epoch {name}")


def _numbers(column: pa.Array) -> Int64Array:
    return np.ascontiguousarray(column.cast(pa.int64()).to_numpy(False))


def _cast(column: pa.Array, kind: pa.DataType, where: Callable[[int], str]) -> pa.Array:
    """Cast all rows, or name the first that does not cast (found by halving)."""
    try:
        return column.cast(kind)
    except pa.ArrowInvalid:
        low, high = 0, len(column)
        while high - low > 1:
            middle = (low + high) // 2
            try:
                column.slice(low, middle - low).cast(kind)
                low = middle
            except pa.ArrowInvalid:
                high = middle
        raise RecordingError(
            f"{where(low)}: expected an ISO 8601 time or a number since 1970, found {str(column[low].as_py())[:80]!r}"
        ) from None
