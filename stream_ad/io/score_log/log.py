"""The score log: Parquet files, each for one span of the scores topic, linked once and never changed.

A part is dated by the log time of its first message, so that every process with the span chooses the same name. It is
written aside, synced, then linked to its name. The link is the commit; a second part with the same start is refused.
Compaction later replaces many parts by merged ones (`score_compaction`); reads during a compaction still return each
row once.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stream_ad.errors import PartExistsError, PartMovedError, ScoreLogError, StorageError
from stream_ad.io.durable import make_folder, storage_errors, sync_folder
from stream_ad.io.score_log.parts import (
    DATE,
    HOUR,
    PART,
    PartInfo,
    hour_folder,
    open_file,
    opened,
    part_info,
    part_name,
    with_footer,
)
from stream_ad.io.spans import Span, Spans
from stream_ad.io.steps import reached
from stream_ad.io.wire import contributions
from stream_ad.io.wire.score_rows import without_dictionaries

__all__ = ["PartInfo", "clean_aside", "last_part", "part_info", "parts", "read", "write_part"]

ASIDE = ".aside"
ROW_GROUP = 131_072
TRIES = 5
"""Maximum attempts to list a folder while a compaction merges its parts."""
_NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
_Result = TypeVar("_Result")


def write_part(
    folder: Path,
    partition: int,
    span: Span,
    tables: Sequence[pa.Table],
    first_log_ns: int,
    topic_id: str,
    spans: Spans,
    extra: Mapping[str, str],
    generation: int = 0,
    is_first: bool = False,
    before_link: Callable[[], None] = lambda: None,
) -> Path:
    """Write a part and link it to its name; on return it is durable.

    Args:
        folder: the score log's folder; created if missing.
        partition: number of the partition.
        span: offsets of the scores topic; `start` is the end of the previous part.
        tables: decoded score messages, at least one.
        first_log_ns: log time of the first record at or after `span.start`; determines the hour.
        topic_id: id of the scores topic.
        spans: input and journal, from the start of the first message's spans to the end of the last one's.
        extra: further facts for the footer.
        generation: of all messages.
        is_first: the folder has no part of this partition yet.
        before_link: called after writing, right before linking; may raise to give up.

    Raises:
        ContractError: the span of the scores topic is empty.
        PartExistsError: a part with this partition and start exists; nothing was changed.
        ScoreLogError: the tables cannot be written as one.
        StorageError: the folder is not writable or does not support hard links.
    """
    table = ordered(tables)
    final = folder / hour_folder(first_log_ns) / part_name(partition, span, is_merged=False)
    info = PartInfo(
        path=final,
        partition=partition,
        span=span,
        spans=spans,
        generation=generation,
        topic_id=topic_id,
        rows=table.num_rows,
        is_first=is_first,
        first_log_ns=first_log_ns,
        holds=(),
        extra=extra,
    )
    table = with_footer(table, info)
    aside = folder / ASIDE / f"{final.stem}-{secrets.token_hex(8)}"  # no .parquet suffix: readers use `**/*.parquet`
    with storage_errors(final, "written"):
        make_folder(aside.parent)
        make_folder(final.parent)
        try:
            write_file(table, aside)
            before_link()
            reached("part written aside")
            _link(aside, final)
            reached("part linked")
        finally:
            aside.unlink(missing_ok=True)
        sync_folder(final.parent)
    return final


def last_part(folder: Path, partition: int) -> PartInfo | None:
    """Return a partition's part with the highest start, in any hour, or None.

    Lists all names, reads one footer.

    Raises:
        ScoreLogError: that file is damaged.
        StorageError: the folder cannot be read.
    """

    def newest(found: list[tuple[int, int, Path]]) -> PartInfo | None:
        mine = [path for number, _, path in found if number == partition]
        return part_info(mine[-1]) if mine else None

    return unmoved(lambda: newest(listed(folder)))


def parts(folder: Path, partition: int | None = None) -> list[PartInfo]:
    """Return all parts, by partition and start; reads every footer.

    Raises:
        ScoreLogError: a file is damaged.
        StorageError: the folder cannot be read.
    """

    def all_of(found: list[tuple[int, int, Path]]) -> list[PartInfo]:
        return [part_info(path) for number, _, path in found if partition is None or number == partition]

    return unmoved(lambda: all_of(listed(folder)))


def read(folder: Path, device: str | None = None, start_ns: int | None = None, end_ns: int | None = None) -> pa.Table:
    """Return rows of the score log, by end, device and revision; contributions as maps in any format.

    Args:
        folder: the score log's folder.
        device: only this device.
        start_ns: only windows that end after this event time.
        end_ns: only windows that end at or before this event time.

    Raises:
        ScoreLogError: a file is damaged.
        StorageError: the folder cannot be read.
    """
    wanted: list[tuple[str, str, Any]] = [] if device is None else [("device", "==", device)]
    for limit, operator in ((start_ns, ">"), (end_ns, "<=")):
        if limit is not None:
            wanted.append(("end", operator, pa.scalar(limit // 1_000, pa.timestamp("us", "UTC"))))

    def all_of(found: list[tuple[int, int, Path]]) -> list[pa.Table]:
        tables: list[pa.Table] = []
        for _, _, path in found:
            try:
                with open_file(path) as file, storage_errors(path, "read"):
                    table = pq.read_table(file, filters=wanted or None, page_checksum_verification=True)
            except pa.ArrowException as error:
                raise ScoreLogError(f"{path}: expected a Parquet file, found: {error}") from error
            if table.num_rows or not tables:
                tables.append(contributions.as_map(table.replace_schema_metadata()))
        return tables

    tables = unmoved(lambda: all_of(listed(folder)))
    if not tables:
        return pa.table({})
    keys = ("end", "device", "revision", "offset", "sequence")
    return _concat(tables).sort_by([(name, "ascending") for name in keys])


def newest_devices(folder: Path, parts_searched: int) -> list[str]:
    """Return the ids of the devices in the newest parts, sorted.

    Args:
        folder: the score log's folder.
        parts_searched: maximum number of parts read.

    Raises:
        ScoreLogError: a file is damaged.
        StorageError: the folder cannot be read.
    """

    def all_of(found: list[tuple[int, int, Path]]) -> list[str]:
        ids: set[str] = set()
        # Sorted by hour folder, since offsets of different partitions are not comparable.
        for path in sorted((path for _, _, path in found), key=lambda path: path.as_posix())[-parts_searched:]:
            with opened(path) as file:
                ids.update(file.read(columns=["device"])["device"].unique().to_pylist())
        return sorted(ids)

    return unmoved(lambda: all_of(listed(folder)))


def clean_aside(folder: Path, older_than_ns: int) -> int:
    """Delete files that dead processes left half-written.

    Args:
        folder: the score log's folder.
        older_than_ns: files last changed before this time (epoch nanoseconds) are deleted.

    Returns:
        number of files deleted.

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
            except FileNotFoundError:  # its writer has just linked it
                continue
    return removed


def has_line(path: Path, line: str) -> bool:
    """Return whether a text file exists and contains this line.

    Raises:
        StorageError: it cannot be read.
    """
    with storage_errors(path, "read"):
        return path.is_file() and line in path.read_text(errors="replace").splitlines()


def listed(folder: Path) -> list[tuple[int, int, Path]]:
    """Return partition, start and path of each part, sorted, without gaps below the newest of each partition.

    The folder is listed twice: a part may be linked into an hour already listed, and the next one into an hour not yet
    listed. Everything in the first listing, and all parts before, were linked when the second one began.

    Raises:
        StorageError: the folder cannot be read.
    """
    with storage_errors(folder, "listed"):
        newest = {number: start for number, start, _ in sorted(_found(folder))}
        return sorted(part for part in _found(folder) if part[1] <= newest.get(part[0], -1))


def hours(folder: Path) -> list[Path]:
    """Return the hour folders, oldest first."""
    return sorted(hour for date in _folders(folder, DATE) for hour in _folders(date, HOUR))


def unmoved(read: Callable[[], _Result]) -> _Result:
    """List and read parts; start again if one was merged in the meantime.

    A name never changes its content, and an hour's listing shows parts either as linked or as merged. So a pass that
    finds every listed file has read each row once.

    Raises:
        PartMovedError: parts were merged during each of `TRIES` passes.
    """
    for _ in range(TRIES - 1):
        with suppress(PartMovedError):
            return read()
    return read()


def _found(folder: Path) -> Iterator[tuple[int, int, Path]]:
    for hour in hours(folder):
        yield from _files(hour)


def _files(hour: Path) -> Iterator[tuple[int, int, Path]]:
    for entry in os.scandir(hour):
        match = PART.fullmatch(entry.name)
        if match is not None and not entry.is_dir():
            yield int(match[1]), int(match[2]), Path(entry.path)


def _folders(folder: Path, pattern: re.Pattern[str]) -> list[Path]:
    if not folder.is_dir():
        return []
    return [Path(entry.path) for entry in os.scandir(folder) if pattern.fullmatch(entry.name)]


def _concat(tables: Sequence[pa.Table]) -> pa.Table:
    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException as error:
        raise ScoreLogError(f"score log: expected files with compatible columns, found: {error}") from error


def ordered(tables: Sequence[pa.Table]) -> pa.Table:
    """Return all rows as plain text and numbers, contributions as maps, sorted by device and end.

    Raises:
        ScoreLogError: there are no tables, or they are incompatible.
    """
    if not tables:
        raise ScoreLogError("part: expected at least one table, found none")
    # Structs are cheaper to sort than maps, so they stay structs if there are no maps.
    texts = [without_dictionaries(table) for table in tables]
    has_maps = any(contributions.TYPE in table.schema.types for table in texts)
    table = _concat([contributions.as_map(table) for table in texts] if has_maps else texts)
    try:
        order = pc.sort_indices(
            table, [(name, "ascending") for name in ("device", "end", "revision", "offset", "sequence")]
        )
        return contributions.as_map(table.take(order))
    except (pa.ArrowException, KeyError) as error:
        raise ScoreLogError(f"part: expected the columns of a score message, found: {error}") from error


def write_file(table: pa.Table, path: Path) -> None:
    """Write a table to a new file and sync it.

    Raises:
        ScoreLogError: it cannot be written as Parquet.
        OSError: the file exists, or the disk is full.
    """
    with path.open("xb") as file:
        try:
            pq.write_table(
                table,
                file,
                compression="zstd",
                row_group_size=ROW_GROUP,
                write_page_checksum=True,
                # Corresponding bytes of floats resemble each other: a third smaller than plain encoding, and faster.
                use_dictionary=[name for name in table.column_names if name != contributions.COLUMN]
                + [contributions.KEY_PATH],
                use_byte_stream_split=[contributions.VALUE_PATH],
            )
        except pa.ArrowException as error:
            raise ScoreLogError(f"{path}: cannot be written as Parquet: {error}") from error
        reached("part half written")
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
