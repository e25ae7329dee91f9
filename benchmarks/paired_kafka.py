"""The paired measurement on a real Kafka: `python -m benchmarks.paired --kafka --old PATH`."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.latency import Subscriber, await_offset, faulty, log_times, send_paced
from benchmarks.load import DEVICES, TOPIC, settings_of, write_settings
from benchmarks.paired import environment
from deploy.kafka.broker import KafkaCluster
from stream_ad.assembly import ensure_topics, open_transport
from stream_ad.io.transport import Partition, Record
from stream_ad.role_table import deciding_group

RATE = 3_000.0
"""Messages per second while alerts are timed: well below what either side sustains."""
PACED = 24_000
FIRST = 0.1
"""The part of the backlog before the clock starts, when a scorer has just started."""


@contextlib.contextmanager
def scorer(checkout: Path, config: Path) -> Iterator[None]:
    """Run a checkout's scorer as a process.

    Raises:
        SystemExit: it failed.
    """
    command = [sys.executable, "-m", "stream_ad.cli.main", "-c", str(config), "run", "scorer"]
    child = subprocess.Popen(command, cwd=checkout, env=environment(checkout))
    try:
        yield
    finally:
        child.terminate()
        if child.wait(60) != 0:
            raise SystemExit(f"{checkout}: the scorer ended with {child.returncode}")


def measured(
    checkout: Path, bundle: Path, folder: Path, name: str, server: str, records: Sequence[Record]
) -> tuple[float, float]:
    """Return messages per second of a backlog, and the median seconds from log time to alert at a steady rate."""
    topic = f"{TOPIC}.{name}"
    config = write_settings(folder, name, f'kind = "kafka"\nservers = ["{server}"]', topic)
    config.write_text(config.read_text().replace('bundle = "bundle"', f'bundle = "{bundle}"'))
    settings = settings_of(config)
    with contextlib.closing(open_transport(settings)) as log:
        log.ensure_topic(topic, 1)
        ensure_topics(settings, log)
        backlog, partition, group = len(records) - PACED, Partition(topic, 0), deciding_group(settings)
        log.append(topic, records[:backlog])
        with scorer(checkout, config):
            first = int(FIRST * backlog)
            await_offset(log, group, partition, first)
            position = log.committed(group, partition)
            begun, done = time.monotonic(), position.offset if position else 0
            await_offset(log, group, partition, backlog)
            rate = (backlog - done) / (time.monotonic() - begun)
            subscriber = Subscriber(settings)
            subscriber.start()
            send_paced(log, topic, records[backlog:], RATE)
            await_offset(log, group, partition, len(records))
            seen = [(offset, moment) for offset, moment in subscriber.finish() if offset >= backlog]
        offsets, times = map(np.concatenate, zip(*log_times(log, partition), strict=True))
        log.delete_topic(topic)
    at = np.searchsorted(offsets, [offset for offset, _ in seen])
    return rate, float(np.median([moment for _, moment in seen] - times[at] / 1e9))


def compared_on_kafka(
    checkouts: Sequence[Path], bundles: Sequence[Path], folder: Path, pairs: int, backlog: int
) -> dict[str, list[float]]:
    """Return the ratios of all pairs, above 1 if the first checkout is better."""
    ratios: dict[str, list[float]] = {"throughput": [], "latency": []}
    records = faulty(backlog + PACED, DEVICES)[: backlog + PACED]
    with KafkaCluster(folder / "kafka") as cluster:
        for number in range(pairs):
            order = (0, 1) if number % 2 else (1, 0)
            found = {
                side: measured(checkouts[side], bundles[side], folder, f"p{number}-{side}", cluster.servers[0], records)
                for side in order
            }
            ratios["throughput"].append(found[0][0] / found[1][0])
            ratios["latency"].append(found[1][1] / found[0][1])
            sides = (f"{rate:,.0f} messages/s, alerts {1e3 * seconds:.0f} ms" for rate, seconds in found.values())
            print(f"pair {number + 1} of {pairs}: {'; '.join(sides)}", file=sys.stderr)
    return ratios
