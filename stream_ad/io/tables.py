"""Files of a recording as blocks of named columns: CSV, Parquet, JSONL; nothing is interpreted here."""

from __future__ import annotations

import codecs
import csv
import glob
import gzip
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from stream_ad.errors import RecordingError

KINDS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}
EMPTY_WORDS = ["", "nan", "null", "none", "na", "n/a", "#n/a", "nil", "-", "--", "?"]
"""Words, in lower case, that stand for a missing value."""
BLOCK_BYTES = 4 << 20
BLOCK_ROWS = 50_000
HEAD_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Block:
    """Some rows of a file.

    Attributes:
        path: the file.
        first: number of the first row, counted as `counted` says.
        counted: "line" (header and all, blank ones left out) or "row".
        columns: columns of one length; text as strings.
        decimal_comma: "1,5" is a number.
    """

    path: Path
    first: int
    counted: str
    columns: dict[str, pa.Array]
    decimal_comma: bool = False

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()))) if self.columns else 0

    def where(self, row: int) -> str:
        """Name a row of the block, counted from 0, in an error."""
        return f"{self.path}: {self.counted} {self.first + row}"


def find_files(path: str | Path) -> list[Path]:
    """Return the files of a recording, numbers in names in order of value.

    Args:
        path: a file, a folder (searched with its folders) or a pattern such as `runs/*.csv`.

    Raises:
        RecordingError: there is none, or its name has no ending that is known.
    """
    path = Path(path).expanduser()
    if path.is_file():
        kind_of(path)
        return [path]
    if path.is_dir():
        found = [file for file in path.rglob("*") if file.is_file() and _suffix(file) in KINDS]
        found = [file for file in found if not any(part.startswith(".") for part in file.relative_to(path).parts)]
        missing = f"{path}: expected recordings ({', '.join(KINDS)}) in the folder, found none"
    else:
        found = [Path(name) for name in glob.glob(str(path), recursive=True) if Path(name).is_file()]
        missing = f"{path}: no such file, folder or pattern"
    if not found:
        raise RecordingError(missing)
    for file in found:
        kind_of(file)
    return sorted(found, key=lambda file: [(len(part), part) for part in re.split(r"(\d+)", str(file))])


def kind_of(path: Path) -> str:
    """Return "csv", "parquet" or "jsonl" by the file's ending.

    Raises:
        RecordingError: another ending.
    """
    kind = KINDS.get(_suffix(path))
    if kind is None:
        raise RecordingError(f"{path}: expected a name that ends in {', '.join(KINDS)} (or .gz after it)")
    return kind


def name_of(path: Path) -> str:
    """Return the file's name without its endings."""
    name = path.name.removesuffix(".gz")
    return name[: -len(_suffix(path))] if _suffix(path) in KINDS else name


def read_blocks(path: Path) -> Iterator[Block]:
    """Read a file in blocks, of a size that does not grow with the file.

    Raises:
        RecordingError: the file cannot be read as what its name says.
    """
    read = {"csv": _read_csv, "parquet": _read_parquet, "jsonl": _read_jsonl}[kind_of(path)]
    try:
        yield from read(path)
    except (pa.ArrowException, OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise RecordingError(f"{path}: cannot be read: {error}") from error


def _suffix(path: Path) -> str:
    return Path(path.name.lower().removesuffix(".gz")).suffix


def _open(path: Path) -> Any:
    return pa.input_stream(str(path), compression="gzip" if path.name.lower().endswith(".gz") else None)


def _read_csv(path: Path) -> Iterator[Block]:
    with _open(path) as stream:
        head = stream.read(HEAD_BYTES)
    try:
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(head)
        encoding = "utf8"
    except UnicodeDecodeError:
        text, encoding = head.decode("cp1252", errors="replace"), "cp1252"
    line = text.split("\n", 1)[0].rstrip("\r")
    if not line.strip():
        raise RecordingError(f"{path}: line 1: expected column names, found none")
    separator = max((",", ";", "\t"), key=line.count)
    names = _names(next(csv.reader([line], delimiter=separator)), path)
    # Unthreaded, because only then errors name the row; as text, so that one bad cell spoils no column.
    reader = pyarrow.csv.open_csv(
        _open(path),
        read_options=pyarrow.csv.ReadOptions(
            use_threads=False, block_size=BLOCK_BYTES, column_names=names, skip_rows=1, encoding=encoding
        ),
        parse_options=pyarrow.csv.ParseOptions(delimiter=separator),
        convert_options=pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string())),
    )
    first = 2
    for batch in reader:
        yield Block(path, first, "line", dict(zip(names, batch.columns, strict=True)), separator != ",")
        first += batch.num_rows


def _names(cells: Sequence[str], path: Path) -> list[str]:
    names = [cell.strip() or f"column_{number}" for number, cell in enumerate(cells, 1)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise RecordingError(f"{path}: line 1: expected unique column names, found twice: {', '.join(twice)}")
    return names


def _read_parquet(path: Path) -> Iterator[Block]:
    with pyarrow.parquet.ParquetFile(path) as file:
        first = 1
        for batch in file.iter_batches(BLOCK_ROWS):
            yield Block(path, first, "row", dict(zip(batch.schema.names, batch.columns, strict=True)))
            first += batch.num_rows


def _read_jsonl(path: Path) -> Iterator[Block]:
    """Read line by line: Arrow's JSON reader turns time texts into times and drops their offsets."""
    with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as stream:
        lines = enumerate(stream, 1)
        while chunk := list(islice(lines, BLOCK_ROWS)):
            rows = [_read_line(text, path, number) for number, text in chunk if text.strip()]
            names = dict.fromkeys(name for row in rows for name in row)
            if rows:
                columns = {name: _to_array([row.get(name) for row in rows]) for name in names}
                yield Block(path, chunk[0][0], "line", columns)


def _read_line(text: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        row = orjson.loads(text.removeprefix(codecs.BOM_UTF8))
    except orjson.JSONDecodeError as error:
        raise RecordingError(f"{path}: line {number}: not JSON: {error}") from error
    if not isinstance(row, dict):
        raise RecordingError(f"{path}: line {number}: expected a JSON object, found {text[:80]!r}")
    values = row.get("values")  # a reading as it is on the wire
    if isinstance(values, dict):
        return {name: value for name, value in row.items() if name != "values"} | values
    return row


def _to_array(cells: list[Any]) -> pa.Array:
    try:
        array = pa.array(cells)
        if not pa.types.is_nested(array.type):
            return array
    except (pa.ArrowException, OverflowError, TypeError, ValueError):
        pass  # mixed types: as text, so that each cell is judged by itself
    return pa.array([None if cell is None else str(cell) for cell in cells], pa.string())
