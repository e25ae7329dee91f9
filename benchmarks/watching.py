"""Samples of a running stream: its roles' resources, their lag, and disk usage."""

from __future__ import annotations

import contextlib
import csv
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import psutil

from benchmarks.service import Progress, Service
from stream_ad.config import Settings
from stream_ad.errors import TransportError

ROLES = ("scorer-0", "archiver")


@dataclass(frozen=True)
class Sample:
    """Measurements at one time.

    Attributes:
        at_s: since the sampler's start.
        scorer_mb, archiver_mb: resident size. *_fds, *_threads: file descriptors and threads.
        sent: messages sent so far. lag: those not yet scored.
        devices: with state in the scorer, according to its metrics; -1 if unavailable.
        checkpoints, checkpoint_mb: files in the folder and their size.
        parts: Parquet files.
        broker_mb: size of the broker's logs.
    """

    at_s: float
    scorer_mb: float
    archiver_mb: float
    scorer_fds: int
    archiver_fds: int
    scorer_threads: int
    archiver_threads: int
    sent: int
    lag: int
    devices: int
    checkpoints: int
    checkpoint_mb: float
    parts: int
    broker_mb: float


class Sampler(threading.Thread):
    """Samples a stream every few seconds until stopped."""

    def __init__(
        self,
        service: Service,
        settings: Settings,
        progress: Progress,
        every_s: float,
        sent: Callable[[], int],
        devices: Callable[[], int],
        broker: Path,
    ) -> None:
        super().__init__(daemon=True)
        self.samples: list[Sample] = []
        self.restarts = 0
        self._service, self._settings, self._progress = service, settings, progress
        self._every_s, self._sent, self._devices, self._broker = every_s, sent, devices, broker
        self._stop_event = threading.Event()
        self._begun = time.monotonic()

    def run(self) -> None:
        due = time.monotonic()
        while True:
            with contextlib.suppress(psutil.Error, TransportError):  # a role is restarting
                self.samples.append(self.take_sample())
            due += self._every_s
            if self._stop_event.wait(max(0.0, due - time.monotonic())):
                return

    def take_sample(self) -> Sample:
        """Take one sample."""
        processes = self._service.processes()
        found = {}
        for name in ROLES:
            process = processes[name]
            with process.oneshot():
                found[name] = process.memory_info().rss / 1e6, process.num_fds(), process.num_threads()
        self.restarts = len(self._service.lines("role_started")) - len(processes)
        store = self._settings.store
        scorer, archiver = (found[name] for name in ROLES)
        files, size = sizes(store.checkpoints)
        return Sample(
            at_s=round(time.monotonic() - self._begun, 1),
            scorer_mb=round(scorer[0], 1),
            archiver_mb=round(archiver[0], 1),
            scorer_fds=scorer[1],
            archiver_fds=archiver[1],
            scorer_threads=scorer[2],
            archiver_threads=archiver[2],
            sent=self._sent(),
            lag=max(0, self._progress.end() - self._progress.committed()),
            devices=self._devices(),
            checkpoints=files,
            checkpoint_mb=round(size / 1e6, 1),
            parts=sizes(store.scores)[0],
            broker_mb=round(sizes(self._broker)[1] / 1e6),
        )

    def finish(self) -> list[Sample]:
        """Stop, and return all samples."""
        self._stop_event.set()
        self.join(60)
        return self.samples


def sizes(folder: Path) -> tuple[int, int]:
    """Return number and size of the files in a folder; files deleted meanwhile are ignored."""
    count = size = 0
    for where, _, names in os.walk(folder):
        for name in names:
            try:
                status = os.stat(os.path.join(where, name))
            except FileNotFoundError:
                continue
            count += 1
            size += status.st_blocks * 512
    return count, size


def write_csv(path: Path, samples: Sequence[Sample]) -> None:
    """Write samples as CSV."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Sample)])
        writer.writeheader()
        writer.writerows(asdict(sample) for sample in samples)


def growth(values: Sequence[float]) -> float:
    """Return the relative growth of the last quarter's median over the first quarter's; 0 for too few values."""
    quarter = len(values) // 4
    if not quarter:
        return 0.0
    first, last = (sorted(part)[len(part) // 2] for part in (values[:quarter], values[-quarter:]))
    return last / first - 1 if first else 0.0
