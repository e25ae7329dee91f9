"""Scores that are published but not yet in a file: the tail of the scores topic, and whether it is complete."""

from __future__ import annotations

from dataclasses import dataclass

from stream_ad.config import Settings
from stream_ad.errors import ContractError, PositionError
from stream_ad.io.following import records
from stream_ad.io.score_log.parts import PartInfo
from stream_ad.io.spans import Place
from stream_ad.io.transport import Partition, Transport
from stream_ad.io.wire import scores as score_messages
from stream_ad.io.wire.scores import ScoreMessage
from stream_ad.replaying import Marker
from stream_ad.role_table import deciding_group


@dataclass(frozen=True, slots=True)
class Tail:
    """A partition's scores after the newest file.

    Attributes:
        partition: number.
        messages: number of messages that continue the chain.
        rows: their rows.
        gap: what is wrong, "" if nothing.
    """

    partition: int
    messages: int
    rows: int
    gap: str


def read_tail(settings: Settings, transport: Transport, number: int, last: PartInfo | None) -> Tail | None:
    """Follow the chain from the newest file to the scorer's committed position; None without scores.

    Args:
        settings: the stream's settings.
        transport: the log.
        number: of the partition.
        last: the newest file, None if there is none.
    """
    readings = Partition(settings.stream.readings_topic, number)
    position = transport.committed(deciding_group(settings), readings)
    if position is None:
        return None if last is None else Tail(number, 0, 0, "files exist, but the scorer's group has committed nothing")
    scores = Partition(settings.stream.scores_topic, number)
    earliest, end = transport.bounds(scores)
    start = earliest if last is None else max(last.span.end, earliest)
    chain = _Chain(None if last is None else last.spans.end, last)
    try:
        for record in records(transport, scores, start, end):
            chain.add(record.offset, score_messages.decode(record.value, record.headers))
        # A scorer may commit meanwhile: what was read reaches the first position, and at most the current one.
        later = transport.committed(deciding_group(settings), readings) or position
        chain.end(Marker.from_text(position.metadata), Marker.from_text(later.metadata))
    except (ContractError, PositionError) as error:
        return Tail(number, chain.messages, chain.rows, chain.gap or str(error))
    gap = chain.gap
    if gap and last is not None and last.span.end < start and not chain.messages:
        # Otherwise the deleted records held no scores: they were control records or of an aborted transaction.
        gap = f"scores offsets {last.span.end}..{start - 1} were deleted before they were archived: {gap}"
    return Tail(number, chain.messages, chain.rows, gap)


class _Chain:
    """Consecutive messages, up to the first that breaks the chain."""

    def __init__(self, at: Place | None, last: PartInfo | None) -> None:
        self.messages = self.rows = 0
        self.gap = ""
        self._at = at
        self._generation = -1 if last is None else last.generation
        self._inside: ScoreMessage | None = None
        self._passed = {at}

    def add(self, offset: int, message: ScoreMessage) -> None:
        if self.gap:
            return
        before, found = self._inside, message.spans.begin
        if before is not None:
            if (message.spans, message.part) != (before.spans, before.part + 1):
                self.gap = f"scores offset {offset}: expected message {before.part + 1} of {before.spans.input}"
        elif message.part:
            self.gap = f"scores offset {offset}: expected the first message of a span, found number {message.part}"
        elif self._at is not None and found != self._at:
            self.gap = f"scores offset {offset}: expected input and journal from {self._at}, found {found}"
        elif message.generation < self._generation:
            self.gap = f"scores offset {offset}: generation {message.generation} after {self._generation}"
        if self.gap:
            return
        self.messages += 1
        self.rows += message.table.num_rows
        self._generation = message.generation
        if message.part + 1 < message.parts:
            self._inside = message
        else:
            self._inside, self._at = None, message.spans.end
            self._passed.add(self._at)

    def end(self, before: Marker, after: Marker) -> None:
        """Record what is missing up to the positions committed before and after the messages were read."""
        if self.gap:
            return
        committed, later = before.covered, after.covered
        if self._inside is not None:
            self.gap = f"messages of {self._inside.spans.input} are missing at the end"
        # Without rows there is no message and nothing to compare.
        elif self._at is not None and (committed not in self._passed or self._at > later):
            self.gap = f"expected scores up to input and journal {committed}, found them up to {self._at}"
