"""What the archiver holds of a partition until it is a part: whole input spans, in order."""

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
class Growing:
    """Messages that go into one part: offsets start <= offset < end of the scores topic.

    It holds whole input spans only, of one generation, so that a part ends where an input span does. `is_first`
    says that there was no part of the partition before it.
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

    def add(self, message: ScoreMessage) -> None:
        """Take in a message."""
        self.tables.append(message.table)
        self.rows += message.table.num_rows
        self.size_bytes += message.table.nbytes
        self.models.add(message.model_id)
        self.configs.add(message.config_digest)
        if not message.part:
            self.lost += message.lost


@dataclass(slots=True)
class Shelf:
    """One partition.

    Attributes:
        partition: of the scores topic.
        max_rows: a part with this many rows is full.
        linked: where the newest part ends.
        seen: the position up to which scores were seen, None before the first.
        must_chain: records were deleted behind `linked`; the next message tells whether any had scores.
        full: what waits to be written, oldest first.
        open: what still grows.
        tail: messages of an input span whose last message has not come.
    """

    partition: Partition
    max_rows: int
    linked: int
    seen: Place | None = None
    must_chain: bool = False
    full: deque[Growing] = field(default_factory=deque)
    open: Growing | None = None
    tail: list[tuple[int, int, ScoreMessage]] = field(default_factory=list)

    @property
    def next_start(self) -> int:
        """Where the next part starts: the end of the one before, so that files chain."""
        if self.open is not None:
            return self.open.end
        return self.full[-1].end if self.full else self.linked

    def shut(self) -> None:
        """Let what grows wait to be written."""
        if self.open is not None:
            self.full.append(self.open)
            self.open = None

    def add(self, offset: int, log_ns: int, message: ScoreMessage) -> tuple[Place, Place] | None:
        """Put a message on the shelf, which is taken in with the last message of its input span.

        Args:
            offset: of the message in the scores topic.
            log_ns: its append time.
            message: decoded.

        Returns:
            the position expected and the one found, where the span does not follow on the one before;
            else None.

        Raises:
            ScoreLogError: it is not the next message of its span.
            PositionError: scores were deleted before they were archived.
        """
        if message.part and self.seen is None and not self.tail:
            return None  # of a span whose first messages were deleted before this archive began
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
        """Take note that nothing lies between the last message and `next_offset`."""
        if self.open is not None and not self.tail:
            self.open.end = next_offset

    def _absorb(self) -> tuple[Place, Place] | None:
        """Move a whole input span into what grows; what does not fit there starts another part."""
        offset, log_ns, first = self.tail[0]
        gap = self._gap(first, offset)
        growing, hour = self.open, log_ns // HOUR_NS
        if growing is not None and (
            growing.hour != hour
            or growing.rows >= self.max_rows
            or growing.ended != first.spans.begin
            or growing.generation != first.generation
            or growing.tables[0].schema != first.table.schema
        ):
            self.shut()
            growing = None
        if growing is None:
            growing = Growing(
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
            self.open = growing
        for offset, _, message in self.tail:
            growing.add(message)
            growing.end = offset + 1
        growing.ended = self.seen = first.spans.end
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
                f"{found.offset} and {found.entries}: messages between were deleted before they were "
                "archived; to go on without them give store.scores another folder"
            )
        return expected, found


def where(partition: Partition, offset: int) -> str:
    """Return a record's place for an error message."""
    return f"{partition.topic}/{partition.number} offset {offset}"
