"""The archiver: writes score messages from the log into linked Parquet parts. The link is the commit."""

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
from stream_ad.io.steps import reached
from stream_ad.io.transport import Commit, CommitOutcome, Committer, Partition, Position, RawBatch, Source, Transport
from stream_ad.io.wire import scores as score_messages
from stream_ad.io.wire.scores import ScoreMessage
from stream_ad.role_table import ARCHIVER
from stream_ad.service.logs import EventLog
from stream_ad.service.metrics import ArchiverMetrics
from stream_ad.service.role import Plain
from stream_ad.service.roles.catalog import RoleContext
from stream_ad.service.roles.part_buffer import HOUR_NS, OpenPart, PartBuffer, where

log = EventLog(__name__)

BUFFER_BYTES = 256_000_000
"""Buffer size above which nothing is polled until parts can be written again."""
RETRY_S = (1.0, 30.0)
"""First and longest wait before a failed write is retried."""
LAG_EVERY_S = 2.0
ASIDE_KEPT_NS = HOUR_NS
"""Age after which files left half-written by a killed archiver are deleted."""
GIVEN_UP = ".given-up"
"""File in the score log's folder, written by an operator: partitions whose parts are lost, and how far they reached."""
KEEP_ALIVE_S = 2.0
"""Heartbeat interval of a member that does not poll."""


class _InDoubtError(Exception):
    """The group may have revoked our partitions without our noticing."""


class Archiver:
    """Writes each published score message into exactly one part.

    A restart resumes after the newest part of each partition, whatever the group has committed; the group's offset
    only reveals that parts were removed.
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
        self._buffers: dict[Partition, PartBuffer] = {}
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
            TransportError: the log or the topic is unavailable.
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
            ScoreLogError: a message cannot be decoded, or parts were removed.
            FencedError: another archiver owns our partitions.
        """
        self._note_pause()
        if self._holding_back():
            time.sleep(min(wait_s, max(0.0, self._retry_at - time.monotonic())))
            batches: Sequence[RawBatch] = ()
        else:
            batches = self._poll(wait_s)
        for batch in batches:
            self._buffer(batch)
        self._seal_due()
        worked = self._write_full()
        self._commit()
        self._update_lag()
        return worked or bool(batches)

    def close(self) -> None:
        """Write buffered messages, leave the group, close the log."""
        self._source.close()
        self._committer.close()
        self._transport.close()

    def ready(self) -> tuple[bool, str]:
        """Return whether parts can be written and the log answers."""
        if self._trouble:
            return False, self._trouble
        return True, f"{len(self._buffers)} partition(s)"

    def health(self) -> Mapping[str, Plain]:
        """Return the number of partitions and of buffered bytes."""
        return {"partitions": len(self._buffers), "buffered_bytes": self._buffered_bytes()}

    # -- Owner ----------------------------------------------------------------------------------

    def gained(self, position: Position | None, partition: Partition) -> int | None:
        """Resume after the newest part.

        Raises:
            ScoreLogError: the folder belongs to another topic, or parts were removed.
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
                    f"{last.topic_id}: the topic was recreated; set store.scores to another folder"
                )
        known = position is not None and position.topic_id == self._topic_id
        if position is not None and known and position.offset > start:
            self._expect_given_up(partition, position.offset, last)
        self._buffers[partition] = PartBuffer(
            partition=partition,
            max_rows=self._max_rows,
            linked=start,
            seen=None if last is None else last.spans.end,
            must_chain=start < earliest,
        )
        self.metrics.linked(partition, start)
        log.info("partition_gained", partition=partition.number, offset=start, resumed=last is not None)
        reached("gained")
        return max(start, earliest)

    def _expect_given_up(self, partition: Partition, committed: int, last: PartInfo | None) -> None:
        """Continue without missing parts only if an operator has approved it.

        Raises:
            PartsGoneError: not approved.
        """
        line, path = f"{partition.number} {committed}", self._folder / GIVEN_UP
        if last is None and score_log.has_line(path, line):
            log.warning("begins_anew", partition=partition.number, archived_up_to=committed)
            return
        found = "none" if last is None else last.span.end
        way = (
            f"write the line `{line}` into {path}"
            if last is None
            else "move the folder aside, so that a new one is started"
        )
        raise PartsGoneError(
            f"{self._folder}: partition {partition.number} was archived up to offset {committed}, but the newest part "
            f"there ends at {found}: files were removed. Restore them. If they are lost, {way}: the archive then "
            "starts at the earliest scores left in the topic (docs/score-log.md). If the group's offset was changed by "
            "hand, or the topic still has those scores, `stream-ad reposition` sets it to the newest part"
        )

    def leaving(self, partition: Partition) -> None:
        """Write buffered messages; the next owner rereads what cannot be written.

        Raises:
            FencedError: another archiver already owns the partition.
        """
        buffer = self._buffers[partition]
        buffer.tail.clear()  # reread by the next owner
        buffer.seal()
        self._retry_at = 0.0
        self._write_full()
        self._commit()
        log.info("partition_left", partition=partition.number, offset=buffer.linked, left_behind=len(buffer.full))
        self._drop(partition)
        reached("left")

    def lost(self, partition: Partition) -> None:
        """Drop buffered messages."""
        log.warning("partition_lost", partition=partition.number)
        self._drop(partition)

    def _drop(self, partition: Partition) -> None:
        self._buffers.pop(partition, None)
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

    def _buffer(self, batch: RawBatch) -> None:
        """Add a batch's messages to the buffer, one input span at a time."""
        buffer = self._buffers[batch.partition]
        for i in range(len(batch)):
            gap = buffer.add(int(batch.offset[i]), int(batch.log_ns[i]), self._decode(batch, i))
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
        buffer.read_up_to(batch.next_offset)
        reached("stepped")
        self._beat()

    def _decode(self, batch: RawBatch, i: int) -> ScoreMessage:
        try:
            return score_messages.decode(batch.values[i], batch.headers[i])
        except ContractError as error:
            raise ScoreLogError(
                f"{where(batch.partition, int(batch.offset[i]))}: {error}; another program, or another version of "
                "this one, writes to this topic"
            ) from error

    # -- writing --------------------------------------------------------------------------------

    def _seal_due(self) -> None:
        now = time.monotonic()
        for buffer in self._buffers.values():
            part = buffer.open
            if part is not None and (now - part.since >= self._max_age_s or part.rows >= self._max_rows):
                buffer.seal()

    def _write_full(self) -> bool:
        """Write and link the waiting parts; return whether any was linked."""
        if time.monotonic() < self._retry_at:
            return False
        linked = False
        try:
            for partition, buffer in self._buffers.items():
                while buffer.full:
                    self._link(partition, buffer, buffer.full[0])
                    buffer.full.popleft()
                    linked = True
        except PartExistsError as error:
            self._buffers.clear()
            self._to_commit.clear()
            raise FencedError(f"{self._group}/{self._member}: another archiver took over: {error}") from error
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
        """Detect a pause of this process during which the group may have revoked its partitions."""
        now = time.monotonic()
        self._in_doubt = self._in_doubt or now - self._awake_at > self._doubt_s
        self._awake_at = now

    def _expect_ours(self) -> None:
        """Check that a part may be linked: after a pause, only once the group has accepted a commit of ours.

        Linking fails if a part with the same start exists. But if our part came first, the next owner's would fail.

        Raises:
            _InDoubtError: the commit did not land.
            FencedError: another archiver owns our partitions.
        """
        self._note_pause()
        if self._in_doubt:
            self._to_commit.update({partition: (buffer.linked, "") for partition, buffer in self._buffers.items()})
            self._in_doubt = self._commit() is not CommitOutcome.LANDED
        if self._in_doubt:
            raise _InDoubtError

    def _link(self, partition: Partition, buffer: PartBuffer, span: OpenPart) -> None:
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
            | ({"lost": spans_text(span.lost)} if span.lost else {})
            | ({} if span.ends_rise else {"ends": score_messages.MAY_REPEAT}),
            generation=span.generation,
            is_first=span.is_first,
            before_link=self._expect_ours,
        )
        buffer.linked = span.end
        self._to_commit[partition] = (span.end, "")
        self.metrics.part_files.inc()
        self.metrics.part_rows.inc(span.rows)
        with suppress(OSError):  # the part is linked even if its size is unknown
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
        spans = [span for buffer in list(self._buffers.values()) for span in (*buffer.full, buffer.open) if span]
        return sum(span.size_bytes for span in spans)

    def _holding_back(self) -> bool:
        """Return whether to pause polling; keeps our group membership alive meanwhile."""
        if not self._retry_s or self._buffered_bytes() < BUFFER_BYTES:
            return False
        if time.monotonic() - self._alive_at >= KEEP_ALIVE_S:
            self._alive_at = time.monotonic()
            self._to_commit.update({partition: (buffer.linked, "") for partition, buffer in self._buffers.items()})
        return True

    def _commit(self) -> CommitOutcome | None:
        """Commit how far parts reach. A failure is harmless: the offset only serves as an alarm.

        Returns:
            the outcome; None if there was nothing to commit or the log did not answer.

        Raises:
            FencedError: another archiver uses our member id.
        """
        if not self._to_commit:
            return None
        try:
            outcome = self._committer.commit(Commit(positions=self._to_commit))
        except UnreachableError as error:
            self._trouble = f"the log does not answer: {error}"
            return None
        reached("committed", outcome=outcome)
        if outcome is not CommitOutcome.LANDED:
            log.warning("offsets_not_committed", outcome=outcome.value)
        self._to_commit = {}
        return outcome

    def _update_lag(self) -> None:
        now = time.monotonic()
        if now - self._lag_at < LAG_EVERY_S:
            return
        self._lag_at = now
        try:
            ends = self._source.end_offsets()
        except (UnreachableError, DeadlineError):
            return
        for partition, end in ends.items():
            if (buffer := self._buffers.get(partition)) is not None:
                age_s = (time.time_ns() - self._read_log_ns.get(partition, time.time_ns())) / 1e9
                self.metrics.lag(partition, end - buffer.next_start, age_s)


def build(context: RoleContext) -> Archiver:
    """Build a stream's archiver."""
    settings = context.settings
    return Archiver(context, lambda: open_transport(settings))
