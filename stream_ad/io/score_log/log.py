"""The score log: Parquet files, each a span of the scores topic, linked once and never changed.

A part is dated by the log time of its first message, so that every process that holds the span picks the same
name. It is written aside, synced, then linked to its name: the link is the commit, and a second part with the
same start is refused. A compaction later puts merged parts in the place of many (`score_compaction`); what is
read here meanwhile has each row once.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from stream_ad.io.wire import contributions
from stream_ad.io.wire.score_rows import plain

__all__ = ["PartInfo", "clean_aside", "last_part", "part_info", "parts", "read", "write_part"]

ASIDE = ".aside"
ROW_GROUP = 131_072
TRIES = 5
"""So often a folder is listed anew because a compaction merged what was listed."""
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
        folder: of the score log; made where it is missing.
        partition: number of the partition.
        span: offsets of the scores topic; `start` is the end of the part before.
        tables: decoded score messages, at least one.
        first_log_ns: log time of the record at or after `span.start` that comes first; names the hour.
        topic_id: identity of the scores topic.
        spans: of input and journal, from the place where the first message's begin to where the last one's end.
        extra: more facts for the footer.
        generation: of all messages.
        is_first: the folder has no part of this partition yet.
        before_link: called when all is written, right before the name is given; may raise to give up.

    Raises:
        ContractError: the span of the scores topic is empty.
        PartExistsError: a part with this partition and start is there; nothing was changed.
        ScoreLogError: the tables cannot be written as one.
        StorageError: the folder cannot be written, or has no hard links.
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
    aside = folder / ASIDE / f"{final.stem}-{secrets.token_hex(8)}"  # no .parquet: others read `**/*.parquet`
    with storage_errors(final, "written"):
        make_folder(aside.parent)
        make_folder(final.parent)
        try:
            write_file(table, aside)
            before_link()
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

    def newest(found: list[tuple[int, int, Path]]) -> PartInfo | None:
        mine = [path for number, _, path in found if number == partition]
        return part_info(mine[-1]) if mine else None

    return _unmoved(folder, newest)


def parts(folder: Path, partition: int | None = None) -> list[PartInfo]:
    """Return all parts, by partition and start; reads every footer.

    Raises:
        ScoreLogError: a file is damaged.
        StorageError: the folder cannot be read.
    """

    def all_of(found: list[tuple[int, int, Path]]) -> list[PartInfo]:
        return [part_info(path) for number, _, path in found if partition is None or number == partition]

    return _unmoved(folder, all_of)


def read(folder: Path, device: str | None = None, start_ns: int | None = None, end_ns: int | None = None) -> pa.Table:
    """Return rows of the score log, by end, device and revision; contributions as maps, whatever the format.

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

    tables = _unmoved(folder, all_of)
    if not tables:
        return pa.table({})
    return _concat(tables).sort_by([("end", "ascending"), ("device", "ascending"), ("revision", "ascending")])


def newest_devices(folder: Path, parts_searched: int) -> list[str]:
    """Return the ids of the devices in the newest parts, sorted.

    Args:
        folder: of the score log.
        parts_searched: so many parts are read at most.

    Raises:
        ScoreLogError: a file is damaged.
        StorageError: the folder cannot be read.
    """

    def all_of(found: list[tuple[int, int, Path]]) -> list[str]:
        ids: set[str] = set()
        # By the folder of its hour, since partitions have offsets of their own.
        for path in sorted((path for _, _, path in found), key=lambda path: path.as_posix())[-parts_searched:]:
            with opened(path) as file:
                ids.update(file.read(columns=["device"])["device"].unique().to_pylist())
        return sorted(ids)

    return _unmoved(folder, all_of)


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


def has_line(path: Path, line: str) -> bool:
    """Return whether a text file is there and has this line.

    Raises:
        StorageError: it cannot be read.
    """
    with storage_errors(path, "read"):
        return path.is_file() and line in path.read_text(errors="replace").splitlines()


def listed(folder: Path) -> list[tuple[int, int, Path]]:
    """Return partition, start and path of each part, sorted; none is left out below the newest of its partition.

    It is listed twice: a part may be linked into an hour that was listed already, and the next one into an hour that
    was not. What the first listing shows, and all before it, had been linked when the second one began.

    Raises:
        StorageError: the folder cannot be read.
    """
    with storage_errors(folder, "listed"):
        newest = {number: start for number, start, _ in sorted(_found(folder))}
        return sorted(part for part in _found(folder) if part[1] <= newest.get(part[0], -1))


def hours(folder: Path) -> list[Path]:
    """Return the folders of hours, oldest first."""
    return sorted(hour for date in _folders(folder, DATE) for hour in _folders(date, HOUR))


def _unmoved(folder: Path, use: Callable[[list[tuple[int, int, Path]]], _Result]) -> _Result:
    """List the parts and read them; begin anew where one was merged meanwhile.

    A name has one content for ever, and an hour's listing shows parts either as linked or merged. So a
    pass that finds every file it listed has read each row once.
    """
    for _ in range(TRIES - 1):
        try:
            return use(listed(folder))
        except PartMovedError:
            continue
    return use(listed(folder))


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
        raise ScoreLogError(f"score log: expected columns that fit each other, found: {error}") from error


def ordered(tables: Sequence[pa.Table]) -> pa.Table:
    """Return all rows as plain text and numbers, contributions as maps, sorted by device and end.

    Raises:
        ScoreLogError: there is no table, or they do not fit each other.
    """
    if not tables:
        raise ScoreLogError("part: expected at least one table, found none")
    # Structs are lighter than maps: it is they that are sorted, where there are structs only.
    texts = [plain(table) for table in tables]
    has_maps = any(contributions.TYPE in table.schema.types for table in texts)
    table = _concat([contributions.as_map(table) for table in texts] if has_maps else texts)
    try:
        order = pc.sort_indices(table, [(name, "ascending") for name in ("device", "end", "revision", "offset")])
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
                # Bytes of one place in the floats are alike, floats are not: a third less than plain, and faster.
                use_dictionary=[name for name in table.column_names if name != contributions.COLUMN]
                + [contributions.KEY_PATH],
                use_byte_stream_split=[contributions.VALUE_PATH],
            )
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
