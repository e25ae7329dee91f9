"""Rows <-> messages of the scores topic: Arrow IPC, split by size, each with the spans it comes from.

The spans chain (`io.spans`), so that readers detect a gap. A span that closed no window needs no message; the next one
then starts where the last published one ended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from stream_ad.errors import ContractError, RecordTooLargeError
from stream_ad.io.spans import Span, Spans, read_spans, spans_text
from stream_ad.io.transport import Headers, Partition, Record
from stream_ad.io.wire.encode import ARROW, CONTENT_TYPE
from stream_ad.io.wire.score_rows import schema

FORMAT = 1
PREFIX = "stream-ad-"
MAY_REPEAT = "repeat"
"""Header `ends` of rows, and footer of parts, whose ends may repeat within a device."""


@dataclass(frozen=True, slots=True)
class ScoreMessage:
    """A decoded score message.

    Attributes:
        table: one row per window; see `score_rows.schema`.
        spans: input offsets whose windows the messages of these spans contain together (empty if only a journal entry
            closed them), and the journal entries applied in between.
        generation: number of state resets of the partition so far. A device's `sequence` continues within a
            generation or restarts from 0; in a new generation it may start anywhere.
        part: index of this message among those of its spans, from 0.
        parts: number of messages of its spans.
        input: the partition of the readings.
        model_id: digest of the bundle.
        config_digest: digest of the settings.
        lost: parts of the input span that were deleted before they were scored; they have no rows.
        ends_rise: no two rows of a device may have the same `end`; see `core.front.RowRules`.
    """

    table: pa.Table
    spans: Spans
    generation: int
    part: int
    parts: int
    input: Partition
    model_id: str
    config_digest: str
    lost: tuple[Span, ...] = ()
    ends_rise: bool = True


def prepare() -> None:
    """Convert an array once: for the first one, pyarrow imports pandas if installed, which takes seconds.

    Roles call it before they join a group: a member that is silent for that long would be evicted.
    """
    pa.array(np.zeros(1))


def encode(
    rows: pa.Table,
    spans: Spans,
    source: Partition,
    config_digest: str,
    max_bytes: int = 900_000,
    generation: int = 0,
    lost: Sequence[Span] = (),
    ends_rise: bool = True,
) -> list[Record]:
    """Return the messages of a commit; none if no window closed.

    Args:
        rows: from `score_rows.table`, all of `source`.
        spans: input read and journal entries applied since the last published spans.
        source: the partition of the readings; the messages go to the same number.
        config_digest: digest of the settings.
        max_bytes: maximum payload size; more rows make more messages.
        generation: number of state resets among the entries applied so far.
        lost: parts of the input that were deleted before they were scored.
        ends_rise: as in `ScoreMessage`.

    Raises:
        ContractError: both spans are empty.
        RecordTooLargeError: a single row exceeds `max_bytes`.
    """
    if rows.num_rows == 0:
        return []
    _expect_cause(spans, generation)
    (batch,) = rows.to_batches()
    pieces = _split(batch, max_bytes)
    common: Headers = (
        (CONTENT_TYPE, ARROW.encode()),
        (PREFIX + "format", str(FORMAT).encode()),
        (PREFIX + "input-topic", source.topic.encode()),
        (PREFIX + "input-partition", str(source.number).encode()),
        (PREFIX + "span", str(spans.input).encode()),
        (PREFIX + "journal", str(spans.journal).encode()),
        (PREFIX + "generation", str(generation).encode()),
        (PREFIX + "model", batch["model_id"][0].as_py().encode()),
        (PREFIX + "config", config_digest.encode()),
        *([(PREFIX + "lost", spans_text(lost).encode())] if lost else ()),
        *(() if ends_rise else [(PREFIX + "ends", MAY_REPEAT.encode())]),
    )
    return [
        Record(
            value=piece,
            headers=(*common, (PREFIX + "part", f"{number}/{len(pieces)}".encode())),
            partition=source.number,
        )
        for number, piece in enumerate(pieces)
    ]


def decode(value: bytes, headers: Headers) -> ScoreMessage:
    """Decode a score message.

    Raises:
        ContractError: a header is missing, the format is unknown, or the payload is not a table of scores.
    """
    texts = {name: content.decode("utf-8", "replace") for name, content in headers}
    try:
        if texts[PREFIX + "format"] != str(FORMAT):
            raise ValueError(f"format {texts[PREFIX + 'format']}")
        spans = _spans(texts)
        generation = int(texts[PREFIX + "generation"])
        _expect_cause(spans, generation)
        part, _, parts = texts[PREFIX + "part"].partition("/")
        source = Partition(texts[PREFIX + "input-topic"], int(texts[PREFIX + "input-partition"]))
        model_id, config_digest = texts[PREFIX + "model"], texts[PREFIX + "config"]
        numbers = (int(part), int(parts))
        lost = read_spans(texts.get(PREFIX + "lost", ""))
        ends_rise = texts.get(PREFIX + "ends") != MAY_REPEAT
        with pa.ipc.open_stream(value) as reader:
            table = reader.read_all()
        table.validate(full=True)
        channels = [field.name for field in table.schema.field("contribution").type]
        if table.schema != schema(channels):
            raise ValueError(f"columns {table.schema.names}")
    except (KeyError, ValueError, TypeError, OSError, ContractError, pa.ArrowException) as error:
        raise ContractError(
            f"score message: expected format {FORMAT}, found: {type(error).__name__} {error}"
        ) from error
    return ScoreMessage(table, spans, generation, *numbers, source, model_id, config_digest, lost, ends_rise)


def _spans(texts: Mapping[str, str]) -> Spans:
    return Spans(Span.read(texts[PREFIX + "span"]), Span.read(texts[PREFIX + "journal"]))


def spans_of(headers: Headers) -> tuple[Partition, Spans]:
    """Return the input's partition and the spans from a score message's headers.

    Raises:
        ContractError: they are not headers of a score message.
    """
    texts = {name: content.decode("utf-8", "replace") for name, content in headers}
    try:
        source = Partition(texts[PREFIX + "input-topic"], int(texts[PREFIX + "input-partition"]))
        return source, _spans(texts)
    except (KeyError, ValueError, ContractError) as error:
        raise ContractError(f"score message: expected its spans in the headers, found: {error}") from error


def _expect_cause(spans: Spans, generation: int) -> None:
    """Check that rows can come from these spans.

    Raises:
        ContractError: both are empty, or the generation is negative.
    """
    if spans.is_empty:
        raise ContractError(
            f"score message: expected a span or a journal entry, found {spans.input} and {spans.journal}"
        )
    if generation < 0:
        raise ContractError(f"score message: expected a generation of at least 0, found {generation}")


def _split(batch: Any, max_bytes: int) -> list[bytes]:
    """Serialise rows into messages of at most `max_bytes`, halving those that are too large."""
    payload = _serialised(batch)
    if len(payload) <= max_bytes:
        return [payload]
    if batch.num_rows == 1:
        raise RecordTooLargeError(f"score message: expected at most {max_bytes} bytes, found {len(payload)} for a row")
    count = min(batch.num_rows, max(2, -(-len(payload) // max_bytes)))
    edges = np.linspace(0, batch.num_rows, count + 1).astype(int).tolist()
    pieces = [batch.slice(low, high - low) for low, high in pairwise(edges)]
    return [payload for piece in pieces for payload in _split(piece, max_bytes)]


def _serialised(batch: Any) -> bytes:
    device = batch["device"]
    used, codes = np.unique(np.asarray(device.indices), return_inverse=True)
    if len(used) < len(device.dictionary):  # a message has only its own devices
        columns = list(batch.columns)
        columns[0] = pa.DictionaryArray.from_arrays(codes.astype(np.int32), device.dictionary.take(pa.array(used)))
        batch = pa.RecordBatch.from_arrays(columns, schema=batch.schema)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())
