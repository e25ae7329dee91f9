"""Compaction: merges the many parts of a closed hour into few, while each row stays visible exactly once.

The new content of an hour is built beside the score log, where `**/*.parquet` does not match. One system call then
exchanges the two folders, so that a listing of an hour shows the parts either as linked or as merged, never both. A
merged part has its own name, and an empty folder replaces each part that was merged into it. So a reader that listed
the hour before finds the old file or none, never a file with other rows; and an archiver that was suspended meanwhile
finds its part's name taken. See docs/adr/0016-compaction.md.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa

from stream_ad.errors import ScoreLogError, StreamAdError
from stream_ad.io.durable import storage_errors
from stream_ad.io.score_log.exchange import Exchange, abandon, built_in, change_places, locked, new_place, sweep
from stream_ad.io.score_log.log import hours, listed, ordered, write_file
from stream_ad.io.score_log.parts import PART, PartInfo, follows, footer_of, joined, opened, part_name, with_footer
from stream_ad.io.spans import spans_text
from stream_ad.io.wire import contributions

HOUR_NS = 3_600_000_000_000
GRACE_S = 2.0
"""Minimum time that an hour's old folder is kept: another process may be listing it."""


@dataclass(frozen=True, slots=True)
class HourReport:
    """What a compaction did to an hour, or would do.

    Attributes:
        hour: its folder, relative to the score log's.
        before: number of parts merged.
        after: number of parts that now contain their rows.
        rows: number of rows in them.
        skipped: why nothing was done, or "".
    """

    hour: Path
    before: int
    after: int
    rows: int
    skipped: str = ""


def compact(
    folder: Path,
    closed_before_ns: int,
    max_rows: int,
    is_dry: bool = False,
    grace_s: float = GRACE_S,
    on_hour: Callable[[HourReport], None] = lambda _: None,
) -> list[HourReport]:
    """Merge the small parts of closed hours, after completing an interrupted compaction.

    A partition's parts of an hour are merged if the hour ended by `closed_before_ns` and the partition's newest part is
    in another hour: only neighbours of one generation, schema and topic, up to `max_rows`. A part of format 1 is
    rewritten even without a neighbour; a merged one keeps its name and rows.

    Args:
        folder: the score log's folder.
        closed_before_ns: only hours of log time that ended by then, UTC nanoseconds.
        max_rows: maximum rows of a merged part; a group of this size is held in memory twice.
        is_dry: only report what would be done.
        grace_s: minimum time for which a replaced folder is kept.
        on_hour: called for each hour with something to merge, once it is done.

    Returns:
        one report per hour with something to merge.

    Raises:
        ScoreLogError: a part is damaged, or another compaction is running.
        StorageError: the folder cannot be read or written, or the file system cannot exchange two names.
    """
    folder = folder.resolve()
    if is_dry:
        return [_reported(on_hour, _planned(plan)) for plan in _plans(folder, closed_before_ns, max_rows)]
    if not folder.is_dir():
        return []
    done: list[HourReport] = []
    exchanged: list[Exchange] = []
    with locked(folder) as work:
        sweep(work, folder)
        for plan in _plans(folder, closed_before_ns, max_rows):
            report = _planned(plan)
            if not report.skipped:
                exchanged.append(_compact_hour(plan, work, folder))
            done.append(_reported(on_hour, report))
        if exchanged:
            time.sleep(grace_s)
        for exchange in exchanged:
            with storage_errors(exchange.place, "removed"):
                exchange.remove()
    return done


@dataclass(frozen=True, slots=True)
class _HourPlan:
    """An hour with something to merge: its folder, the groups to merge, and why it is skipped, or ""."""

    hour: Path
    groups: tuple[tuple[PartInfo, ...], ...]
    skipped: str


def _reported(on_hour: Callable[[HourReport], None], report: HourReport) -> HourReport:
    on_hour(report)
    return report


def _planned(plan: _HourPlan) -> HourReport:
    rows = sum(part.rows for group in plan.groups for part in group)
    hour = plan.hour.relative_to(plan.hour.parent.parent)
    return HourReport(hour, sum(map(len, plan.groups)), len(plan.groups), rows, plan.skipped)


def _compact_hour(plan: _HourPlan, work: Path, folder: Path) -> Exchange:
    with storage_errors(work, "written"):
        place = new_place(work)
        try:
            for group in plan.groups:
                _merge(group, built_in(place))
            merged = {part.path.name for group in plan.groups for part in group}
            return change_places(plan.hour, merged, place, folder)
        except (StreamAdError, OSError):
            abandon(place, folder)
            raise


def _plans(folder: Path, closed_before_ns: int, max_rows: int) -> Iterator[_HourPlan]:
    """Yield the hours with something to merge, oldest first."""
    newest = {number: path.parent for number, _, path in listed(folder)}  # sorted, so the last one wins
    for hour in hours(folder):
        if _end_ns(hour) > closed_before_ns:
            continue
        with storage_errors(hour, "listed"):
            entries = sorted(os.scandir(hour), key=lambda entry: entry.name)
            files = [entry.name for entry in entries if entry.is_file(follow_symlinks=False)]
            others = [entry.name for entry in entries if not entry.is_file(follow_symlinks=False)]
        candidates: dict[int, list[str]] = {}
        for name in files:
            match = PART.fullmatch(name)
            if match is not None and newest[int(match[1])] != hour:
                candidates.setdefault(int(match[1]), []).append(name)
        groups = tuple(
            group
            for _, names in sorted(candidates.items())
            for group in _groups([hour / name for name in names], max_rows)
        )
        if groups:
            strange = [name for name in others if not _is_taken_name(hour / name)]
            skipped = f"expected parts only, found {strange[0]}" if strange else ""
            yield _HourPlan(hour, groups, skipped)


def _end_ns(hour: Path) -> int:
    try:
        begin = datetime.strptime(f"{hour.parent.name} {hour.name}", "log_date=%Y-%m-%d log_hour=%H")
    except ValueError as error:
        raise ScoreLogError(f"{hour}: expected an hour's folder, found: {error}") from error
    return int(begin.replace(tzinfo=UTC).timestamp()) * 1_000_000_000 + HOUR_NS


def _is_taken_name(path: Path) -> bool:
    return PART.fullmatch(path.name) is not None and path.is_dir() and not any(path.iterdir())


def _groups(paths: Sequence[Path], max_rows: int) -> list[tuple[PartInfo, ...]]:
    """Return runs of at least two neighbours that fit into one part each, and single parts of an older format."""
    found: list[list[PartInfo]] = []
    schemas: list[pa.Schema] = []
    old: set[Path] = set()
    for path in paths:
        with opened(path) as file:
            part, written = footer_of(path, file), file.schema_arrow.remove_metadata()
        schema = contributions.as_map(written.empty_table()).schema
        if schema != written:
            old.add(path)
        run = found[-1] if found else []
        fits = sum(one.rows for one in run) + part.rows <= max_rows
        if run and fits and schemas[-1].equals(schema) and _are_neighbours(run[-1], part):
            run.append(part)
        else:
            found.append([part])
            schemas.append(schema)
    return [tuple(run) for run in found if len(run) > 1 or run[0].path in old]


def _are_neighbours(left: PartInfo, right: PartInfo) -> bool:
    return (
        follows(right, left)
        and left.generation == right.generation
        and left.topic_id == right.topic_id
        and not right.is_first
        and all(left.extra.get(name) == right.extra.get(name) for name in ("stream", "topic", "ends"))
    )


# -- merging ---------------------------------------------------------------------------------------


def _merge(group: Sequence[PartInfo], hour: Path) -> None:
    """Write a group's rows as one part into a folder, and verify it by reading it back."""
    tables = []
    for part in group:
        with opened(part.path) as file:
            if footer_of(part.path, file) != part:
                raise ScoreLogError(f"{part.path}: expected an immutable file, but it changed")
            tables.append(contributions.as_map(file.read().replace_schema_metadata()))
    table = ordered(tables)
    info = _merged_info(group, hour)
    if table.num_rows != info.rows:
        raise ScoreLogError(f"{group[0].path} and following: expected {info.rows} rows, found {table.num_rows}")
    write_file(with_footer(table, info), info.path)
    begin = 0
    with opened(info.path) as file:
        for number in range(file.num_row_groups):
            piece = file.read_row_group(number)
            if not _same_rows(piece, table.slice(begin, piece.num_rows)):
                raise ScoreLogError(f"{info.path}: expected the rows of {len(group)} parts, found others")
            begin += piece.num_rows
    if begin != info.rows:
        raise ScoreLogError(f"{info.path}: expected {info.rows} rows, found {begin}")


def _merged_info(group: Sequence[PartInfo], hour: Path) -> PartInfo:
    first, last = group[0], group[-1]
    whole = joined(first, last, sum(part.rows for part in group))
    lists = ("model_ids", "config_digests")
    lost = [span for part in group for span in part.lost]
    values = {name: {v for part in group for v in part.extra.get(name, "").split(",") if v} for name in lists}
    return PartInfo(
        path=hour / part_name(first.partition, whole.span, is_merged=True),
        partition=first.partition,
        span=whole.span,
        spans=whole.spans,
        generation=first.generation,
        topic_id=first.topic_id,
        rows=whole.rows,
        is_first=first.is_first,
        first_log_ns=first.first_log_ns,
        holds=tuple(held for part in group for held in part.ranges()),
        extra=dict(first.extra)
        | {name: ",".join(sorted(found)) for name, found in values.items() if found}
        | ({"lost": spans_text(lost)} if lost else {}),
    )


def _same_rows(left: pa.Table, right: pa.Table) -> bool:
    """Compare values; NaN equals NaN."""
    if left.num_rows != right.num_rows or left.column_names != right.column_names:
        return False
    for one, other in zip(left.flatten().columns, right.flatten().columns, strict=True):
        if one.equals(other):
            continue
        if not pa.types.is_floating(one.type) or not one.is_null().equals(other.is_null()):
            return False
        if not np.array_equal(np.asarray(one.fill_null(0)), np.asarray(other.fill_null(0)), equal_nan=True):
            return False
    return True
