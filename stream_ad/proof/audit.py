"""Recomputes published results from input and journal, and compares: rows bit for bit, alerts one by one.

Published rows are read from the score log's files and, after the newest of them, from the scores topic. The expected
rows are recomputed by `replaying.Recomputing`, from the nearest checkpoint or start. Both are processed in input order,
so that memory holds one file's rows, not all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from threadpoolctl import threadpool_limits

from stream_ad.assembly import Models
from stream_ad.config import Settings
from stream_ad.core.batches import Judged
from stream_ad.errors import PartMovedError, PositionError, StreamAdError
from stream_ad.fronts.table import front
from stream_ad.identity import fingerprint
from stream_ad.io.score_log import log as score_log
from stream_ad.io.score_log.parts import open_file
from stream_ad.io.spans import Place, Spans
from stream_ad.io.state.journal import StartEntry
from stream_ad.io.transport import Partition, Position, Transport
from stream_ad.io.wire import contributions, score_rows
from stream_ad.io.wire import scores as score_messages
from stream_ad.proof.ledger import AlertLedger
from stream_ad.proof.neighbours import Neighbours
from stream_ad.replaying import Marker, Recomputed, Recomputing
from stream_ad.role_table import deciding_group

KEYS = ("offset", "device", "end", "sequence", "revision")
"""Columns that identify a row."""
FLOATS = ("score", "smoothed", "limit", "coverage")
DECISIONS = ("is_anomaly", "incident", "quality", "model_id", "start", "partition")
BATCH_ROWS = 20_000
_NEVER = 2**63 - 1

ReportProgress: TypeAlias = Callable[[int, int, int], None]
"""Called with the partition's number, the offset reached and the final offset."""


@dataclass(frozen=True, slots=True)
class AuditRange:
    """Rows to audit.

    Attributes:
        device: only this device; None for all.
        start_ns, end_ns: only windows that end in (start, end], event time; None for no bound.
    """

    device: str | None = None
    start_ns: int | None = None
    end_ns: int | None = None

    @property
    def is_whole(self) -> bool:
        """Return whether it covers all rows."""
        return self.device is None and self.start_ns is None and self.end_ns is None

    def take(self, table: pa.Table) -> pa.Table:
        """Return the rows within the range."""
        return table if self.is_whole else table.filter(self.expression())

    def expression(self) -> pc.Expression | None:
        """Return the filter as an Arrow expression."""
        terms = [] if self.device is None else [pc.field("device") == self.device]
        if self.start_ns is not None:
            terms.append(pc.field("end") > pa.scalar(self.start_ns // 1_000, pa.timestamp("us", "UTC")))
        if self.end_ns is not None:
            terms.append(pc.field("end") <= pa.scalar(self.end_ns // 1_000, pa.timestamp("us", "UTC")))
        found: pc.Expression | None = None
        for term in terms:
            found = term if found is None else found & term
        return found


@dataclass(frozen=True, slots=True)
class _Committed:
    """The position up to which rows are compared; scorers may keep running.

    Attributes:
        offset: of the input.
        covered: start of later messages' spans.
    """

    offset: int
    covered: Place


@dataclass(slots=True)
class Outcome:
    """Result of comparing a partition.

    Attributes:
        partition: number.
        first, last: input offsets of the rows compared; -1 without any.
        begun: input offset at which recomputation started.
        rows: number of rows compared.
        missing: expected but not published.
        surplus: published but not expected.
        different: rows whose values differ.
        worst: largest absolute difference of two scores.
        alerts: number of alerts compared.
        alerts_missing, alerts_surplus, alerts_different: expected but not published, published but not expected, with
            other contents.
        examples: the first of each, one line for people.
        notes: what the comparison does not cover, one line each.
        lost: number of input offsets deleted before they were scored.
        lost_input: these ranges, ends exclusive.
        failed: why nothing could be compared, "" if it could.
    """

    partition: int
    first: int = -1
    last: int = -1
    begun: int = -1
    rows: int = 0
    missing: int = 0
    surplus: int = 0
    different: int = 0
    worst: float = 0.0
    alerts: int = 0
    alerts_missing: int = 0
    alerts_surplus: int = 0
    alerts_different: int = 0
    examples: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    lost: int = 0
    lost_input: list[tuple[int, int]] = field(default_factory=list)
    failed: str = ""

    @property
    def agrees(self) -> bool:
        """Return whether everything compared is equal."""
        rows, alerts = self.missing + self.surplus + self.different, self.alerts_missing + self.alerts_surplus
        return not rows + alerts + self.alerts_different and not self.failed

    def add_example(self, what: str) -> None:
        """Keep an example, up to a limit."""
        if len(self.examples) < 10:
            self.examples.append(what)


class Audit:
    """Compares partitions of a stream.

    Args:
        settings: the stream's settings.
        transport: the log.
        bundles: new folders of bundles that were moved, by digest.
        on_progress: called with progress.

    Raises:
        BundleError: the configured bundle cannot be used.
    """

    def __init__(
        self,
        settings: Settings,
        transport: Transport,
        bundles: Mapping[str, str] | None = None,
        on_progress: ReportProgress = lambda *_: None,
    ) -> None:
        self._settings = settings
        self._transport = transport
        self._bundles = dict(bundles or {})
        self._models = Models(settings)
        self._report_progress = on_progress

    def partitions(self) -> range:
        """Return the numbers of the stream's partitions."""
        return range(self._transport.topic(self._settings.stream.readings_topic).partitions)

    def compare(self, number: int, audited: AuditRange, alerts: AlertLedger | None = None) -> Outcome | None:
        """Compare a partition; None if nothing was published, or correctly nothing in the range.

        Args:
            number: of the partition.
            audited: the rows to compare.
            alerts: public alerts to compare as well, up to their positions; the range must then cover all rows.
        """
        with threadpool_limits(1):  # as in a scorer: several threads may add in another order
            return self._compare(number, audited, alerts)

    def _compare(self, number: int, audited: AuditRange, alerts: AlertLedger | None) -> Outcome | None:
        partition = Partition(self._settings.stream.readings_topic, number)
        position = (
            self._transport.committed(deciding_group(self._settings), partition)
            if alerts is None
            else alerts.positions[number]
        )
        if position is None:
            return None
        for _ in range(score_log.TRIES - 1):
            try:
                return self._compared(partition, position, audited, alerts)
            except PartMovedError:  # merged after it was listed
                continue
        try:
            return self._compared(partition, position, audited, alerts)
        except PartMovedError as error:
            return Outcome(number, failed=str(error))

    def _compared(
        self, partition: Partition, position: Position, audited: AuditRange, alerts: AlertLedger | None
    ) -> Outcome | None:
        number = partition.number
        outcome = Outcome(number)
        try:
            marker = Marker.from_text(position.metadata)
            again = Recomputing(self._settings, self._models, self._transport, partition, marker.entries, self._bundles)
            _note_lost(again, outcome)
            committed = _Committed(position.offset, marker.covered)
            bounds = self._bounds(again, audited, committed, outcome)
            if bounds is None:
                return None
            self._follow(again, committed, audited, bounds, outcome, alerts)
            if outcome.first < 0 and not audited.is_whole:
                return None
            if alerts is not None:
                balance = alerts.balance(partition, outcome.begun)
                outcome.alerts, outcome.alerts_missing = balance.compared, balance.missing
                outcome.alerts_surplus, outcome.alerts_different = balance.surplus, balance.different
                for example in balance.examples:
                    outcome.add_example(example)
        except PartMovedError:
            raise
        except StreamAdError as error:
            outcome.failed = str(error)
        return outcome

    # -- which part of the input ------------------------------------------------------------------

    def _bounds(
        self, again: Recomputing, audited: AuditRange, committed: _Committed, outcome: Outcome
    ) -> tuple[int, int] | None:
        """Return the input offsets of the range's rows, end exclusive; None for an unknown device.

        Raises:
            PositionError: they cannot be recomputed.
        """
        if audited.is_whole:
            return self._earliest(again, committed.offset), committed.offset
        start_us, end_us = (None if ns is None else ns // 1_000 for ns in (audited.start_ns, audited.end_ns))
        margin_ns = front(self._settings).rules(self._settings, self._models.configured).margin_ns
        found, is_known = Neighbours(start_us, end_us, margin_ns // 1_000), audited.device is None
        columns = ["offset", "end"] + ["device"] * (audited.device is not None)
        for table, _ in self._published(outcome.partition, (0, committed.offset), committed, AuditRange(), columns):
            end = table["end"].cast(pa.timestamp("us", "UTC")).cast(pa.int64())
            is_known = is_known or bool(pc.any(pc.equal(table["device"], audited.device)).as_py())
            found.add(np.asarray(table["offset"]), np.asarray(end), np.asarray(audited.take(table)["offset"]))
        low, high = found.bounds(min((entry.offset for entry in again.entries), default=0), committed.offset)
        return (self._begin(again, (low, high), found.own, outcome), high) if is_known else None

    def _begin(self, again: Recomputing, bounds: tuple[int, int], own: int | None, outcome: Outcome) -> int:
        """Return where to start: at the range's neighbours, or after them if these cannot be recomputed.

        Raises:
            PositionError: nothing can be recomputed.
        """
        low, high = bounds
        try:
            again.first_offset(low)
        except PositionError:
            begin = self._earliest(again, high)
            begin = begin if own is None else min(begin, own)
            if begin >= high:
                raise
            outcome.notes.append(
                f"nothing before offset {begin} can be recomputed: a row of the range may be missing there"
            )
            return begin
        return low

    def _earliest(self, again: Recomputing, committed: int) -> int:
        """Return the lowest input offset from which results can be recomputed.

        Raises:
            PositionError: there is none.
        """
        starts = [entry.offset for entry in again.entries if isinstance(entry, StartEntry)]
        for offset in (*starts, *again.checkpoint_offsets(), committed):
            try:
                return again.first_offset(offset)
            except PositionError as error:
                last = error
        raise last

    # -- what was published -----------------------------------------------------------------------

    def _published(
        self,
        number: int,
        bounds: tuple[int, int],
        committed: _Committed,
        audited: AuditRange,
        columns: list[str] | None = None,
    ) -> Iterator[tuple[pa.Table, int]]:
        """Yield the rows between two input offsets, and the offset below which all have been yielded.

        Rows committed after the position are left out. Rows caused by a journal entry have the offset of the record
        before, so an end is one less.
        """
        scores, (first, stop) = Partition(self._settings.stream.scores_topic, number), bounds

        def is_of_it(spans: Spans) -> bool:
            return spans.input.end >= first and spans.input.start <= stop and spans.begin < committed.covered

        behind = 0
        for part in score_log.parts(self._settings.store.scores, number):
            behind = part.span.end
            if not is_of_it(part.spans):
                continue
            with open_file(part.path) as file:
                table = pq.read_table(file, columns=columns, filters=audited.expression())
            yield contributions.as_map(table.replace_schema_metadata()), part.spans.input.end - 1
        earliest, end = self._transport.bounds(scores)
        for raw in self._transport.read(scores, max(behind, earliest), end) if max(behind, earliest) < end else ():
            for at, value in enumerate(raw.values):
                message = score_messages.decode(value, raw.headers[at])
                if is_of_it(message.spans):
                    table = audited.take(score_rows.as_archived(message.table))
                    is_last = message.part + 1 == message.parts
                    yield (
                        table if columns is None else table.select(columns),
                        message.spans.input.end - 1 if is_last else message.spans.input.start - 1,
                    )

    # -- what was expected ------------------------------------------------------------------------

    def _computed(
        self,
        again: Recomputing,
        bounds: tuple[int, int],
        audited: AuditRange,
        outcome: Outcome,
        alerts: AlertLedger | None,
    ) -> Iterator[tuple[pa.Table, int]]:
        """Yield the recomputed rows, and the offset below which all have been yielded."""
        waiting: list[Judged] = []
        rows, end = 0, bounds[0]
        last: Recomputed | None = None
        for found in again.run(bounds[0], bounds[1]):
            if alerts is not None:
                entry = found.stepped.entry
                if isinstance(entry, StartEntry) and entry.kind == "restart":
                    alerts.expect_endings(again.partition, entry.offset, found.config_digest)
                alerts.expect(again.partition, found.stepped.result.alerts, found.config_digest)
            if last is not None and (_identity(last) != _identity(found) or rows >= BATCH_ROWS):
                yield audited.take(self._table(waiting, last, again.partition)), end - 1
                waiting, rows = [], 0
            last, end = found, found.stepped.offset
            self._report_progress(again.partition.number, end, bounds[1])
            waiting += found.stepped.result.judged
            rows += found.stepped.result.rows
        if last is not None:
            self._note(last, outcome)
            yield audited.take(self._table(waiting, last, again.partition)), bounds[1]

    def _table(self, waiting: Sequence[Judged], found: Recomputed, source: Partition) -> pa.Table:
        """Return results as the rows that were due to be published."""
        names = [channel.name for channel in found.model.channels]
        row_ns = front(self._settings).rules(self._settings, found.model).row_ns
        rows = score_rows.table(waiting, names, row_ns, source.number)
        return score_rows.as_archived(rows)

    def _note(self, found: Recomputed, outcome: Outcome) -> None:
        here = fingerprint(self._settings, found.stepped.lineage.model_id)
        machine = [part for part in here.split() if part.partition("=")[0] in ("processor", "python", "numpy")]
        if not all(part in found.fingerprint.split() for part in machine):
            outcome.notes.append(
                f"published by {found.fingerprint}, recomputed by {here}: last bits of scores may differ"
            )

    # -- side by side -----------------------------------------------------------------------------

    def _follow(
        self,
        again: Recomputing,
        committed: _Committed,
        audited: AuditRange,
        bounds: tuple[int, int],
        outcome: Outcome,
        alerts: AlertLedger | None,
    ) -> None:
        """Step through both, comparing what is complete on both sides."""
        number = again.partition.number
        outcome.begun = again.first_offset(bounds[0])
        first = outcome.begun if audited.is_whole else bounds[0]
        if alerts is not None:
            alerts.begin(number, outcome.begun)
        published = _Side(self._published(number, (first, bounds[1]), committed, audited), first, bounds[1])
        computed = _Side(self._computed(again, bounds, audited, outcome, alerts), first, bounds[1])
        while published.is_open or computed.is_open:
            behind = published if published.complete <= computed.complete else computed
            (behind if behind.is_open else published if behind is computed else computed).advance()
            complete = min(published.complete, computed.complete)
            compare_rows(published.cut(complete), computed.cut(complete), outcome)


class _Side:
    """One side of the comparison: buffered rows, and the offset below which they are complete."""

    def __init__(self, source: Iterator[tuple[pa.Table, int]], first: int, stop: int) -> None:
        self._source = source
        self._first, self._stop = first, stop
        self._tables: list[pa.Table] = []
        self.complete = first
        self.is_open = True

    def advance(self) -> None:
        """Read the next rows; at the end all are complete."""
        found = next(self._source, None)
        if found is None:
            self.complete, self.is_open = _NEVER, False
            return
        table, complete = found
        self.complete = max(self.complete, complete)
        offset = np.asarray(table["offset"])
        keep = (offset >= self._first) & (offset < self._stop)
        self._tables.append(table if keep.all() else table.filter(pa.array(keep)))

    def cut(self, below: int) -> pa.Table | None:
        """Remove and return the rows below an offset; None without any."""
        tables = [table for table in self._tables if table.num_rows]
        if not tables:
            return None
        whole = pa.concat_tables(tables, promote_options="permissive")
        ready = np.asarray(whole["offset"]) < below
        self._tables = [whole.filter(pa.array(~ready))]
        return whole.filter(pa.array(ready)) if ready.any() else None


def _note_lost(again: Recomputing, outcome: Outcome) -> None:
    for entry in again.entries:
        if isinstance(entry, StartEntry) and entry.lost is not None:
            first, stop = entry.lost
            outcome.lost += stop - first
            outcome.lost_input.append((first, stop))
            outcome.notes.append(f"input {first}..{stop - 1} was deleted before it was scored: it has no rows")


def compare_rows(published: pa.Table | None, computed: pa.Table | None, outcome: Outcome) -> None:
    """Compare two sets of rows of the same range, and count."""
    sides = [
        None if table is None else table.sort_by([(key, "ascending") for key in KEYS])
        for table in (published, computed)
    ]
    present = [side for side in sides if side is not None]
    if not present:
        return
    offsets = np.concatenate([np.asarray(side["offset"]) for side in present])
    outcome.first = int(offsets.min()) if outcome.first < 0 else min(outcome.first, int(offsets.min()))
    outcome.last = max(outcome.last, int(offsets.max()))
    published, computed = sides
    if published is not None and computed is not None and published.select(KEYS).equals(computed.select(KEYS)):
        outcome.rows += published.num_rows
        _compare_values(published, computed, outcome)
        return
    _compare_one_by_one(published, computed, outcome)


def _compare_values(published: pa.Table, computed: pa.Table, outcome: Outcome) -> None:
    """Compare rows with the same keys in the same order, bit for bit."""
    differs = np.zeros(published.num_rows, np.bool_)
    for name in DECISIONS:
        one, other = published[name], computed[name]
        if not one.equals(other):
            differs |= ~np.asarray(pc.fill_null(pc.equal(one, other), False)) & ~_both_null(one, other)
    for name in FLOATS:
        differs |= _bits_differ(published[name], computed[name])
    differs |= _contributions_differ(published["contribution"], computed["contribution"])
    gap = np.abs(_floats(published["score"]) - _floats(computed["score"]))
    outcome.worst = max(outcome.worst, float(np.nanmax(gap, initial=0.0)))
    outcome.different += int(differs.sum())
    for row in np.flatnonzero(differs)[:3].tolist():
        pair = [{name: side[name][row].as_py() for name in (*FLOATS, *DECISIONS)} for side in (published, computed)]
        wrong = [
            f"{name} {pair[0][name]!r}, computed {pair[1][name]!r}"
            for name in pair[0]
            if pair[0][name] != pair[1][name]
        ]
        outcome.add_example(f"{_row_name(published, row)}: published {'; '.join(wrong) or 'other contributions'}")


def _compare_one_by_one(published: pa.Table | None, computed: pa.Table | None, outcome: Outcome) -> None:
    """Match rows by their keys, if these differ between the sides."""
    places: list[dict[tuple[Any, ...], int]] = [{}, {}]
    for side, place, count in ((published, places[0], "surplus"), (computed, places[1], "missing")):
        if side is None:
            continue
        for row, key in enumerate(zip(*(side[name].to_pylist() for name in KEYS), strict=True)):
            if key in place:
                setattr(outcome, count, getattr(outcome, count) + 1)
                outcome.add_example(f"{_row_name(side, row)}: {'published' if side is published else 'computed'} twice")
            place[key] = row
    for side, (mine, others), count, problem in (
        (computed, (places[1], places[0]), "missing", "not published"),
        (published, places, "surplus", "published but not reproduced"),
    ):
        only = [row for key, row in mine.items() if key not in others]
        setattr(outcome, count, getattr(outcome, count) + len(only))
        for row in only[:3]:
            outcome.add_example(f"{_row_name(side, row)}: {problem}")
    both = [(places[0][key], places[1][key]) for key in places[0] if key in places[1]]
    if both and published is not None and computed is not None:
        outcome.rows += len(both)
        _compare_values(published.take([a for a, _ in both]), computed.take([b for _, b in both]), outcome)


def _row_name(table: Any, row: int) -> str:
    end = table["end"][row].as_py()
    return f"{table['device'][row]} window until {end.isoformat()} (offset {table['offset'][row]})"


def _floats(column: pa.ChunkedArray) -> Any:
    return column.to_numpy(zero_copy_only=False).astype(np.float64)


def _bits_differ(one: pa.ChunkedArray, other: pa.ChunkedArray) -> Any:
    """Return bool[n], where two float columns differ in any bit; null equals null, and NaN equals NaN."""
    a, b = _floats(one), _floats(other)
    nulls = np.asarray(pc.is_null(one)) != np.asarray(pc.is_null(other))
    same = (a.view(np.int64) == b.view(np.int64)) | (np.isnan(a) & np.isnan(b))
    return nulls | ~same


def _contributions_differ(one: pa.ChunkedArray, other: pa.ChunkedArray) -> Any:
    """Return bool[n], where two map columns differ in a channel or a bit."""
    differs = np.asarray(pc.is_null(one)) != np.asarray(pc.is_null(other))
    (names_one, values_one), (names_other, values_other) = contributions.matrix(one), contributions.matrix(other)
    for channel in sorted({*names_one, *names_other}):
        a, b = (
            values[:, names.index(channel)] if channel in names else np.full(len(differs), np.nan, np.float32)
            for names, values in ((names_one, values_one), (names_other, values_other))
        )
        differs |= (a.view(np.int32) != b.view(np.int32)) & ~(np.isnan(a) & np.isnan(b))
    return differs


def _both_null(one: pa.ChunkedArray, other: pa.ChunkedArray) -> Any:
    return np.asarray(pc.is_null(one)) & np.asarray(pc.is_null(other))


def _identity(found: Recomputed) -> tuple[str, str, int]:
    lineage = found.stepped.lineage
    return found.model.model_id, found.config_digest, lineage.generation
