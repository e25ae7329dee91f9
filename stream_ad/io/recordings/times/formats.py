"""Times written as text: the known formats, and which of them a whole column has."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stream_ad.core.batches import BoolArray, Int32Array, Int64Array
from stream_ad.errors import RecordingError
from stream_ad.io.recordings.times.bounds import Bounds, shown

DAY_S = 86_400
CLOCK = (
    r"(?P<H>\d{1,2})(?:(?P<u>[:.hH])(?P<M>\d{2})(?:[:.m](?P<S>\d{2})s?(?:(?P<v>[.,:])(?P<f>\d{1,9})\d*)?)?h?)?"
    r"(?: ?(?P<p>[AaPp])\.? ?[Mm]\.?)?"
)
TIGHT = r"(?P<H>\d{2})(?P<u>:?)(?P<M>\d{2})(?::?(?P<S>\d{2})(?:(?P<v>[.,])(?P<f>\d{1,9})\d*)?)?"
ZONE = r"(?: ?(?P<z>(?:UTC|GMT)?[+-]\d{1,2}(?::?\d{2})?|\pL{1,5}))?(?:\[[^\]]*\]| ?\([^)]*\))?"
GAP = r"(?P<t>[Tt]|[ ,;_:-]+)"
AFTER_DATE = rf"(?:{GAP}{CLOCK})?{ZONE}$"
WEEKDAY = r"^(?:\pL{2,10}\.?,? )?"
MONTH = r"(?P<n>\pL{3,10})\.?"
MONTHS = (
    ("jan", "ene", "gen"),
    ("feb", "fev", "fév"),
    ("mar", "mär", "mrz", "maa", "mrt"),
    ("apr", "avr", "abr"),
    ("may", "mai", "mei", "mag", "maj"),
    ("jun", "juin", "giu"),
    ("jul", "juil", "lug"),
    ("aug", "aoû", "aou", "ago"),
    ("sep", "set"),
    ("oct", "okt", "ott", "out"),
    ("nov",),
    ("dec", "dez", "déc", "dic"),
)
FIELDS = {
    "d": ("d", r"\d{1,2}"),
    "m": ("m", r"\d{1,2}"),
    "Y": ("y", r"\d{4}"),
    "y": ("k", r"\d{2}"),
    "j": ("j", r"\d{1,3}"),
    "b": ("n", r"\pL{3,10}"),
    "B": ("n", r"\pL{3,10}"),
    "H": ("H", r"\d{1,2}"),
    "I": ("H", r"\d{1,2}"),
    "M": ("M", r"\d{1,2}"),
    "S": ("S", r"\d{1,2}"),
    "f": ("f", r"\d{1,9}"),
    "p": ("p", r"[AaPp]"),
    "z": ("z", r"(?:UTC|GMT)?[+-]\d{1,2}:?\d{2}|\pL{1,5}"),
    "Z": ("z", r"(?:UTC|GMT)?[+-]\d{1,2}:?\d{2}|\pL{1,5}"),
}
SHORT = {"T": "%H:%M:%S", "F": "%Y-%m-%d", "R": "%H:%M", "D": "%m/%d/%y"}


@dataclass(frozen=True, slots=True)
class Family:
    """One date format, and the ways to read it.

    Attributes:
        name: for messages.
        regex: with groups named as in `FIELDS`, or a, b and c for numbers of unknown meaning.
        readings: name -> the fields of a, b and c, in order.
    """

    name: str
    regex: str
    readings: Mapping[str, str]


YEAR_FIRST = "an ISO 8601 time"
ORDERS = {"day-first": "dmy", "month-first": "mdy"}
FAMILIES = (
    Family(
        YEAR_FIRST,
        r"^(?P<y>\d{4})(?P<s>[-/.]) ?(?P<m>\d{1,2})[-/.] ?(?P<d>\d{1,2})\.?" + AFTER_DATE,
        {"year-first": ""},
    ),
    Family(
        "an ISO 8601 time without separators",
        r"^(?P<y>\d{4})(?P<m>\d{2})(?P<d>\d{2})(?:" + r"(?P<t>[Tt]|[ ,;_:-]+)" + TIGHT + ")?" + ZONE + "$",
        {"year-first": ""},
    ),
    Family(
        "a date in numbers",
        r"^(?P<a>\d{1,2})(?P<s>[-/.]) ?(?P<b>\d{1,2})[-/.] ?(?P<c>\d{4})\.?" + AFTER_DATE,
        ORDERS,
    ),
    Family(
        "a date in numbers with a year of two digits",
        r"^(?P<a>\d{1,2})(?P<s>[-/.]) ?(?P<b>\d{1,2})[-/.] ?(?P<c>\d{2})\.?" + AFTER_DATE,
        {"day-first": "dmk", "month-first": "mdk", "year-first": "kmd"},
    ),
    Family(
        "a day, the name of a month and a year",
        WEEKDAY + r"(?P<d>\d{1,2})\.?(?P<s>[-/ ]*)" + MONTH + r"[-/, ]*(?P<y>\d{4})" + AFTER_DATE,
        {"named month": ""},
    ),
    Family(
        "a day, the name of a month and a year of two digits",
        WEEKDAY + r"(?P<d>\d{1,2})\.?(?P<s>[-/ ]*)" + MONTH + r"[-/, ]*(?P<k>\d{2})" + AFTER_DATE,
        {"named month": ""},
    ),
    Family(
        "the name of a month, a day and a year",
        WEEKDAY + MONTH + r"(?P<s>[-/ ])(?P<d>\d{1,2})(?:st|nd|rd|th)?,?[-/ ](?P<y>\d{4})" + AFTER_DATE,
        {"named month": ""},
    ),
    Family(
        "the name of a month, a day, a clock and a year",
        WEEKDAY + MONTH + r" (?P<d>\d{1,2})(?P<t> )" + CLOCK + r"(?: (?P<z>\pL{1,5}))? (?P<y>\d{4})$",
        {"named month": ""},
    ),
    Family(
        "a year, the name of a month and a day",
        r"^(?P<y>\d{4})(?P<s>[-/ ])" + MONTH + r"[-/ ](?P<d>\d{1,2})" + AFTER_DATE,
        {"named month": ""},
    ),
)
CLOCK_ONLY = r"^\d{1,4}:\d{2}(:\d{2}([.,:]\d+)?)?( ?[AaPp]\.? ?[Mm]\.?)?$"
CLOCK_PARTS = (
    r"^(?P<H>\d{1,4}):(?P<M>\d{2})(?::(?P<S>\d{2})(?:[.,:](?P<f>\d{1,9})\d*)?)?(?: ?(?P<p>[AaPp])\.? ?[Mm]\.?)?$"
)
NAMED_ORDERS = {"day_first": "day-first", "month_first": "month-first", "year_first": "year-first"}


@dataclass(frozen=True, slots=True)
class Reading:
    """A column read in one way.

    Attributes:
        name: for people.
        pattern: a strptime pattern that reads the column in this way.
        second: int64[n], seconds since 1970 in the data's local time.
        nano: int64[n], 0 to 999,999,999.
        exists: bool[n], the cell is a valid date and time of day.
        usable: bool[n], and within the bounds.
        zone: n texts, the zone as written; "" if there is none.
    """

    name: str
    pattern: str
    second: Int64Array
    nano: Int64Array
    exists: BoolArray
    usable: BoolArray
    zone: pa.Array


def read_text(text: pa.Array, form: str | None, bounds: Bounds, where: Callable[[int], str]) -> Reading:
    """Read a column of times.

    Args:
        text: n texts, none of them null.
        form: a strptime pattern, `day_first`, `month_first` or `year_first`; None to find the format of all rows.
        bounds: the valid times.
        where: returns the place of a row, for errors.

    Raises:
        RecordingError: no format matches all rows, or two different ones do.
    """
    if form is not None and "%" in form:
        return _only(text, [_parse(text, _tidy(text), compile_pattern(form), form, "", bounds, form)], bounds, where)
    tidy = _tidy(text)
    family = _family(tidy, text, where)
    wanted = NAMED_ORDERS.get(form or "")
    orders = {name: order for name, order in family.readings.items() if wanted in (None, name)}
    if not orders:
        raise RecordingError(f"{where(0)}: expected a {wanted} date, found {family.name}: {_cell(text, 0)}")
    readings = [_parse(text, tidy, family.regex, name, order, bounds, "") for name, order in orders.items()]
    return _only(text, readings, bounds, where)


def compile_pattern(pattern: str) -> str:
    """Return the regular expression of a strptime pattern; clock and zone after a date are optional.

    Raises:
        RecordingError: a directive is unknown or repeated, or the date is incomplete.
    """
    for short, long in SHORT.items():
        pattern = pattern.replace(f"%{short}", long)
    parts = re.findall(r"%.|[^%]+|%$", pattern)
    regex, seen, opened = "^", set[str](), False
    for number, part in enumerate(parts):
        follows = parts[number + 1] if number + 1 < len(parts) else ""
        if not part.startswith("%") or part == "%%":
            if follows in ("%H", "%I") and _is_date(seen) and not opened:
                regex, opened = regex + "(?:", True
            regex += re.escape(re.sub(r"\s+", " ", part.replace("%%", "%"))).replace(r"\ ", " +")
        elif part in ("%a", "%A"):
            regex += r"\pL{2,10}\.?"
        else:
            is_tight = bool(number and parts[number - 1].startswith("%")) or follows.startswith("%")
            regex += _directive(part, seen, is_tight, "%f" in pattern)
    if not _is_date(seen):
        raise RecordingError(f"--time-format: expected a year, a month and a day in it, found {pattern!r}")
    return regex + (")?" if opened else "") + ("" if "z" in seen else ZONE) + "$"


def _is_date(groups: set[str]) -> bool:
    return bool({"y", "k"} & groups) and ("j" in groups or ("d" in groups and bool({"m", "n"} & groups)))


def _directive(part: str, seen: set[str], is_tight: bool, has_fraction: bool) -> str:
    """Return the regular expression of one directive; `is_tight`: it is adjacent to another one."""
    if part[1:] not in FIELDS:
        raise RecordingError(f"--time-format: expected a directive of strptime or a name, found {part!r}")
    group, inner = FIELDS[part[1:]]
    if group in seen:
        raise RecordingError(f"--time-format: expected each part of a time once, found {part} twice")
    seen.add(group)
    if is_tight:
        inner = {r"\d{1,2}": r"\d{2}", r"\d{1,3}": r"\d{3}"}.get(inner, inner)
    regex = f"(?P<{group}>{inner})" + {"f": r"\d*", "p": r"\.? ?[Mm]\.?", "n": r"\.?"}.get(group, "")
    return regex + (r"(?:[.,:](?P<f>\d{1,9})\d*)?" if part == "%S" and not has_fraction else "")


def is_clock_only(text: pa.Array) -> bool:
    """Return whether all cells are a time of day or a duration, without a date."""
    return bool(pc.all(pc.match_substring_regex(pc.utf8_trim_whitespace(text), CLOCK_ONLY)).as_py())


def read_clock(
    text: pa.Array,
    start_ns: int,
    groups: Int64Array | Int32Array | None,
    bounds: Bounds,
    where: Callable[[int], str],
) -> Int64Array:
    """Read `8:05`, `8:05:01.5` as time since a start; a clock that falls back by half a day starts a new one.

    Raises:
        RecordingError: not a time of day or duration, or outside the bounds.
    """
    found = pc.extract_regex(pc.utf8_trim_whitespace(text), CLOCK_PARTS)
    names = [found.type.field(number).name for number in range(found.type.num_fields)]
    cells = {key: found.field(number) for number, key in enumerate(names)}
    hour, minute, second = (
        pc.if_else(pc.equal(cells[key], ""), "0", cells[key]).cast(pa.int64()).to_numpy(False) for key in "HMS"
    )
    half = pc.utf8_lower(cells["p"])
    hour = np.where(pc.equal(half, "").to_numpy(False), hour, hour % 12 + 12 * pc.equal(half, "p").to_numpy(False))
    nano = pc.utf8_rpad(cells["f"], 9, "0").cast(pa.int64()).to_numpy(False)
    wrong = (minute > 59) | (second > 59)
    seconds = hour * 3600 + minute * 60 + second
    order = np.arange(len(seconds)) if groups is None else np.argsort(groups, kind="stable")
    steps = np.diff(seconds[order], prepend=seconds[order[:1]])
    if groups is not None:
        steps[1:][groups[order][1:] != groups[order][:-1]] = 0
    days = np.cumsum(steps < -DAY_S // 2)
    if groups is not None:
        begins = np.flatnonzero(np.diff(groups[order], prepend=groups[order[:1]] - 1))
        days -= np.repeat(days[begins], np.diff(np.append(begins, len(order))))
    seconds[order] += days * DAY_S
    since = start_ns // 10**9 + seconds
    wrong |= (since < bounds.first_s) | (since > bounds.last_s)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise RecordingError(f"{where(row)}: expected time since a start, found {_cell(text, row)}")
    event_ns: Int64Array = start_ns + seconds * 10**9 + nano
    return event_ns


def _tidy(text: pa.Array) -> pa.Array:
    """Normalise spaces, 2026年3月2日 午後8時 and quotes."""
    text = pc.replace_substring_regex(text, r"[\s\x{00A0}\x{2007}\x{2009}\x{202F}\x{3000}\x{200E}\x{200F}]+", " ")
    text = pc.utf8_trim(text, " '\"")
    if pc.any(pc.match_substring_regex(text, r"[年月日時时分秒午오]")).as_py():
        for pattern, plain in (
            (r"[年月] ?", "/"),
            (r"日 ?", " "),
            (r"[時时] ?(\d)", r":\1"),
            (r"[時时] ?$", ":00"),
            (r"分 ?(\d)", r":\1"),
            (r"[分秒] ?$", ""),
            (r"(?:午前|上午|오전) ?([\d:.]+)", r"\1 AM"),
            (r"(?:午後|下午|오후) ?([\d:.]+)", r"\1 PM"),
        ):
            text = pc.replace_substring_regex(text, pattern, plain)
        text = pc.utf8_trim(text, " ")
    return text


def _family(tidy: pa.Array, text: pa.Array, where: Callable[[int], str]) -> Family:
    """Return the family that all rows belong to."""
    best, best_count, best_row = FAMILIES[0], -1, 0
    for family in FAMILIES:
        fits = pc.match_substring_regex(tidy, family.regex).to_numpy(False)
        if fits.all():
            return family
        count = int(fits.sum())
        if count > best_count:
            best, best_count, best_row = family, count, int(np.argmin(fits))
    if not best_count and is_clock_only(text):
        raise RecordingError(
            f"{where(0)}: expected a date with the time, found {_cell(text, 0)}; if the date is in another column, use "
            "--layout wide,time=DATE+TIME; for time elapsed since a start, --start 2026-03-02T08:00:00Z"
        )
    if str(text[0]).startswith(("[", "{")):
        raise RecordingError(f"{where(0)}: expected one time, found {_cell(text, 0)}; write an object per row")
    if not best_count:
        raise RecordingError(
            f"{where(0)}: expected an ISO 8601 time or another known one, found {_cell(text, 0)}; "
            "state its format: --time-format '%d/%m/%Y %H:%M:%S'"
        )
    raise RecordingError(
        f"{where(best_row)}: expected {best.name}, as in other rows, found {_cell(text, best_row)}; "
        "a recording must use one time format"
    )


def _parse(text: pa.Array, tidy: pa.Array, regex: str, name: str, order: str, bounds: Bounds, pattern: str) -> Reading:
    """Read all rows with one regular expression; `order` gives the fields of its groups a, b and c."""
    found = pc.extract_regex(tidy, regex)
    names = [found.type.field(number).name for number in range(found.type.num_fields)]
    cells = {key: found.field(number) for number, key in enumerate(names)}
    matched = found.is_valid().to_numpy(False)
    cells |= dict(zip(order, (cells[key] for key in "abc" if key in cells), strict=True)) if order else {}
    rows = len(text)

    def number(key: str, absent: int = 0) -> Int64Array:
        if key not in cells:
            return np.full(rows, absent, np.int64)
        digits = pc.if_else(pc.equal(cells[key], ""), str(absent), cells[key])
        counts: Int64Array = pc.fill_null(digits, str(absent)).cast(pa.int64()).to_numpy(False)
        return counts

    year = number("y") if "y" in cells else _century(number("k"))
    if "j" in cells:
        month, day = np.ones(rows, np.int64), number("j", 1)
        longest: Int64Array = 365 + _leaps(year)
    else:
        month, day = _month_of(cells["n"]) if "n" in cells else number("m"), number("d")
        longest = _days_in(year, month)
    hour, minute, second = number("H"), number("M"), number("S")
    exists = matched & (month >= 1) & (month <= 12) & (day >= 1) & (day <= longest) & (minute < 60) & (second < 60)
    if "p" in cells:
        half = pc.fill_null(pc.utf8_lower(cells["p"]), "")
        afternoon, any_half = (pc.equal(half, "p").to_numpy(False), pc.not_equal(half, "").to_numpy(False))
        exists &= ~any_half | ((hour >= 1) & (hour <= 12))
        hour = np.where(any_half, hour % 12 + 12 * afternoon, hour)
    nano = np.zeros(rows, np.int64)
    if "f" in cells:
        nano = pc.utf8_rpad(pc.fill_null(cells["f"], ""), 9, "0").cast(pa.int64()).to_numpy(False)
    midnight = (hour == 24) & (minute == 0) & (second == 0) & (nano == 0)
    exists &= (hour < 24) | midnight
    days = _days_since_1970(year, np.clip(month, 1, 12)) + day - 1
    seconds = days * DAY_S + hour * 3600 + minute * 60 + second
    zone = pc.fill_null(cells["z"], "") if "z" in cells else pa.array([""] * rows, pa.string())
    usable = exists & (seconds >= bounds.first_s - DAY_S) & (seconds <= bounds.last_s + DAY_S)
    return Reading(name, pattern or _pattern(tidy, cells, order), seconds, nano, exists, usable, zone)


def _only(text: pa.Array, readings: Sequence[Reading], bounds: Bounds, where: Callable[[int], str]) -> Reading:
    """Return the one reading that matches all rows, or refuse with the objection to each."""
    fit = [reading for reading in readings if reading.usable.all()]
    fit = [
        one
        for number, one in enumerate(fit)
        if not any(np.array_equal(one.second, other.second) for other in fit[:number])
    ]
    if len(fit) > 1:
        fit = _continuous(fit) or fit
    if len(fit) == 1:
        return fit[0]
    if fit:
        row = int(np.argmax(fit[0].second != fit[1].second))
        shows = " or ".join(f"{shown(int(one.second[row]))} ({one.name})" for one in fit)
        options = " or ".join(f'--time-format "{one.pattern}"' for one in fit)
        raise RecordingError(
            f"{where(row)}: {_cell(text, row)} can be {shows}, and no row of the recording decides; add {options}"
        )
    most = max(readings, key=lambda reading: (int(reading.exists.sum()), int(reading.usable.sum())))
    row = int(np.argmin(most.exists if not most.exists.all() else most.usable))
    if most.exists[row]:
        raise RecordingError(f"{where(row)}: {bounds.refusal(int(most.second[row]), _cell(text, row), most.name)}")
    others = [one for one in readings if one is not most and one.exists[row]]
    if others and (~others[0].exists).any():
        other = int(np.argmin(others[0].exists))
        raise RecordingError(
            f"{where(row)}: {_cell(text, row)} can only be {others[0].name}, but {_cell(text, other)} "
            f"({where(other)}) can only be {most.name}; a recording must use one time format"
        )
    expected = f"a time as {most.pattern}" if "%" in most.name else "a valid date and time of day"
    raise RecordingError(f"{where(row)}: expected {expected}, found {_cell(text, row)}")


def _continuous(fit: Sequence[Reading]) -> list[Reading]:
    """Return the one reading in which the recording continues over midnight, if the others jump by weeks."""
    gaps = [np.diff(np.unique(reading.second)) for reading in fit]
    if any(not len(gap) for gap in gaps):
        return []
    smooth = [reading for reading, gap in zip(fit, gaps, strict=True) if gap.max() < DAY_S]
    broken = [gap for gap in gaps if gap.max() > 20 * DAY_S]
    return smooth if len(smooth) == 1 and len(broken) == len(fit) - 1 else []


def _pattern(tidy: pa.Array, cells: Mapping[str, pa.Array], order: str) -> str:
    """Return the strptime pattern of the longest cell."""
    row = int(np.argmax(pc.utf8_length(tidy).to_numpy(False)))

    def part(key: str) -> str:
        return str(cells[key][row].as_py() or "") if key in cells else ""

    if "n" in cells:
        return ""
    codes = {"d": "%d", "m": "%m", "y": "%Y", "k": "%y"}
    date = part("s").join(codes[letter] for letter in (order or "ymd"))
    if not part("H"):
        return date
    half = " %p" if part("p") else ""
    clock = "%I" if half else "%H"
    for key, code in (("M", "%M"), ("S", "%S")):
        clock += part("u") + code if part(key) else ""
    clock += part("v") + "%f" if part("f") else ""
    return date + part("t") + clock + half + ("%z" if part("z") else "")


def _month_of(names: pa.Array) -> Int64Array:
    """Return the month of each name by its first letters, 0 if there is none."""
    coded = pc.utf8_lower(pc.fill_null(names, "")).dictionary_encode()
    numbers = [
        next((n for n, starts in enumerate(MONTHS, 1) if any(name.startswith(start) for start in starts)), 0)
        for name in coded.dictionary.to_pylist()
    ]
    months: Int64Array = np.array(numbers, np.int64)[coded.indices.to_numpy(False)]
    return months


def _century(year: Int64Array) -> Int64Array:
    return year + 1900 + 100 * (year < 90)


def _leaps(year: Int64Array) -> Int64Array:
    leaps: Int64Array = ((year % 4 == 0) & ((year % 100 != 0) | (year % 400 == 0))).astype(np.int64)
    return leaps


def _days_in(year: Int64Array, month: Int64Array) -> Int64Array:
    table = np.array([0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31], np.int64)
    month = np.where((month >= 1) & (month <= 12), month, 0)
    days: Int64Array = table[month] + (month == 2) * _leaps(year)
    return days


def _days_since_1970(year: Int64Array, month: Int64Array) -> Int64Array:
    months = ((year - 1970) * 12 + month - 1).astype("datetime64[M]")
    days: Int64Array = months.astype("datetime64[D]").astype(np.int64)
    return days


def _cell(text: pa.Array, row: int) -> str:
    return repr(str(text[row].as_py())[:80])
