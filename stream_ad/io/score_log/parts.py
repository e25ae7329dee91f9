"""Names and footers of the score log's files.

`log_date=YYYY-MM-DD/log_hour=HH/part-<partition>-<start>.parquet` is a part as linked by the archiver;
`part-<partition>-<start>-<end>.parquet` contains several, merged by a compaction. A folder with a part's name reserves
the name: its rows are in a merged part.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from stream_ad.errors import ContractError, PartMovedError, ScoreLogError, StorageError
from stream_ad.io.durable import storage_errors
from stream_ad.io.spans import Span, Spans, read_spans

FORMAT = 2
"""Format of new parts; in format 1, `contribution` is a struct with one field per channel of the model."""
READABLE = ("1", "2")
PREFIX = "stream_ad."
PART = re.compile(r"part-([0-9]{1,9})-([0-9]{20})(?:-([0-9]{20}))?\.parquet")
"""Partition, start, and the end of a merged part."""
DATE, HOUR = re.compile(r"log_date=[0-9]{4}-[0-9]{2}-[0-9]{2}"), re.compile(r"log_hour=[0-9]{2}")
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
    "is_first",
    "first_log_ns",
    "holds",
)


@dataclass(frozen=True, slots=True)
class PartRange:
    """The range covered by a part, or by several consecutive ones.

    Attributes:
        span: offsets of the scores topic.
        spans: input and journal.
        rows: number of rows.
    """

    span: Span
    spans: Spans
    rows: int


@dataclass(frozen=True, slots=True)
class PartInfo:
    """Content of a part's footer.

    Attributes:
        path: the file.
        partition: number of the partition, the same in the scores and the readings topic.
        span: offsets of the scores topic whose rows the part contains; parts chain by them.
        spans: input of these scores (empty if only a journal entry caused them), and the journal entries applied in
            between.
        generation: number of state resets of the partition so far; one value per part.
        topic_id: id of the scores topic.
        rows: number of rows.
        is_first: the folder had no part of this partition when this one was written.
        first_log_ns: log time of the first message, which determines the hour.
        holds: the parts merged into this one, oldest first; empty for a part as linked.
        extra: further facts, for example digests.
    """

    path: Path
    partition: int
    span: Span
    spans: Spans
    generation: int
    topic_id: str
    rows: int
    is_first: bool
    first_log_ns: int
    holds: tuple[PartRange, ...]
    extra: Mapping[str, str]

    @property
    def lost(self) -> tuple[Span, ...]:
        """Parts of the input span that were deleted before they were scored; they have no rows."""
        return read_spans(self.extra.get("lost", ""))

    @property
    def ends_rise(self) -> bool:
        """Whether no two rows of a device may have the same end."""
        return "ends" not in self.extra

    def ranges(self) -> tuple[PartRange, ...]:
        """Return the parts as linked: those merged into this one, or itself."""
        return self.holds or (PartRange(self.span, self.spans, self.rows),)


def follows(part: PartInfo | PartRange, before: PartInfo | PartRange) -> bool:
    """Return whether a part starts where the previous one ends, in the scores topic, the input and the journal."""
    return part.span.start == before.span.end and part.spans.follow(before.spans)


def joined(first: PartInfo | PartRange, last: PartInfo | PartRange, rows: int) -> PartRange:
    """Return the range covered by consecutive parts as one.

    Args:
        first: the oldest part.
        last: the newest part.
        rows: total number of rows.
    """
    return PartRange(Span(first.span.start, last.span.end), Spans.between(first.spans.begin, last.spans.end), rows)


def part_name(partition: int, span: Span, is_merged: bool) -> str:
    """Return the name of a part's file."""
    end = f"-{span.end:020d}" if is_merged else ""
    return f"part-{partition}-{span.start:020d}{end}.parquet"


def hour_folder(log_ns: int) -> Path:
    """Return the folder of a log time, relative to the score log's."""
    hour = datetime.fromtimestamp(log_ns // 1_000_000_000, UTC)
    return Path(f"log_date={hour:%Y-%m-%d}") / f"log_hour={hour:%H}"


def is_part_path(path: Path) -> bool:
    """Return whether a path, relative to the score log's folder, is a part's."""
    patterns = (DATE, HOUR, PART)
    return len(path.parts) == 3 and all(p.fullmatch(part) for p, part in zip(patterns, path.parts, strict=True))


def with_footer(table: pa.Table, info: PartInfo) -> pa.Table:
    """Return a table whose Parquet footer will contain `info`.

    Raises:
        ContractError: the span of the scores topic is empty.
    """
    if info.span.is_empty:
        raise ContractError(f"part: expected a non-empty span of the scores topic, found {info.span}")
    holds = [(*_numbers(held.span, held.spans.input, held.spans.journal), held.rows) for held in info.holds]
    facts = (
        *(FORMAT, info.partition, info.span.start, info.span.end, info.topic_id),
        *_numbers(info.spans.input, info.spans.journal),
        *(info.generation, table.num_rows, int(info.is_first), info.first_log_ns, json.dumps(holds)),
    )
    footer = {name: str(value) for name, value in zip(_FACTS, facts, strict=True)} | dict(info.extra)
    return table.replace_schema_metadata({PREFIX + name: value for name, value in footer.items()})


def part_info(path: Path) -> PartInfo:
    """Read a part's footer.

    Raises:
        PartMovedError: the part does not exist.
        ScoreLogError: it is not a part of this format, or its path does not match its content.
        StorageError: the file cannot be read.
    """
    with opened(path) as file:
        return footer_of(path, file)


def footer_of(path: Path, file: pq.ParquetFile) -> PartInfo:
    """Return the footer of an open file.

    Raises:
        ScoreLogError: it is not a part of this format, or its path does not match its content.
    """
    match = PART.fullmatch(path.name)
    try:
        raw = file.metadata.metadata or {}
        prefix = PREFIX.encode()
        footer = {k[len(prefix) :].decode(): v.decode() for k, v in raw.items() if k.startswith(prefix)}
        if footer["format"] not in READABLE:
            raise ValueError(f"format {footer['format']}")
        info = PartInfo(
            path=path,
            partition=int(footer["partition"]),
            span=Span(int(footer["start"]), int(footer["end"])),
            spans=Spans(
                Span(int(footer["input_start"]), int(footer["input_end"])),
                Span(int(footer["journal_start"]), int(footer["journal_end"])),
            ),
            generation=int(footer["generation"]),
            topic_id=footer["topic_id"],
            rows=int(footer["rows"]),
            is_first=bool(int(footer["is_first"])),
            first_log_ns=int(footer["first_log_ns"]),
            holds=tuple(_range_of(facts) for facts in json.loads(footer["holds"])),
            extra={name: value for name, value in footer.items() if name not in _FACTS},
        )
        _check_place(info, match, file.metadata.num_rows)
        _check_lost(info)
    except (KeyError, ValueError, TypeError, ContractError, OSError, pa.ArrowException) as error:
        raise ScoreLogError(f"{path}: expected a part of format {' or '.join(READABLE)}, found: {error}") from error
    return info


def _check_place(info: PartInfo, match: re.Match[str] | None, rows: int) -> None:
    if match is None or info.path.name != part_name(info.partition, info.span, bool(info.holds)):
        raise ValueError(
            f"partition {info.partition}, start {info.span.start}, end {info.span.end}, {len(info.holds)} merged parts"
        )
    if hour_folder(info.first_log_ns) != info.path.parent.relative_to(info.path.parent.parent.parent):
        raise ValueError(f"a part of {hour_folder(info.first_log_ns)}")
    if info.rows != rows:
        raise ValueError(f"{rows} rows, not {info.rows}")


def _check_lost(info: PartInfo) -> None:
    for span in info.lost:
        if not info.spans.input.start <= span.start <= span.end <= info.spans.input.end:
            raise ValueError(f"lost input {span} in {info.spans.input}")


def open_file(path: Path) -> BinaryIO:
    """Open a part for reading; later renames do not change what is read.

    Raises:
        PartMovedError: the part does not exist.
        StorageError: it cannot be read.
    """
    try:
        return path.open("rb")
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise PartMovedError(f"{path}: cannot be read: {error.strerror}") from error
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error.strerror}") from error


@contextmanager
def opened(path: Path) -> Iterator[pq.ParquetFile]:
    """Open a part as a Parquet file.

    Raises:
        PartMovedError: the part does not exist.
        ScoreLogError: it is not a Parquet file, or its content is damaged.
        StorageError: it cannot be read.
    """
    with open_file(path) as file, storage_errors(path, "read"):
        try:
            yield pq.ParquetFile(file, page_checksum_verification=True)
        except pa.ArrowException as error:
            raise ScoreLogError(f"{path}: expected a Parquet file, found: {error}") from error


def _numbers(*spans: Span) -> tuple[int, ...]:
    return tuple(number for span in spans for number in (span.start, span.end))


def _range_of(facts: Sequence[int]) -> PartRange:
    start, end, input_start, input_end, journal_start, journal_end, rows = map(int, facts)
    return PartRange(Span(start, end), Spans(Span(input_start, input_end), Span(journal_start, journal_end)), rows)
