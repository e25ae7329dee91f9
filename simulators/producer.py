"""Turns a scenario into messages in time order, and sends them to a log at a given pace."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import orjson

from simulators.events import PumpEvent, pump_events
from simulators.faults import NAMES, FaultSpec, inject
from simulators.fleet import device_id
from simulators.randomness import Randomness
from simulators.scenarios import Scenario
from simulators.signals import Signals, rounded
from stream_ad.core.batches import Float64Array, Int64Array
from stream_ad.errors import ConfigError, TopicError
from stream_ad.io.transport import Headers, Record, Transport
from stream_ad.io.wire.encode import ARROW_HEADERS, JSON_HEADERS, encode_arrow, encode_reading, encode_series

CHUNK_VALUES = 100_000
"""Samples generated per step, over all pumps: enough that numpy's overhead per call is negligible."""
BATCH = 1_000
"""Maximum number of messages per append."""
TICK_S = 0.02
CATCH_UP = 2.0
"""After a stall, messages are sent at most this many times as fast as the pace."""
STEP_S = 0.1
"""The part of a stall that counts immediately."""


class Message(NamedTuple):
    """A record and its destination.

    Attributes:
        topic, key, value, headers: as in the log.
        at_ms: simulated sending time, epoch milliseconds: for readings after their last sample, one pump after the
            other.
    """

    topic: str
    key: bytes
    value: bytes
    headers: Headers
    at_ms: int


class Block(NamedTuple):
    """Consecutive samples of the whole fleet.

    Attributes:
        first: number of the first sample.
        values: float64[d, 8, n], rounded; NaN is missing.
        faulty: whether a fault overlaps it.
    """

    first: int
    values: Float64Array
    faulty: bool


def simulate(scenario: Scenario, start_ms: int) -> Iterator[Message]:
    """Yield all messages of a run, by `at_ms`.

    The bytes depend only on the scenario and `start_ms`; a pump's readings do not depend on how many others there are.

    Args:
        scenario: what to simulate.
        start_ms: event time of the first sample, epoch milliseconds (see `Scenario.start_ms`).
    """
    signals = scenario.signals()
    faults = scenario.fault_specs(signals)
    streams = [_readings(scenario, signals, faults, start_ms), _truth(scenario, faults, start_ms)]
    if scenario.events:
        events = pump_events(signals, Randomness(scenario.seed), scenario.duration_s, faults)
        streams.append(_events(scenario, events, start_ms))
    return heapq.merge(*streams, key=lambda message: message.at_ms)


def blocks(scenario: Scenario, signals: Signals, faults: tuple[FaultSpec, ...]) -> Iterator[Block]:
    """Yield the run in blocks of whole messages."""
    samples = scenario.message_samples
    length = max(CHUNK_VALUES // (scenario.devices * samples), 1) * samples
    random = Randomness(scenario.seed)
    for first in range(0, scenario.samples_in_all, length):
        chunk = signals.chunk(first, min(length, scenario.samples_in_all - first))
        meeting = tuple(spec for spec in faults if spec.first < first + length and spec.last > first)
        inject(chunk, meeting, random, signals)
        yield Block(first, rounded(chunk.values), bool(meeting))


def recording(scenario: Scenario, start_ms: int) -> Iterator[dict[str, Int64Array | Float64Array | list[str]]]:
    """Yield the healthy fleet as columns, for training; the scenario's faults are ignored.

    Yields:
        `device` (text), `time` int64 epoch milliseconds, and a float64 column per channel; rows by
        time, then device.
    """
    signals = scenario.signals()
    ids = [device_id(number) for number in range(scenario.devices)]
    for block in blocks(scenario, signals, ()):
        length = block.values.shape[2]
        times = start_ms + (block.first + np.arange(length, dtype=np.int64)) * scenario.period_ms
        columns: dict[str, Int64Array | Float64Array | list[str]] = {
            "device": ids * length,
            "time": np.repeat(times, scenario.devices),
        }
        for channel, name in enumerate(NAMES):
            columns[name] = np.ascontiguousarray(block.values[:, channel].T).ravel()
        yield columns


def _readings(scenario: Scenario, signals: Signals, faults: tuple[FaultSpec, ...], start_ms: int) -> Iterator[Message]:
    encode = {"series": _encode_series, "single": _encode_single, "arrow": _encode_arrow}[scenario.format]
    headers = ARROW_HEADERS if scenario.format == "arrow" else JSON_HEADERS
    ids = [device_id(number) for number in range(scenario.devices)]
    keys = [text.encode() for text in ids]
    period_ms, samples, topic = scenario.period_ms, scenario.message_samples, scenario.readings_topic
    delay_ms = [number * samples * period_ms // scenario.devices for number in range(scenario.devices)]
    for block in blocks(scenario, signals, faults):
        # messages without any value are not sent: a silent pump
        length = block.values.shape[2]
        missing = np.zeros((len(ids), length), np.bool_)
        if block.faulty:
            missing[:] = np.isnan(block.values).all(axis=1)
        for begin in range(0, length, samples):
            end = min(begin + samples, length)
            first_ms = start_ms + (block.first + begin) * period_ms
            # also for a shorter last message, to keep the order of pumps
            sent_ms = start_ms + (block.first + begin + samples) * period_ms
            silent = np.all(missing[:, begin:end], axis=1)
            for row, device in enumerate(ids):
                if not silent[row]:
                    value = encode(device, first_ms, period_ms, block.values[row, :, begin:end])
                    yield Message(topic, keys[row], value, headers, sent_ms + delay_ms[row])


def _encode_series(device: str, first_ms: int, period_ms: int, values: Float64Array) -> bytes:
    return encode_series(device, first_ms, period_ms, dict(zip(NAMES, values, strict=True)))


def _encode_single(device: str, first_ms: int, period_ms: int, values: Float64Array) -> bytes:
    row = [None if value != value else value for value in values[:, 0].tolist()]
    return encode_reading(device, first_ms, dict(zip(NAMES, row, strict=True)))


def _encode_arrow(device: str, first_ms: int, period_ms: int, values: Float64Array) -> bytes:
    samples = values.shape[1]
    times = first_ms + period_ms * np.arange(samples, dtype=np.int64)
    # float32 holds the sensors' digits, and halves the message
    return encode_arrow([device] * samples, times, dict(zip(NAMES, values.astype(np.float32), strict=True)))


def _truth(scenario: Scenario, faults: tuple[FaultSpec, ...], start_ms: int) -> Iterator[Message]:
    for spec in faults:
        label = spec.truth(start_ms, scenario.period_ms)
        at_ms = start_ms + spec.first * scenario.period_ms
        key = device_id(spec.device).encode()
        yield Message(scenario.truth_topic, key, orjson.dumps(label), JSON_HEADERS, at_ms)


def _events(scenario: Scenario, events: Sequence[PumpEvent], start_ms: int) -> Iterator[Message]:
    for event in events:
        key, at_ms = event.device.encode(), event.at_ms(start_ms)
        yield Message(scenario.events_topic, key, event.encode(start_ms), JSON_HEADERS, at_ms)


def message_count(scenario: Scenario) -> int:
    """Return the number of reading messages if no pump is ever silent."""
    return scenario.devices * -(-scenario.samples_in_all // scenario.message_samples)


def paced(
    messages: Iterable[Message],
    due_s: Callable[[int, Message], float],
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> Iterator[list[Message]]:
    """Yield messages when they are due, in batches of at most `BATCH`.

    After a slow receiver, messages are sent at most twice as fast until caught up.

    Args:
        messages: by due time.
        due_s: function of number and message, returning seconds after the start.
        clock: seconds, monotonic.
        sleep: waits the given seconds.
    """
    begin = last = clock()
    allowed = 0.0
    numbered = enumerate(messages)
    waiting = next(numbered, None)
    while waiting is not None:
        now = clock()
        allowed = min(now - begin, allowed + CATCH_UP * min(now - last, STEP_S))
        last = now
        batch: list[Message] = []
        while waiting is not None and len(batch) < BATCH and due_s(*waiting) <= allowed:
            batch.append(waiting[1])
            waiting = next(numbered, None)
        if batch:
            yield batch
        if waiting is not None and len(batch) < BATCH:
            sleep(min(max(due_s(*waiting) - allowed, TICK_S), STEP_S))


def unpaced(messages: Iterable[Message]) -> Iterator[list[Message]]:
    """Yield messages in batches of `BATCH`, as fast as possible."""
    iterator = iter(messages)
    while batch := list(itertools.islice(iterator, BATCH)):
        yield batch


def send(
    transport: Transport, batches: Iterable[list[Message]], sent: Callable[[list[Message]], None] | None = None
) -> int:
    """Append batches to their topics; order within a topic is kept.

    Args:
        transport: the log.
        batches: from `paced` or `unpaced`.
        sent: called with each appended batch.

    Returns:
        the number of messages.
    """
    count = 0
    for batch in batches:
        by_topic: dict[str, list[Record]] = {}
        for message in batch:
            record = Record(message.value, message.key, message.headers)
            by_topic.setdefault(message.topic, []).append(record)
        for topic, records in by_topic.items():
            transport.append(topic, records)
        count += len(batch)
        if sent is not None:
            sent(batch)
    return count


def ensure_topics(transport: Transport, scenario: Scenario, partitions: int | None = None) -> None:
    """Create missing topics, with append times.

    Args:
        transport: the log.
        scenario: names the topics; readings and events get the same number of partitions, truth gets one.
        partitions: number requested by the user; None accepts existing topics as they are.

    Raises:
        TopicError: the readings topic exists with another number of partitions.
        ConfigError: two topics have the same name.
    """
    wanted = {scenario.readings_topic: partitions or scenario.partitions}
    wanted |= {scenario.events_topic: partitions or scenario.partitions} if scenario.events else {}
    wanted |= {scenario.truth_topic: 1}
    if len(wanted) != 2 + scenario.events:
        raise ConfigError("topics: readings, events and truth need different names")
    for name, count in wanted.items():
        try:
            found = transport.topic(name)
        except TopicError:
            transport.ensure_topic(name, count)
            continue
        if partitions is not None and name != scenario.truth_topic and found.partitions != count:
            raise TopicError(f"topic {name}: expected {count} partitions, found {found.partitions}")
