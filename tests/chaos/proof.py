"""What came out against an undisturbed recomputation, bit by bit, without a Python object a row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from stream_ad.assembly import Models, load_model
from stream_ad.identity import group
from stream_ad.io.score_log import log as score_log
from stream_ad.io.score_log.parts import follows
from stream_ad.io.spans import Place, Spans
from stream_ad.io.transport import Partition
from stream_ad.io.wire import alerts as alert_messages
from stream_ad.io.wire import contributions, dead_letters, score_rows
from stream_ad.io.wire import scores as score_messages
from stream_ad.replaying import Marker, Recomputing
from tests.support.e2e import Stream, digest_of

Matrix = npt.NDArray[np.uint64]
ORDER = ("device", "sequence", "end", "revision", "offset")
"""Columns that rows are brought into one order by; all others follow for rows that agree in these."""


class Codes:
    """Texts as numbers, the same in every table."""

    def __init__(self) -> None:
        self._numbers: dict[str | None, int] = {}

    def of(self, column: Any) -> Matrix:
        """Return the number of each text."""
        encoded = column.combine_chunks().dictionary_encode() if not pa.types.is_dictionary(column.type) else column
        encoded = encoded.unify_dictionaries().combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded
        numbers = [self._numbers.setdefault(text, len(self._numbers)) for text in encoded.dictionary.to_pylist()]
        codes = encoded.indices.fill_null(0).to_numpy(zero_copy_only=False)
        found: Matrix = np.array(numbers or [0], np.uint64)[codes]
        return found


def matrix(table: pa.Table, codes: Codes) -> Matrix:
    """Return rows as uint64[n, k], each value by its bits, in an order of their own.

    Two tables give equal matrices where they hold the same rows, each as often, whatever their order. A null differs
    from every value.
    """
    columns: dict[str, Matrix] = {}
    table = contributions.as_map(table)
    for name in sorted(table.column_names):
        for label, column in _flat(name, table[name].combine_chunks() if table.num_rows else table[name]):
            columns[label] = _bits(column, codes)
            columns[f"{label} is null"] = np.asarray(column.is_null(), np.uint64)
    whole = np.stack(list(columns.values()), axis=1) if table.num_rows else np.zeros((0, 0), np.uint64)
    keys = [columns[name] for name in columns if name not in ORDER][::-1] + [columns[name] for name in ORDER[::-1]]
    return np.ascontiguousarray(whole[np.lexsort(keys)]) if table.num_rows else whole


def _flat(name: str, column: Any) -> Iterator[tuple[str, Any]]:
    if not pa.types.is_map(column.type):
        yield name, column
        return
    yield f"{name} ", column.is_null().cast(pa.int8())
    channels, parts = contributions.matrix(pa.chunked_array([column]))
    for number, channel in enumerate(channels):
        yield f"{name}.{channel}", pa.array(parts[:, number], from_pandas=True)


def _bits(column: Any, codes: Codes) -> Matrix:
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_dictionary(kind):
        return codes.of(pa.chunked_array([column]))
    if pa.types.is_timestamp(kind):
        column = column.cast(pa.int64())
    if pa.types.is_boolean(kind):
        column = column.cast(pa.int8())
    if pa.types.is_floating(kind):
        width = np.dtype(kind.to_pandas_dtype())
        values = np.array(column.fill_null(0.0).to_numpy(zero_copy_only=False), width)
        return values.view(np.dtype(f"u{width.itemsize}")).astype(np.uint64)
    return np.asarray(column.fill_null(0).to_numpy(zero_copy_only=False)).astype(np.int64).view(np.uint64)


@dataclass(slots=True)
class Compared:
    """What was compared.

    Attributes:
        rows, alerts, letters: expected, in all.
        missing, repeated: rows, alerts and letters that lack, or are there too often or unexpectedly, topic and files
            counted apart.
        wrong: a line for each difference.
    """

    rows: int = 0
    alerts: int = 0
    letters: int = 0
    missing: int = 0
    repeated: int = 0
    wrong: list[str] = field(default_factory=list)

    def rows_differ(self, what: str, found: Matrix, expected: Matrix) -> None:
        """Compare rows; both in the order of `matrix`."""
        if found.shape == expected.shape and np.array_equal(found, expected):
            return
        counts = Counter(row.tobytes() for row in expected)
        counts.subtract(Counter(row.tobytes() for row in found))
        self._note(what, len(found), len(expected), counts)

    def values_differ(self, what: str, found: Sequence[Any], expected: Sequence[Any]) -> None:
        """Compare values without an order."""
        counts = Counter(expected)
        counts.subtract(Counter(found))
        if any(counts.values()):
            self._note(what, len(found), len(expected), counts)

    def _note(self, what: str, found: int, expected: int, counts: Counter[Any]) -> None:
        missing = sum(count for count in counts.values() if count > 0)
        surplus = -sum(count for count in counts.values() if count < 0)
        self.missing += missing
        self.repeated += surplus
        examples = [repr(value)[:120] for value, count in counts.items() if count and not isinstance(value, bytes)][:2]
        self.wrong.append(
            f"{what}: {found} found, {expected} expected, {missing} missing, {surplus} repeated or strange {examples}"
        )


@dataclass(slots=True)
class Expected:
    """What a partition's input must give."""

    table: pa.Table
    alerts: list[bytes]
    letters: list[tuple[Any, ...]]


def prove(stream: Stream, say: Callable[..., None]) -> Compared:
    """Compare the topics and the score log with a recomputation of the input from its first record.

    Rows are compared a partition at a time, so that memory holds one partition's.
    """
    compared, codes = Compared(), Codes()
    alerts: list[bytes] = []
    letters: list[tuple[Any, ...]] = []
    for partition in sorted(stream.ends()):
        number = partition.number
        expected = recomputed(stream, partition)
        rows = matrix(expected.table, codes)
        compared.rows += len(rows)
        alerts += expected.alerts
        letters += expected.letters
        published = matrix(_published(stream, number, compared), codes)
        compared.rows_differ(f"score rows of the topic, partition {number}", published, rows)
        archived = matrix(_archived(stream, number, compared), codes)
        compared.rows_differ(f"score rows of the files, partition {number}", archived, rows)
        say("compared", partition=number, rows=len(rows), alerts=len(expected.alerts), letters=len(expected.letters))
    names = stream.settings.stream
    compared.alerts, compared.letters = len(alerts), len(letters)
    compared.values_differ("alerts", [value for _, _, value, _ in stream.read(names.alerts_topic)], alerts)
    found = [_letter(value, headers) for _, _, value, headers in stream.read(names.dead_letters_topic)]
    compared.values_differ("dead letters", found, letters)
    return compared


def recomputed(stream: Stream, partition: Partition) -> Expected:
    """Return what an undisturbed run gives: input and journal read once, from the first record, in this process."""
    settings = stream.settings
    expected = Expected(_empty(stream), [], [])
    tables: list[pa.Table] = [expected.table]
    start, _ = stream.log.bounds(partition)
    if start:
        raise RuntimeError(f"{partition}: records below {start} are no longer retained, so nothing can be proven")
    position = stream.log.committed(group(settings, "scorer"), partition)
    if position is None:
        return expected
    entries = Marker.from_text(position.metadata).entries
    again = Recomputing(settings, Models(settings), stream.log, partition, entries)
    for found in again.run(0, position.offset, use_checkpoints=False):
        stepped, digest = found.stepped, found.config_digest
        expected.alerts += [alert_messages.encode(one, partition, digest).value for one in stepped.result.alerts]
        for one in stepped.refused:
            if found.raw is None:
                raise RuntimeError(f"{partition}: an entry of the journal refused {one}")
            value = found.raw.values[int(np.searchsorted(found.raw.offset, one.offset))]
            facts = one.reason.value, one.detail, one.rows, digest_of(value)
            expected.letters.append((partition.number, one.offset, *facts))
        if stepped.result.rows:
            names, length_ns = [channel.name for channel in found.model.channels], found.model.window.length_ns
            tables.append(score_rows.table(stepped.result.judged, names, length_ns, partition.number))
    expected.table = pa.concat_tables(tables)
    return expected


def _published(stream: Stream, number: int, compared: Compared) -> pa.Table:
    """Return the rows of a partition of the scores topic, after a look whether its spans chain."""
    partition = Partition(stream.settings.stream.scores_topic, number)
    tables: list[pa.Table] = []
    begun: tuple[tuple[Spans, int], int] | None = None
    ended = Place(0, 0), 0
    for raw in stream.log.read(partition, *stream.log.bounds(partition)):
        for k in range(len(raw)):
            message = score_messages.decode(raw.values[k], raw.headers[k])
            tables.append(message.table)
            spans = message.spans, message.generation
            if begun is not None:
                joins = (spans, message.part) == begun
            else:
                joins = message.part == 0 and message.spans.begin == ended[0] and message.generation >= ended[1]
            if not joins:
                compared.wrong.append(
                    f"{partition} offset {raw.offset[k]}: {spans} does not follow on {begun or ended}"
                )
            begun = (spans, message.part + 1) if message.part + 1 < message.parts else None
            ended = (message.spans.end, message.generation) if begun is None else ended
    if begun is not None:
        compared.wrong.append(f"{partition}: ends inside {begun[0]}")
    return pa.concat_tables(tables) if tables else _empty(stream)


def _archived(stream: Stream, number: int, compared: Compared) -> pa.Table:
    """Return the rows of a partition of the score log, after a look whether its parts chain."""
    parts = score_log.parts(stream.settings.store.scores, number)
    for before, part in pairwise(parts):
        if not follows(part, before) or part.generation < before.generation:
            compared.wrong.append(f"{part.path.name} does not follow on {before.path.name}")
    if not parts:
        return _empty(stream)
    tables = []
    for part in parts:
        with part.path.open("rb") as file:  # by its name pyarrow would add the folders as columns
            tables.append(pq.read_table(file).replace_schema_metadata())
    return pa.concat_tables(tables)


def _empty(stream: Stream) -> pa.Table:
    return score_rows.schema([channel.name for channel in load_model(stream.settings).channels]).empty_table()


def _letter(value: bytes, headers: Any) -> tuple[Any, ...]:
    letter = dead_letters.decode(value, headers)
    refused = letter.refused
    return letter.source.number, refused.offset, refused.reason.value, refused.detail, refused.rows, letter.digest
