"""Prometheus metrics of the roles: prefix `stream_ad_`, base units, no device labels.

Each role object has its own registry, so that several can live in one process (tests). A partition's series are
dropped when it is handed over: a stale lag would raise a false alarm.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import choose_encoder

from stream_ad import __version__
from stream_ad.core.batches import AlertKind, AlertPhase, Reason
from stream_ad.io.transport import CommitOutcome, Partition
from stream_ad.replaying.intake import BAD_CELL, CAUSES, CELLS
from stream_ad.role_table import ARCHIVER, SCORER

PREFIX = "stream_ad"
DURATIONS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
POLL_RECORDS = (0, 1, 10, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000)


class RoleMetrics:
    """Metrics of every role.

    Attributes:
        registry: all metrics of the role and its process.
        turn_seconds: histogram of the duration of turns that did work.
        ready: gauge, 1 while the role is ready; set by the loop that runs the role.
    """

    def __init__(self, role: str, stream: str, instance: str) -> None:
        # Disables an unneeded second series per counter; the function is untyped.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry(auto_describe=True)
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self._by_partition: list[Gauge] = []
        build = Info(
            "build", "Version of the program and identity of the role", namespace=PREFIX, registry=self.registry
        )
        build.info({"version": __version__, "role": role, "stream": stream, "instance": instance})
        self.ready = self._gauge("ready", "1 while the role works, 0 while it starts, waits or has no connection")
        self.turn_seconds = self._histogram("turn_seconds", "Duration of turns that did work")

    def forget(self, partition: Partition) -> None:
        """Drop all series of a revoked partition."""
        for gauge in self._by_partition:
            with suppress(KeyError):  # older prometheus-client raises if the series was never set
                gauge.remove(*_labels(partition))

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """Return the page and its content type, as Prometheus text or, if requested, OpenMetrics."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type

    def _counter(self, name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
        return Counter(name, text, labels, namespace=PREFIX, registry=self.registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, namespace=PREFIX, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...] = DURATIONS_S) -> Histogram:
        return Histogram(name, text, namespace=PREFIX, registry=self.registry, buckets=buckets)

    def _partition_gauge(self, name: str, text: str) -> Gauge:
        gauge = Gauge(name, text, ("topic", "partition"), namespace=PREFIX, registry=self.registry)
        self._by_partition.append(gauge)
        return gauge


class ReaderMetrics(RoleMetrics):
    """Metrics of every role that reads a topic.

    Attributes:
        records: counter of input records read.
        poll_records: histogram of records per poll.
    """

    def __init__(self, role: str, stream: str, instance: str) -> None:
        super().__init__(role, stream, instance)
        self.records = self._counter("records", "Input records read")
        self.poll_records = self._histogram("poll_records", "Records per poll", POLL_RECORDS)
        self.lag_records = self._partition_gauge("lag_records", "Committed records of the input not yet read")
        self.lag_seconds = self._partition_gauge(
            "lag_seconds", "Age of the newest record read while others wait, else 0"
        )

    def lag(self, partition: Partition, records: int, seconds: float) -> None:
        """Set the lag of a partition: unread records, and seconds behind (0 if none are unread)."""
        self.lag_records.labels(*_labels(partition)).set(max(0, records))
        self.lag_seconds.labels(*_labels(partition)).set(max(0.0, seconds) if records > 0 else 0.0)


class ScorerMetrics(ReaderMetrics):
    """Metrics of a scorer.

    Attributes:
        readings: readings decoded.
        windows: windows judged.
        unscored: windows without a score.
        anomalous: windows inside an incident.
        step_seconds: duration of a pipeline step.
        commit_seconds: duration of a commit.
        commit_rows: rows published per commit.
        alert_latency_seconds: time from the log time of an alert's record to its commit.
        checkpoint_seconds, checkpoint_bytes: duration and size of checkpoint writes.
        replayed_records: input records reread during recovery.
        lost_offsets: input offsets deleted before they were scored.
    """

    def __init__(self, stream: str, instance: str) -> None:
        super().__init__(SCORER.name, stream, instance)
        self.readings = self._counter("readings", "Readings decoded")
        self.skipped_readings = self._counter("skipped_readings", "Readings of unknown devices or channels")
        self.windows = self._counter("windows", "Windows judged")
        self.unscored = self._counter("windows_unscored", "Windows without a score")
        self.anomalous = self._counter("windows_anomalous", "Windows inside an incident")
        self._refused = self._counter("refused", "Records refused, wholly or in part", ("reason",))
        self.cells = self._counter("cells", "Values received for channels of the bundle")
        self.cells_bad = self._counter("cells_bad", "Values that are not finite numbers and count as missing")
        self._readings_unused = self._counter(
            "readings_unused", "Readings refused, from an unknown device or with an unknown channel", ("reason",)
        )
        self._unscored_devices = self._partition_gauge(
            "unscored_devices", "Devices that send readings but have had no score for long"
        )
        self._alerts = self._counter("alerts", "Alerts published", ("kind", "phase"))
        self._commits = self._counter("commits", "Commits by outcome", ("outcome",))
        self.step_seconds = self._histogram("step_seconds", "Duration of a pipeline step")
        self.commit_seconds = self._histogram("commit_seconds", "Duration of a commit")
        self.commit_rows = self._counter("committed_rows", "Rows published")
        self.alert_latency_seconds = self._histogram(
            "alert_latency_seconds", "Time from the log time of an alert's record to its commit"
        )
        self.checkpoint_seconds = self._histogram("checkpoint_seconds", "Duration of a checkpoint write")
        self.checkpoint_bytes = self._gauge("checkpoint_bytes", "Size of the newest checkpoint")
        self._checkpoint_time = self._partition_gauge(
            "checkpoint_time_seconds", "When the newest checkpoint was written, seconds since the epoch"
        )
        self._checkpoint_failures = self._counter("checkpoint_failures", "Checkpoints that could not be written")
        self._devices = self._partition_gauge("devices", "Devices with state")
        self._replaying = self._partition_gauge("replaying", "1 while the partition catches up from a checkpoint")
        self._position = self._partition_gauge("committed_offset", "Next input offset to publish")
        self.swaps = self._counter("swaps", "Bundles swapped by a command, counted per partition")
        self._swaps_refused = self._counter("swaps_refused", "Swap commands refused")
        self.wall_closes = self._counter("wall_closes", "Idle closes triggered by wall clock in a silent partition")
        self._model = Gauge(
            "model_info",
            "1 for the bundle in force",
            ("topic", "partition", "model"),
            namespace=PREFIX,
            registry=self.registry,
        )
        self._models: dict[Partition, str] = {}
        self.replayed_records = self._counter("replayed_records", "Input records reread during recovery")
        self.lost_offsets = self._counter("lost_input_offsets", "Input offsets deleted before they were scored")
        self._name_series()

    def _name_series(self) -> None:
        """Create every known label set at 0; otherwise a rate misses the event that creates the series."""
        for reason in Reason:
            self._refused.labels(reason.value)
        for cause in CAUSES:
            if cause != BAD_CELL:
                self._readings_unused.labels(cause)
        for kind in AlertKind:
            for phase in AlertPhase:
                self._alerts.labels(kind.value, phase.value)
        for outcome in CommitOutcome:
            self._commits.labels(outcome.value)

    def refused(self, reason: Reason, records: int = 1) -> None:
        """Count refused records."""
        self._refused.labels(reason.value).inc(records)

    def taken_in(self, counts: Mapping[str, int]) -> None:
        """Count values and readings, and those that were unusable; see `replaying.intake`."""
        self.cells.inc(counts.get(CELLS, 0))
        self.cells_bad.inc(counts.get(BAD_CELL, 0))
        for cause in CAUSES:
            if cause != BAD_CELL and (count := counts.get(cause)):
                self._readings_unused.labels(cause).inc(count)

    def unscored_devices(self, partition: Partition, count: int) -> None:
        """Set the number of devices that send readings but have had no score for long."""
        self._unscored_devices.labels(*_labels(partition)).set(count)

    def alert(self, kind: AlertKind, phase: AlertPhase) -> None:
        """Count a published alert."""
        self._alerts.labels(kind.value, phase.value).inc()

    def commit(self, outcome: CommitOutcome, seconds: float, rows: int) -> None:
        """Count a commit; its rows only if it landed."""
        self._commits.labels(outcome.value).inc()
        self.commit_seconds.observe(seconds)
        if outcome is CommitOutcome.LANDED:
            self.commit_rows.inc(rows)

    def checkpoint(self, partition: Partition, seconds: float, size_bytes: int) -> None:
        """Record a checkpoint that was just written."""
        self.checkpoint_seconds.observe(seconds)
        self.checkpoint_bytes.set(size_bytes)
        self._checkpoint_time.labels(*_labels(partition)).set(time.time())

    def checkpoint_failed(self) -> None:
        """Count a failed checkpoint write."""
        self._checkpoint_failures.inc()

    def devices(self, partition: Partition, count: int) -> None:
        """Set the number of devices with state."""
        self._devices.labels(*_labels(partition)).set(count)

    def replaying(self, partition: Partition, active: bool) -> None:
        """Set whether a partition is catching up from a checkpoint."""
        self._replaying.labels(*_labels(partition)).set(int(active))

    def swap_refused(self) -> None:
        """Count a refused swap command."""
        self._swaps_refused.inc()

    def model(self, partition: Partition, model_id: str) -> None:
        """Set the bundle in force."""
        before = self._models.get(partition)
        if before != model_id:
            self._drop_model(partition)
            self._models[partition] = model_id
            self._model.labels(*_labels(partition), model_id[:16]).set(1)

    def _drop_model(self, partition: Partition) -> None:
        if (before := self._models.pop(partition, None)) is not None:
            self._model.remove(*_labels(partition), before[:16])

    def forget(self, partition: Partition) -> None:
        """Drop all series of a revoked partition."""
        super().forget(partition)
        self._drop_model(partition)

    def committed(self, partition: Partition, offset: int) -> None:
        """Set the next input offset to publish."""
        self._position.labels(*_labels(partition)).set(offset)


class ArchiverMetrics(ReaderMetrics):
    """Metrics of an archiver.

    Attributes:
        part_files, part_rows, part_bytes: parts linked, with their rows and size.
        part_seconds: duration of writing and linking a part.
        part_latency_seconds: time from the log time of a part's first message to its link.
        storage_failures: failed writes.
        input_gaps: score messages whose input span does not follow the previous one.
    """

    def __init__(self, stream: str, instance: str, buffered_bytes: Callable[[], int]) -> None:
        super().__init__(ARCHIVER.name, stream, instance)
        self.part_files = self._counter("part_files", "Parquet parts linked")
        self.part_rows = self._counter("part_rows", "Rows in parts linked")
        self.part_bytes = self._counter("part_bytes", "Size of parts linked")
        self.part_seconds = self._histogram("part_seconds", "Duration of writing and linking a part")
        self.part_latency_seconds = self._histogram(
            "part_latency_seconds",
            "Time from the log time of a part's first message to its link",
            (*DURATIONS_S, 60, 300),
        )
        self.storage_failures = self._counter("storage_failures", "Failed writes to the score log")
        self.input_gaps = self._counter("input_gaps", "Score messages whose input span does not follow the last one")
        buffered = self._gauge("buffered_bytes", "Score messages read but not yet in a part")
        buffered.set_function(lambda: float(buffered_bytes()))
        self._position = self._partition_gauge("linked_offset", "Next offset of the scores topic to archive")

    def linked(self, partition: Partition, offset: int) -> None:
        """Set the next offset of the scores topic to archive."""
        self._position.labels(*_labels(partition)).set(offset)


def _labels(partition: Partition) -> tuple[str, str]:
    return partition.topic, str(partition.number)
