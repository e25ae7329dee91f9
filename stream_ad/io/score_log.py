"""The score log: Parquet files, each a span of the scores topic, linked once and never changed.

`log_date=YYYY-MM-DD/log_hour=HH/part-<partition>-<start>.parquet`, dated by the log time of the part's first
record, so that every process that holds the span picks the same name. A part is written aside, synced, then
linked to its name: the link is the commit, and a second part with the same start is refused.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stream_ad.errors import ContractError, PartExistsError, ScoreLogError, StorageError
from stream_ad.io.durable import make_folder, storage_errors, sync_folder
from stream_ad.io.score_messages import NO_JOURNAL, Span

FORMAT = 1
ASIDE = ".aside"
PREFIX = "stream_ad."
ROW_GROUP = 131_072
_PART = re.compile(r"part-([0-9]{1,9})-([0-9]{20})\.parquet")
_DATE, _HOUR = re.compile(r"log_date=[0-9]{4}-[0-9]{2}-[0-9]{2}"), re.compile(r"log_hour=[0-9]{2}")
_NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
_FACTS = (
    "format",
    "partition",
    "start",
    "end",
    "topic_id",
    "input_start",
    "input_end",
    "journal_start",
    "journal_end",
    "generation",
    "rows",
)


@dataclass(frozen=True, slots=True)
class PartInfo:
    """What the footer of a part says.

    Attributes:
        path: the file.
        partition: number of the partition of the scores topic, which is that of the readings.
        span: offsets of the scores topic whose rows the part holds; parts chain by them.
        input_span: input offsets that these scores come from; empty where a journal entry alone caused them.
        journal: numbers of the journal entries that took effect in between.
        generation: how often the partition's state had been started again; one a part.
        topic_id: identity of the scores topic.
        rows: number of rows.
        extra: what else was written, for example digests.
    """

    path: Path
    partition: int
    span: Span
    input_span: Span
    journal: Span
    generation: int
    topic_id: str
    rows: int
    extra: Mapping[str, str]


def write_part(
    folder: Path,
    partition: int,
    span: Span,
    tables: Sequence[pa.Table],
    first_log_ns: int,
    topic_id: str,
    input_span: Span,
    extra: Mapping[str, str],
    journal: Span = NO_JOURNAL,
    generation: int = 0,
) -> Path:
    """Write a part and link it to its name; on return it is durable.

    Args:
        folder: of the score log; made where it is missing.
        partition: number of the partition.
        span: offsets of the scores topic; `start` is the end of the part before.
        tables: decoded score messages, at least one.
        first_log_ns: log time of the record at or after `span.start` that comes first; names the hour.
        topic_id: identity of the scores topic.
        input_span: from the first message's span start to the last one's end.
        extra: more facts for the footer.
        journal: likewise of the journal's entries.
        generation: of all messages.

    Raises:
        ContractError: the span of the scores topic is empty.
        PartExistsError: a part with this partition and start is there; nothing was changed.
        ScoreLogError: the tables cannot be written as one.
        StorageError: the folder cannot be written, or has no hard links.
    """
    if span.is_empty:
        raise ContractError(f"part: expected a span of the scores topic, found {span}")
    table = _ordered(tables)
    facts = (
        *(FORMAT, partition, span.start, span.end, topic_id),
        *(input_span.start, input_span.end, journal.start, journal.end, generation, table.num_rows),
    )
    footer = {name: str(value) for name, value in zip(_FACTS, facts, strict=True)} | dict(extra)
    table = table.replace_schema_metadata({PREFIX + name: value for name, value in footer.items()})
    hour = datetime.fromtimestamp(first_log_ns // 1_000_000_000, UTC)
    final = folder / f"log_date={hour:%Y-%m-%d}" / f"log_hour={hour:%H}" / f"part-{partition}-{span.start:020d}.parquet"
    aside = folder / ASIDE / f"{final.stem}-{secrets.token_hex(8)}"  # no .parquet: others read `**/*.parquet`
    with storage_errors(final, "written"):
        make_folder(aside.parent)
        make_folder(final.parent)
        try:
            _write_file(table, aside)
            _link(aside, final)
        finally:
            aside.unlink(missing_ok=True)
        sync_folder(final.parent)
    return final


def last_part(folder: Path, partition: int) -> PartInfo | None:
    """Return the part of a partition with the highest start, whatever hour it is in, or None.

    Lists all names, reads one footer.

    Raises:
        ScoreLogError: that file is damaged.
        StorageError: the folder cannot be read.
    """
    found = [(start, path) for number, start, path in _files(folder) if number == partition]
    return part_info(max(found)[1]) if found else None


def parts(folder: Path, partition: int | None = None) -> list[PartInfo]:
    """Return all parts, by partition and start; reads every footer.

    Raises:
        ScoreLogError: a file is damaged.
        StorageError: the folder cannot be read.
    """
    found = sorted(_files(folder))
    return [part_info(path) for number, _, path in found if partition is None or number == partition]


def part_info(path: Path) -> PartInfo:
    """Read the footer of a part.

    Raises:
        ScoreLogError: it is no part of this format, or not the one its name says.
        StorageError: the file cannot be read.
    """
    match = _PART.fullmatch(path.name)
    try:
        with storage_errors(path, "read"), path.open("rb") as file:
            metadata = pq.read_metadata(file)
        raw = metadata.metadata or {}
        prefix = PREFIX.encode()
        footer = {k[len(prefix) :].decode(): v.decode() for k, v in raw.items() if k.startswith(prefix)}
        if footer["format"] != str(FORMAT):
            raise ValueError(f"format {footer['format']}")
        span = Span(int(footer["start"]), int(footer["end"]))
        input_span = Span(int(footer["input_start"]), int(footer["input_end"]))
        info = PartInfo(
            path=path,
            partition=int(footer["partition"]),
            span=span,
            input_span=input_span,
            journal=Span(int(footer["journal_start"]), int(footer["journal_end"])),
            generation=int(footer["generation"]),
            topic_id=footer["topic_id"],
            rows=int(footer["rows"]),
            extra={name: value for name, value in footer.items() if name not in _FACTS},
        )
        if match is None or (info.partition, span.start) != (int(match[1]), int(match[2])):
            raise ValueError(f"partition {info.partition}, start {span.start}")
        if info.rows != metadata.num_rows:
            raise ValueError(f"{metadata.num_rows} rows, not {info.rows}")
    except (KeyError, ValueError, ContractError, pa.ArrowException) as error:
        raise ScoreLogError(f"{path}: expected a part of format {FORMAT}, found: {error}") from error
    return info


def read(folder: Path, device: str | None = None, start_ns: int | None = None, end_ns: int | None = None) -> pa.Table:
    """Return rows of the score log, by end, device and revision.

    Args:
        folder: of the score log.
        device: only this one.
        start_ns: only windows that end after it, event time.
        end_ns: only windows that end at or before it, event time.

    Raises:
        ScoreLogError: a file is damaged.
        StorageError: the folder cannot be read.
    """
    wanted: list[tuple[str, str, Any]] = [] if device is None else [("device", "==", device)]
    for limit, operator in ((start_ns, ">"), (end_ns, "<=")):
        if limit is not None:
            wanted.append(("end", operator, pa.scalar(limit // 1_000, pa.timestamp("us", "UTC"))))
    tables: list[pa.Table] = []
    for _, _, path in sorted(_files(folder)):
        try:
            with storage_errors(path, "read"), path.open("rb") as file:
                table = pq.read_table(file, filters=wanted or None)
        except pa.ArrowException as error:
            raise ScoreLogError(f"{path}: expected a Parquet file, found: {error}") from error
        if table.num_rows or not tables:
            tables.append(table.replace_schema_metadata())
    if not tables:
        return pa.table({})
    return _concat(tables).sort_by([("end", "ascending"), ("device", "ascending"), ("revision", "ascending")])


def clean_aside(folder: Path, older_than_ns: int) -> int:
    """Delete files that a process wrote aside and left there when it died.

    Args:
        folder: of the score log.
        older_than_ns: files last changed before this time (epoch nanoseconds) are deleted.

    Returns:
        how many were deleted.

    Raises:
        StorageError: the folder cannot be read or written.
    """
    removed = 0
    aside = folder / ASIDE
    with storage_errors(aside, "cleaned"):
        if not aside.is_dir():
            return 0
        for path in aside.iterdir():
            try:
                if path.stat().st_mtime_ns < older_than_ns:
                    path.unlink()
                    removed += 1
            except FileNotFoundError:  # its writer has just finished
                continue
    return removed


def _files(folder: Path) -> Iterator[tuple[int, int, Path]]:
    """Yield partition, start and path of each part, in no order."""
    with storage_errors(folder, "listed"):
        for hour in [h for d in _folders(folder, _DATE) for h in _folders(d, _HOUR)]:
            for entry in os.scandir(hour):
                match = _PART.fullmatch(entry.name)
                if match is not None:
                    yield int(match[1]), int(match[2]), Path(entry.path)


def _folders(folder: Path, pattern: re.Pattern[str]) -> list[Path]:
    if not folder.is_dir():
        return []
    return [Path(entry.path) for entry in os.scandir(folder) if pattern.fullmatch(entry.name)]


def _concat(tables: Sequence[pa.Table]) -> pa.Table:
    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException as error:
        raise ScoreLogError(f"score log: expected columns that fit each other, found: {error}") from error


def _ordered(tables: Sequence[pa.Table]) -> pa.Table:
    """Return all rows as plain text and numbers, sorted by device and end."""
    if not tables:
        raise ScoreLogError("part: expected at least one table, found none")
    table = _concat([_plain(table) for table in tables])
    try:
        order = pc.sort_indices(table, [(name, "ascending") for name in ("device", "end", "revision", "offset")])
        return table.take(order)
    except (pa.ArrowException, KeyError) as error:
        raise ScoreLogError(f"part: expected the columns of a score message, found: {error}") from error


def _plain(table: pa.Table) -> pa.Table:
    """Turn dictionaries into text: parts then agree in their types, and Parquet has its own dictionaries."""
    fields = [
        field.with_type(field.type.value_type) if pa.types.is_dictionary(field.type) else field
        for field in table.schema
    ]
    return table.cast(pa.schema(fields))


def _write_file(table: pa.Table, path: Path) -> None:
    with path.open("xb") as file:
        try:
            pq.write_table(table, file, compression="zstd", row_group_size=ROW_GROUP)
        except pa.ArrowException as error:
            raise ScoreLogError(f"{path}: cannot be written as Parquet: {error}") from error
        file.flush()
        os.fsync(file.fileno())


def _link(aside: Path, final: Path) -> None:
    try:
        os.link(aside, final)
    except FileExistsError as error:
        raise PartExistsError(f"{final}: expected no part with this start, found one") from error
    except OSError as error:
        if error.errno in _NO_LINKS:
            raise StorageError(
                f"{final.parent}: expected a file system with hard links, found: {error.strerror}"
            ) from error
        raise
