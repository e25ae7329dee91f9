"""A block of a file's rows as named columns, with the place of each row for errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from stream_ad.core.batches import Int64Array


@dataclass(frozen=True, slots=True)
class Block:
    """Some rows of a file.

    Attributes:
        path: the file.
        first: number of the first row, in units of `counted`.
        counted: "line" (of the text, header included) or "row".
        columns: columns of one length; text as strings.
        lines: number of each row if they are not consecutive from `first`, else None.
        units: units that the file states for columns.
        unnamed: columns without a name in the file.
        remarks: number of things skipped in the file; see `REMARKS`.
    """

    path: Path
    first: int
    counted: str
    columns: dict[str, pa.Array]
    lines: Int64Array | None = None
    units: Mapping[str, str] = field(default_factory=dict)
    unnamed: tuple[str, ...] = ()
    remarks: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()))) if self.columns else 0

    def where(self, row: int) -> str:
        """Return the place of a row of the block, counted from 0, for an error."""
        number = self.first + row if self.lines is None else int(self.lines[row])
        return f"{self.path}: {self.counted} {number}"


REMARKS = {
    "preamble": "lines skipped before the header: {n}",
    "comments": "comment lines skipped: {n}",
    "described": "lines skipped between the header and the first row: {n}",
    "repeated": "lines skipped that repeat the header or its preamble: {n}",
    "footer": "lines skipped after the last reading: {n}",
    "cut": "files that end within a row, which is skipped: {n}",
    "nul": "NUL bytes skipped: {n}",
}
"""Notes on what is skipped in files; `n` is the number."""
