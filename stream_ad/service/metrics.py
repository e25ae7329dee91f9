"""Prometheus metrics of the roles: prefix `stream_ad_`, base units, no label for devices.

Each role object owns a registry, so that several can live in one process (tests). Series labelled
by partition are dropped when the partition is handed over: a stale lag pages somebody for nothing.
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
    """The metrics of every role.

    Attributes:
        registry: holds all metrics of the role and of its process.
        turn_seconds: length of turns that did work, a histogram.
        ready: 1 while the role is ready, a gauge; kept by the loop that runs the role.
    """

    def __init__(self, role: str, stream: str, instance: str) -> None:
        # Without this each counter has a second series, which nobody asks for; the function bears no types.
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
        self.ready = self._gauge("ready", "1 while the role does its work, 0 while it starts, waits or is cut off")
        self.turn_seconds = self._histogram("turn_seconds", "Length of turns that did work")

    def forget(self, partition: Partition) -> None:
        """Drop every series of a partition that is no longer ours."""
        for gauge in self._by_partition:
            with suppress(KeyError):  # older prometheus-client refuses what was never set
                gauge.remove(*_labels(partition))

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """Return the page and its content type, as Prometheus text or, if asked for, OpenMetrics."""
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
    """The metrics of every role that reads a topic.

    Attributes:
        records: input records read, a counter.
        poll_records: records a poll, a histogram.
    """

    def __init__(self, role: str, stream: str, instance: str) -> None:
        super().__init__(role, stream, instance)
        self.records = self._counter("records", "Input records read")
        self.poll_records = self._histogram("poll_records", "Records a poll", POLL_RECORDS)
        self.lag_records = self._partition_gauge("lag_records", "Committed records of the input not yet read")
        self.lag_seconds = self._partition_gauge(
            "lag_seconds", "Age of the newest record read while others wait, else 0"
        )

    def lag(self, partition: Partition, records: int, seconds: float) -> None:
        """Set the lag of a partition: records not yet read, and seconds behind (0 when none wait)."""
        self.lag_records.labels(*_labels(partition)).set(max(0, records))
        self.lag_seconds.labels(*_labels(partition)).set(max(0.0, seconds) if records > 0 else 0.0)


class ScorerMetrics(ReaderMetrics):
    """What a scorer tells.

    Attributes:
        readings: readings decoded. windows: windows judged. unscored: of these, without a score.
        anomalous: of these, inside an incident. step_seconds: length of a pipeline step.
        commit_seconds: length of a commit. commit_rows: rows a commit made public.
        alert_latency_seconds: log time of the record that caused an alert to its commit.
        checkpoint_seconds, checkpoint_bytes: length and size of checkpoints written.
        replayed_records: input records read again to recover.
        lost_offsets: input offsets that were deleted before they were scored.
    """

    def __init__(self, stream: str, instance: str) -> None:
        super().__init__(SCORER.name, stream, instance)
        self.readings = self._counter("readings", "Readings decoded")
        self.skipped_readings = self._counter("skipped_readings", "Readings of unknown devices or channels")
        self.windows = self._counter("windows", "Windows judged")
        self.unscored = self._counter("windows_unscored", "Windows without a score")
        self.anomalous = self._counter("windows_anomalous", "Windows inside an incident")
        self._refused = self._counter("refused", "Records refused, wholly or in part", ("reason",))
        self.cells = self._counter("cells", "Values that readings had, of channels of the bundle")
        self.cells_bad = self._counter("cells_bad", "Values that are no finite numbers: they count as missing")
        self._readings_unused = self._counter(
            "readings_unused", "Readings refused, or of an unknown device or with an unknown channel", ("reason",)
        )
        self._unscored_devices = self._partition_gauge(
            "unscored_devices", "Devices that send readings and have had no score for long"
        )
        self._alerts = self._counter("alerts", "Alerts published", ("kind", "phase"))
        self._commits = self._counter("commits", "Commits by outcome", ("outcome",))
        self.step_seconds = self._histogram("step_seconds", "Length of a pipeline step")
        self.commit_seconds = self._histogram("commit_seconds", "Length of a commit")
        self.commit_rows = self._counter("committed_rows", "Rows made public")
        self.alert_latency_seconds = self._histogram(
            "alert_latency_seconds", "From the log time of the record behind an alert to its commit"
        )
        self.checkpoint_seconds = self._histogram("checkpoint_seconds", "Length of writing a checkpoint")
        self.checkpoint_bytes = self._gauge("checkpoint_bytes", "Size of the newest checkpoint")
        self._checkpoint_time = self._partition_gauge(
            "checkpoint_time_seconds", "When the newest checkpoint was written, seconds since the epoch"
        )
        self._checkpoint_failures = self._counter("checkpoint_failures", "Checkpoints that could not be written")
        self._devices = self._partition_gauge("devices", "Devices with state")
        self._replaying = self._partition_gauge("replaying", "1 while the partition catches up from a checkpoint")
        self._position = self._partition_gauge("committed_offset", "Next input offset made public")
        self.swaps = self._counter("swaps", "Bundles taken into service by a command, counted by partition")
        self._swaps_refused = self._counter("swaps_refused", "Commands to swap that could not be obeyed")
        self.wall_closes = self._counter("wall_closes", "Closes by the clock in a partition silent as a whole")
        self._model = Gauge(
            "model_info",
            "1 for the bundle in force",
            ("topic", "partition", "model"),
            namespace=PREFIX,
            registry=self.registry,
        )
        self._models: dict[Partition, str] = {}
        self.replayed_records = self._counter("replayed_records", "Input records read again to recover")
        self.lost_offsets = self._counter("lost_input_offsets", "Input offsets deleted before they were scored")
        self._name_series()

    def _name_series(self) -> None:
        """Make every known label set at 0: a rate over a series that appears with its first event misses it."""
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
        """Count records refused."""
        self._refused.labels(reason.value).inc(records)

    def taken_in(self, counts: Mapping[str, int]) -> None:
        """Count what readings held and what of it could not be used; see `replaying.intake`."""
        self.cells.inc(counts.get(CELLS, 0))
        self.cells_bad.inc(counts.get(BAD_CELL, 0))
        for cause in CAUSES:
            if cause != BAD_CELL and (count := counts.get(cause)):
                self._readings_unused.labels(cause).inc(count)

    def unscored_devices(self, partition: Partition, count: int) -> None:
        """Set the number of devices that send readings and have had no score for long."""
        self._unscored_devices.labels(*_labels(partition)).set(count)

    def alert(self, kind: AlertKind, phase: AlertPhase) -> None:
        """Count an alert made public."""
        self._alerts.labels(kind.value, phase.value).inc()

    def commit(self, outcome: CommitOutcome, seconds: float, rows: int) -> None:
        """Count a commit; rows count only where it landed."""
        self._commits.labels(outcome.value).inc()
        self.commit_seconds.observe(seconds)
        if outcome is CommitOutcome.LANDED:
            self.commit_rows.inc(rows)

    def checkpoint(self, partition: Partition, seconds: float, size_bytes: int) -> None:
        """Count a checkpoint written now."""
        self.checkpoint_seconds.observe(seconds)
        self.checkpoint_bytes.set(size_bytes)
        self._checkpoint_time.labels(*_labels(partition)).set(time.time())

    def checkpoint_failed(self) -> None:
        """Count a checkpoint that could not be written."""
        self._checkpoint_failures.inc()

    def devices(self, partition: Partition, count: int) -> None:
        """Set the number of devices with state."""
        self._devices.labels(*_labels(partition)).set(count)

    def replaying(self, partition: Partition, active: bool) -> None:
        """Say whether a partition catches up from a checkpoint."""
        self._replaying.labels(*_labels(partition)).set(int(active))

    def swap_refused(self) -> None:
        """Count a command that could not be obeyed."""
        self._swaps_refused.inc()

    def model(self, partition: Partition, model_id: str) -> None:
        """Say which bundle is in force."""
        before = self._models.get(partition)
        if before != model_id:
            self._drop_model(partition)
            self._models[partition] = model_id
            self._model.labels(*_labels(partition), model_id[:16]).set(1)

    def _drop_model(self, partition: Partition) -> None:
        if (before := self._models.pop(partition, None)) is not None:
            self._model.remove(*_labels(partition), before[:16])

    def forget(self, partition: Partition) -> None:
        """Drop every series of a partition that is no longer ours."""
        super().forget(partition)
        self._drop_model(partition)

    def committed(self, partition: Partition, offset: int) -> None:
        """Set the next input offset made public."""
        self._position.labels(*_labels(partition)).set(offset)


class ArchiverMetrics(ReaderMetrics):
    """What an archiver tells.

    Attributes:
        part_files, part_rows, part_bytes: parts linked, their rows and their size.
        part_seconds: length of writing and linking a part.
        part_latency_seconds: log time of a part's first message to its link.
        storage_failures: writes that failed.
        input_gaps: score messages that do not follow on the ones before.
    """

    def __init__(self, stream: str, instance: str, buffered_bytes: Callable[[], int]) -> None:
        super().__init__(ARCHIVER.name, stream, instance)
        self.part_files = self._counter("part_files", "Parquet parts linked")
        self.part_rows = self._counter("part_rows", "Rows in parts linked")
        self.part_bytes = self._counter("part_bytes", "Size of parts linked")
        self.part_seconds = self._histogram("part_seconds", "Length of writing and linking a part")
        self.part_latency_seconds = self._histogram(
            "part_latency_seconds", "From the log time of a part's first message to its link", (*DURATIONS_S, 60, 300)
        )
        self.storage_failures = self._counter("storage_failures", "Writes to the score log that failed")
        self.input_gaps = self._counter("input_gaps", "Score messages that do not follow on the input span before")
        buffered = self._gauge("buffered_bytes", "Score messages read and not yet in a part")
        buffered.set_function(lambda: float(buffered_bytes()))
        self._position = self._partition_gauge("linked_offset", "Next offset of the scores topic to be put into a part")

    def linked(self, partition: Partition, offset: int) -> None:
        """Set the next offset of the scores topic to be put into a part."""
        self._position.labels(*_labels(partition)).set(offset)


def _labels(partition: Partition) -> tuple[str, str]:
    return partition.topic, str(partition.number)
