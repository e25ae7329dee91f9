"""Reads a topic's records without a consumer group: those present, the last ones first, or continuously."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from stream_ad.errors import UnreachableError
from stream_ad.io.transport import Headers, Partition, Transport

POLL_S = 0.2
PATIENCE_S = 60.0
"""How long `follow` retries a log that does not answer."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A record and its place in the log."""

    partition: Partition
    offset: int
    log_ns: int
    key: bytes | None
    value: bytes
    headers: Headers


def records(
    transport: Transport, partition: Partition, start: int, end: int, beat: Callable[[], None] = lambda: None
) -> Iterator[Stored]:
    """Yield a partition's records with start <= offset < end, in offset order; `beat` is called after each batch.

    Raises:
        TransportError: the log or the topic is unavailable, or `start` is no longer retained.
    """
    for raw in transport.read(partition, start, end) if start < end else ():
        beat()
        columns = zip(raw.offset.tolist(), raw.log_ns.tolist(), raw.keys, raw.values, raw.headers, strict=True)
        for offset, log_ns, key, value, headers in columns:
            yield Stored(partition, offset, log_ns, key, value, headers)


def backwards(transport: Transport, partition: Partition, start: int, end: int, step: int = 4) -> Iterator[Stored]:
    """Yield a partition's records with start <= offset < end, last one first, from spans of offsets that grow.

    Raises:
        TransportError: as `records`.
    """
    while end > start:
        begin = max(start, end - step)
        yield from reversed(list(records(transport, partition, begin, end)))
        end, step = begin, 8 * step


def newest(transport: Transport, partition: Partition) -> Stored | None:
    """Return a partition's last record, None if it has none.

    Raises:
        TransportError: as `records`.
    """
    return next(backwards(transport, partition, *transport.bounds(partition)), None)


def stored(
    transport: Transport,
    topic: str,
    position: dict[int, int] | None = None,
    beat: Callable[[], None] = lambda: None,
) -> Iterator[Stored]:
    """Yield a topic's records, partition by partition, each in offset order.

    Args:
        transport: the log.
        topic: its name.
        position: start offset by partition, default the earliest retained record; updated to the next offset.
        beat: called after each batch.

    Raises:
        TransportError: the log or the topic is unavailable.
    """
    position = {} if position is None else position
    for number in range(transport.topic(topic).partitions):
        partition = Partition(topic, number)
        earliest, end = transport.bounds(partition)
        start = position.get(number, earliest)
        yield from records(transport, partition, start, end, beat)
        position[number] = max(start, end)


def follow(transport: Transport, topic: str, is_endless: bool) -> Iterator[Stored]:
    """Yield a topic's records, by log time within each poll.

    Args:
        transport: the log.
        topic: its name.
        is_endless: wait for new records instead of ending.

    Raises:
        TransportError: the log does not answer (if endless: for `PATIENCE_S`), or the topic is missing.
    """
    position: dict[int, int] = {}
    answered = time.monotonic()
    while True:
        found: list[Stored] = []
        before = dict(position)
        try:
            found += stored(transport, topic, position)
            answered = time.monotonic()
        except UnreachableError:
            if not is_endless or time.monotonic() - answered > PATIENCE_S:
                raise
            found, position = [], before
        yield from sorted(found, key=lambda record: (record.log_ns, record.partition.number, record.offset))
        if not is_endless:
            return
        if not found:
            time.sleep(POLL_S)
