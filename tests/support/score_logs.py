"""Score logs as an archiver leaves them, made without one: devices, lives, generations, journal entries, hours."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stream_ad.core.batches import Judged, Keys, ScoreBatch, VerdictBatch
from stream_ad.io.score_log import log as score_log
from stream_ad.io.score_log.parts import PREFIX, opened
from stream_ad.io.spans import Span, Spans
from stream_ad.io.transport import Partition
from stream_ad.io.wire import contributions, score_rows
from stream_ad.io.wire.scores import decode, encode

T0 = 1_767_225_600_000_000_000
"""2026-01-01, a full hour."""
HOUR_NS = 3_600_000_000_000
SECOND_NS = 1_000_000_000
DAY_NS = 24 * HOUR_NS


class Fleet:
    """One partition of a stream: scores windows and writes parts that chain.

    Attributes:
        folder: of the score log.
        partition: number.
        scores: next offset of the scores topic.
        offset: next input offset.
        journal: entries applied.
        generation: of the state.
    """

    def __init__(self, folder: Path, partition: int = 0, channels: Sequence[str] = ("flow", "temp")) -> None:
        self.folder, self.partition, self.channels = folder, partition, channels
        self.scores = self.offset = self.journal = self.generation = 0
        self._sequence: dict[str, int] = {}
        self._end: dict[str, int] = {}
        self._has_parts = False

    def evict(self, device: str, back_s: int = 0) -> None:
        """Give up a device's state; its next window ends `back_s` seconds earlier than it would have."""
        self._sequence.pop(device, None)
        self._end[device] = self._end.get(device, T0) - back_s * SECOND_NS

    def restart(self, begin_at: int = 7) -> None:
        """Start the state again; devices that are known count on from a number of their own."""
        self.generation += 1
        self.journal += 1
        self._sequence = dict.fromkeys(self._sequence, begin_at)

    def table(self, devices: Sequence[str], rows_of_journal: Sequence[str] = ()) -> pa.Table:
        """Score a window of each device, a record each, and some that a journal entry closes."""
        names = sorted({*devices, *rows_of_journal})
        rows = []
        for device in devices:
            rows.append((names.index(device), *self._next(device), self.offset))
            self.offset += 1
        rows += [(names.index(device), *self._next(device), self.offset - 1) for device in rows_of_journal]
        self.journal += bool(rows_of_journal)
        slot, sequence, end, offset = (np.array(column, np.int64) for column in zip(*rows, strict=True))
        n = len(rows)
        keys = Keys(slot.astype(np.int32), end, offset, sequence)
        shares = np.full((n, len(self.channels)), 0.25, np.float32)
        shares[::3, 0] = np.nan
        score = np.random.default_rng(self.offset).exponential(size=n)
        scores = ScoreBatch(keys, np.zeros(n, np.uint32), np.ones_like(shares), score, shares, f"m{self.generation}")
        batch = VerdictBatch(scores, score, np.full(n, 9.0), np.zeros(n, np.bool_), np.zeros(n, np.int64))
        rows = score_rows.table([Judged.of(batch, names)], self.channels, 4 * SECOND_NS, self.partition)
        source, spans = Partition("readings", self.partition), Spans(Span(0, self.offset + 1))
        (record,) = encode(rows, spans, source, "c", 10**9)
        return decode(record.value, record.headers).table

    def _next(self, device: str) -> tuple[int, int]:
        sequence = self._sequence.get(device, 0)
        self._sequence[device] = sequence + 1
        self._end[device] = self._end.get(device, T0) + SECOND_NS
        return sequence, self._end[device]

    def part(
        self,
        devices: Sequence[str],
        hour: int = 0,
        rows_of_journal: Sequence[str] = (),
        restart: bool = False,
        messages: int = 1,
    ) -> Path:
        """Write a part with a window of each device; an input record that closes none comes after them."""
        begun = (self.scores, self.offset, self.journal)
        if restart:
            self.restart()
        table = self.table(devices, rows_of_journal)
        self.scores += messages
        self.offset += bool(devices)
        path = score_log.write_part(
            self.folder,
            self.partition,
            Span(begun[0], self.scores),
            [table],
            T0 + hour * HOUR_NS + begun[0],
            "topic-1",
            Spans(Span(begun[1], self.offset), Span(begun[2], self.journal)),
            {"stream": "pumps", "topic": "scores", "model_ids": f"m{self.generation}", "config_digests": "c"},
            generation=self.generation,
            is_first=not self._has_parts,
        )
        self._has_parts = True
        return path


def varied(folder: Path, partition: int = 0, hours: int = 3, parts: int = 5) -> list[Path]:
    """Write a log with all that may happen; return its files, oldest first."""
    fleet = Fleet(folder, partition)
    devices = [f"pump-{partition}-{k}" for k in range(4)]
    paths = []
    for hour in range(hours):
        for number in range(parts):
            if number == 2:
                fleet.evict(devices[0])
            paths.append(fleet.part(devices * 3, hour, devices[:2] if number == 3 else ()))
        paths.append(fleet.part([], hour, devices[1:3]))  # a journal entry alone
        if hour == 0:
            paths.append(fleet.part(devices, hour, restart=True))
            devices.append(f"pump-{partition}-new")
    return paths


def rewrite(
    path: Path, change: Callable[[pa.Table], pa.Table] = lambda table: table, footer: Mapping[str, object] | None = None
) -> None:
    """Edit a file: its rows, its footer; the number of rows in the footer follows the rows."""
    with opened(path) as file:
        table = file.read()
    facts = dict(table.schema.metadata)
    table = change(table)
    facts[(PREFIX + "rows").encode()] = str(table.num_rows).encode()
    facts |= {(PREFIX + name).encode(): str(value).encode() for name, value in (footer or {}).items()}
    path.unlink()
    pq.write_table(table.replace_schema_metadata(facts), path, compression="zstd")


def as_format_1(path: Path) -> None:
    """Write a part again as version 0.1 did: contributions as a struct of all channels."""

    def structs(table: pa.Table) -> pa.Table:
        at = table.column_names.index(contributions.COLUMN)
        channels, parts = contributions.matrix(table[contributions.COLUMN])
        kind = pa.struct([(channel, pa.float32()) for channel in channels])
        fields = [pa.array(np.ascontiguousarray(column)) for column in parts.T]
        is_null = pa.array(np.asarray(table[contributions.COLUMN].is_null()))
        column = pa.StructArray.from_arrays(fields, fields=list(kind), mask=is_null)
        return table.set_column(at, contributions.COLUMN, column)

    rewrite(path, structs, {"format": 1})


def without(row: int) -> Callable[[pa.Table], pa.Table]:
    """Return what takes a row out of a table."""
    return lambda table: pa.concat_tables([table.slice(0, row), table.slice(row + 1)])


def with_double(row: int) -> Callable[[pa.Table], pa.Table]:
    """Return what puts a row into a table a second time."""
    return lambda table: pa.concat_tables([table.slice(0, row + 1), table.slice(row)])
