"""Times spread over columns: a date and a time of day, a date and an hour, or year, month, day and so on."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

WHOLE_NAMES = ("timestamp", "datetime", "ts", "date_time", "event_time", "time_stamp", "zeitstempel", "horodatage")
DATE_NAMES = ("date", "datum", "fecha", "data", "dato", "messdatum", "日付", "日期")
CLOCK_NAMES = ("time", "zeit", "uhrzeit", "heure", "hora", "ora", "tijd", "tid", "time_of_day", "時刻", "时间", "時間")
HOUR_NAMES = ("hour", "hr", "stunde", "hh", "hours")
PARTS = (
    ("year", "yr", "yyyy", "jahr"),
    ("month", "mo", "mm", "monat"),
    ("day", "dy", "dd", "tag"),
    HOUR_NAMES,
    ("minute", "min", "minutes"),
    ("second", "sec", "seconds"),
)
CLOCK = r"^(?:(?:1899-12-3[01]|1900-01-0[01]|30\.12\.1899|12/30/1899)[ T])?\d{1,2}[:.h]\d{2}"
CLOCK_DATE = r"^(?:1899-12-3[01]|1900-01-0[01]|30\.12\.1899|12/30/1899)[ T]+"
MIDNIGHT = r"(?:[ T]+(?:0?0:00(?::00(?:[.,]0+)?)?|12:00(?::00)? ?AM))$"
DATE = r"^[^ T:]+$|^\d{1,2}\.? ?\pL{3,}\.? ?\d{2,4}$|^\pL{3,}\.? \d{1,2},? \d{4}$"
SAMPLE = 200


def guess(columns: Mapping[str, pa.Array]) -> tuple[str, ...]:
    """Return the columns that together are the time, by their names and first cells; () if one is enough.

    Args:
        columns: the first block of a file.
    """
    names = {_plain(name): name for name in reversed(list(columns))}
    if any(name in names for name in WHOLE_NAMES):
        return ()
    date = next((names[name] for name in DATE_NAMES if name in names), "")
    clock = next((names[name] for name in CLOCK_NAMES if name in names), "")
    hour = next((names[name] for name in HOUR_NAMES if name in names), "")
    if date and clock and _is_date(columns[date]) and _is_clock(columns[clock]):
        return (date, clock)
    if date and not clock and hour and _is_date(columns[date]) and _is_count(columns[hour], 24):
        minute = next((names[name] for name in PARTS[4] if name in names), "")
        return (date, hour, minute) if minute and _is_count(columns[minute], 59) else (date, hour)
    if date or clock:
        return ()
    found = []
    for number, known in enumerate(PARTS):
        name = next((names[name] for name in known if name in names), "")
        if not name or not _is_count(columns[name], (9999, 12, 31, 24, 59, 60)[number]):
            break
        found.append(name)
    return tuple(found) if len(found) >= 3 else ()


def joined(columns: Mapping[str, pa.Array], names: Sequence[str]) -> pa.Array:
    """Return the columns as one text column: `2026-03-02 08:00:00`; null if a part is null.

    Args:
        columns: a block.
        names: date and clock, date, hour and minute, or year, month, day and smaller parts.
    """
    texts = [_text(columns[name]) for name in names]
    if len(names) >= 3 and _is_count(columns[names[0]], 9999):
        date = pc.binary_join_element_wise(*texts[:3], "-")
        return pc.binary_join_element_wise(date, _clock(texts[3:], True), " ") if len(texts) > 3 else date
    date = pc.replace_substring_regex(texts[0], MIDNIGHT, "")
    is_hour = len(texts) > 2 or _plain(names[1]) in HOUR_NAMES
    return pc.binary_join_element_wise(date, _clock(texts[1:], is_hour), " ")


def _clock(texts: Sequence[pa.Array], is_hour: bool) -> pa.Array:
    """Join hours, minutes and seconds, or normalise a single text of them."""
    if len(texts) > 1:
        padded = [texts[0], *(pc.replace_substring_regex(text, r"^(\d)(\.|$)", r"0\1\2") for text in texts[1:])]
        return pc.binary_join_element_wise(*padded, ":")
    text = pc.replace_substring_regex(texts[0], CLOCK_DATE, "")
    if is_hour:
        return pc.replace_substring_regex(text, r"^(\d{1,2})$", r"\1:00")
    text = pc.replace_substring_regex(text, r"^(\d{2})(\d{2})$", r"\1:\2")
    return pc.replace_substring_regex(text, r"^(\d{2})(\d{2})(\d{2})$", r"\1:\2:\3")


def _plain(name: str) -> str:
    """Return a column name without unit or format in brackets: `Date [dd.mm.yyyy]`, `Time (UTC)`."""
    return re.sub(r"\s*[\[(].*[\])]$", "", name.strip()).lower().replace(" ", "_")


def _text(column: pa.Array) -> pa.Array:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("s"), safe=False)
    text = pc.utf8_trim_whitespace(column.cast(pa.string()))
    text = pc.replace_substring_regex(text, r"^(\d+)\.0+$", r"\1")
    return pc.if_else(pc.equal(text, ""), None, text)


def _sample(column: pa.Array) -> pa.Array:
    return _text(column.slice(0, SAMPLE)).drop_null()


def _all(text: pa.Array, pattern: str) -> bool:
    return len(text) > 0 and bool(pc.all(pc.match_substring_regex(text, pattern)).as_py())


def _is_date(column: pa.Array) -> bool:
    if pa.types.is_nested(column.type):
        return False
    text = pc.replace_substring_regex(_sample(column), MIDNIGHT, "")
    return _all(text, DATE) and (_all(text, r"[-/.年]|\pL") or _all(text, r"^\d{8}$"))


def _is_clock(column: pa.Array) -> bool:
    if pa.types.is_nested(column.type):
        return False
    text = _sample(column)
    return _all(text, CLOCK) or _all(text, r"^([01]\d|2[0-4])[0-5]\d([0-5]\d)?$")


def _is_count(column: pa.Array, most: int) -> bool:
    if pa.types.is_nested(column.type):
        return False
    text = _sample(column)
    if not _all(text, r"^\d{1,4}$|^\d{1,2}\.\d+$"):
        return False
    return bool(pc.max(text.cast(pa.float64())).as_py() <= most)
