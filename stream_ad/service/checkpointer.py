"""Writes checkpoints in the background and prunes them once a landed commit names a newer one."""

from __future__ import annotations

import time
from collections.abc import Collection
from concurrent.futures import Future, ThreadPoolExecutor

from stream_ad.assembly import fingerprint
from stream_ad.config import Settings
from stream_ad.core.batches import Arrays
from stream_ad.core.model import Model
from stream_ad.errors import StorageError
from stream_ad.io import checkpoints
from stream_ad.io.transport import Partition
from stream_ad.replaying import PartitionReplay
from stream_ad.service.logs import EventLog
from stream_ad.service.metrics import ScorerMetrics

log = EventLog(__name__)


class Checkpointer:
    """Checkpoints of the partitions of one scorer.

    A failure to write is no reason to stop: recovery then starts from an older checkpoint.
    """

    def __init__(self, settings: Settings, model: Model, metrics: ScorerMetrics) -> None:
        self._settings = settings
        self._fingerprint = fingerprint(settings, model)
        self._metrics = metrics
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._running: dict[Partition, Future[str]] = {}
        self._newest: dict[Partition, str] = {}
        self._pruned: dict[Partition, str] = {}
        self._failing = False

    def take(self, partition: Partition, topic_id: str, replay: PartitionReplay) -> None:
        """Copy the state and write it in the background; skipped while the last one is being written."""
        running = self._running.get(partition)
        if running is None or running.done():
            self._collect(partition)
            arrays, offset = replay.snapshot(), replay.offset
            self._running[partition] = self._pool.submit(self._write, partition, topic_id, offset, arrays)

    def take_now(self, partition: Partition, topic_id: str, replay: PartitionReplay) -> None:
        """Write the state and wait for it."""
        running = self._running.pop(partition, None)
        if running is not None:
            running.exception()
        self._running[partition] = self._pool.submit(self._write, partition, topic_id, replay.offset, replay.snapshot())
        self._running[partition].exception()
        self._collect(partition)

    def _write(self, partition: Partition, topic_id: str, offset: int, arrays: Arrays) -> str:
        begun = time.monotonic()
        store, stream = self._settings.store, self._settings.stream
        meta = {"fingerprint": self._fingerprint}
        name = checkpoints.write(store.checkpoints, stream.name, partition.number, topic_id, offset, arrays, meta)
        size = sum(array.nbytes for array in arrays.values())
        self._metrics.checkpoint(partition, time.monotonic() - begun, size)
        return name

    def collect(self, partitions: Collection[Partition]) -> None:
        """Take note of checkpoints that are done."""
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
        """Return the name of the newest checkpoint that is safely on disk, or ""."""
        self._collect(partition)
        return self._newest.get(partition, "")

    def landed(self, partition: Partition, name: str) -> None:
        """A commit that names this checkpoint has landed: older ones beyond those kept may go."""
        if not name or self._pruned.get(partition) == name:
            return
        self._pruned[partition] = name
        self._pool.submit(self._prune, partition, name)

    def _prune(self, partition: Partition, name: str) -> None:
        store = self._settings.store
        try:
            checkpoints.prune(
                store.checkpoints, self._settings.stream.name, partition.number, [name], store.checkpoints_kept
            )
        except StorageError as error:
            log.warning("checkpoints_not_pruned", partition=partition.number, message=str(error))

    def forget(self, partition: Partition) -> None:
        """The partition is no longer ours."""
        for known in (self._running, self._newest, self._pruned):
            known.pop(partition, None)

    def close(self) -> None:
        """Finish what is being written."""
        self._pool.shutdown(wait=True)
