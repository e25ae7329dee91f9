"""Names and footers of the score log's files: what a part says of itself.

`log_date=YYYY-MM-DD/log_hour=HH/part-<partition>-<start>.parquet` is a part as the archiver linked it;
`part-<partition>-<start>-<end>.parquet` holds several of them, merged by a compaction. A folder of a part's name
keeps the name taken: its rows have gone into a merged part.
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
"""Of parts that are written; in format 1, `contribution` is a struct with a field for each channel of the model."""
READABLE = ("1", "2")
PREFIX = "stream_ad."
PART = re.compile(r"part-([0-9]{1,9})-([0-9]{20})(?:-([0-9]{20}))?\.parquet")
"""Partition, start, and of a merged part the end."""
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
class Held:
    """A part that was merged into another.

    Attributes:
        span: offsets of the scores topic.
        spans: of input and journal.
        rows: number of rows.
    """

    span: Span
    spans: Spans
    rows: int


@dataclass(frozen=True, slots=True)
class PartInfo:
    """What the footer of a part says.

    Attributes:
        path: the file.
        partition: number of the partition of the scores topic, which is that of the readings.
        span: offsets of the scores topic whose rows the part holds; parts chain by them.
        spans: input that these scores come from, none where a journal entry alone caused them; and the journal
            entries that took effect in between.
        generation: how often the partition's state had been started again; one a part.
        topic_id: identity of the scores topic.
        rows: number of rows.
        is_first: the folder had no part of this partition when this one was written.
        first_log_ns: log time of the first message, which names the hour.
        holds: the parts that were merged into this one, oldest first; none in a part as it was linked.
        extra: what else was written, for example digests.
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
    holds: tuple[Held, ...]
    extra: Mapping[str, str]

    @property
    def lost(self) -> tuple[Span, ...]:
        """Parts of the input span that were deleted before they were scored: they have no rows."""
        return read_spans(self.extra.get("lost", ""))

    def held(self) -> tuple[Held, ...]:
        """Return the parts as they were linked: those merged into it, or itself."""
        return self.holds or (Held(self.span, self.spans, self.rows),)


def follows(part: PartInfo | Held, before: PartInfo | Held) -> bool:
    """Return whether a part begins where the one before it ends: in the scores topic, the input and the journal."""
    return part.span.start == before.span.end and part.spans.follow(before.spans)


def joined(first: PartInfo | Held, last: PartInfo | Held, rows: int) -> Held:
    """Return what the parts from one to another hold together.

    Args:
        first: the oldest.
        last: the newest.
        rows: of all of them.
    """
    return Held(Span(first.span.start, last.span.end), Spans.between(first.spans.begin, last.spans.end), rows)


def part_name(partition: int, span: Span, is_merged: bool) -> str:
    """Return the name of a part's file."""
    end = f"-{span.end:020d}" if is_merged else ""
    return f"part-{partition}-{span.start:020d}{end}.parquet"


def hour_folder(log_ns: int) -> Path:
    """Return the folder of a log time, below that of the score log."""
    hour = datetime.fromtimestamp(log_ns // 1_000_000_000, UTC)
    return Path(f"log_date={hour:%Y-%m-%d}") / f"log_hour={hour:%H}"


def is_part_path(path: Path) -> bool:
    """Return whether a path below the score log's folder is that of a part."""
    patterns = (DATE, HOUR, PART)
    return len(path.parts) == 3 and all(p.fullmatch(part) for p, part in zip(patterns, path.parts, strict=True))


def with_footer(table: pa.Table, info: PartInfo) -> pa.Table:
    """Return a table whose Parquet file says what `info` does.

    Raises:
        ContractError: the span of the scores topic is empty.
    """
    if info.span.is_empty:
        raise ContractError(f"part: expected a span of the scores topic, found {info.span}")
    holds = [(*_numbers(held.span, held.spans.input, held.spans.journal), held.rows) for held in info.holds]
    facts = (
        *(FORMAT, info.partition, info.span.start, info.span.end, info.topic_id),
        *_numbers(info.spans.input, info.spans.journal),
        *(info.generation, table.num_rows, int(info.is_first), info.first_log_ns, json.dumps(holds)),
    )
    footer = {name: str(value) for name, value in zip(_FACTS, facts, strict=True)} | dict(info.extra)
    return table.replace_schema_metadata({PREFIX + name: value for name, value in footer.items()})


def part_info(path: Path) -> PartInfo:
    """Read the footer of a part.

    Raises:
        PartMovedError: it is not there.
        ScoreLogError: it is no part of this format, or not the one its place and name say.
        StorageError: the file cannot be read.
    """
    with opened(path) as file:
        return footer_of(path, file)


def footer_of(path: Path, file: pq.ParquetFile) -> PartInfo:
    """Return what an open file says.

    Raises:
        ScoreLogError: it is no part of this format, or not the one its place and name say.
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
            holds=tuple(_held(facts) for facts in json.loads(footer["holds"])),
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
            f"partition {info.partition}, start {info.span.start}, end {info.span.end}, {len(info.holds)} held"
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
    """Open a part to be read; what is read from it is this file's content, whatever is renamed meanwhile.

    Raises:
        PartMovedError: it is not there.
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
        PartMovedError: it is not there.
        ScoreLogError: it is no Parquet file, or what is read inside is damaged.
        StorageError: it cannot be read.
    """
    with open_file(path) as file, storage_errors(path, "read"):
        try:
            yield pq.ParquetFile(file, page_checksum_verification=True)
        except pa.ArrowException as error:
            raise ScoreLogError(f"{path}: expected a Parquet file, found: {error}") from error


def _numbers(*spans: Span) -> tuple[int, ...]:
    return tuple(number for span in spans for number in (span.start, span.end))


def _held(facts: Sequence[int]) -> Held:
    start, end, input_start, input_end, journal_start, journal_end, rows = map(int, facts)
    return Held(Span(start, end), Spans(Span(input_start, input_end), Span(journal_start, journal_end)), rows)
