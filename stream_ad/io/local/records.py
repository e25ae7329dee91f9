"""Topics and records of the embedded log: partitioning, packing, appending, fetching."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np

from stream_ad.errors import PositionError, RecordTooLargeError, TopicError
from stream_ad.io.local.file import OFFSET_BITS, Cursor
from stream_ad.io.transport import Headers, Partition, RawBatch, Record, TopicInfo

OVERHEAD_BYTES = 72
"""Kafka's overhead for a batch of one record, besides key, value and headers."""
READ_BYTES = 32_000_000
"""Values returned at once, so that a poll of large records fits into memory."""

Packed: TypeAlias = tuple[bytes | None, bytes, bytes | None]
"""Key, value and packed headers of a record."""


@dataclass(frozen=True, slots=True)
class LocalTopic:
    """A topic and the row keys of its partitions.

    Attributes:
        key: row key, never reused for another topic.
        info: its description.
        pids: row key of each partition, by number.
        retention_ns: age at which records are deleted, or None for never.
    """

    key: int
    info: TopicInfo
    pids: tuple[int, ...]
    retention_ns: int | None

    def partition(self, number: int) -> Partition:
        """Return a partition of this topic by number."""
        return Partition(self.info.name, number)

    def pid(self, partition: Partition) -> int:
        """Return the row key of a partition.

        Raises:
            TopicError: the partition does not exist.
        """
        if not 0 <= partition.number < len(self.pids):
            count = len(self.pids)
            raise TopicError(f"{partition.topic}: expected a partition below {count}, found {partition.number}")
        return self.pids[partition.number]


def find_topic(cursor: Cursor, name: str) -> LocalTopic | None:
    """Return a topic by name, None if it does not exist."""
    cursor.execute("SELECT key, id, append_time, max_bytes, retention_ns FROM topics WHERE name = ?", (name,))
    row = cursor.fetchone()
    if row is None:
        return None
    key, topic_id, append_time, max_bytes, retention_ns = row
    pids = cursor.execute("SELECT pid FROM partitions WHERE topic = ? ORDER BY number", (key,)).fetchall()
    info = TopicInfo(name, topic_id, len(pids), bool(append_time), max_bytes)
    return LocalTopic(key, info, tuple(pid for (pid,) in pids), retention_ns)


def get_topic(cursor: Cursor, name: str) -> LocalTopic:
    """Return a topic by name.

    Raises:
        TopicError: it does not exist.
    """
    topic = find_topic(cursor, name)
    if topic is None:
        raise TopicError(f"{name}: the topic does not exist")
    return topic


@lru_cache(maxsize=65_536)
def murmur2(data: bytes) -> int:
    """Return Kafka's 32-bit MurmurHash2 (seed 0x9747b28c) as an unsigned number, O(len(data))."""
    m, mask = 0x5BD1E995, 0xFFFFFFFF
    whole = len(data) // 4
    h = 0x9747B28C ^ len(data)
    for k in struct.unpack_from(f"<{whole}I", data):
        k = k * m & mask
        k = (k ^ k >> 24) * m & mask
        h = (h * m & mask) ^ k
    rest = data[4 * whole :]
    if rest:
        h = (h ^ int.from_bytes(rest, "little")) * m & mask
    h = (h ^ h >> 13) * m & mask
    return h ^ h >> 15


def partition_of(key: bytes, count: int) -> int:
    """Return the partition that Kafka's clients choose for a key among `count`."""
    return (murmur2(key) & 0x7FFFFFFF) % count


def pack_headers(headers: Headers) -> bytes | None:
    """Encode headers as length-prefixed names and values; None for none."""
    if not headers:
        return None
    parts = []
    for name, value in headers:
        text = name.encode()
        parts += [struct.pack("<II", len(text), len(value)), text, value]
    return b"".join(parts)


def unpack_headers(data: bytes | None) -> Headers:
    """Decode the output of `pack_headers`."""
    headers = []
    at = 0
    while data is not None and at < len(data):
        name, value = struct.unpack_from("<II", data, at)
        at += 8
        headers.append((data[at : at + name].decode(), data[at + name : at + name + value]))
        at += name + value
    return tuple(headers)


def pack_by_partition(topic: LocalTopic, records: Iterable[Record], turns: Iterator[int]) -> dict[int, list[Packed]]:
    """Pack records by partition, in order.

    Args:
        topic: the topic to append to.
        records: the records.
        turns: numbers for round-robin partitioning of records without key and partition.

    Returns:
        row key of the partition -> packed records.

    Raises:
        RecordTooLargeError: a record exceeds the topic's limit.
        TopicError: a record's partition does not exist.
    """
    rows: dict[int, list[Packed]] = {}
    count = len(topic.pids)
    limit = topic.info.max_record_bytes
    for record in records:
        key, value, headers = record.key, record.value, pack_headers(record.headers)
        size = OVERHEAD_BYTES + len(value) + len(key or b"") + len(headers or b"")
        if limit is not None and size > limit:
            raise RecordTooLargeError(f"{topic.info.name}: expected a record of at most {limit} bytes, found {size}")
        if record.partition is not None:
            pid = topic.pid(topic.partition(record.partition))
        elif key is not None:
            pid = topic.pids[partition_of(key, count)]
        else:
            pid = topic.pids[next(turns) % count]
        rows.setdefault(pid, []).append((key, value, headers))
    return rows


def insert(
    cursor: Cursor, topic: LocalTopic, rows: dict[int, list[Packed]], clock: Callable[[], int], extra_offsets: int
) -> None:
    """Append packed records inside a write transaction.

    Args:
        cursor: of the open transaction.
        topic: the topic to append to.
        rows: from `pack_by_partition`.
        clock: UTC nanoseconds; read once, raised to the partition's last append time.
        extra_offsets: extra offsets consumed after the records in each partition.

    Raises:
        TopicError: the topic was deleted since it was looked up.
    """
    now_ns = clock()
    for pid, packed in rows.items():
        head = cursor.execute("SELECT earliest, next, last_ns FROM partitions WHERE pid = ?", (pid,)).fetchone()
        if head is None:
            raise TopicError(f"{topic.info.name}: the topic was deleted")
        earliest, start, last_ns = head
        log_ns = max(now_ns, last_ns) if topic.info.append_time else now_ns
        base = (pid << OFFSET_BITS) + start
        cursor.executemany(
            "INSERT INTO records VALUES (?, ?, ?, ?, ?)",
            ((base + i, log_ns, *row) for i, row in enumerate(packed)),
        )
        end = start + len(packed) + extra_offsets
        cursor.execute("UPDATE partitions SET next = ?, last_ns = ? WHERE pid = ?", (end, log_ns, pid))
        if topic.retention_ns is not None:
            drop_old(cursor, pid, earliest, log_ns - topic.retention_ns, 2 * len(packed))


def drop_old(cursor: Cursor, pid: int, earliest: int, before_ns: int, count: int) -> None:
    """Delete the oldest `count` records of a partition if the record after them has expired too.

    Twice as many as were appended: writes stay short, and retention still keeps up.

    Args:
        cursor: of an open write transaction.
        pid: row key of the partition.
        earliest: its earliest retained offset.
        before_ns: records appended before this time have expired.
        count: number of records.
    """
    base = pid << OFFSET_BITS
    cursor.execute(
        "SELECT at, log_ns FROM records WHERE at >= ? AND at < ? ORDER BY at LIMIT 1 OFFSET ?",
        (base + earliest, base + (1 << OFFSET_BITS), count),
    )
    row = cursor.fetchone()
    if row is not None and row[1] < before_ns:
        drop(cursor, pid, earliest, row[0] - base)


def drop(cursor: Cursor, pid: int, earliest: int, stop: int) -> None:
    """Delete records with earliest <= offset < stop and make `stop` the earliest retained offset."""
    base = pid << OFFSET_BITS
    cursor.execute("DELETE FROM records WHERE at >= ? AND at < ?", (base + earliest, base + stop))
    cursor.execute("UPDATE partitions SET earliest = ? WHERE pid = ?", (stop, pid))


def bounds(cursor: Cursor, partition: Partition, pid: int) -> tuple[int, int]:
    """Return the earliest retained offset and the offset after the last record or consumed offset.

    Raises:
        TopicError: the topic was deleted since it was looked up.
    """
    row = cursor.execute("SELECT earliest, next FROM partitions WHERE pid = ?", (pid,)).fetchone()
    if row is None:
        raise TopicError(f"{partition.topic}: the topic was deleted")
    return row[0], row[1]


def check_offset(partition: Partition, offset: int, earliest: int, end: int) -> None:
    """Check that an offset is in the log.

    Raises:
        PositionError: it is no longer retained, or beyond the end.
    """
    if not earliest <= offset <= end:
        raise PositionError(
            f"{partition.topic}[{partition.number}]: expected an offset from {earliest} to {end}, found {offset}"
        )


def fetch(
    cursor: Cursor, partition: Partition, pid: int, start: int, stop: int, limit: int, max_bytes: int
) -> RawBatch:
    """Read records with start <= offset < stop.

    Args:
        cursor: of an open transaction.
        partition: the batch's partition.
        pid: its row key.
        start: first offset.
        stop: at most the end of the log in this transaction.
        limit: maximum number of records.
        max_bytes: stop soon after this many bytes of values.

    Returns:
        the batch; its `next_offset` is `stop` if no records remain before it.
    """
    base = pid << OFFSET_BITS
    cursor.execute(
        "SELECT at, log_ns, key, value, headers FROM records WHERE at >= ? AND at < ? ORDER BY at LIMIT ?",
        (base + start, base + stop, limit),
    )
    rows: list[tuple[int, int, bytes | None, bytes, bytes | None]] = []
    size = 0
    while size < max_bytes and (some := cursor.fetchmany(32)):
        rows += some
        size += sum([len(row[3]) for row in some])
    if not rows:
        none = np.empty(0, np.int64)
        return RawBatch(partition, none, none, (), (), (), stop)
    at, log_ns, keys, values, packed = zip(*rows, strict=True)
    offset = np.array(at, np.int64) - base
    cut = len(rows) == limit or size >= max_bytes
    headers: tuple[Headers, ...] = ((),) * len(rows)
    if any(packed):
        headers = tuple([unpack_headers(data) for data in packed])
    next_offset = int(offset[-1]) + 1 if cut else stop
    return RawBatch(partition, offset, np.array(log_ns, np.int64), keys, values, headers, next_offset)
