"""Writes checkpoints in the background and prunes them once a landed commit names a newer one."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

from stream_ad.config import Settings
from stream_ad.core.batches import Arrays
from stream_ad.errors import DeadlineError, StorageError, TransportError
from stream_ad.identity import fingerprint
from stream_ad.io.state import checkpoints
from stream_ad.io.transport import Partition, Transport
from stream_ad.replaying import PartitionReplay
from stream_ad.service.logs import EventLog
from stream_ad.service.metrics import ScorerMetrics

log = EventLog(__name__)


class Checkpointer:
    """Checkpoints of one scorer's partitions.

    A failed write does not stop the scorer: recovery then starts from an older checkpoint.
    """

    def __init__(self, settings: Settings, transport: Transport, metrics: ScorerMetrics) -> None:
        self._settings = settings
        self._transport = transport
        self._metrics = metrics
        self._journal_ends: dict[Partition, tuple[int, int]] = {}
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._running: dict[Partition, Future[str]] = {}
        self._newest: dict[Partition, str] = {}
        self._pruned: dict[Partition, str] = {}
        self._failing = False

    def take(self, partition: Partition, topic_id: str, replay: PartitionReplay) -> None:
        """Copy the state and write it in the background; skipped while a write is in progress."""
        running = self._running.get(partition)
        if running is None or running.done():
            self._collect(partition)
            self._begin(partition, topic_id, replay)

    def take_now(self, partition: Partition, topic_id: str, replay: PartitionReplay) -> None:
        """Write the state and wait until it is written."""
        running = self._running.pop(partition, None)
        if running is not None:
            running.exception()
        self._begin(partition, topic_id, replay).exception()
        self._collect(partition)

    def _begin(self, partition: Partition, topic_id: str, replay: PartitionReplay) -> Future[str]:
        lineage = replay.lineage
        meta = lineage.to_meta() | {
            "fingerprint": fingerprint(self._settings, lineage.model_id),
            "journal_offset": self._journal_end(partition, lineage.entries),
        }
        arrays, offset = replay.snapshot(), replay.offset
        running = self._pool.submit(self._write, partition, topic_id, offset, arrays, meta)
        self._running[partition] = running
        return running

    def _journal_end(self, partition: Partition, entries: int) -> int:
        """Return a journal offset at or below all entries to come; queries the log only after new entries."""
        known = self._journal_ends.get(partition)
        if known is None or known[0] != entries:
            place = Partition(self._settings.stream.journal_topic, partition.number)
            try:
                known = entries, self._transport.bounds(place)[1]
            except (TransportError, DeadlineError):
                return 0 if known is None else known[1]
            self._journal_ends[partition] = known
        return known[1]

    def _write(
        self, partition: Partition, topic_id: str, offset: int, arrays: Arrays, meta: Mapping[str, str | int]
    ) -> str:
        begun = time.monotonic()
        store, stream = self._settings.store, self._settings.stream
        name = checkpoints.write(store.checkpoints, stream.name, partition.number, topic_id, offset, arrays, meta)
        size = sum(array.nbytes for array in arrays.values())
        self._metrics.checkpoint(partition, time.monotonic() - begun, size)
        return name

    def collect(self, partitions: Collection[Partition]) -> None:
        """Process finished checkpoints."""
        for partition in partitions:
            self._collect(partition)

    def _collect(self, partition: Partition) -> None:
        running = self._running.get(partition)
        if running is None or not running.done():
            return
        del self._running[partition]
        error = running.exception()
        if error is None:
            self._newest[partition] = running.result()
            if self._failing:
                self._failing = False
                log.info("checkpoints_again", partition=partition.number)
        elif isinstance(error, StorageError):
            self._metrics.checkpoint_failed()
            if not self._failing:
                self._failing = True
                log.error("checkpoint_failed", partition=partition.number, message=str(error))
        else:
            raise error

    def newest(self, partition: Partition) -> str:
        """Return the name of the newest checkpoint that is durable on disk, or ""."""
        self._collect(partition)
        return self._newest.get(partition, "")

    def landed(self, partition: Partition, name: str) -> None:
        """Prune older checkpoints, once a commit that names this one has landed."""
        if not name or self._pruned.get(partition) == name:
            return
        self._pruned[partition] = name
        self._pool.submit(self._prune, partition, name)

    def _prune(self, partition: Partition, name: str) -> None:
        store = self._settings.store
        try:
            checkpoints.prune(
                store.checkpoints,
                self._settings.stream.name,
                partition.number,
                [name],
                store.checkpoints_kept,
                store.audit_every_s,
                store.audit_checkpoints_kept,
            )
        except StorageError as error:
            log.warning("checkpoints_not_pruned", partition=partition.number, message=str(error))

    def forget(self, partition: Partition) -> None:
        """Forget a partition that was revoked."""
        for known in (self._running, self._newest, self._pruned, self._journal_ends):
            known.pop(partition, None)

    def close(self) -> None:
        """Finish the writes in progress."""
        self._pool.shutdown(wait=True)
