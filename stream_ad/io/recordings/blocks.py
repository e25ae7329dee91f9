"""A stretch of a file's rows as named columns, with where each row stands for errors."""

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
        first: number of the first row, counted as `counted` says.
        counted: "line" (of the text, header and all) or "row".
        columns: columns of one length; text as strings.
        lines: number of each row where they do not simply follow on `first`, else None.
        units: units that the file states for columns.
        unnamed: columns that have no name in the file.
        remarks: what was left out of the file on the way, with how often; see `REMARKS`.
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
        """Name a row of the block, counted from 0, in an error."""
        number = self.first + row if self.lines is None else int(self.lines[row])
        return f"{self.path}: {self.counted} {number}"


REMARKS = {
    "preamble": "lines left out before the header: {n}",
    "comments": "comment lines left out: {n}",
    "described": "lines left out between the header and the first row: {n}",
    "repeated": "lines left out that repeat the header or what stands before it: {n}",
    "footer": "lines left out after the last reading: {n}",
    "cut": "files that end within a row, which is left out: {n}",
    "nul": "NUL bytes left out: {n}",
}
"""What is left out of files, each with its note; `n` is the number."""
