"""The scorer: poll, step, commit. Verdicts, alerts, dead letters and positions are published atomically."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

import numpy as np
from threadpoolctl import threadpool_limits

from stream_ad import assembly, identity
from stream_ad.assembly import Models
from stream_ad.core.quality import Quality
from stream_ad.errors import ConfigError, DeadlineError, TransportError, UnreachableError
from stream_ad.io.state.journal import DEVICES_NAMED, CloseEntry, GrowthEntry, StartEntry, SwapEntry
from stream_ad.io.steps import reached
from stream_ad.io.transport import (
    HOLD,
    Commit,
    CommitOutcome,
    Committer,
    Partition,
    Position,
    RawBatch,
    Record,
    Source,
    Transport,
)
from stream_ad.io.wire import scores as score_messages
from stream_ad.replaying import Marker, Stepped, recover
from stream_ad.replaying.standing import expect_position
from stream_ad.role_table import SCORER
from stream_ad.service.checkpointer import Checkpointer
from stream_ad.service.intake_log import IntakeLog
from stream_ad.service.logs import EventLog
from stream_ad.service.metrics import ScorerMetrics
from stream_ad.service.model_swap import CommandFollower, Wanted
from stream_ad.service.role import Plain
from stream_ad.service.roles.assigned_partition import AssignedPartition, Outputs
from stream_ad.service.roles.catalog import RoleContext

log = EventLog(__name__)

MAX_REJECTIONS = 5
"""Consecutive rejected commits after which the role restarts."""
LAG_EVERY_S = 5.0
MIN_CHECK_S = 0.5
"""Minimum interval between checks for silence: each close adds a journal entry."""
HASTE_S = 0.1
"""Maximum time that alerts wait for a commit. One commit per poll would halve the throughput in an alert storm."""
LATE_NS = 5_000_000_000
"""An alert about an older record does not trigger an early commit: it is late already, and while a scorer catches
up, extra commits would delay all alerts."""
NAMED = 20
"""Maximum number of devices named in a log line."""
UNSCORED_WINDOWS = 100
STRANGE_RECORDS = 100
"""After this many windows without a single score, or this many records with only unknown channels, the bundle
probably does not match the readings."""


class Scorer:
    """Scores the partitions assigned to it by its consumer group; see `service.role.Role`."""

    def __init__(self, context: RoleContext) -> None:
        settings = context.settings
        self.name = SCORER.label(context.index)
        self.metrics = ScorerMetrics(settings.stream.name, f"{settings.service.instance}-{context.index}")
        self._context = context
        self._settings = settings
        self._owned: dict[Partition, AssignedPartition] = {}
        self._not_ready = "starting"
        self._last_commit = self._lag_read = time.monotonic()
        self._rejections = 0
        self._urgent = False
        self._is_fit = False
        self._intake_log = IntakeLog()
        self._unscored = self._strange = 0
        self._outputs_count = 0
        self._without_outputs: set[int] = set()
        self._source: Source | None = None
        self._committer: Committer | None = None
        self._transport: Transport
        self._models: Models
        self._outputs: Outputs
        self._commands: CommandFollower
        self._checkpointer: Checkpointer

    def open(self) -> None:
        """Load the bundle, check the topics, join the group.

        Raises:
            BundleError, TopicError, ConfigError: an operator must act first.
        """
        # One thread per process: work is spread over processes, whose threads would compete.
        threadpool_limits(1)
        score_messages.prepare()
        self._models = Models(self._settings)
        self._context.beat()
        self._transport = assembly.open_transport(self._settings)
        topics = assembly.ensure_topics(self._settings, self._transport)
        self._topic_id = topics[self._settings.stream.readings_topic].topic_id
        stream = self._settings.stream
        self._outputs_count = min(topics[name].partitions for name in (stream.scores_topic, stream.journal_topic))
        self._outputs = Outputs(
            scores=stream.scores_topic,
            alerts=stream.alerts_topic,
            letters=stream.dead_letters_topic,
            journal=stream.journal_topic,
            config_digest=identity.config_digest(self._settings),
            max_bytes=assembly.max_payload_bytes(self._settings, topics),
        )
        self._checkpointer = Checkpointer(self._settings, self._transport, self.metrics)
        self._commands = CommandFollower(self._settings, self._transport, self._models, self.metrics)
        member = SCORER.member(self._settings, self._context.index)
        readings = self._settings.stream.readings_topic
        self._source = self._transport.join(readings, SCORER.consumer_group(self._settings), self, member)
        self._committer = self._transport.committer(self._source, member)
        if self._context.checks_offsets:
            self._expect_positions(topics[readings].partitions)
        self._not_ready = ""

    def _expect_positions(self, count: int) -> None:
        """Check that the group's offsets were committed by a scorer.

        Raises:
            OffsetsError: they were not.
        """
        for number in range(count):
            partition = Partition(self._settings.stream.readings_topic, number)
            position = self._transport.committed(SCORER.consumer_group(self._settings), partition)
            expect_position(self._settings, self._transport, partition, position)
            self._context.beat()

    def turn(self, wait_s: float) -> bool:
        """Poll, step and, if due, commit."""
        if self._source is None:
            raise ConfigError("scorer: expected open() before turn()")
        due_s = self._last_commit + self._pace_s() - time.monotonic()
        waits = any(owned.moved for owned in self._owned.values())
        try:
            batches = self._source.poll(
                self._settings.commit.poll_records, max(0.0, min(wait_s, due_s)) if waits else wait_s
            )
        except UnreachableError as error:
            self._not_ready = str(error)
            time.sleep(min(wait_s, 1.0))
            return False
        self._not_ready = ""
        records = sum(len(raw) for raw in batches)
        self.metrics.poll_records.observe(records)
        self.metrics.records.inc(records)
        for raw in batches:
            self._step(raw)
        self._mind_silence()
        self._mind_commands()
        self._mind_growth()
        if self._time_to_commit():
            self._commit([owned for owned in self._owned.values() if owned.moved])
        self._measure_lag()
        self._checkpointer.collect(self._owned.keys())
        return bool(batches)

    def _step(self, raw: RawBatch) -> None:
        owned = self._owned[raw.partition]
        was_catching_up = owned.catching_up
        if len(raw):
            owned.last_record_at = time.monotonic()
        begun = time.monotonic()
        results = owned.step(raw)
        self.metrics.step_seconds.observe(time.monotonic() - begun)
        self._context.beat()
        if was_catching_up:
            self.metrics.replayed_records.inc(int(np.searchsorted(raw.offset, owned.public.offset)))
            if not owned.catching_up:
                self.metrics.replaying(owned.partition, False)
                log.info("caught_up", partition=owned.partition.number, offset=owned.public.offset)
        for stepped in results:
            self._take(owned, stepped, raw)
        self.metrics.devices(owned.partition, owned.replay.devices)
        reached("stepped", was_catching_up=was_catching_up)
        if not self._is_fit:
            self._doubt_fit(0 if owned.replay.has_values else sum(stepped.unknown_channels for stepped in results))

    def _take(self, owned: AssignedPartition, stepped: Stepped, raw: RawBatch | None = None) -> None:
        """Keep and count the unpublished part of a step's results."""
        kept = owned.take(stepped, raw, self._outputs.max_bytes)
        result = kept.result
        self._urgent |= owned.has_young_alerts(time.time_ns() - LATE_NS)
        for letter in kept.refused:
            self.metrics.refused(letter.reason)
        self.metrics.readings.inc(result.readings)
        self.metrics.skipped_readings.inc(kept.unknown_devices + kept.unknown_channels)
        if kept.intake is not None:
            self.metrics.taken_in(kept.intake.counts)
            self._intake_log.add(kept.intake)
        for part in result.judged:
            self.metrics.windows.inc(len(part.verdicts))
            quality = part.verdicts.scores.quality
            unscored = int(np.count_nonzero(quality & np.uint32(Quality.UNSCORABLE)))
            self.metrics.unscored.inc(unscored)
            self._is_fit |= unscored < len(part.verdicts)
            self._unscored += unscored
            self.metrics.anomalous.inc(int(part.verdicts.is_anomaly.sum()))

    def _enter(self, owned: AssignedPartition, entry: CloseEntry | SwapEntry | GrowthEntry) -> None:
        """Apply a journal entry; the next commit publishes it with its effects."""
        self._take(owned, owned.replay.apply(entry))
        reached("entry applied", entry=entry)

    def _mind_silence(self) -> None:
        """Trigger idle closes by wall clock in silent partitions; see docs/adr/0014-journal.md."""
        for owned in self._owned.values():
            now = time.monotonic()
            if owned.catching_up or now < owned.silence_check_at:
                continue
            owned.silence_check_at = now + max(MIN_CHECK_S, self._settings.time.idle_close_s / 10)
            log_ns = owned.silent_until_ns()
            if log_ns is None or not self._is_at_end(owned):
                continue
            entry = CloseEntry(number=owned.replay.lineage.entries, offset=owned.replay.offset, log_ns=log_ns)
            self._enter(owned, entry)
            self.metrics.wall_closes.inc()
            self.metrics.devices(owned.partition, owned.replay.devices)
            log.debug("closed_by_clock", partition=owned.partition.number, offset=entry.offset, log_ns=log_ns)

    def _is_at_end(self, owned: AssignedPartition) -> bool:
        """Return whether the log has no records beyond those read."""
        try:
            return self._transport.bounds(owned.partition)[1] <= owned.replay.offset
        except (UnreachableError, DeadlineError):
            return False

    def _mind_commands(self) -> None:
        """Apply a pending swap command, between two steps."""
        wanted = self._commands.wanted()
        if wanted is None:
            return
        for owned in self._owned.values():
            lineage = owned.replay.lineage
            if owned.catching_up or lineage.control >= wanted.control:
                continue
            if lineage.model_id == wanted.command.model_id or self._commands.is_refused(wanted):
                owned.replay.note_commands(wanted.control)
            elif self._commands.model(wanted) is not None:
                self._swap(owned, wanted)

    def _mind_growth(self) -> None:
        """Record partitions added to the readings topic, and the devices that moved to another one."""
        count = 0 if self._source is None else self._source.partitions()
        for owned in self._owned.values():
            before = owned.replay.lineage.partitions
            if owned.catching_up or count <= before:
                continue
            if not before:
                owned.replay.note_partitions(count)
                continue
            number = owned.partition.number
            moved = owned.replay.moved_devices(number, before, count)
            entry = GrowthEntry(
                number=owned.replay.lineage.entries,
                offset=owned.replay.offset,
                before=before,
                partitions=count,
                moved=len(moved),
                devices=tuple(moved[:DEVICES_NAMED]),
            )
            self._enter(owned, entry)
            log.warning(
                "partitions_added",
                partition=number,
                before=before,
                partitions=count,
                devices_moved=len(moved),
                devices=", ".join(moved[:NAMED]),
            )

    def _swap(self, owned: AssignedPartition, wanted: Wanted) -> None:
        """Commit first, so that each message has one model, then switch to the new model."""
        if owned.moved:
            self._commit([owned])
        if owned.moved:
            return  # not landed; retried in the next turn
        replay, command = owned.replay, wanted.command
        entry = SwapEntry(
            number=replay.lineage.entries,
            offset=replay.offset,
            bundle=command.bundle,
            model_id=command.model_id,
            configured=replay.lineage.configured,
            control=wanted.control,
        )
        before = replay.lineage.model_id
        self._enter(owned, entry)
        self.metrics.swaps.inc()
        self.metrics.model(owned.partition, command.model_id)
        self._urgent = True  # the operator waits for the result
        log.info(
            "swapped",
            partition=owned.partition.number,
            offset=entry.offset,
            before=before,
            model_id=command.model_id,
            bundle=command.bundle,
        )

    def _doubt_fit(self, strange: int) -> None:
        """Warn once if nothing could be scored so far."""
        self._strange += strange
        if self._unscored >= UNSCORED_WINDOWS or self._strange >= STRANGE_RECORDS:
            self._is_fit = True
            log.warning(
                "nothing_scored",
                windows=self._unscored,
                records_without_known_channel=self._strange,
                bundle_channels=[channel.name for channel in self._models.configured.channels],
                advice="the readings do not seem to match the bundle; `stream-ad check` compares their channels",
            )

    def _time_to_commit(self) -> bool:
        moved = [owned for owned in self._owned.values() if owned.moved]
        if not moved:
            return False
        rows = sum(owned.pending.rows for owned in moved)
        due = time.monotonic() - self._last_commit >= self._pace_s()
        return due or rows >= self._settings.commit.max_rows

    def _pace_s(self) -> float:
        """Return the minimum time between two commits, shorter if a recent record caused an alert."""
        every_s = self._settings.commit.every_s
        return min(HASTE_S, every_s) if self._urgent else every_s

    def _commit(self, moved: list[AssignedPartition]) -> None:
        """Publish the pending results of some partitions in one transaction."""
        if not moved or self._committer is None:
            return
        records: dict[str, list[Record]] = {}
        positions = {}
        for owned in moved:
            for topic, some in owned.records(self._outputs).items():
                records.setdefault(topic, []).extend(some)
            owned.checkpoint = self._checkpointer.newest(owned.partition) or owned.checkpoint
            positions[owned.partition] = owned.replay.offset, owned.marker(owned.checkpoint).to_text()
        commit = Commit({topic: some for topic, some in records.items() if some}, positions)
        begun = time.monotonic()
        outcome = self._committer.commit(commit)
        reached("committed", outcome=outcome, commit=commit)
        took_s = time.monotonic() - begun
        self._last_commit = time.monotonic()
        rows = sum(owned.pending.rows for owned in moved)
        self.metrics.commit(outcome, took_s, rows)
        if outcome is CommitOutcome.UNKNOWN:
            # Only a new process can read the outcome: its start settles the transaction.
            raise TransportError("the outcome of a commit is unknown; restarting from the committed position")
        if outcome is CommitOutcome.REJECTED:
            self._rejections += 1
            log.warning("commit_rejected", in_a_row=self._rejections, rows=rows)
            if self._rejections >= MAX_REJECTIONS:
                raise TransportError(f"{self._rejections} consecutive commits were rejected")
            return
        self._rejections = 0
        for owned in moved:
            self._landed(owned)
        self._intake_log.write(time.monotonic())
        late_ns = time.time_ns() - LATE_NS
        self._urgent = any(owned.has_young_alerts(late_ns) for owned in self._owned.values())

    def _landed(self, owned: AssignedPartition) -> None:
        now_ns = time.time_ns()
        for alert, log_ns in owned.pending.alerts:
            self.metrics.alert(alert.kind, alert.phase)
            if log_ns is not None:
                self.metrics.alert_latency_seconds.observe(max(0, now_ns - log_ns) / 1e9)
        for entry in owned.pending.entries:
            if isinstance(entry, StartEntry) and entry.lost is not None:
                self.metrics.lost_offsets.inc(entry.lost[1] - entry.lost[0])
        owned.landed()
        self.metrics.committed(owned.partition, owned.public.offset)
        self.metrics.unscored_devices(owned.partition, owned.unscored)
        self._checkpointer.landed(owned.partition, owned.checkpoint)
        if time.monotonic() >= owned.checkpoint_due:
            owned.checkpoint_due = time.monotonic() + self._settings.store.checkpoint_every_s
            self._checkpointer.take(owned.partition, self._topic_id, owned.replay)
        reached("landed")

    def _measure_lag(self) -> None:
        if self._source is None or time.monotonic() - self._lag_read < LAG_EVERY_S:
            return
        self._lag_read = time.monotonic()
        try:
            ends = self._source.end_offsets()
        except (UnreachableError, DeadlineError):
            return
        for partition, end in ends.items():
            owned = self._owned.get(partition)
            if owned is not None:
                age_s = (time.time_ns() - owned.replay.log_ns) / 1e9
                self.metrics.lag(partition, end - owned.replay.offset, age_s)

    # Owner: partitions are gained and lost inside `poll` and `close`.

    def gained(self, position: Position | None, partition: Partition) -> int | None:
        """Recover the partition's state and resume from there."""
        if not self._has_outputs(partition.number):
            return HOLD
        expect_position(self._settings, self._transport, partition, position)
        recovery = recover(self._settings, self._models, self._transport, partition, position, self._context.beat)
        counted = None if position is None else Marker.from_text(position.metadata).intake
        owned = self._owned[partition] = AssignedPartition(partition, recovery, self._topic_id, counted)
        for stepped in owned.replay.settle():
            self._take(owned, stepped)
        self.metrics.model(partition, owned.replay.lineage.model_id)
        self.metrics.replaying(partition, owned.catching_up)
        self.metrics.devices(partition, owned.replay.devices)
        self.metrics.committed(partition, owned.public.offset)
        write = log.info if recovery.exact and not recovery.passed_over else log.warning
        write(
            "partition_gained",
            partition=partition.number,
            read_from=owned.replay.offset,
            public=owned.public.offset,
            checkpoint=recovery.checkpoint,
            model_id=owned.replay.lineage.model_id,
            generation=owned.replay.lineage.generation,
            why=recovery.why,
        )
        reached("gained")
        return owned.replay.offset

    def _has_outputs(self, number: int) -> bool:
        """Return whether a partition's output topics have it; adds partitions to them if allowed."""
        if number < self._outputs_count:
            return True
        stream = self._settings.stream
        topics = assembly.ensure_topics(self._settings, self._transport)
        before = self._outputs_count
        self._outputs_count = min(topics[name].partitions for name in (stream.scores_topic, stream.journal_topic))
        if number < self._outputs_count:
            self._without_outputs.clear()
            log.info("outputs_extended", before=before, partitions=self._outputs_count)
            return True
        if number not in self._without_outputs:
            self._without_outputs.add(number)
            log.warning(
                "partition_not_taken",
                partition=number,
                why=f"{stream.scores_topic} and {stream.journal_topic} have {self._outputs_count} partitions",
                advice="`stream-ad check --create` adds partitions; for the service to do so it needs the right Alter",
            )
        return False

    def leaving(self, partition: Partition) -> None:
        """Checkpoint, commit pending results and drop the state."""
        owned = self._owned.get(partition)
        if owned is None:
            return
        if not owned.catching_up:
            owned.checkpoint_due = math.inf
            if owned.pending.entries:
                # A checkpoint must not include an entry that might never be published.
                self._commit([owned])
            if not owned.pending.entries:
                self._checkpointer.take_now(partition, self._topic_id, owned.replay)
            # Even without results: the next owner resumes from the checkpoint that the last commit names.
            if owned.moved or self._checkpointer.newest(partition) != owned.checkpoint:
                self._commit([owned])
        log.info("partition_left", partition=partition.number, offset=owned.public.offset)
        self._drop(partition)
        reached("left")

    def lost(self, partition: Partition) -> None:
        """Drop the state; the new owner has recovered it from the log."""
        log.warning("partition_lost", partition=partition.number)
        self._drop(partition)

    def _drop(self, partition: Partition) -> None:
        self._owned.pop(partition, None)
        self._checkpointer.forget(partition)
        self.metrics.forget(partition)

    def close(self) -> None:
        """Commit pending results, checkpoint, leave the group."""
        if self._source is not None:
            self._source.close()
        if self._committer is not None:
            self._committer.close()
        self._commands.close()
        self._checkpointer.close()
        self._transport.close()

    def ready(self) -> tuple[bool, str]:
        """Return whether results flow; a scorer without partitions is on standby and ready."""
        if self._not_ready:
            return False, self._not_ready
        behind = [owned.partition.number for owned in list(self._owned.values()) if owned.catching_up]
        if behind:
            return False, f"catching up: partitions {behind}"
        if self._rejections:
            return False, f"{self._rejections} consecutive commits were rejected"
        waits = f"; without output topics: {sorted(self._without_outputs)}" if self._without_outputs else ""
        return True, f"{len(self._owned)} partitions{waits}"

    def health(self) -> Mapping[str, Plain]:
        """Return a few values for the log."""
        model = self._models.configured
        return {"partitions": len(self._owned), "bundle": model.name, "model_id": model.model_id}


def build(context: RoleContext) -> Scorer:
    """Build a scorer, not yet open."""
    return Scorer(context)
