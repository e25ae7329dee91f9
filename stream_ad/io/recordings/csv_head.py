"""Finds the start of a CSV: its separator, the header, the first row, and the units in between."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from stream_ad.errors import RecordingError
from stream_ad.io.recordings.layouts import TIME_NAMES

SEPARATORS = (",", ";", "\t", "|")
SAMPLE_ROWS = 400
"""Number of records examined; a preamble may be this long."""
SEPARATOR_LINE = re.compile(r'^\s*"?sep=(.)"?\s*$', re.IGNORECASE)
NUMBER = re.compile(r"[+-]?[\d.,' ]*\d[\d.,' ]*([eE][+-]?\d+)?(\s*(?!/)[^\d\s]\D{0,11})?")
DATE = re.compile(
    r"\d{1,4}[-./]\d{1,2}[-./]\d{1,4}|\d{1,2}:\d{2}|^\d{8}([T _]?\d{4,6})?$"
    r"|\d{1,4}[-. ]?[A-Za-zÀ-ÿ]{3,9}\.?[-. ]?\d{1,4}"
)
MAX_CELL = 60
"""Characters; longer cells are neither numbers nor times."""
WORD = re.compile(r"[A-Za-zÀ-ÿ]{3,}")
NOTHING = {"", "-", "--", "?", "nan", "null", "none", "na", "n/a", "#n/a", "nil", "false", "true", "inf", "bad", "off"}
TYPES = {
    "string", "double", "float", "int", "integer", "long", "bool", "boolean", "real", "number", "datetime",
    "timestamp", "float32", "float64", "int32", "int64", "smp", "avg", "min", "max", "std", "tot",
    "datetime:rfc3339", "unsignedlong",
}  # fmt: skip
UNITS = {
    "degc", "deg", "c", "f", "k", "degf", "celsius", "bar", "mbar", "bara", "barg", "psi", "pa", "hpa", "kpa",
    "mpa", "v", "mv", "kv", "volt", "volts", "a", "ma", "ka", "amp", "amps", "w", "kw", "mw", "watt", "watts", "va",
    "kva", "var", "kvar", "wh", "kwh", "mwh", "hz", "khz", "mhz", "ghz", "rpm", "upm", "rev/min", "1/min", "1/s",
    "min-1", "m", "mm", "cm", "um", "km", "in", "inch", "ft", "s", "sec", "second", "seconds", "ms", "us", "ns",
    "min", "h", "hr", "hours", "d", "l", "ml", "m3", "l/min", "l/h", "l/s", "lpm", "gpm", "m3/h", "m/s", "m/s2",
    "mm/s", "km/h", "g", "mg", "kg", "t", "kg/h", "kg/s", "t/h", "n", "kn", "nm", "knm", "j", "kj", "mj", "ppm",
    "ppb", "ph", "db", "dba", "lux", "lx", "rad", "ohm", "ohms", "ts", "rn", "utc", "local", "unitless", "count",
    "counts", "pct", "percent", "us/cm", "ntu", "cfm", "mol", "mg/l", "g/l", "iso8601", "yyyy-mm-dd", "hh:mm:ss",
    "deg c", "yyyy-mm-dd hh:mm:ss",
}  # fmt: skip
NO_UNITS = {"ts", "rn", "utc", "local", "unitless", "-", "--", "", "iso8601"}


@dataclass(frozen=True, slots=True)
class Head:
    """The lines before a CSV's rows.

    Attributes:
        separator: one character.
        names: one name per cell of a row; "" if the file has none.
        units: cells of the units row, by index; empty if there is none.
        time: index of the cells that look like times, or None.
        header_line: line number of the header.
        first_line: line number of the first row.
        at: position in the text of that line.
        comments: lines that start with # are comments.
        before: texts of the lines before the rows, which concatenated files repeat.
        preamble, described: number of lines before the header, and below it besides the units row.
    """

    separator: str
    names: tuple[str, ...]
    units: tuple[str, ...]
    time: int | None
    header_line: int
    first_line: int
    at: int
    comments: bool
    before: frozenset[str]
    preamble: int
    described: int


@dataclass(frozen=True, slots=True)
class Row:
    """A record: its cells (none for a comment), first line and next line, counted from 0, and its text."""

    cells: list[str]
    start: int
    stop: int
    text: str

    @property
    def is_comment(self) -> bool:
        """The line starts with # and comments are enabled."""
        return not self.cells and self.text.lstrip().startswith("#")

    @property
    def is_blank(self) -> bool:
        """All cells are empty."""
        return not any(cell.strip() for cell in self.cells) and not self.is_comment


class _Lines:
    """Lines for csv.reader, with the number of lines read."""

    def __init__(self, lines: Sequence[str]) -> None:
        self.lines = lines
        self.taken = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self.taken >= len(self.lines):
            raise StopIteration
        self.taken += 1
        return self.lines[self.taken - 1] + "\n"


def rows(text: str, separator: str, comments: bool, most: int | None = None) -> Iterator[Row]:
    """Yield the records of a text; a record may span lines if a quoted cell does.

    Raises:
        csv.Error: a cell is longer than 128 kB, usually because of an unclosed quote.
    """
    lines = text.split("\n")
    if lines and not lines[-1]:
        lines.pop()
    source = _Lines(lines)
    reader = csv.reader(source, delimiter=separator)
    while source.taken < len(lines) and (most is None or most > 0):
        start = source.taken
        if comments and lines[start].lstrip().startswith("#"):
            source.taken += 1
            yield Row([], start, source.taken, lines[start])
            continue
        cells = next(reader, [])
        yield Row(cells, start, source.taken, "\n".join(lines[start : source.taken]))
        most = None if most is None else most - 1


def find_head(text: str, path: Path, columns: Sequence[str] = ()) -> Head:
    """Find the header and the first row.

    The rows in the lower part show what cells look like; the first similar line is the first row. The header is the
    line before it that has a time column's name, else the line just above (with a row of units between).

    Args:
        text: the beginning of the file, about a megabyte.
        path: for errors.
        columns: names given by the user, which identify the header.

    Raises:
        RecordingError: there is no header.
    """
    if not text.strip():
        raise RecordingError(f"{path}: line 1: expected column names, found none")
    known = {*TIME_NAMES, *(name.strip().lower() for name in columns)}
    lines = text.split("\n", 20)
    stated = next((match[1] for line in lines[:20] if (match := SEPARATOR_LINE.match(line))), None)
    found = []
    for rank, separator in enumerate((stated,) if stated else SEPARATORS):
        try:
            found.append((_Look(text, separator, known), -rank))
        except csv.Error as error:
            problem = error
    if not found:
        raise RecordingError(f"{path}: line 1: expected CSV, found an unclosed quote ({problem})")
    best = max(found, key=lambda one: (*one[0].rank(), one[1]))[0]
    return best.head(text, path)


class _Look:
    """A text as split by one separator."""

    def __init__(self, text: str, separator: str, known: set[str]) -> None:
        self.separator = separator
        self.known = known
        first = [line for line in text.split("\n", SAMPLE_ROWS)[:SAMPLE_ROWS] if line.strip()]
        marked = sum(line.lstrip().startswith("#") for line in first)
        self.comments = marked <= len(first) / 2  # otherwise rows start this way
        self.all = [
            row for row in rows(text, separator, self.comments, SAMPLE_ROWS) if not SEPARATOR_LINE.match(row.text)
        ]
        self.rows = [row for row in self.all if not row.is_comment and not row.is_blank]
        tail = self.rows[-max(1, len(self.rows) // 3) :]
        self.width = Counter(len(row.cells) for row in tail).most_common(1)[0][0] if tail else 0
        self.body = [row.cells for row in tail if len(row.cells) == self.width]
        self.time = self._time()
        times = [row[self.time] for row in self.body] if self.time is not None else []
        self.example = next((cell for cell in times if is_date(cell)), next(filter(is_number, times), ""))
        self.first = next((place for place, row in enumerate(self.rows) if self._is_row(row.cells)), len(self.rows))
        self.header = self._header()

    def rank(self) -> tuple[bool, bool, float, bool, int]:
        """Rank separators: a header, with a time's name, no other separator within cells, times, more cells."""
        others = [other for other in SEPARATORS if other not in (self.separator, ",")]
        cells = [cell for row in self.body for cell in row]
        foreign = sum(any(other in cell for other in others) for cell in cells) / max(len(cells), 1)
        named = self.header is not None and self._is_named(self.header.cells)
        return self.header is not None and self.width > 1, named, -foreign, self.time is not None, self.width

    def head(self, text: str, path: Path) -> Head:
        """Return the head.

        Raises:
            RecordingError: no line can be the header.
        """
        header = self.header
        if header is None:
            row = self.rows[0] if self.rows else self.all[0]
            shown = self.separator.join(row.cells)[:80] or row.text[:80]
            raise RecordingError(
                f"{path}: line {row.start + 1}: expected column names, found {shown!r}; add a header above the rows"
            )
        body = self.rows[self.first] if self.first < len(self.rows) else None
        stop = body.start if body else header.stop
        under = [row for row in self.rows if header.stop <= row.start < stop]
        # A line with numbers is a row, even if its time is unreadable; it must not be skipped.
        early = next((row for row in under if not _is_units(row.cells) and any(map(is_number, row.cells))), None)
        if early:
            stop, under = early.start, [row for row in under if row.start < early.start]
        cells = header.cells
        if header.is_comment:
            cells = self._uncommented(header)
        names = [re.sub(r"\s+", " ", cell).strip() for cell in cells]
        while len(names) > max(self.width, 1) and not names[-1]:
            names.pop()
        used = max((_filled(row) for row in self.body), default=0)
        if body and len(names) < used:
            raise RecordingError(
                f"{path}: line {header.start + 1}: expected a name for each of the {used} cells of line "
                f"{body.start + 1}, found {len(names)} names; "
                f"name every column, and quote decimal commas or use decimal points"
            )
        names += [""] * (self.width - len(names))
        units: tuple[str, ...] = ()
        if under and _is_units(under[0].cells) and not _is_types(under[0].cells):
            units = tuple(map(_unit, under[0].cells))
        split = text.split("\n", stop)
        return Head(
            separator=self.separator,
            names=tuple(names),
            units=units,
            time=self.time if (named := self._named_at(names)) is None else named,
            header_line=header.start + 1,
            first_line=stop + 1,
            at=len(text) - len(split[-1]) if len(split) > stop else len(text),
            comments=self.comments,
            before=frozenset(row.text.strip() for row in self.all if row.start < stop and row.text.strip()),
            preamble=sum(row.start < header.start and not row.is_comment for row in self.rows),
            described=len(under) - bool(units),
        )

    def _time(self) -> int | None:
        """Return the first column of dates; else the first column full of numbers."""
        found = None
        for place in range(self.width):
            cells = [row[place].strip() for row in self.body]
            if cells and sum(map(is_date, cells)) >= 0.6 * len(cells):
                return place
            numbers = sum(map(is_number, cells))
            if found is None and self.width > 1 and numbers >= 0.9 * len(cells):
                found = place
        return found

    def _is_row(self, cells: Sequence[str]) -> bool:
        if self.time is None or len(cells) <= self.time or not any(cell.strip() for cell in cells):
            return False
        if len(cells) != self.width and len(cells) < 2:
            return False
        if self._is_named(cells) or not any(character.isdigit() for character in cells[self.time]):
            return False
        return is_like(cells[self.time], self.example)

    def _is_named(self, cells: Sequence[str]) -> bool:
        return any(cell.strip().lower() in self.known for cell in cells)

    def _named_at(self, names: Sequence[str]) -> int | None:
        return next((place for place, name in enumerate(names) if name.lower() in self.known), None)

    def _header(self) -> Row | None:
        """Return the header's row, or None."""
        before = self.rows[: self.first]
        used = max((_filled(row) for row in self.body), default=0)
        fits = [row for row in before if _filled(row.cells) >= max(used, 1) or len(row.cells) == self.width > 1]
        named = [row for row in before if self._is_named(row.cells) and not _is_types(row.cells)]
        plain = [row for row in named if not any(map(is_date, row.cells)) and not _is_units(row.cells)]
        # Preamble lines such as "Time,08:00" or "Dimension,Time,Time" contain a time's name as well.
        if named and all(len(set(row.cells)) < _filled(row.cells) for row in plain):
            below = [row for row in fits if row.start > named[-1].start]
            words = [row for row in below if not any(is_date(cell) or is_number(cell) for cell in row.cells)]
            plain = [row for row in words if not _is_units(row.cells) and not _is_types(row.cells)] or plain
        if plain or named:
            return (plain or named)[-1]
        while len(fits) > 1 and (_is_units(fits[-1].cells) or _is_types(fits[-1].cells)):
            fits.pop()
        if fits:
            return fits[-1]
        # A commented header: the last one with as many cells as a row.
        limit = self.rows[self.first].start if self.first < len(self.rows) else 0
        for row in reversed([row for row in self.all if row.is_comment and row.start < limit]):
            cells = self._uncommented(row)
            if len(cells) == self.width > 1 and not any(map(is_number, cells)):
                return row
        return None

    def _uncommented(self, row: Row) -> list[str]:
        """Return the cells of a comment; a lone # names row numbers."""
        cells = next(csv.reader([row.text.lstrip()], delimiter=self.separator))
        return cells if cells[0].strip() == "#" else [cells[0].lstrip("# "), *cells[1:]]


def is_number(cell: str) -> bool:
    """Return whether a cell is a number, possibly with separators and a unit."""
    text = cell.strip()
    return len(text) <= MAX_CELL and NUMBER.fullmatch(text) is not None


def is_date(cell: str) -> bool:
    """Return whether a cell contains a date or a time of day."""
    return DATE.search(cell.strip()[:MAX_CELL]) is not None


def is_like(cell: str, example: str) -> bool:
    """Return whether a cell may be a time like the example, rather than a word such as Average."""
    cell, example = cell.strip(), example.strip()
    if not cell or cell.lower() in NOTHING:
        return bool(cell) or not example
    if not any(character.isdigit() for character in cell):
        return False
    groups, wanted = (len(re.findall(r"\d+", text)) for text in (cell, example))
    words, usual = (bool(WORD.search(text)) for text in (cell, example))
    if cell[0].isalpha() and not example[:1].isalpha():
        return False
    if words and not usual:
        return is_date(cell) and groups >= 3
    return groups >= min(wanted, 3) or not words


def _filled(cells: Sequence[str]) -> int:
    """Return the number of cells up to the last non-empty one."""
    return max((place + 1 for place, cell in enumerate(cells) if cell.strip()), default=0)


def _unit(cell: str) -> str:
    """Return the unit in a cell of the units row: `[bar]` and `(bar)` are `bar`."""
    text = cell.strip()
    if len(text) > 2 and text[0] + text[-1] in ("[]", "()", "{}"):
        text = text[1:-1].strip()
    return "" if text.lower() in NO_UNITS else text[:100]


def _is_units(cells: Sequence[str]) -> bool:
    given = [cell.strip() for cell in cells if cell.strip()]
    return sum(map(_is_unit, given)) >= 0.5 * len(given)


def _is_unit(text: str) -> bool:
    if len(text) > 2 and text[0] + text[-1] in ("[]", "()", "{}"):
        return True
    return text.lower() in UNITS | TYPES | NO_UNITS or any(sign in text for sign in "°%²³µμΩ‰")


def _is_types(cells: Sequence[str]) -> bool:
    given = [cell.strip().lower().removeprefix("#") for cell in cells if cell.strip()]
    return bool(given) and sum(cell in TYPES for cell in given) > 0.5 * len(given)
