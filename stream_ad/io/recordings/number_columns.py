"""A recording's numeric columns: simple ones are converted at once, others when all their rows are known."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from stream_ad.core.batches import Float64Array, Int32Array
from stream_ad.core.names import matches
from stream_ad.errors import RecordingError
from stream_ad.io.cells import to_float
from stream_ad.io.recordings.number_styles import DECIMALS, Column, Read, has_point, is_suspect

SAMPLE = 2_000
SHOWN = 8


@dataclass(frozen=True, slots=True)
class _Part:
    """A block of a column that is converted later: its cells, their places, and the array to fill."""

    text: pa.Array
    where: Callable[[int], str]
    values: Float64Array
    groups: Int32Array | None


class NumberColumns:
    """Reads columns block by block.

    A column of simple numbers is converted immediately. A column with numbers in another style (a decimal comma,
    separators, a unit) is kept as text until `finish`, since only all its rows together determine the style. If such a
    cell appears late, the cells converted before are lost: `again` then names the columns to keep in a second pass over
    the files.
    """

    def __init__(
        self, decimal: str | None = None, keep: frozenset[str] = frozenset(), units: Mapping[str, str] | None = None
    ) -> None:
        """Prepare to read.

        Args:
            decimal: "comma" or "point" for ambiguous columns; None if not given.
            keep: columns to keep as text from the start.
            units: given by the user: name or pattern of a channel -> its unit.

        Raises:
            RecordingError: another decimal sign.
        """
        if decimal is not None and decimal not in DECIMALS:
            raise RecordingError(f"--decimal: expected comma or point, found {decimal!r}")
        self.stated = DECIMALS[decimal] if decimal else ""
        self.keep = keep
        self.units = units or {}
        self.held: dict[str, list[_Part]] = {}
        self.plain: dict[str, pa.Array] = {}  # the first cells of columns of simple numbers
        self.again: set[str] = set()

    def take(
        self, name: str, column: pa.Array, where: Callable[[int], str], groups: Int32Array | None = None
    ) -> Float64Array:
        """Read a block of a column; cells kept as text are filled in by `finish`.

        Args:
            name: of the column.
            column: n cells.
            where: returns the place of a row of the block.
            groups: int32[n], the channel of each row if the column holds several.

        Returns:
            float64[n], NaN missing, infinite bad.
        """
        text = _text(column)
        if text is None:
            return to_float(column)
        if name in self.held or name in self.keep:
            values = np.full(len(column), np.nan)
            self.held.setdefault(name, []).append(_Part(text, where, values, groups))
            return values
        values = to_float(column)
        if is_suspect(text, values):
            if name in self.plain:
                self.again.add(name)
            else:
                self.held[name] = [_Part(text, where, values, groups)]
        elif name not in self.plain or not len(self.plain[name]):
            self.plain[name] = text.slice(0, SAMPLE)
        return values

    def finish(self, channels: Sequence[str] = ()) -> tuple[list[str], dict[str, dict[int, str]]]:
        """Read the columns that were kept.

        Args:
            channels: names of the groups, if a column holds several.

        Returns:
            notes, and per column and group the unit after the numbers. Both are empty if `again` has names: then the
            files must be read again.

        Raises:
            RecordingError: a column's rows contradict each other or are ambiguous.
        """
        if self.again:
            return [], {}
        columns = {
            name: _column(name, parts, channels, self._units_of(channels or [name]))
            for name, parts in self.held.items()
        }
        signs = {column.sign for column in columns.values()} - {""}
        points = {name: has_point(sample) for name, sample in self.plain.items()}
        signs |= {"."} if any(is_sure for is_sure, _ in points.values()) else set()
        context = signs.pop() if len(signs) == 1 else ""
        if "," in (context, self.stated):
            self.again = {name for name, (is_sure, may_be) in points.items() if may_be and not is_sure}
            if self.again:
                return [], {}
        reads = {name: column.read(context, self.stated) for name, column in columns.items()}
        for name, read in reads.items():
            start = 0
            for part in self.held[name]:
                part.values[:] = read.values[start : start + len(part.values)]
                start += len(part.values)
        return _notes(reads), {name: read.units for name, read in reads.items() if read.units}

    def _units_of(self, channels: Sequence[str]) -> dict[int, str]:
        stated = {
            number: [unit for pattern, unit in self.units.items() if matches(name, pattern)]
            for number, name in enumerate(channels)
        }
        return {number: units[0] for number, units in stated.items() if units}


def _text(column: pa.Array) -> pa.Array | None:
    """Return the cells as text, None if their type determines their meaning."""
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return column.cast(pa.large_string())
    return None


def _column(name: str, parts: Sequence[_Part], channels: Sequence[str], units: Mapping[int, str]) -> Column:
    starts = np.cumsum([0, *(len(part.text) for part in parts)]).tolist()

    def where(row: int) -> str:
        number = min(bisect_right(starts, row) - 1, len(parts) - 1)
        return parts[number].where(row - starts[number])

    groups = [part.groups for part in parts if part.groups is not None]
    text = pa.concat_arrays([part.text for part in parts])
    return Column(name, text, where, np.concatenate(groups) if groups else None, channels, units)


def _notes(reads: dict[str, Read]) -> list[str]:
    commas = [name for name, read in reads.items() if read.style.decimal == ","]
    grouped = [name for name, read in reads.items() if read.style.group]
    units = [f"{name} ({', '.join(dict.fromkeys(read.units.values()))})" for name, read in reads.items() if read.units]
    without = sum(read.without_unit for read in reads.values())
    notes = [f"numbers with a decimal comma: {_shown(commas)}"] if commas else []
    notes += [f"numbers with thousands separators: {_shown(grouped)}"] if grouped else []
    if units:
        rest = f"; {without:,} cells without one are read in it" if without else ""
        notes.append(f"units after the numbers: {_shown(units)}{rest}")
    return notes


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f", … ({len(names):,} columns)" if len(names) > SHOWN else "")
