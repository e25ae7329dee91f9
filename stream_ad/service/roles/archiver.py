"""The archiver: score messages from the log into linked Parquet parts. The link is the commit."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from stream_ad.assembly import ensure_topics, open_transport
from stream_ad.errors import (
    ContractError,
    DeadlineError,
    FencedError,
    PartExistsError,
    PartsGoneError,
    ScoreLogError,
    StorageError,
    UnreachableError,
)
from stream_ad.io.score_log import exchange as score_exchange
from stream_ad.io.score_log import log as score_log
from stream_ad.io.score_log.parts import PartInfo
from stream_ad.io.spans import Span, Spans, spans_text
from stream_ad.io.transport import Commit, CommitOutcome, Committer, Partition, Position, RawBatch, Source, Transport
from stream_ad.io.wire import scores as score_messages
from stream_ad.io.wire.scores import ScoreMessage
from stream_ad.role_table import ARCHIVER
from stream_ad.service.logs import EventLog
from stream_ad.service.metrics import ArchiverMetrics
from stream_ad.service.role import Plain
from stream_ad.service.roles.catalog import RoleContext
from stream_ad.service.roles.shelf import HOUR_NS, Growing, Shelf, where

log = EventLog(__name__)

BUFFER_BYTES = 256_000_000
"""Beyond this nothing is polled until parts can be written again."""
RETRY_S = (1.0, 30.0)
"""First and longest wait before a failed write is tried again."""
LAG_EVERY_S = 2.0
ASIDE_KEPT_NS = HOUR_NS
"""Files that a killed archiver left half-written are deleted when they are older."""
GIVEN_UP = ".given-up"
"""A file of the score log's folder, by a person: partitions whose parts are lost, and how far they reached."""
KEEP_ALIVE_S = 2.0
"""A member that does not poll says this often that it lives."""


class _InDoubtError(Exception):
    """The group may have given our partitions away, and did not say otherwise."""


class Archiver:
    """Writes what scorers published, each message into one part and once.

    A restart goes on after the newest part of each partition, whatever the group has committed;
    the group's offset is only an alarm that parts were taken away.
    """

    name = ARCHIVER.name

    def __init__(self, context: RoleContext, open_log: Callable[[], Transport]) -> None:
        """Prepare; nothing is opened yet.

        Args:
            context: settings and heartbeat.
            open_log: opens the transport.
        """
        stream, store, service = context.settings.stream, context.settings.store, context.settings.service
        instance = f"{service.instance}-{context.index}" if context.index else service.instance
        self.metrics = ArchiverMetrics(stream.name, instance, lambda: self._buffered_bytes())
        self._beat = context.beat
        self._settings = context.settings
        self._open_log = open_log
        self._folder: Path = store.scores
        self._topic = stream.scores_topic
        self._group = ARCHIVER.consumer_group(context.settings)
        self._member = ARCHIVER.member(context.settings, context.index)
        self._max_rows, self._max_age_s = store.part_max_rows, store.part_max_age_s
        self._poll_records = context.settings.commit.poll_records
        self._stream = stream.name
        self._shelves: dict[Partition, Shelf] = {}
        self._to_commit: dict[Partition, tuple[int, str]] = {}
        self._trouble = ""
        self._retry_at = self._retry_s = 0.0
        self._lag_at = self._alive_at = 0.0
        self._doubt_s = context.settings.transport.session_timeout_s / 2
        self._awake_at = time.monotonic()
        self._in_doubt = False
        self._read_log_ns: dict[Partition, int] = {}
        self._topic_id = ""
        self._transport: Transport
        self._source: Source
        self._committer: Committer

    def open(self) -> None:
        """Join the group.

        Raises:
            TransportError: the log or the topic is not there.
        """
        score_messages.prepare()
        self._transport = self._open_log()
        try:
            score_log.clean_aside(self._folder, time.time_ns() - ASIDE_KEPT_NS)
            if score_exchange.finish(self._folder):
                log.info("compaction_finished", folder=str(self._folder))
        except StorageError as error:
            log.warning("folder_not_cleaned", message=str(error))
        self._topic_id = ensure_topics(self._settings, self._transport)[self._topic].topic_id
        self._source = self._transport.join(self._topic, self._group, self, self._member)
        self._committer = self._transport.committer(self._source, self._member)

    def turn(self, wait_s: float) -> bool:
        """Poll once, then write the parts that are due.

        Raises:
            ScoreLogError: a message cannot be decoded, or parts were taken away.
            FencedError: another archiver owns what we hold.
        """
        self._note_pause()
        if self._holding_back():
            time.sleep(min(wait_s, max(0.0, self._retry_at - time.monotonic())))
            batches: Sequence[RawBatch] = ()
        else:
            batches = self._poll(wait_s)
        for batch in batches:
            self._shelve(batch)
        self._shut_due()
        worked = self._write_full()
        self._commit()
        self._tell_lag()
        return worked or bool(batches)

    def close(self) -> None:
        """Write what is held, leave the group, let go of the log."""
        self._source.close()
        self._committer.close()
        self._transport.close()

    def ready(self) -> tuple[bool, str]:
        """Return whether parts can be written and the log answers."""
        if self._trouble:
            return False, self._trouble
        return True, f"{len(self._shelves)} partition(s)"

    def health(self) -> Mapping[str, Plain]:
        """Return partitions owned and bytes held."""
        return {"partitions": len(self._shelves), "buffered_bytes": self._buffered_bytes()}

    # -- Owner ----------------------------------------------------------------------------------

    def gained(self, position: Position | None, partition: Partition) -> int | None:
        """Go on after the newest part.

        Raises:
            ScoreLogError: the folder does not belong to this topic, or lacks parts it once had.
        """
        self._beat()
        last = score_log.last_part(self._folder, partition.number)
        earliest, _ = self._transport.bounds(partition)
        start = earliest
        if last is not None:
            start = last.span.end
            if last.topic_id != self._topic_id:
                raise ScoreLogError(
                    f"{last.path}: expected a part of topic {partition.topic} with id {self._topic_id}, found id "
                    f"{last.topic_id}: the topic was made anew; give store.scores another folder"
                )
        known = position is not None and position.topic_id == self._topic_id
        if position is not None and known and position.offset > start:
            self._expect_given_up(partition, position.offset, last)
        self._shelves[partition] = Shelf(
            partition=partition,
            max_rows=self._max_rows,
            linked=start,
            seen=None if last is None else last.spans.end,
            must_chain=start < earliest,
        )
        self.metrics.linked(partition, start)
        log.info("partition_gained", partition=partition.number, offset=start, resumed=last is not None)
        return max(start, earliest)

    def _expect_given_up(self, partition: Partition, committed: int, last: PartInfo | None) -> None:
        """Go on without parts that are gone only where a person has said so.

        Raises:
            PartsGoneError: nobody has.
        """
        line, path = f"{partition.number} {committed}", self._folder / GIVEN_UP
        if last is None and score_log.has_line(path, line):
            log.warning("begins_anew", partition=partition.number, archived_up_to=committed)
            return
        found = "none" if last is None else last.span.end
        way = (
            f"write the line `{line}` into {path}"
            if last is None
            else "move the folder aside, so that an empty one is begun"
        )
        raise PartsGoneError(
            f"{self._folder}: partition {partition.number} was archived up to offset {committed}, the newest part "
            f"there ends at {found}: files were taken away; put them back. If they are lost, {way}: the archive then "
            "begins with the earliest scores left in the topic (docs/score-log.md). If the group's offset was moved by "
            "hand, or the topic still has those scores, `stream-ad reposition` sets it to the newest part"
        )

    def leaving(self, partition: Partition) -> None:
        """Write what is held; what cannot be written, the next owner reads again.

        Raises:
            FencedError: another archiver owns the partition already.
        """
        shelf = self._shelves[partition]
        shelf.tail.clear()  # the next owner reads it again
        shelf.shut()
        self._retry_at = 0.0
        self._write_full()
        self._commit()
        log.info("partition_left", partition=partition.number, offset=shelf.linked, left_behind=len(shelf.full))
        self._drop(partition)

    def lost(self, partition: Partition) -> None:
        """Drop what is held."""
        log.warning("partition_lost", partition=partition.number)
        self._drop(partition)

    def _drop(self, partition: Partition) -> None:
        self._shelves.pop(partition, None)
        self._to_commit.pop(partition, None)
        self._read_log_ns.pop(partition, None)
        self.metrics.forget(partition)

    # -- reading --------------------------------------------------------------------------------

    def _poll(self, wait_s: float) -> Sequence[RawBatch]:
        try:
            batches = self._source.poll(self._poll_records, wait_s)
        except UnreachableError as error:
            self._trouble = f"the log does not answer: {error}"
            return ()
        if not self._retry_s:
            self._trouble = ""
        records = sum(len(batch) for batch in batches)
        self.metrics.records.inc(records)
        self.metrics.poll_records.observe(records)
        return batches

    def _shelve(self, batch: RawBatch) -> None:
        """Put a batch's messages on the shelf, an input span at a time."""
        shelf = self._shelves[batch.partition]
        for i in range(len(batch)):
            gap = shelf.add(int(batch.offset[i]), int(batch.log_ns[i]), self._decode(batch, i))
            if gap is not None:
                self.metrics.input_gaps.inc()
                expected, found = gap
                log.warning(
                    "input_gap",
                    partition=batch.partition.number,
                    expected=expected.offset,
                    found=found.offset,
                    expected_journal=expected.entries,
                    found_journal=found.entries,
                )
        if len(batch):
            self._read_log_ns[batch.partition] = int(batch.log_ns[-1])
        shelf.read_up_to(batch.next_offset)
        self._beat()

    def _decode(self, batch: RawBatch, i: int) -> ScoreMessage:
        try:
            return score_messages.decode(batch.values[i], batch.headers[i])
        except ContractError as error:
            raise ScoreLogError(
                f"{where(batch.partition, int(batch.offset[i]))}: {error}; somebody else writes to this topic, or "
                "another version of this program"
            ) from error

    # -- writing --------------------------------------------------------------------------------

    def _shut_due(self) -> None:
        now = time.monotonic()
        for shelf in self._shelves.values():
            growing = shelf.open
            if growing is not None and (now - growing.since >= self._max_age_s or growing.rows >= self._max_rows):
                shelf.shut()

    def _write_full(self) -> bool:
        """Write and link the spans that wait; return whether any was linked."""
        if time.monotonic() < self._retry_at:
            return False
        linked = False
        try:
            for partition, shelf in self._shelves.items():
                while shelf.full:
                    self._link(partition, shelf, shelf.full[0])
                    shelf.full.popleft()
                    linked = True
        except PartExistsError as error:
            self._shelves.clear()
            self._to_commit.clear()
            raise FencedError(f"{self._group}/{self._member}: another archiver has gone on: {error}") from error
        except _InDoubtError:
            return linked
        except ScoreLogError:
            raise
        except StorageError as error:
            self._storage_failed(error)
            return linked
        self._retry_at = 0.0
        if self._retry_s and linked:
            log.info("storage_recovered", folder=str(self._folder))
            self._retry_s, self._trouble = 0.0, ""
        return linked

    def _note_pause(self) -> None:
        """Take note where this process has not run for so long that the group may have given its partitions away."""
        now = time.monotonic()
        self._in_doubt = self._in_doubt or now - self._awake_at > self._doubt_s
        self._awake_at = now

    def _expect_ours(self) -> None:
        """See that a part may be linked: after a pause only once the group has taken a commit of ours.

        The link refuses a second part of one start, but not the first one: it would be the next owner that is refused.

        Raises:
            _InDoubtError: no commit landed.
            FencedError: another archiver owns what we hold.
        """
        self._note_pause()
        if self._in_doubt:
            self._to_commit.update({partition: (shelf.linked, "") for partition, shelf in self._shelves.items()})
            self._in_doubt = self._commit() is not CommitOutcome.LANDED
        if self._in_doubt:
            raise _InDoubtError

    def _link(self, partition: Partition, shelf: Shelf, span: Growing) -> None:
        self._expect_ours()
        begun = time.monotonic()
        path = score_log.write_part(
            self._folder,
            partition.number,
            Span(span.start, span.end),
            span.tables,
            span.first_log_ns,
            self._topic_id,
            Spans.between(span.begun, span.ended),
            {
                "stream": self._stream,
                "topic": partition.topic,
                "model_ids": ",".join(sorted(span.models)),
                "config_digests": ",".join(sorted(span.configs)),
            }
            | ({"lost": spans_text(span.lost)} if span.lost else {}),
            generation=span.generation,
            is_first=span.is_first,
            before_link=self._expect_ours,
        )
        shelf.linked = span.end
        self._to_commit[partition] = (span.end, "")
        self.metrics.part_files.inc()
        self.metrics.part_rows.inc(span.rows)
        with suppress(OSError):  # linked is linked, whatever the figure
            self.metrics.part_bytes.inc(path.stat().st_size)
        self.metrics.part_seconds.observe(time.monotonic() - begun)
        self.metrics.part_latency_seconds.observe(max(0.0, (time.time_ns() - span.first_log_ns) / 1e9))
        self.metrics.linked(partition, span.end)
        log.debug("part_linked", path=str(path), rows=span.rows, start=span.start, end=span.end)
        self._beat()

    def _storage_failed(self, error: StorageError) -> None:
        self.metrics.storage_failures.inc()
        if not self._retry_s:
            log.error("storage_failed", folder=str(self._folder), message=str(error))
        self._retry_s = min(RETRY_S[1], self._retry_s * 2) if self._retry_s else RETRY_S[0]
        self._retry_at = time.monotonic() + self._retry_s
        self._trouble = f"the score log cannot be written: {error}"

    def _buffered_bytes(self) -> int:
        spans = [span for shelf in list(self._shelves.values()) for span in (*shelf.full, shelf.open) if span]
        return sum(span.size_bytes for span in spans)

    def _holding_back(self) -> bool:
        """Return whether to poll nothing, and then keep our place in the group without polling."""
        if not self._retry_s or self._buffered_bytes() < BUFFER_BYTES:
            return False
        if time.monotonic() - self._alive_at >= KEEP_ALIVE_S:
            self._alive_at = time.monotonic()
            self._to_commit.update({partition: (shelf.linked, "") for partition, shelf in self._shelves.items()})
        return True

    def _commit(self) -> CommitOutcome | None:
        """Commit how far parts reach; a failure costs only the alarm's freshness.

        Returns:
            what became of it; None where there was nothing to commit or nobody answered.

        Raises:
            FencedError: another archiver has our name.
        """
        if not self._to_commit:
            return None
        try:
            outcome = self._committer.commit(Commit(positions=self._to_commit))
        except UnreachableError as error:
            self._trouble = f"the log does not answer: {error}"
            return None
        if outcome is not CommitOutcome.LANDED:
            log.warning("offsets_not_committed", outcome=outcome.value)
        self._to_commit = {}
        return outcome

    def _tell_lag(self) -> None:
        now = time.monotonic()
        if now - self._lag_at < LAG_EVERY_S:
            return
        self._lag_at = now
        try:
            ends = self._source.end_offsets()
        except (UnreachableError, DeadlineError):
            return
        for partition, end in ends.items():
            if (shelf := self._shelves.get(partition)) is not None:
                age_s = (time.time_ns() - self._read_log_ns.get(partition, time.time_ns())) / 1e9
                self.metrics.lag(partition, end - shelf.next_start, age_s)


def build(context: RoleContext) -> Archiver:
    """Build the archiver of a stream."""
    settings = context.settings
    return Archiver(context, lambda: open_transport(settings))
