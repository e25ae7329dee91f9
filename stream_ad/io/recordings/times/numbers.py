"""Times written as numbers: the known units, and which of them a whole column has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stream_ad.core.batches import BoolArray, Float64Array, Int64Array
from stream_ad.errors import RecordingError
from stream_ad.io.recordings.times.bounds import Bounds, shown

NS = 1_000_000_000
DAY_S = 86_400
TEXT = r"^([+-]?\d{1,18}|\d{19})(?:[.,](\d*))?$"
FLOAT = r"^[+-]?(\d+([.,]\d*)?|[.,]\d+)([eE][+-]?\d+)?$"
COMPACT = {8: (), 10: ("hour",), 12: ("hour", "minute"), 14: ("hour", "minute", "second")}


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit of time.

    Attributes:
        name: as used in `--time-format`.
        words: for people.
        unit_ns: nanoseconds per count.
        epoch_s: seconds from 1970 to the count 0.
        is_guessed: a column may be read in it without being named.
    """

    name: str
    words: str
    unit_ns: int
    epoch_s: int
    is_guessed: bool = True


UNITS = (
    Unit("epoch_s", "epoch seconds", NS, 0),
    Unit("epoch_ms", "epoch milliseconds", 10**6, 0),
    Unit("epoch_us", "epoch microseconds", 10**3, 0),
    Unit("epoch_ns", "epoch nanoseconds", 1, 0),
    Unit("filetime", "Windows FILETIME (100 ns since 1601)", 100, -11_644_473_600),
    Unit("ticks", ".NET ticks (100 ns since the year 1)", 100, -62_135_596_800),
    Unit("labview", "LabVIEW seconds (since 1904)", NS, -2_082_844_800),
    Unit("excel", "Excel serial dates (days since 1899-12-30)", DAY_S * NS, -25_569 * DAY_S),
    Unit("matlab", "MATLAB datenum (days since the year 0)", DAY_S * NS, -719_529 * DAY_S),
    Unit("excel1904", "Excel serial dates of a Mac (days since 1904)", DAY_S * NS, -24_107 * DAY_S, is_guessed=False),
    Unit("julian", "Julian dates", DAY_S * NS, -210_866_760_000, is_guessed=False),
    Unit("mjd", "modified Julian dates", DAY_S * NS, -40_587 * DAY_S, is_guessed=False),
    Unit("epoch_days", "days since 1970", DAY_S * NS, 0, is_guessed=False),
    Unit("gps", "GPS seconds (since 1980, without leap seconds)", NS, 315_964_800, is_guessed=False),
)
COMPACT_NAME = "compact"
ELAPSED = {
    "elapsed_ns": 1,
    "elapsed_us": 10**3,
    "elapsed_ms": 10**6,
    "elapsed_s": NS,
    "elapsed_min": 60 * NS,
    "elapsed_h": 3600 * NS,
    "elapsed_d": DAY_S * NS,
}
NAMES = (*(unit.name for unit in UNITS), COMPACT_NAME, *ELAPSED)
TICKS_OR_NS_S = 100 * DAY_S
"""Nanoseconds in the first days of 1990 are the same numbers as today's ticks, and are read as ticks."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Numbers in two parts, without loss.

    Attributes:
        whole: int64[n], rounded down.
        part: float64[n], the rest, 0 <= part < 1 (the text's digits, within 1e-15).
        step: minimum difference of two numbers given the digits written; 0 if nothing was cut.
        cells: n values as found.
    """

    whole: Int64Array
    part: Float64Array
    step: float
    cells: pa.Array

    def cell(self, row: int) -> str:
        """Return a cell as written."""
        return repr(self.cells[row].as_py())


def is_numeric(column: pa.Array) -> bool:
    """Return whether all cells are numbers, by type or as text."""
    if pa.types.is_string(column.type):
        return bool(pc.all(pc.match_substring_regex(pc.utf8_trim_whitespace(column), FLOAT)).as_py())
    return bool(pa.types.is_integer(column.type) or pa.types.is_floating(column.type))


def counts(column: pa.Array, where: Callable[[int], str]) -> Counts:
    """Split numbers.

    Raises:
        RecordingError: one is not finite, or too large for a time in any unit.
    """
    if pa.types.is_integer(column.type):
        wide = column.to_numpy(False)
        if wide.dtype == np.uint64 and len(wide) and wide.max() > np.iinfo(np.int64).max:
            raise RecordingError(_unreadable(column, int(np.argmax(wide)), where))
        return Counts(wide.astype(np.int64), np.zeros(len(wide)), 0.0, column)
    if pa.types.is_string(column.type):
        text = pc.utf8_trim_whitespace(column)
        found = pc.extract_regex(pc.replace_substring_regex(text, TEXT, r"\1.\2"), r"^(?P<whole>[^.]+)\.(?P<part>\d*)$")
        if not found.null_count:
            try:
                return _from_digits(found.field(0), found.field(1), column)
            except pa.ArrowInvalid:
                pass  # beyond int64: read as float64, which matches no unit
        values = pc.replace_substring(text, ",", ".").cast(pa.float64()).to_numpy(False)
        _expect_precision(text, values, where)
    else:
        values = column.cast(pa.float64(), safe=False).to_numpy(False)
    wrong = ~np.isfinite(values) | (np.abs(values) >= 9.2e18)
    if wrong.any():
        raise RecordingError(_unreadable(column, int(np.argmax(wrong)), where))
    whole = np.floor(values)
    return Counts(whole.astype(np.int64), values - whole, float(np.spacing(np.abs(values).max())), column)


def choose(numbers: Counts, bounds: Bounds, where: Callable[[int], str]) -> tuple[Int64Array, str, str]:
    """Read numbers in the one unit in which all of them are valid times.

    Returns:
        int64[n], UTC nanoseconds (for `compact`: local time), the unit's words and its name.

    Raises:
        RecordingError: there is no such unit, or more than one.
    """
    fit = [unit for unit in UNITS if unit.is_guessed and _within(unit, numbers, bounds).all()]
    names = {unit.name for unit in fit}
    if names == {"ticks", "epoch_ns"} and _seconds(UNITS[3], numbers).max() < bounds.first_s + TICKS_OR_NS_S:
        fit = [unit for unit in fit if unit.name == "ticks"]
    compact = _compact_seconds(numbers)
    is_compact = compact is not None and bool(_inside(compact, bounds).all())
    if compact is not None and is_compact and not fit:
        return _compact_ns(numbers, compact), _compact_words(numbers), COMPACT_NAME
    if len(fit) == 1 and not is_compact:
        return _to_ns(fit[0], numbers), fit[0].words, fit[0].name
    if fit:
        options = " or ".join(f"--time-format {name}" for name in [*(unit.name for unit in fit), COMPACT_NAME][:2])
        shows = " or ".join(f"{shown(int(_seconds(unit, numbers)[0]))} ({unit.words})" for unit in fit)
        raise RecordingError(f"{where(0)}: {numbers.cell(0)} can be {shows}; add {options}")
    raise RecordingError(_nothing_fits(numbers, bounds, where))


def convert(name: str, numbers: Counts, bounds: Bounds, where: Callable[[int], str]) -> tuple[Int64Array, str]:
    """Read numbers in a given unit; returns int64[n] nanoseconds and the unit's words.

    Raises:
        RecordingError: a time outside the bounds.
    """
    if name == COMPACT_NAME:
        seconds = _compact_seconds(numbers)
        if seconds is None:
            raise RecordingError(f"{where(0)}: expected a time in 8, 10, 12 or 14 digits, found {numbers.cell(0)}")
        _expect_inside(seconds.astype(np.float64), numbers, bounds, where, "digits of year, month, day and time")
        return _compact_ns(numbers, seconds), _compact_words(numbers)
    unit = next(unit for unit in UNITS if unit.name == name)
    _expect_inside(_seconds(unit, numbers), numbers, bounds, where, unit.words)
    return _to_ns(unit, numbers), unit.words


def elapsed(unit_ns: int, numbers: Counts, start_ns: int, bounds: Bounds, where: Callable[[int], str]) -> Int64Array:
    """Read numbers as time since a start; int64[n], UTC nanoseconds.

    Raises:
        RecordingError: a time outside the bounds.
    """
    unit = Unit("elapsed", f"time since {shown(start_ns // NS)}", unit_ns, 0)
    _expect_inside(_seconds(unit, numbers) + start_ns / NS, numbers, bounds, where, unit.words)
    return start_ns + _to_ns(unit, numbers)


def _from_digits(whole: pa.Array, part: pa.Array, column: pa.Array) -> Counts:
    digits = int(pc.max(pc.utf8_length(part)).as_py() or 0)
    fifteen = pc.utf8_slice_codeunits(pc.utf8_rpad(part, 15, "0"), 0, 15).cast(pa.int64()).to_numpy(False)
    count = whole.cast(pa.int64()).to_numpy(False)
    share = fifteen / 1e15
    minus = pc.starts_with(whole, "-").to_numpy(False)
    if minus.any():
        below = minus & (share > 0)
        count, share = count - below, np.where(below, 1 - share, share)
    return Counts(count, share, 10.0 ** -min(digits, 15) if digits else 0.0, column)


def _expect_precision(text: pa.Array, values: Float64Array, where: Callable[[int], str]) -> None:
    """Refuse `1.77244E+12`: digits dropped by a spreadsheet are lost."""
    found = pc.extract_regex(text, r"^[+-]?(?P<whole>\d*)[.,]?(?P<part>\d*)[eE]\+?(?P<power>\d+)$")
    if found.null_count == len(found):
        return
    row = int(np.argmax(found.is_valid().to_numpy(False)))
    cell = found[row].as_py()
    lost = int(cell["power"][:3]) - len(cell["part"])
    if lost > 0 and 10.0 ** min(lost, 300) > np.abs(values[row]) * 1e-9:
        raise RecordingError(
            f"{where(row)}: expected a time, found {text[row].as_py()[:80]!r}: a spreadsheet dropped its last {lost} "
            "digits; format the column as a number without decimals and export it again"
        )


def _seconds(unit: Unit, numbers: Counts) -> Float64Array:
    """float64[n], approximate seconds since 1970."""
    return numbers.whole.astype(np.float64) * (unit.unit_ns / NS) + unit.epoch_s


def _inside(seconds: Float64Array | Int64Array, bounds: Bounds) -> BoolArray:
    return (seconds >= bounds.first_s) & (seconds <= bounds.last_s)


def _within(unit: Unit, numbers: Counts, bounds: Bounds) -> BoolArray:
    return _inside(_seconds(unit, numbers), bounds)


def _expect_inside(
    seconds: Float64Array, numbers: Counts, bounds: Bounds, where: Callable[[int], str], words: str
) -> None:
    inside = _inside(seconds, bounds)
    if not inside.all():
        row = int(np.argmin(inside))
        raise RecordingError(f"{where(row)}: {bounds.refusal(_whole(seconds[row]), numbers.cell(row), words)}")


def _to_ns(unit: Unit, numbers: Counts) -> Int64Array:
    """Convert; digits cut in writing are restored if all rows agree."""
    before = -unit.epoch_s * NS // unit.unit_ns
    # Days in float64 were the sum of a date and a time, each rounded.
    blur = 1.5 if unit.unit_ns >= DAY_S * NS and numbers.step < 1e-9 else 0.51
    event_ns = (numbers.whole - before) * unit.unit_ns + np.rint(numbers.part * unit.unit_ns).astype(np.int64)
    return _snap(event_ns, blur * numbers.step * unit.unit_ns)


def _snap(event_ns: Int64Array, tolerance_ns: float) -> Int64Array:
    """Round all times to the coarsest decimal fraction of a second that each matches within the tolerance."""
    step = NS
    while step > 2 * tolerance_ns and step >= 10:
        off = (event_ns + step // 2) % step - step // 2
        if tolerance_ns >= 1 and (np.abs(off) <= tolerance_ns).all():
            return event_ns - off
        step //= 10
    return event_ns


def _compact_seconds(numbers: Counts) -> Int64Array | None:
    """int64[n], seconds since 1970 of 20260302080000 and shorter; None if a row is not such a time."""
    whole = numbers.whole
    if not len(whole) or whole.min() < 10**7:
        return None
    digits = len(str(int(whole.max())))
    if digits == 17:
        whole, digits = whole // 1000, 14
    if digits not in COMPACT or len(str(int(whole.min()))) != digits:
        return None
    rest = np.zeros(len(whole), np.int64)
    scale = {"second": 1, "minute": 60, "hour": 3600}
    high = {"second": 59, "minute": 59, "hour": 24}
    usable = np.ones(len(whole), bool)
    for part in reversed(COMPACT[digits]):
        whole, value = whole // 100, whole % 100
        rest += value * scale[part]
        usable &= value <= high[part]
    usable &= rest <= DAY_S
    year, month, day = whole // 10_000, whole // 100 % 100, whole % 100
    usable &= (month >= 1) & (month <= 12) & (day >= 1)
    if not usable.all():
        return None
    months = ((year - 1970) * 12 + month - 1).astype("datetime64[M]")
    days = months.astype("datetime64[D]").astype(np.int64) + day - 1
    if (days.astype("datetime64[D]").astype("datetime64[M]") != months).any():
        return None
    return days * DAY_S + rest


def _compact_ns(numbers: Counts, seconds: Int64Array) -> Int64Array:
    part = numbers.part
    if len(str(int(numbers.whole.max()))) == 17:
        part = numbers.whole % 1000 / 1000
    return seconds * NS + np.rint(part * NS).astype(np.int64)


def _compact_words(numbers: Counts) -> str:
    digits = len(str(int(numbers.whole.max())))
    return f"dates of {digits} digits (year, month, day{', time' if digits > 8 else ''})"


def _nothing_fits(numbers: Counts, bounds: Bounds, where: Callable[[int], str]) -> str:
    """Return a message with what the numbers might be."""
    best = max((unit for unit in UNITS if unit.is_guessed), key=lambda unit: int(_within(unit, numbers, bounds).sum()))
    inside = _within(best, numbers, bounds)
    if inside.mean() >= 0.5:
        row = int(np.argmin(inside))
        return (
            f"{where(row)}: expected {best.words} from 1990-01-01 to {shown(bounds.last_s)[:10]}, as in other rows, "
            f"found {numbers.cell(row)}{_might_be(numbers, row, bounds)}; a recording must use one time unit"
        )
    compact = _compact_seconds(numbers)
    if compact is not None and _inside(compact, bounds).any():
        row = int(np.argmin(_inside(compact, bounds)))
        refusal = bounds.refusal(int(compact[row]), numbers.cell(row), _compact_words(numbers))
        return f"{where(row)}: {refusal}"
    if numbers.whole.min() >= -1 and numbers.whole.max() < 10 * 366 * DAY_S:
        others = [unit for unit in UNITS if not unit.is_guessed and _within(unit, numbers, bounds).all()]
        might = "".join(f"; if these are {unit.words}, --time-format {unit.name}" for unit in others)
        return (
            f"{where(0)}: expected a time since 1970 (s, ms, µs or ns), or another known count of time, "
            f"found {numbers.cell(0)}; for time elapsed since a start, add the start: "
            "--start 2026-03-02T08:00:00Z (in seconds; else with --time-format elapsed_ms, elapsed_us, elapsed_min "
            f"or elapsed_h){might}"
        )
    return (
        f"{where(0)}: expected a time since 1970 in one unit (s, ms, µs or ns) or another known count of time, "
        f"from 1990-01-01 to {shown(bounds.last_s)[:10]}, found {numbers.cell(0)}"
        f"{_might_be(numbers, 0, bounds)}; "
        "state the unit with --time-format (epoch_ms, filetime, labview, compact, elapsed_s, …)"
    )


def _might_be(numbers: Counts, row: int, bounds: Bounds) -> str:
    """Return the readings of a number, best first: within the bounds, then within a century around them."""
    one = Counts(numbers.whole[row : row + 1], numbers.part[row : row + 1], numbers.step, numbers.cells)
    compact = _compact_seconds(one)
    reads = [(int(compact[0]), _compact_words(one))] if compact is not None else []
    reads += [(_whole(_seconds(unit, one)[0]), unit.words) for unit in UNITS if unit.is_guessed]
    century = 36_525 * DAY_S
    inside = [read for read in reads if bounds.first_s <= read[0] <= bounds.last_s]
    around = [read for read in reads if -century < read[0] < bounds.last_s + century]
    reads = inside or sorted(around, reverse=True)[:2]
    return ", which would be " + " or ".join(f"{shown(s)} as {words}" for s, words in reads[:3]) if reads else ""


def _whole(second: float) -> int:
    return int(np.floor(second)) if np.isfinite(second) else 0


def _unreadable(column: pa.Array, row: int, where: Callable[[int], str]) -> str:
    return (
        f"{where(row)}: expected a time since 1970 in one unit (s, ms, µs or ns) or another known count of time, "
        f"found {str(column[row].as_py())[:80]!r}"
    )
