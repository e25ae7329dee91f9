"""The producer, and its ledger of what the brokers acknowledged, which is held against the topic at the end."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from kafka import KafkaProducer
from kafka import errors as kafka_errors

from simulators.producer import simulate
from simulators.scenarios import Scenario
from simulators.scenarios import parse as scenario
from stream_ad.errors import TransportError
from stream_ad.io.kafka.clients import KafkaClients
from stream_ad.io.kafka.records import close_producer
from stream_ad.io.transport import Record
from tests.support.e2e import START_MS

SAMPLES = 64
"""Readings a message."""
RUBBISH_EVERY = 97
IN_FLIGHT = 2_000
"""Messages that may wait for their acknowledgement; kafka-python itself has no bound."""
DELIVERY_S = 300.0
"""Longer than any outage of the schedule: whatever is given up would not be in the ledger."""
CATCH_UP = 3.0
"""After an outage messages are sent at most so many times as fast as the rate."""


def fleet(devices: int, readings: int, seed: int) -> Scenario:
    """Return pumps with many faults, long enough to send twice so many readings."""
    duration_s = (2 * readings // devices // SAMPLES + 20) * SAMPLES
    faults = {"per_device_hour": 2.0, "first_s": 200.0}
    plain = {"devices": devices, "duration_s": duration_s, "seed": seed, "events": False, "samples": SAMPLES}
    return scenario({**plain, "random_faults": faults}, "chaos")


def records(fleet: Scenario) -> Iterator[tuple[Record, int]]:
    """Yield the fleet's messages with their number of readings, and now and then a record that is none."""
    readings = (message for message in simulate(fleet, START_MS) if message.topic == fleet.readings_topic)
    for number, message in enumerate(readings):
        yield Record(message.value, message.key, message.headers), SAMPLES
        if number % RUBBISH_EVERY == RUBBISH_EVERY - 1:
            yield Record(b"rubbish %d" % number, message.key), 0


def digest(value: bytes) -> bytes:
    """Return what the ledger keeps of a message: each is different, by its device and time or its number."""
    return hashlib.blake2b(value, digest_size=16).digest()


@dataclass(frozen=True, slots=True)
class Entry:
    """An acknowledged message."""

    partition: int
    offset: int
    digest: bytes


class Producer(threading.Thread):
    """Sends messages at a rate until it has sent enough and is asked to stop.

    An idempotent producer with `acks=all`, whose client retries what fails.

    Attributes:
        acknowledged: the ledger.
        given_up: digests of messages whose sending failed for good: they may be in the topic or not.
        readings: acknowledged.
        error: what ended the thread, None where it ended as asked.
    """

    def __init__(
        self, servers: Sequence[str], topic: str, messages: Iterable[tuple[Record, int]], rate: float, enough: int
    ) -> None:
        """Prepare.

        Args:
            servers: of the brokers.
            topic: of the readings.
            messages: with their number of readings.
            rate: messages a second.
            enough: readings that are sent at least.
        """
        super().__init__(name="producer", daemon=True)
        self.acknowledged: list[Entry] = []
        self.given_up: list[bytes] = []
        self.readings = 0
        self.error: BaseException | None = None
        self._clients = KafkaClients(servers, 15.0, 1_000_000, {})
        self._topic, self._messages, self._rate, self._enough = topic, iter(messages), rate, enough
        self._room = threading.BoundedSemaphore(IN_FLIGHT)
        self._asked = threading.Event()
        self._sent = 0

    @property
    def has_enough(self) -> bool:
        """Whether enough readings are sent."""
        return self._sent >= self._enough

    def stop(self) -> None:
        """Ask to end once enough is sent."""
        self._asked.set()

    def run(self) -> None:
        """Send."""
        producer: Any = None
        try:
            producer = self._open()
            last, allowance = time.monotonic(), 0.0
            while not (self._asked.is_set() and self.has_enough):
                now = time.monotonic()
                # A long halt is caught up, but as a burst of bounded speed.
                allowance += self._rate * min(now - last, 0.1 * CATCH_UP if now - last > 0.1 else now - last)
                last = now
                while allowance >= 1.0:
                    allowance -= 1.0
                    if len(self.given_up):
                        raise RuntimeError(f"{len(self.given_up)} messages were not acknowledged")
                    self._send(producer)
                time.sleep(0.01)
            producer.flush(DELIVERY_S)
        except BaseException as error:  # handed to whoever joins
            self.error = error
        finally:
            if producer is not None:
                close_producer(producer, 5.0)

    def _open(self) -> KafkaProducer:
        end = time.monotonic() + DELIVERY_S
        while True:
            try:
                return self._clients.open_producer(DELIVERY_S, retry_backoff_ms=50, linger_ms=20)
            except TransportError:
                if time.monotonic() > end:
                    raise

    def _send(self, producer: KafkaProducer) -> None:
        record, readings = next(self._messages)
        mark = digest(record.value)
        if not self._room.acquire(timeout=DELIVERY_S):
            raise RuntimeError(f"no acknowledgement for {DELIVERY_S:.0f} s")
        end = time.monotonic() + DELIVERY_S
        while True:
            try:
                future = producer.send(self._topic, record.value, record.key, list(record.headers))
                break
            except kafka_errors.KafkaTimeoutError:  # no metadata: nothing was sent
                if time.monotonic() > end:
                    raise
        self._sent += readings

        def landed(found: Any) -> None:
            self.acknowledged.append(Entry(found.partition, found.offset, mark))
            self.readings += readings
            self._room.release()

        def failed(_: Any) -> None:
            self.given_up.append(mark)
            self._room.release()

        future.add_callback(landed)
        future.add_errback(failed)


def compare(
    acknowledged: Sequence[Entry], given_up: Sequence[bytes], found: Iterable[tuple[int, int, bytes]]
) -> list[str]:
    """Hold the ledger against the readings topic.

    Args:
        acknowledged: the ledger.
        given_up: digests of messages that may be there once.
        found: partition, offset and digest of every record of the topic.

    Returns:
        what is wrong, a line each.
    """
    topic = {(partition, offset): mark for partition, offset, mark in found}
    ledger = {(entry.partition, entry.offset): entry.digest for entry in acknowledged}
    missing = [place for place, mark in ledger.items() if topic.get(place) != mark]
    counts = Counter(topic.values())
    repeated = [mark for mark, count in counts.items() if count > 1]
    strange = counts.keys() - {entry.digest for entry in acknowledged} - set(given_up)
    wrong = []
    if missing:
        wrong.append(f"readings: {len(missing)} acknowledged messages are not where they were put, one {missing[0]}")
    if len(ledger) != len(acknowledged):
        wrong.append(f"readings: {len(acknowledged) - len(ledger)} messages were acknowledged at places already taken")
    if repeated:
        wrong.append(f"readings: {len(repeated)} messages are there more than once")
    if strange:
        wrong.append(f"readings: {len(strange)} records that nobody sent")
    return wrong
