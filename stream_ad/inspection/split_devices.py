"""Devices whose readings arrive in two partitions: each half is scored separately, with gaps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from stream_ad.errors import PositionError, TopicError
from stream_ad.io.transport import Partition, Transport

HOUR_NS = 3_600_000_000_000
"""Log time covered by the score messages that are examined."""
MESSAGES, BYTES = 2_000, 64_000_000
"""Approximate maximum of score messages and bytes examined, over all partitions."""
CHUNK = 32
LEAST = 20
NAMED = 3


@dataclass(frozen=True, slots=True)
class SplitDevice:
    """A device with windows of the same time in several partitions.

    Attributes:
        device: its id.
        partitions: their numbers.
    """

    device: str
    partitions: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SplitDevices:
    """Split devices found in the newest score messages.

    Attributes:
        count: number of split devices.
        devices: the first of them by id.
        messages: number of score messages examined.
    """

    count: int = 0
    devices: tuple[SplitDevice, ...] = ()
    messages: int = 0


def split_devices(transport: Transport, topic: str) -> SplitDevices:
    """Find devices that several partitions judge, in the newest score messages.

    A device that moved to another partition is not split: its windows do not overlap in time. A stream with one
    partition is not read.

    Args:
        transport: the log.
        topic: the scores topic; a missing topic has no messages.
    """
    try:
        partitions = transport.topic(topic).partitions
    except TopicError:
        return SplitDevices()
    if partitions < 2:
        return SplitDevices()
    messages = 0
    spans: dict[str, list[tuple[int, int, int, int]]] = {}
    for number in range(partitions):
        found = list(_newest(transport, Partition(topic, number), partitions))
        messages += len(found)
        for device, first_us, last_us, window_us in _spans(found):
            spans.setdefault(device, []).append((number, first_us, last_us, window_us))
    split = [
        SplitDevice(device, apart) for device, found in sorted(spans.items()) if len(apart := _overlapping(found)) > 1
    ]
    return SplitDevices(len(split), tuple(split[:NAMED]), messages)


def _newest(transport: Transport, partition: Partition, partitions: int) -> Iterator[bytes]:
    """Yield the newest messages' payloads, last one first, limited by time, number and bytes."""
    earliest, end = transport.bounds(partition)
    left, room = max(LEAST, MESSAGES // partitions), BYTES // partitions
    since_ns: int | None = None
    while end > earliest and left > 0 and room > 0:
        start = max(earliest, end - CHUNK)
        found: list[tuple[int, bytes]] = []
        try:
            for raw in transport.read(partition, start, end):
                found += zip(raw.log_ns.tolist(), raw.values, strict=True)
        except PositionError:  # deleted in the meantime
            return
        for log_ns, value in reversed(found):
            since_ns = log_ns - HOUR_NS if since_ns is None else since_ns
            if log_ns < since_ns or left <= 0 or room <= 0:
                return
            left, room = left - 1, room - len(value)
            yield value
        end = start
        left -= 1  # an offset without a record (a transaction marker) is cheap but not free


def _spans(messages: list[bytes]) -> Iterator[tuple[str, int, int, int]]:
    """Yield each device with the first and last end of its windows and the window length, in microseconds."""
    tables = []
    for value in messages:
        try:
            with pa.ipc.open_stream(value) as reader:
                table = reader.read_all().select(["device", "start", "end"])
            tables.append(table.set_column(0, "device", pc.cast(table["device"], pa.string())))
        except (pa.ArrowException, OSError, ValueError, KeyError):
            continue  # not a score message: reported by other commands
    if not tables:
        return
    whole = pa.concat_tables(tables)
    times = [pc.cast(whole[name], pa.int64()) for name in ("start", "end")]
    plain = pa.table({"device": whole["device"], "end": times[1], "window": pc.subtract(times[1], times[0])})
    found = plain.group_by("device").aggregate([("end", "min"), ("end", "max"), ("window", "max")])
    columns = [found[name].to_pylist() for name in ("device", "end_min", "end_max", "window_max")]
    yield from zip(*columns, strict=True)


def _overlapping(found: list[tuple[int, int, int, int]]) -> tuple[int, ...]:
    """Return the partitions whose windows of a device overlap another partition's by more than one window."""
    apart: set[int] = set()
    for at, (number, first, last, window) in enumerate(found):
        for other, other_first, other_last, _ in found[at + 1 :]:
            if min(last, other_last) - max(first, other_first) > window:
                apart |= {number, other}
    return tuple(sorted(apart))
