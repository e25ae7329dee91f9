"""Buffers a partition's score messages until they form a part: whole input spans, in order."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field

import pyarrow as pa

from stream_ad.errors import PositionError, ScoreLogError
from stream_ad.io.spans import Place, Span
from stream_ad.io.transport import Partition
from stream_ad.io.wire.scores import ScoreMessage

HOUR_NS = 3_600_000_000_000


@dataclass(slots=True)
class OpenPart:
    """Messages of one part: offsets start <= offset < end of the scores topic.

    Contains only whole input spans of one generation, so that a part ends where an input span does. `is_first`: there
    was no earlier part of the partition.
    """

    start: int
    end: int
    hour: int
    first_log_ns: int
    begun: Place
    ended: Place
    generation: int
    is_first: bool
    since: float
    tables: list[pa.Table] = field(default_factory=list)
    rows: int = 0
    size_bytes: int = 0
    models: set[str] = field(default_factory=set)
    configs: set[str] = field(default_factory=set)
    lost: list[Span] = field(default_factory=list)
    ends_rise: bool = True

    def add(self, message: ScoreMessage) -> None:
        """Add a message."""
        self.tables.append(message.table)
        self.rows += message.table.num_rows
        self.size_bytes += message.table.nbytes
        self.models.add(message.model_id)
        self.configs.add(message.config_digest)
        self.ends_rise = self.ends_rise and message.ends_rise
        if not message.part:
            self.lost += message.lost


@dataclass(slots=True)
class PartBuffer:
    """The buffer of one partition.

    Attributes:
        partition: partition of the scores topic.
        max_rows: number of rows at which a part is full.
        linked: end of the newest linked part.
        seen: place up to which scores were seen, None before the first.
        must_chain: records were deleted after `linked`; the next message reveals whether any had scores.
        full: parts waiting to be written, oldest first.
        open: the part still being filled.
        tail: messages of an incomplete input span.
    """

    partition: Partition
    max_rows: int
    linked: int
    seen: Place | None = None
    must_chain: bool = False
    full: deque[OpenPart] = field(default_factory=deque)
    open: OpenPart | None = None
    tail: list[tuple[int, int, ScoreMessage]] = field(default_factory=list)

    @property
    def next_start(self) -> int:
        """Start of the next part: the end of the previous one, so that files chain."""
        if self.open is not None:
            return self.open.end
        return self.full[-1].end if self.full else self.linked

    def seal(self) -> None:
        """Move the open part to those waiting to be written."""
        if self.open is not None:
            self.full.append(self.open)
            self.open = None

    def add(self, offset: int, log_ns: int, message: ScoreMessage) -> tuple[Place, Place] | None:
        """Buffer a message; it is added to a part with the last message of its input span.

        Args:
            offset: the message's offset in the scores topic.
            log_ns: its append time, UTC nanoseconds.
            message: the decoded message.

        Returns:
            the expected place and the one found if the span does not follow the previous one; else None.

        Raises:
            ScoreLogError: it is not the next message of its span.
            PositionError: scores were deleted before they were archived.
        """
        if message.part and self.seen is None and not self.tail:
            return None  # belongs to a span whose first messages were deleted before this archive began
        before = self.tail[-1][2] if self.tail else None
        if message.part != len(self.tail) or (
            before is not None and (before.spans, before.generation) != (message.spans, message.generation)
        ):
            raise ScoreLogError(
                f"{where(self.partition, offset)}: expected message {len(self.tail)} of an input span, found "
                f"{message.part} of {message.parts} of {message.spans.input}"
            )
        self.tail.append((offset, log_ns, message))
        return self._absorb() if message.part == message.parts - 1 else None

    def read_up_to(self, next_offset: int) -> None:
        """Record that there are no messages between the last one and `next_offset`."""
        if self.open is not None and not self.tail:
            self.open.end = next_offset

    def _absorb(self) -> tuple[Place, Place] | None:
        """Add a whole input span to the open part, or to a new one if it does not fit."""
        offset, log_ns, first = self.tail[0]
        gap = self._gap(first, offset)
        part, hour = self.open, log_ns // HOUR_NS
        if part is not None and (
            part.hour != hour
            or part.rows >= self.max_rows
            or part.ended != first.spans.begin
            or part.generation != first.generation
            or part.tables[0].schema != first.table.schema
        ):
            self.seal()
            part = None
        if part is None:
            part = OpenPart(
                start=self.next_start,
                end=offset + 1,
                hour=hour,
                first_log_ns=log_ns,
                begun=first.spans.begin,
                ended=first.spans.end,
                generation=first.generation,
                is_first=self.seen is None,
                since=time.monotonic(),
            )
            self.open = part
        for offset, _, message in self.tail:
            part.add(message)
            part.end = offset + 1
        part.ended = self.seen = first.spans.end
        self.tail.clear()
        return gap

    def _gap(self, message: ScoreMessage, offset: int) -> tuple[Place, Place] | None:
        expected, found = self.seen, message.spans.begin
        if expected is None or expected == found:
            self.must_chain = False
            return None
        if self.must_chain:
            raise PositionError(
                f"{where(self.partition, offset)}: the newest part holds scores up to input offset "
                f"{expected.offset} and journal entry {expected.entries}, the earliest message left starts at "
                f"{found.offset} and {found.entries}: messages in between were deleted before they were archived; to "
                "continue without them set store.scores to another folder"
            )
        return expected, found


def where(partition: Partition, offset: int) -> str:
    """Return a record's place for an error message."""
    return f"{partition.topic}/{partition.number} offset {offset}"
