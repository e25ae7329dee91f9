"""Rows <-> messages of the scores topic: Arrow IPC, split by bytes, each naming the spans it comes from.

The spans chain (`io.spans`), so a reader sees a hole. One that closed no window needs no message; the next one then
starts where the last published ended.
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


@dataclass(frozen=True, slots=True)
class ScoreMessage:
    """A decoded score message.

    Attributes:
        table: one row per window; see `score_rows.schema`.
        spans: input offsets whose windows the parts of these spans hold together, none where a journal entry
            alone closed them; and the journal entries that took effect in between.
        generation: how often the partition's state had been started again by then. A device's `sequence`
            counts on within a generation, or from 0; across generations it may begin anywhere.
        part: this message's number among those of its spans, from 0.
        parts: how many messages carry them.
        input: the partition of the readings.
        model_id: digest of the bundle.
        config_digest: digest of the settings.
        lost: parts of the input span that were deleted before they were scored: they have no rows.
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


def prepare() -> None:
    """Convert an array once: at the first one pyarrow imports pandas, where that is installed, which takes seconds.

    A role does so before it joins its group: a member that is silent for as long loses its partitions.
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
) -> list[Record]:
    """Return the messages of a commit; none where no window closed.

    Args:
        rows: what `score_rows.table` returned, all of `source`.
        spans: the input read and the journal entries applied since the last published spans.
        source: the partition of the readings; the messages go to the same number.
        config_digest: digest of the settings.
        max_bytes: largest payload; more rows make more messages.
        generation: how many of all entries applied so far started the state again.
        lost: parts of the input that were deleted before they were scored.

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
    """Read a score message.

    Raises:
        ContractError: a header is missing, the format unknown, or the payload no table of scores.
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
    return ScoreMessage(table, spans, generation, *numbers, source, model_id, config_digest, lost)


def _spans(texts: Mapping[str, str]) -> Spans:
    return Spans(Span.read(texts[PREFIX + "span"]), Span.read(texts[PREFIX + "journal"]))


def spans_of(headers: Headers) -> tuple[Partition, Spans]:
    """Return the input's partition and the spans that a score message's headers name.

    Raises:
        ContractError: they are none of a score message.
    """
    texts = {name: content.decode("utf-8", "replace") for name, content in headers}
    try:
        source = Partition(texts[PREFIX + "input-topic"], int(texts[PREFIX + "input-partition"]))
        return source, _spans(texts)
    except (KeyError, ValueError, ContractError) as error:
        raise ContractError(f"score message: expected the spans that it tells of, found: {error}") from error


def _expect_cause(spans: Spans, generation: int) -> None:
    """Check that rows can come from these spans.

    Raises:
        ContractError: they name neither a record nor a journal entry, or a generation below 0.
    """
    if spans.is_empty:
        raise ContractError(
            f"score message: expected a span or a journal entry, found {spans.input} and {spans.journal}"
        )
    if generation < 0:
        raise ContractError(f"score message: expected a generation of at least 0, found {generation}")


def _split(batch: Any, max_bytes: int) -> list[bytes]:
    """Serialise rows in messages of at most `max_bytes`, halving what is too large."""
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
    if len(used) < len(device.dictionary):  # a part names only its own devices
        columns = list(batch.columns)
        columns[0] = pa.DictionaryArray.from_arrays(codes.astype(np.int32), device.dictionary.take(pa.array(used)))
        batch = pa.RecordBatch.from_arrays(columns, schema=batch.schema)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())
