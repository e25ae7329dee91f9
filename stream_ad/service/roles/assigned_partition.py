"""A partition assigned to a scorer: its pipeline and its unpublished results."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from stream_ad.core.batches import Alert, Judged
from stream_ad.io.spans import Span, Spans
from stream_ad.io.state import journal
from stream_ad.io.state.journal import Entry, StartEntry
from stream_ad.io.transport import Partition, RawBatch, Record
from stream_ad.io.wire import alerts as alert_messages
from stream_ad.io.wire import dead_letters, score_rows
from stream_ad.io.wire import scores as score_messages
from stream_ad.replaying import LOST_KEPT, Marker, PartitionReplay, Recovery, Stepped
from stream_ad.replaying.intake import NAMED, Tally, pieces


@dataclass(frozen=True, slots=True)
class Outputs:
    """Properties of a scorer's outputs.

    Attributes:
        scores, alerts, letters, journal: topic names.
        config_digest: digest of the settings that change results.
        max_bytes: maximum payload size.
    """

    scores: str
    alerts: str
    letters: str
    journal: str
    config_digest: str
    max_bytes: int


@dataclass(slots=True)
class _Pending:
    """Unpublished results."""

    judged: list[Judged] = field(default_factory=list)
    alerts: list[tuple[Alert, int | None]] = field(default_factory=list)
    letters: list[Record] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    rows: int = 0


class AssignedPartition:
    """One assigned partition.

    Attributes:
        partition: partition of the readings topic.
        replay: its pipeline.
        public: the committed place.
        checkpoint: name of the checkpoint that the last commit named.
        checkpoint_due: when to take the next checkpoint, seconds on the monotonic clock.
        pending: unpublished results.
        last_record_at: when the last record arrived or the partition was gained, seconds on the monotonic clock.
        silence_check_at: when to check for silence again, seconds on the monotonic clock.
        tally: counts of recent unusable input, pending results included.
        unscored: number of devices without a score for long, at the last commit.
    """

    def __init__(
        self, partition: Partition, recovery: Recovery, topic_id: str, intake: Mapping[str, Any] | None = None
    ) -> None:
        self.partition = partition
        self.replay: PartitionReplay = recovery.replay
        self.public = recovery.public
        self.checkpoint = recovery.checkpoint
        self.checkpoint_due = 0.0
        self.last_record_at = self.silence_check_at = time.monotonic()
        self.pending = _Pending()
        self._covered = recovery.covered
        self._lost = list(recovery.lost)
        self._topic_id = topic_id
        self.unscored = 0
        self.tally = Tally.from_json(intake or {})

    @property
    def catching_up(self) -> bool:
        """Return whether input is being reread whose effects are already public."""
        return self.replay.offset < self.public.offset

    @property
    def moved(self) -> bool:
        """Return whether there is something to commit; an initial start alone needs no commit."""
        return self.replay.offset > self.public.offset or any(entry.kind != "start" for entry in self.pending.entries)

    def step(self, raw: RawBatch) -> list[Stepped]:
        """Step over records, split where their counts must be kept apart."""
        return [
            stepped
            for piece in pieces(raw, self.replay.log_ns, self.public.offset)
            for stepped in self.replay.step(piece)
        ]

    def take(self, stepped: Stepped, raw: RawBatch | None, max_bytes: int) -> Stepped:
        """Keep and return the unpublished part of a step's results.

        Args:
            stepped: the results.
            raw: the records that produced them, None for a journal entry.
            max_bytes: maximum payload size of a dead letter.
        """
        kept = stepped.since(self.public)
        pending = self.pending
        if kept.intake is not None:
            self.tally.add(kept.intake)
        pending.judged += kept.result.judged
        pending.rows += kept.result.rows
        if kept.entry is not None:
            pending.entries.append(kept.entry)
            if isinstance(kept.entry, StartEntry) and kept.entry.lost is not None:
                self._lost.append(kept.entry.lost)
        if raw is None or kept.entry is not None:
            pending.alerts += [(alert, None) for alert in kept.result.alerts]
            return kept
        for alert in kept.result.alerts:
            pending.alerts.append((alert, int(raw.log_ns[np.searchsorted(raw.offset, alert.offset)])))
        for letter in kept.refused:
            at = int(np.searchsorted(raw.offset, letter.offset))
            record = raw.values[at], raw.keys[at], raw.headers[at]
            pending.letters.append(dead_letters.encode(letter, *record, raw.partition, int(raw.log_ns[at]), max_bytes))
        return kept

    def has_young_alerts(self, since_ns: int) -> bool:
        """Return whether an alert is pending whose record was appended after a log time, or that has no record."""
        return any(log_ns is None or log_ns > since_ns for _, log_ns in self.pending.alerts)

    def records(self, outputs: Outputs) -> Mapping[str, Sequence[Record]]:
        """Return the records to publish, by topic."""
        pending, replay = self.pending, self.replay
        scores: list[Record] = []
        if pending.rows:
            names = [channel.name for channel in replay.model.channels]
            scores = score_messages.encode(
                score_rows.table(pending.judged, names, replay.rules.row_ns, self.partition.number),
                Spans.between(self._covered, replay.place),
                self.partition,
                outputs.config_digest,
                outputs.max_bytes,
                generation=replay.lineage.generation,
                lost=[Span(*lost) for lost in self._lost],
                ends_rise=replay.rules.ends_rise,
            )
        alerts = [alert_messages.encode(alert, self.partition, outputs.config_digest) for alert, _ in pending.alerts]
        entries = [journal.encode(entry, self.partition.number) for entry in pending.entries]
        return {
            outputs.scores: scores,
            outputs.alerts: alerts,
            outputs.letters: pending.letters,
            outputs.journal: entries,
        }

    def marker(self, checkpoint: str) -> Marker:
        """Return the metadata to commit with the offset.

        Args:
            checkpoint: name of the newest checkpoint at or below the offset.
        """
        lineage = self.replay.lineage
        has_rows = self.pending.rows > 0
        self.unscored, named = self.replay.unscored(NAMED)
        return Marker(
            checkpoint=checkpoint,
            topic_id=self._topic_id,
            covered=self.replay.place if has_rows else self._covered,
            entries=lineage.entries,
            generation=lineage.generation,
            model_id=lineage.model_id,
            configured=lineage.configured,
            control=lineage.control,
            lost=() if has_rows else tuple(self._lost[-LOST_KEPT:]),
            intake=self.tally.to_json(self.unscored, named),
            offset=self.replay.offset,
        )

    def landed(self) -> None:
        """Mark all pending results as public."""
        if self.pending.rows:
            self._covered = self.replay.place
            self._lost.clear()
        self.public = self.replay.place
        self.pending = _Pending()

    def silent_until_ns(self) -> int | None:
        """Return the current log time if the partition's silence makes an idle close due, else None.

        Log time is extrapolated without asking the log: since the newest record it has advanced by at least the time
        that has passed here since that record arrived.
        """
        due_ns = self.replay.silence_ends_ns()
        if due_ns is None:
            return None
        now_ns = self.replay.log_ns + int(1e9 * (time.monotonic() - self.last_record_at))
        return now_ns if now_ns >= due_ns else None
