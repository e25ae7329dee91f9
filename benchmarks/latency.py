"""Latency from a reading's log time to its alert at a subscriber, at half the sustainable rate, on a real Kafka.

The subscriber reads committed records only. It uses its own clock, which is also the broker's: they share one machine.
`python -m benchmarks.latency --help`.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.load import DEVICES, SAMPLES, TOPIC, make_bundle, settings_of, write_settings
from benchmarks.pipeline import pipe, running
from deploy.kafka.broker import KafkaCluster
from simulators import producer, scenarios
from stream_ad import assembly
from stream_ad.config import Settings
from stream_ad.core.batches import Int64Array
from stream_ad.io.transport import Partition, Record, Transport
from stream_ad.io.wire import alerts as alert_messages
from stream_ad.role_table import deciding_group

TICK_S = 0.01
FAULTS_PER_DEVICE_HOUR = 3.0
STRENGTH = 2.0
WARM_UP = 1_000


def faulty(messages: int, devices: int) -> list[Record]:
    """Return messages of a fleet with many faults, so that many alerts are measured."""
    duration_s = -(-messages // devices) * SAMPLES
    load = scenarios.load("load").changed(
        devices=devices,
        duration_s=float(duration_s),
        random_faults={"per_device_hour": FAULTS_PER_DEVICE_HOUR, "first_s": 120.0, "strength": STRENGTH},
    )
    start_ms = int(time.time() * 1_000) - duration_s * 1_000
    return [
        Record(message.value, message.key, message.headers, 0)
        for message in producer.simulate(load, start_ms)
        if message.topic == load.readings_topic
    ]


def send_paced(transport: Transport, topic: str, records: Sequence[Record], rate: float) -> float:
    """Append records at a constant rate; return the achieved rate."""
    begun = time.monotonic()
    sent = 0
    while sent < len(records):
        due = min(len(records), int((time.monotonic() - begun) * rate) + 1)
        if due > sent:
            transport.append(topic, records[sent:due])
            sent = due
        time.sleep(TICK_S)
    return sent / (time.monotonic() - begun)


def await_offset(transport: Transport, group: str, partition: Partition, offset: int) -> None:
    """Wait until a group has committed an offset."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        position = transport.committed(group, partition)
        if position is not None and position.offset >= offset:
            return
        time.sleep(0.1)
    raise SystemExit("the scorer did not start in time")


class Subscriber(threading.Thread):
    """Reads the alerts topic and records when each alert arrived."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(daemon=True)
        self.seen: list[tuple[int, float]] = []
        self._settings = settings
        self._stop_event = threading.Event()

    def run(self) -> None:
        from kafka import KafkaConsumer, TopicPartition

        consumer = KafkaConsumer(
            bootstrap_servers=self._settings.transport.servers,  # type: ignore[union-attr]  # Kafka here
            isolation_level="read_committed",
            fetch_max_wait_ms=20,
        )
        partition = TopicPartition(self._settings.stream.alerts_topic, 0)
        consumer.assign([partition])
        consumer.seek_to_beginning()
        while not self._stop_event.is_set():
            for records in consumer.poll(timeout_ms=50).values():
                now = time.time()
                self.seen += [(alert_messages.decode(record.value).input.offset, now) for record in records]
        consumer.close()

    def finish(self) -> list[tuple[int, float]]:
        self._stop_event.set()
        self.join(10)
        return self.seen


def log_times(transport: Transport, partition: Partition) -> Iterator[tuple[Int64Array, Int64Array]]:
    for raw in transport.read(partition, *transport.bounds(partition)):
        yield raw.offset, raw.log_ns


@dataclass(frozen=True)
class Latency:
    """Latency from a reading's log time to its alert at a subscriber, in milliseconds."""

    rate: float
    alerts: int
    p50_ms: float
    p99_ms: float
    most_ms: float

    def __str__(self) -> str:
        return (
            f"rate {self.rate:,.0f} messages/s, {self.alerts} alerts: p50 {self.p50_ms:.0f} ms, "
            f"p99 {self.p99_ms:.0f} ms, maximum {self.most_ms:.0f} ms"
        )


def measure(
    folder: Path, server: str, rate: float, seconds: float, name: str = "latency", scorer: str = "scorer"
) -> Latency:
    """Send at the given rate, and measure the alerts' latency."""
    topic = f"{TOPIC}.{name}"
    kafka = f'kind = "kafka"\nservers = ["{server}"]'
    path = write_settings(folder, name, kafka, topic)
    settings = settings_of(path)
    log = assembly.open_transport(settings)
    log.ensure_topic(topic, 1)
    assembly.ensure_topics(settings, log)
    records = faulty(int(rate * seconds), DEVICES)
    with running(path, "archiver", scorer):
        log.append(topic, records[:WARM_UP])
        await_offset(log, deciding_group(settings), Partition(topic, 0), WARM_UP)
        subscriber = Subscriber(settings)
        subscriber.start()
        actual = send_paced(log, topic, records[WARM_UP:], rate)
        time.sleep(3)
        seen = subscriber.finish()
    offsets, times = map(np.concatenate, zip(*log_times(log, Partition(topic, 0)), strict=True))
    log.close()
    at = np.searchsorted(offsets, [offset for offset, _ in seen])
    latency_ms = 1e3 * (np.array([moment for _, moment in seen]) - times[at] / 1e9)
    settled = latency_ms[len(latency_ms) // 10 :]
    p50, p99 = np.quantile(settled, [0.5, 0.99])
    return Latency(actual, len(settled), float(p50), float(p99), float(settled.max()))


def sustainable(folder: Path, server: str, messages: int) -> float:
    """Return the messages per second that the pipeline processes."""
    from benchmarks.load import fill

    topic = f"{TOPIC}.rate"
    path = write_settings(folder, "rate", f'kind = "kafka"\nservers = ["{server}"]', topic)
    log = assembly.open_transport(settings_of(path))
    fill(log, topic, "series", messages, DEVICES)
    log.close()
    wall_s, _, _ = pipe(path, messages, topic)
    return messages / wall_s


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--rate", type=float, help="messages per second (default: half of the measured maximum)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        folder = Path(scratch)
        make_bundle(folder)
        server = stack.enter_context(KafkaCluster(folder / "kafka")).servers[0]
        found = measure(folder, server, args.rate or sustainable(folder, server, 40_000) / 2, args.seconds)
    print(f"{found} (target p99 < 400 ms: {'met' if found.p99_ms < 400 else 'MISSED'})")


if __name__ == "__main__":
    main()
