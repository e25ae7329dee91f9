"""Time columns of recordings: text, numbers or timestamps to UTC nanoseconds, interpreted as a whole column."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stream_ad.core.batches import Int32Array, Int64Array
from stream_ad.errors import RecordingError
from stream_ad.io.recordings.times import formats as time_formats
from stream_ad.io.recordings.times import numbers as time_numbers
from stream_ad.io.recordings.times import zones as time_zones
from stream_ad.io.recordings.times.bounds import Bounds
from stream_ad.io.recordings.times.zones import ZONE_HINT

NS = 1_000_000_000
OFFSET = r":\d{2}(\.\d+)?([+-]\d{2}(:?\d{2})?|Z)$"
NAIVE_UNITS = ("excel", "excel1904", "matlab", "ticks", time_numbers.COMPACT_NAME)
"""Counts derived from local time: they have no zone."""
FORMAT_NAMES = ("iso", *time_formats.NAMED_ORDERS, *time_numbers.NAMES)
UNIT_OF_NAME = re.compile(
    r"[\[(_ /](ns|us|µs|μs|ms|s|sec|secs|seconds?|min|minutes?|h|hrs?|hours?|d|days?)[\])]?$", re.I
)


@dataclass(frozen=True, slots=True)
class Times:
    """A time column that has been read.

    Attributes:
        event_ns: int64[n], UTC nanoseconds.
        basis: how the times were interpreted, for people.
        naive: the times had no zone.
        notes: notes on decisions, one line each.
    """

    event_ns: Int64Array
    basis: str
    naive: bool = False
    notes: tuple[str, ...] = ()


class _Kind(Enum):
    AWARE = "times with an offset"
    NAIVE = "times without an offset"
    NUMBER = "numbers"
    TEXT = "text"


@dataclass(frozen=True, slots=True)
class _Part:
    """One block of the column: nanoseconds if already known, else the cells."""

    kind: _Kind
    ns: Int64Array
    cells: pa.Array
    where: Callable[[int], str]
    source: str

    def __len__(self) -> int:
        return len(self.ns) if self.cells is None else len(self.cells)


class TimeColumn:
    """A time column that arrives in blocks and is read when it is complete.

    Unambiguous times (ISO 8601, timestamps) are converted at once. Other cells are kept until `finish`, since only all
    rows together determine their format.
    """

    def __init__(
        self, zone: str | None, form: str | None = None, start: str | None = None, bounds: Bounds | None = None
    ) -> None:
        """Prepare to read.

        Args:
            zone: zone of naive times.
            form: one of `FORMAT_NAMES` or a strptime pattern; None to determine it.
            start: ISO 8601 start of elapsed times.
            bounds: the valid times; by this machine's clock if None.

        Raises:
            RecordingError: the format is unknown, or the start is not a time.
        """
        self.zone = zone
        self.bounds = bounds or Bounds.now()
        self.form = _known_form(form)
        self.start_ns = None if start is None else _start_ns(start, zone, self.bounds)
        self.names: dict[str, None] = {}
        self.parts: list[_Part] = []
        if self.start_ns is not None and self.form is not None and self.form not in time_numbers.ELAPSED:
            raise RecordingError(f"--start: only for elapsed times, but --time-format is {self.form}")

    def add(self, column: pa.Array, where: Callable[[int], str], source: str = "", name: str = "") -> None:
        """Add a block of the column.

        Args:
            column: n values.
            where: returns the place of a row of the block, for errors.
            source: the file; all its rows have the same kind of time.
            name: of the column; `t [ms]` states the unit of elapsed times.

        Raises:
            RecordingError: a time is empty, or its type is not one of a time.
        """
        if column.null_count:
            empty = int(np.argmax(column.is_null().to_numpy(False)))
            raise RecordingError(f"{where(empty)}: expected a time, found none")
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        self.names[name] = None
        kind = column.type
        if pa.types.is_large_string(kind) or pa.types.is_string_view(kind) or pa.types.is_decimal(kind):
            column = column.cast(pa.string())
        if pa.types.is_string(column.type):
            self.parts.append(self._text(column, where, source))
        elif pa.types.is_integer(kind) or pa.types.is_floating(kind):
            self.parts.append(_Part(_Kind.NUMBER, _none(), column, where, source))
        elif pa.types.is_timestamp(kind) or pa.types.is_date(kind):
            self.parts.append(self._typed(column, where, source))
        else:
            raise RecordingError(f"{where(0)}: expected a time, found a value of type {kind}")

    def finish(self, groups: Int64Array | Int32Array | None = None) -> Times:
        """Read all blocks.

        Args:
            groups: int[n], rows with a common clock, in file order; None if all have one.

        Raises:
            RecordingError: a time is unreadable or ambiguous; with file and line.
        """
        event_ns = np.zeros(sum(map(len, self.parts)), np.int64)
        bases: dict[str, None] = {}
        notes: list[str] = []
        naive_rows: list[Int64Array] = []
        self._expect_one_kind()
        for kind in _Kind:
            rows = self._rows(kind)
            if not len(rows):
                continue
            ns, naive, basis = self._read(kind, rows, None if groups is None else groups[rows], notes)
            event_ns[rows] = ns
            if naive:
                naive_rows.append(rows)
                zone = self._expect_zone(rows)
                basis = f"{basis}, the stated zone {zone}" if basis else f"the stated zone {zone}"
            bases[basis or "the offset in the data"] = None
        if naive_rows:
            rows = np.sort(np.concatenate(naive_rows))
            zone = self._expect_zone(rows)
            resolved = time_zones.resolve(event_ns[rows], zone, None if groups is None else groups[rows])
            event_ns[rows] = resolved.event_ns
            notes += _clock_notes(resolved)
        return Times(event_ns, ", ".join(bases), bool(naive_rows), tuple(dict.fromkeys(notes)))

    def where(self, row: int) -> str:
        """Return the place of a row of the whole column, for an error."""
        starts = np.cumsum([0, *map(len, self.parts)])
        part = min(bisect_right(starts.tolist(), row) - 1, len(self.parts) - 1)
        return self.parts[part].where(row - int(starts[part]))

    def _read(
        self, kind: _Kind, rows: Int64Array, groups: Int64Array | Int32Array | None, notes: list[str]
    ) -> tuple[Int64Array, bool, str]:
        """Return nanoseconds, whether they are local times without a zone, and the basis, "" for plain ISO 8601."""
        if kind in (_Kind.AWARE, _Kind.NAIVE):
            if self.start_ns is not None:
                raise RecordingError("--start: only for elapsed times, but the recording has dates")
            return np.concatenate([part.ns for part in self.parts if part.kind is kind]), kind is _Kind.NAIVE, ""
        cells = _joined([part.cells for part in self.parts if part.kind is kind])
        read = self._numbers if kind is _Kind.NUMBER else self._formatted
        return read(cells, _Where(self, rows), groups, notes)

    def _text(self, column: pa.Array, where: Callable[[int], str], source: str) -> _Part:
        if self.form not in (None, "iso", "year_first"):
            return _Part(_Kind.TEXT, _none(), column, where, source)
        if self.form is None and len(column) and time_numbers.is_numeric(column.slice(0, 1)):
            kind = _Kind.NUMBER if time_numbers.is_numeric(column) else _Kind.TEXT
            return _Part(kind, _none(), column, where, source)
        tidy = pc.utf8_upper(pc.utf8_trim_whitespace(column))
        tidy = pc.replace_substring_regex(tidy, r",(\d+)", r".\1")
        tidy = pc.replace_substring_regex(tidy, r"\s*(UTC|GMT)$", "Z")
        tidy = pc.replace_substring_regex(tidy, r"\s+([+-]\d{2}(:?\d{2})?|Z)$", r"\1")
        aware = pc.match_substring_regex(tidy, OFFSET).to_numpy(False)
        if aware.all() or not aware.any():
            kind = pa.timestamp("ns", "UTC") if len(aware) and aware.all() else pa.timestamp("ns")
            try:
                return self._known(tidy.cast(kind), column, where, source)
            except pa.ArrowInvalid:
                pass
        return _Part(_Kind.TEXT, _none(), column, where, source)

    def _typed(self, column: pa.Array, where: Callable[[int], str], source: str) -> _Part:
        zone = getattr(column.type, "tz", None) and "UTC"
        seconds = _numbers(column.cast(pa.timestamp("s", zone), safe=False))
        self._expect_inside(seconds, column, where)
        return self._known(column.cast(pa.timestamp("ns", zone)), column, where, source)

    def _known(self, column: pa.Array, cells: pa.Array, where: Callable[[int], str], source: str) -> _Part:
        ns = _numbers(column)
        self._expect_inside(ns // NS, cells, where)
        return _Part(_Kind.NAIVE if column.type.tz is None else _Kind.AWARE, ns, None, where, source)

    def _expect_inside(self, seconds: Int64Array, cells: pa.Array, where: Callable[[int], str]) -> None:
        wrong = (seconds < self.bounds.first_s) | (seconds > self.bounds.last_s)
        if wrong.any():
            row = int(np.argmax(wrong))
            refusal = self.bounds.refusal(int(seconds[row]), repr(_shown(cells[row])), "ISO 8601")
            raise RecordingError(f"{where(row)}: {refusal}")

    def _expect_zone(self, rows: Int64Array) -> str:
        if self.zone is None:
            raise RecordingError(f"{self.where(int(rows[0]))}: the time has no zone; {ZONE_HINT}")
        return self.zone

    def _expect_one_kind(self) -> None:
        """Refuse a file in which only some times are numbers or have an offset."""
        seen: dict[str, _Kind] = {}
        start = 0
        for part in self.parts:
            first = seen.setdefault(part.source, part.kind)
            iso = (_Kind.NAIVE, _Kind.AWARE)
            is_text = (part.kind in iso and first is _Kind.TEXT) or (part.kind is _Kind.TEXT and first in iso)
            if part.kind is not first and len(part) and not is_text:
                raise RecordingError(
                    f"{self.where(start)}: expected {first.value}, as in the rows before, found {part.kind.value}"
                )
            start += len(part)

    def _rows(self, kind: _Kind) -> Int64Array:
        mask = np.repeat([part.kind is kind for part in self.parts], [len(part) for part in self.parts])
        return np.flatnonzero(mask)

    def _numbers(
        self, cells: pa.Array, where: Callable[[int], str], groups: Int64Array | Int32Array | None, notes: list[str]
    ) -> tuple[Int64Array, bool, str]:
        if self.form is not None and self.form not in time_numbers.NAMES:
            return self._formatted(_as_text(cells), where, groups, notes)
        numbers = time_numbers.counts(cells, where)
        if self.start_ns is not None:
            name = self.form or self._elapsed_name()
            notes.append(f"times are read as elapsed since the start (--time-format {name})")
            unit_ns = time_numbers.ELAPSED[name]
            ns = time_numbers.elapsed(unit_ns, numbers, self.start_ns, self.bounds, where)
            return ns, False, f"time elapsed since the stated start ({name})"
        if self.form in time_numbers.ELAPSED:
            raise RecordingError(f"--time-format {self.form}: needs a start, for example --start 2026-03-02T08:00:00Z")
        if self.form is not None:
            ns, words = time_numbers.convert(self.form, numbers, self.bounds, where)
            return ns, self.form in NAIVE_UNITS, words
        ns, words, name = time_numbers.choose(numbers, self.bounds, where)
        if not name.startswith("epoch"):
            notes.append(f"times are read as {words}: all rows match; --time-format {name} makes this explicit")
        return ns, name in NAIVE_UNITS, words

    def _formatted(
        self, cells: pa.Array, where: Callable[[int], str], groups: Int64Array | Int32Array | None, notes: list[str]
    ) -> tuple[Int64Array, bool, str]:
        if self.form in time_numbers.NAMES and self.form is not None:
            if time_numbers.is_numeric(cells):
                return self._numbers(cells, where, groups, notes)
            if self.form not in time_numbers.ELAPSED or not time_formats.is_clock_only(cells):
                _refuse_text(cells, where, f"a number (--time-format {self.form})")
        if self.start_ns is not None:
            if not time_formats.is_clock_only(cells):
                raise RecordingError(f"{where(0)}: --start: expected elapsed times, found {str(cells[0])[:80]!r}")
            notes.append("times are read as hours, minutes and seconds since the start")
            ns = time_formats.read_clock(cells, self.start_ns, groups, self.bounds, where)
            return ns, False, "time elapsed since the stated start"
        if self.form is None:
            _expect_no_numbers(cells, where)
        mixed = self.form is None and self._has_iso_beside_text()
        form = "year_first" if mixed or self.form == "iso" else self.form
        read = time_formats.read_text(cells, form, self.bounds, where)
        ns = read.second * NS + read.nano
        has_zone = pc.not_equal(read.zone, "").to_numpy(False)
        if has_zone.any() and not has_zone.all():
            row = int(np.argmin(has_zone))
            raise RecordingError(
                f"{where(row)}: expected a time with an offset, as in other rows, found {str(cells[row])[:80]!r}"
            )
        basis = "" if read.name == "year-first" else f"{read.name} dates" if self.form is None else f"{self.form}"
        if basis and self.form is None:
            states = f'; --time-format "{read.pattern}" makes this explicit' if read.pattern else ""
            notes.append(f"times are read as {read.name} dates: no other format matches all rows{states}")
        if has_zone.any():
            ns -= time_zones.offsets_s(read.zone, self.zone, read.second, where) * NS
            return ns, False, basis
        return ns, True, basis

    def _has_iso_beside_text(self) -> bool:
        kinds: dict[str, set[_Kind]] = {}
        for part in self.parts:
            kinds.setdefault(part.source, set()).add(part.kind)
        return any(_Kind.TEXT in found and len(found) > 1 for found in kinds.values())

    def _elapsed_name(self) -> str:
        """Return the unit of elapsed times in the column's name; seconds if it has none."""
        found = {match[1].lower() for name in self.names if (match := UNIT_OF_NAME.search(name))}
        if len(found) != 1:
            return "elapsed_s"
        unit = found.pop().replace("µ", "u").replace("μ", "u")
        if unit in ("ns", "us", "ms"):
            return f"elapsed_{unit}"
        return {"m": "elapsed_min", "h": "elapsed_h", "d": "elapsed_d"}.get(unit[0], "elapsed_s")


@dataclass(frozen=True, slots=True)
class _Where:
    """Returns the places of rows of some parts of a column."""

    column: TimeColumn
    rows: Int64Array

    def __call__(self, row: int) -> str:
        return self.column.where(int(self.rows[row]))


def _known_form(form: str | None) -> str | None:
    if form is None or "%" in form:
        if form is not None:
            time_formats.compile_pattern(form)
        return form
    name = form.strip().lower().replace("-", "_")
    if name not in FORMAT_NAMES:
        raise RecordingError(
            f"--time-format: expected a strptime pattern such as %d/%m/%Y %H:%M:%S or one of "
            f"{', '.join(FORMAT_NAMES)}; found {form!r}"
        )
    return name


def _start_ns(start: str, zone: str | None, bounds: Bounds) -> int:
    column = TimeColumn(zone, None, None, bounds)
    column.add(pa.array([start], pa.string()), lambda _: "--start")
    return int(column.finish().event_ns[0])


def _expect_no_numbers(cells: pa.Array, where: Callable[[int], str]) -> None:
    """Refuse text among numbers: most rows are numbers, so the others are what is wrong."""
    numeric = pc.match_substring_regex(pc.utf8_trim_whitespace(cells), time_numbers.FLOAT).to_numpy(False)
    if numeric.mean() >= 0.5:
        row = int(np.argmin(numeric))
        raise RecordingError(
            f"{where(row)}: expected a time since 1970 or another number, as in other rows, "
            f"found {str(cells[row])[:80]!r}"
        )


def _refuse_text(cells: pa.Array, where: Callable[[int], str], expected: str) -> None:
    numeric = pc.match_substring_regex(pc.utf8_trim_whitespace(cells), time_numbers.FLOAT).to_numpy(False)
    row = int(np.argmin(numeric))
    raise RecordingError(f"{where(row)}: expected {expected}, found {str(cells[row])[:80]!r}")


def _clock_notes(resolved: time_zones.Resolved) -> list[str]:
    notes = []
    if resolved.second_pass:
        notes.append(
            f"{resolved.first_pass + resolved.second_pass:,} times are in an hour that a clock change repeats: "
            f"according to the row order, {resolved.second_pass:,} of them are in its second pass"
        )
    if resolved.unclear:
        notes.append(
            f"{resolved.unclear:,} times are in an hour that a clock change repeats, and the row order does not "
            "determine which pass: the first is used"
        )
    if resolved.skipped:
        notes.append(
            f"{resolved.skipped:,} times are in an hour that a clock change skips: check --zone. "
            "Read as if the clock had not changed"
        )
    return notes


def _as_text(cells: pa.Array) -> pa.Array:
    if pa.types.is_floating(cells.type):
        whole = cells.to_numpy(False)
        if np.isfinite(whole).all() and (whole == np.floor(whole)).all() and (np.abs(whole) < 2**53).all():
            return pa.array(whole.astype(np.int64)).cast(pa.string())
    return cells.cast(pa.string())


def _joined(parts: Sequence[pa.Array]) -> pa.Array:
    kinds = {part.type for part in parts}
    if len(kinds) > 1:
        integers = all(pa.types.is_integer(kind) for kind in kinds)
        parts = [part.cast(pa.int64()) if integers else _as_text(part) for part in parts]
    return pa.concat_arrays(parts)


def _none() -> Int64Array:
    return np.zeros(0, np.int64)


def _numbers(column: pa.Array) -> Int64Array:
    return np.ascontiguousarray(column.cast(pa.int64()).to_numpy(False))


def _shown(cell: pa.Scalar) -> str:
    """Return a cell as text; a timestamp beyond the year 9999 as its stored number."""
    try:
        return str(cell)[:80]
    except (OverflowError, ValueError):
        return str(cell.cast(pa.int64()).as_py())
