"""CSV files in the wild, in blocks of named text columns.

Most of a file goes through Arrow. A block with anything unusual (comments, a repeated header, rows of another length, a
footer, blank lines) goes through Python's reader row by row, with the same result.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from stream_ad.errors import RecordingError
from stream_ad.io.recordings.blocks import Block
from stream_ad.io.recordings.csv_head import SEPARATOR_LINE, Head, Row, find_head, is_date, is_like, is_number, rows
from stream_ad.io.recordings.text_files import TextFile

HEAD_CHARACTERS = 1 << 20
HEAD_LINES = 30
MAX_HEAD_CHARACTERS = 16 << 20
MAX_FOOTER_ROWS = 1_000
QUOTE_TRIES = 64


def read_csv(path: Path, block_bytes: int, columns: Sequence[str] = ()) -> Iterator[Block]:
    """Read a CSV in blocks; the last one may have no rows and only report what was skipped.

    Args:
        path: the file.
        block_bytes: characters read at a time.
        columns: names given by the user, which identify the header.

    Raises:
        RecordingError: there is no header, a name is duplicated, or a row's length differs from the header's.
    """
    text = TextFile(path)
    try:
        head_text, ended = _beginning(text)
        head = find_head(head_text if ended else head_text[: head_text.rfind("\n") + 1], path, columns)
        body = _Body(path, head)
        if head.preamble:
            body.remarks["preamble"] = head.preamble
        if head.described:
            body.remarks["described"] = head.described
        rest = head_text[head.at :]
        while True:
            cut = len(rest) if ended else _cut(rest)
            if cut:
                yield from body.blocks(rest[:cut])
                rest = rest[cut:]
            if ended:
                break
            piece = text.read(block_bytes)
            ended = not piece
            rest += piece
        body.remarks["nul"] += text.nul
        yield body.end()
    finally:
        text.close()


def _beginning(text: TextFile) -> tuple[str, bool]:
    """Return enough of a file to find the header, and whether that is all of it."""
    found = ""
    while len(found) < HEAD_CHARACTERS or (found.count("\n") < HEAD_LINES and len(found) < MAX_HEAD_CHARACTERS):
        piece = text.read(HEAD_CHARACTERS)
        if not piece:
            return found, True
        found += piece
    return found, False


def _cut(text: str) -> int:
    """Return the length up to the last line end outside quotes, 0 if there is none."""
    cut = last = text.rfind("\n") + 1
    if '"' not in text:
        return last
    for _ in range(QUOTE_TRIES):
        if not cut or text.count('"', 0, cut) % 2 == 0:
            return cut
        cut = text.rfind("\n", 0, cut - 1) + 1
    return last  # quotes used as inch marks


@dataclass
class _Body:
    """State while the rows of a file are read.

    Attributes:
        path: the file.
        head: the current header; one with other columns may follow.
        line: number of the next line.
        remarks: number of things skipped.
        waiting: rows that do not look like readings, with line numbers; they are a footer unless a reading follows.
        example: the time cell of the first row.
        whole: the last line was terminated.
    """

    path: Path
    head: Head
    line: int = 0
    remarks: Counter[str] = field(default_factory=Counter)
    waiting: list[tuple[int, Row]] = field(default_factory=list)
    example: str | None = None
    whole: bool = True

    def __post_init__(self) -> None:
        self.line = self.head.first_line
        self._name()

    def _name(self) -> None:
        named = [name or f"column_{number}" for number, name in enumerate(self.head.names, 1)]
        twice = sorted({name for name in named if named.count(name) > 1}) if len(set(named)) < len(named) else []
        if twice:
            raise RecordingError(
                f"{self.path}: line {self.head.header_line}: expected unique column names, found duplicates: "
                f"{', '.join(twice)}; rename or remove one of each"
            )
        self.names = named
        self.unnamed = tuple(name for name, given in zip(named, self.head.names, strict=True) if not given)
        units = dict(zip(named, self.head.units, strict=False))
        self.units = {name: unit for name, unit in units.items() if unit}
        self.time = self.head.names[self.head.time] if self.head.time is not None else ""

    def blocks(self, text: str) -> Iterator[Block]:
        """Yield the rows of a piece of the file that ends with a complete line."""
        first, self.line = self.line, self.line + text.count("\n")
        self.whole = text.endswith("\n")
        columns = None if self.waiting else self._plain(text)
        if columns is None:
            yield from self._odd(text, first)
        elif columns:
            yield self._block(first, columns)

    def end(self) -> Block:
        """Return a block without rows that reports what was skipped.

        Raises:
            RecordingError: the last rows are readings of another length than the header.
        """
        for number, row in self.waiting:
            if not self._is_cut(row) and self._has_time(row):
                self._cells(row, number)
        cut = [row for _, row in self.waiting if self._is_cut(row)]
        self.remarks["cut"] += len(cut)
        self.remarks["footer"] += len(self.waiting) - len(cut)
        empty = [pa.array([], pa.string()) for _ in self.names]
        return replace(self._block(self.line, empty), remarks={name: n for name, n in self.remarks.items() if n})

    def _is_cut(self, row: Row) -> bool:
        return not self.whole and row is self.waiting[-1][1] and len(row.cells) < len(self.names)

    def _block(self, first: int, columns: Sequence[pa.Array], lines: list[int] | None = None) -> Block:
        return Block(
            path=self.path,
            first=first,
            counted="line",
            columns=dict(zip(self.names, columns, strict=True)),
            lines=None if lines is None else np.array(lines, np.int64),
            units=self.units,
            unnamed=self.unnamed,
        )

    def _plain(self, text: str) -> list[pa.Array] | None:
        """Return the columns if every line is a row, [] if there are none, None if anything is unusual."""
        odd = False

        def skip(row: pyarrow.csv.InvalidRow) -> str:
            nonlocal odd
            odd = True
            return "skip"

        keys = [str(place) for place in range(len(self.names))]
        data = text.encode()
        try:
            table = pyarrow.csv.read_csv(
                pa.BufferReader(data),
                pyarrow.csv.ReadOptions(use_threads=False, block_size=len(data) + 1, column_names=keys),
                pyarrow.csv.ParseOptions(delimiter=self.head.separator, invalid_row_handler=skip),
                pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(keys, pa.string())),
            )
        except pa.ArrowInvalid:
            return None
        if odd or table.num_rows != text.count("\n") + (not self.whole):
            return None
        columns = [column.chunk(0) for column in table.combine_chunks().columns]
        return None if self._is_odd(columns) else columns

    def _is_odd(self, columns: Sequence[pa.Array]) -> bool:
        """Return whether some row must or may be skipped."""
        if self.head.comments and pc.any(pc.starts_with(columns[0], "#")).as_py():
            return True
        if self.head.time is None:
            return False
        times = columns[self.head.time]
        if self.example is None:
            self.example = times[0].as_py()
        if pc.any(pc.is_in(times, pa.array(["", self.time]))).as_py():
            return True
        return not is_like(times[-1].as_py(), self.example)

    def _odd(self, text: str, first: int) -> Iterator[Block]:
        """Read a piece row by row."""
        taken: list[list[str]] = []
        lines: list[int] = []
        try:
            for row in rows(text, self.head.separator, self.head.comments):
                number = first + row.start
                if self._is_left_out(row):
                    continue
                if self._is_header(row):
                    yield from self._rows(taken, lines)
                    taken, lines = [], []
                    self._new_header(row, number)
                    continue
                self.waiting.append((number, row))
                if not self._is_reading(row) and len(self.waiting) <= MAX_FOOTER_ROWS:
                    continue
                for at, waited in self.waiting:
                    taken.append(self._cells(waited, at))
                    lines.append(at)
                self.waiting.clear()
        except csv.Error as error:
            raise RecordingError(
                f"{self.path}: line {first} or later: expected CSV, found an unclosed quote ({error})"
            ) from error
        yield from self._rows(taken, lines)

    def _rows(self, taken: list[list[str]], lines: list[int]) -> Iterator[Block]:
        if taken:
            yield self._block(lines[0], [pa.array(column, pa.string()) for column in zip(*taken, strict=True)], lines)

    def _is_left_out(self, row: Row) -> bool:
        """Return whether a row is a comment, blank, or repeats what was before the first row."""
        if row.is_comment:
            self.remarks["comments"] += row.text.strip() not in self.head.before
            return True
        if row.is_blank:
            return True
        if row.text.strip() in self.head.before or SEPARATOR_LINE.match(row.text):
            self.remarks["repeated"] += 1
            return True
        return False

    def _is_header(self, row: Row) -> bool:
        """Return whether a row is a header with other columns, a time among them."""
        cells = [cell.strip() for cell in row.cells]
        return bool(self.time) and self.time in cells and not any(is_date(cell) or is_number(cell) for cell in cells)

    def _new_header(self, row: Row, number: int) -> None:
        names = tuple(" ".join(cell.split()) for cell in row.cells)
        self.remarks["repeated"] += 1
        if names == self.head.names:
            return
        units = self.units
        self.head = replace(self.head, names=names, units=(), time=names.index(self.time), header_line=number)
        self._name()
        self.units = {name: unit for name, unit in units.items() if name in names}

    def _is_reading(self, row: Row) -> bool:
        """Return whether a row has the header's length and a cell that may be its time."""
        if len(row.cells) != len(self.names) and any(cell.strip() for cell in row.cells[len(self.names) :]):
            return False
        if len(row.cells) < len(self.names):
            return False
        if self.head.time is None:
            return True
        cell = row.cells[self.head.time]
        if self.example is None:
            self.example = cell
        return not cell.strip() or is_like(cell, self.example)

    def _has_time(self, row: Row) -> bool:
        place = self.head.time
        if place is None or self.example is None or len(row.cells) <= place:
            return False
        return bool(row.cells[place].strip()) and is_like(row.cells[place], self.example)

    def _cells(self, row: Row, number: int) -> list[str]:
        """Return the cells of a reading.

        Raises:
            RecordingError: their number differs from the header's.
        """
        cells = row.cells[: len(self.names)]
        beyond = [cell for cell in row.cells[len(self.names) :] if cell.strip()]
        if beyond or len(cells) < len(self.names):
            advice = (
                "; quote cells that contain the separator, or use decimal points"
                if beyond
                else "; a spreadsheet drops separators of empty cells at row ends: restore them, or add a last column "
                "that is filled in every row"
            )
            raise RecordingError(
                f"{self.path}: line {number}: expected {len(self.names)} cells, as in the header (line "
                f"{self.head.header_line}), found {len(row.cells)}: {row.text[:80]!r}{advice}"
            )
        return cells
