"""Files of a recording as blocks of named columns: CSV, Parquet, JSONL; without interpretation."""

from __future__ import annotations

import codecs
import glob
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet

from stream_ad.errors import RecordingError
from stream_ad.io.json_text import mended, parse, repeated_names
from stream_ad.io.recordings.blocks import Block
from stream_ad.io.recordings.csv_text import read_csv
from stream_ad.io.recordings.text_files import open_bytes

__all__ = ["KINDS", "Block", "find_files", "kind_of", "name_of", "read_blocks"]

KINDS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}
BLOCK_BYTES = 4 << 20
BLOCK_ROWS = 50_000
PANDAS_INDEX = re.compile(r"__index_level_\d+__|Unnamed: \d+(_level_\d+)?")


def find_files(path: str | Path) -> list[Path]:
    """Return the files of a recording, with numbers in names in numeric order.

    Args:
        path: a file, a folder (searched recursively) or a pattern such as `runs/*.csv`.

    Raises:
        RecordingError: there are none, or a name has an unknown suffix.
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
    """Return "csv", "parquet" or "jsonl" by the file's suffix.

    Raises:
        RecordingError: an unknown suffix.
    """
    kind = KINDS.get(_suffix(path))
    if kind is None:
        raise RecordingError(f"{path}: expected a name that ends in {', '.join(KINDS)} (or .gz after it)")
    return kind


def name_of(path: Path) -> str:
    """Return the file's name without its suffixes."""
    name = path.name.removesuffix(".gz")
    return name[: -len(_suffix(path))] if _suffix(path) in KINDS else name


def read_blocks(path: Path, columns: Sequence[str] = ()) -> Iterator[Block]:
    """Read a file in blocks of bounded size.

    Args:
        path: the file.
        columns: column names given by the user, which help to find a CSV's header.

    Raises:
        RecordingError: the file is not what its suffix says.
    """
    kind = kind_of(path)
    try:
        if kind == "csv":
            yield from read_csv(path, BLOCK_BYTES, columns)
        else:
            yield from _read_parquet(path) if kind == "parquet" else _read_jsonl(path)
    except (pa.ArrowException, OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise RecordingError(f"{path}: cannot be read: {error}") from error


def _suffix(path: Path) -> str:
    return Path(path.name.lower().removesuffix(".gz")).suffix


def _read_parquet(path: Path) -> Iterator[Block]:
    with pyarrow.parquet.ParquetFile(path) as file:
        names = file.schema_arrow.names
        twice = sorted(name for name, count in Counter(names).items() if count > 1)
        if twice:
            raise RecordingError(
                f"{path}: expected unique column names, found duplicates: {', '.join(twice)}; "
                "rename or remove one of each"
            )
        unnamed = tuple(name for name in names if PANDAS_INDEX.fullmatch(name))
        first = 1
        for batch in file.iter_batches(BLOCK_ROWS):
            columns = dict(zip(batch.schema.names, batch.columns, strict=True))
            yield Block(path, first, "row", columns, unnamed=unnamed)
            first += batch.num_rows


def _read_jsonl(path: Path) -> Iterator[Block]:
    """Read line by line: Arrow's JSON reader turns time texts into times and drops their offsets."""
    with open_bytes(path) as stream:
        lines = enumerate(stream, 1)
        while chunk := list(islice(lines, BLOCK_ROWS)):
            numbers = [number for number, text in chunk if text.strip()]
            rows = [_read_line(text, path, number) for number, text in chunk if text.strip()]
            names = dict.fromkeys(name for row in rows for name in row)
            if rows:
                columns = {name: _to_array([row.get(name) for row in rows]) for name in names}
                yield Block(path, chunk[0][0], "line", columns, lines=np.array(numbers, np.int64))


def _read_line(text: bytes, path: Path, number: int) -> dict[str, Any]:
    text = text.removeprefix(codecs.BOM_UTF8)
    try:
        row = orjson.loads(text)
    except orjson.JSONDecodeError:
        text = mended(text)
        try:
            row = parse(text)
        except ValueError as error:
            advice = "; write one object per line" if text.strip() in (b"[", b"{") else ""
            raise RecordingError(f"{path}: line {number}: not JSON: {str(error)[:200]}{advice}") from error
    if not isinstance(row, dict):
        raise RecordingError(f"{path}: line {number}: expected a JSON object, found {text[:80]!r}")
    # A duplicate name leaves more quotes in the text than in the parsed object.
    if orjson.dumps(row, default=str).count(b'"') != text.count(b'"'):
        _refuse_repeats(text, path, number)
    values = row.get("values")  # a reading as it is on the wire
    if isinstance(values, dict):
        return {name: value for name, value in row.items() if name != "values"} | values
    return row


def _refuse_repeats(text: bytes, path: Path, number: int) -> None:
    """Refuse an object with a duplicate name, of which the parser takes the last one."""
    try:
        twice = repeated_names(text)
    except ValueError as error:
        raise RecordingError(f"{path}: line {number}: not JSON: {str(error)[:200]}") from error
    if twice:
        raise RecordingError(
            f"{path}: line {number}: expected unique names, found duplicates: {', '.join(twice)[:200]}"
        )


def _to_array(cells: list[Any]) -> pa.Array:
    try:
        array = pa.array(cells)
        if not pa.types.is_nested(array.type):
            return array
    except (pa.ArrowException, OverflowError, TypeError, ValueError):
        pass  # mixed types: as text, so that each cell is judged on its own
    return pa.array([None if cell is None else _text(cell) for cell in cells], pa.string())


def _text(cell: object) -> str:
    return str(cell).encode(errors="replace").decode()
