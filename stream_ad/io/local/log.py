"""The embedded log: topics, groups and atomic commits in one SQLite file on one machine.

Several processes share the file; each opens its own `LocalLog`, never one inherited over `fork`. Appends and commits
are synced to disk before they return (`synchronous=FULL`): after a power cut, an offset that a reader has seen must not
reappear with another record. Leases and releases are not synced: the processes they concern do not survive a power cut.
A process killed at any moment leaves only complete transactions.

Write transactions are short (at most about 1,000 records or 4 MB per append). A process suspended (SIGSTOP) inside one
blocks the others, which then raise UnreachableError.
"""

from __future__ import annotations

import itertools
import json
import re
import time
import uuid
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from stream_ad.errors import ContractError, PositionError, TopicError
from stream_ad.io.local import groups, records
from stream_ad.io.local.file import OFFSET_BITS, LogFile
from stream_ad.io.local.groups import Member
from stream_ad.io.local.members import LocalCommitter, LocalSource
from stream_ad.io.transport import Owner, Partition, Position, RawBatch, Record, Source, TopicInfo, chunked

CHUNK_RECORDS = 1_000
CHUNK_BYTES = 4_000_000
CHUNK_S = 0.05
READ_RECORDS = 2_000
MAX_RECORD_BYTES = 1_000_000
NAME = re.compile(r"[a-zA-Z0-9._-]{1,249}")
TIMESTAMPS = {"LogAppendTime": True, "CreateTime": False}


class LocalLog:
    """A durable, partitioned log in one SQLite file; implements `transport.Transport`.

    Supported topic settings: `message.timestamp.type` (default `LogAppendTime`: append times never decrease within a
    partition; `CreateTime`: the writer's clock, unchanged), `max.message.bytes` (default 1,000,000), `retention.ms`
    (older records are deleted as new ones arrive; default -1: never). Others are stored and ignored.

    Args:
        path: the file; created with its folder if missing.
        session_timeout_s: a member that does not use the log for longer loses its partitions.
        timeout_s: how long a call waits for another process's write.
        clock: append time, UTC nanoseconds; demos and tests may control it.

    Raises:
        UnreachableError: the file cannot be opened or created, or is not a log.
    """

    def __init__(
        self,
        path: Path,
        *,
        session_timeout_s: float = 10.0,
        timeout_s: float = 5.0,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self.path = path
        self._timeout_s = timeout_s
        self._lease_ns = round(session_timeout_s * 1e9)
        self._clock = clock
        self._turns = itertools.count()
        self._sources: weakref.WeakSet[LocalSource] = weakref.WeakSet()
        self._committers: weakref.WeakSet[LocalCommitter] = weakref.WeakSet()
        self._file = LogFile(path, timeout_s, durable=True)

    def ensure_topic(self, name: str, partitions: int, settings: Mapping[str, str] | None = None) -> TopicInfo:
        """Create the topic if it is missing; return its description; see `transport.Transport.ensure_topic`.

        Raises:
            TopicError: it exists with another number of partitions, or the name, number or a setting is invalid.
        """
        settings = dict(settings or {})
        append_time, max_bytes, retention_ns = _checked(name, partitions, settings)
        with self._file.writing() as cursor:
            topic = records.find_topic(cursor, name)
            if topic is None:
                cursor.execute(
                    "INSERT INTO topics VALUES (NULL, ?, ?, ?, ?, ?, ?)",
                    (name, str(uuid.uuid4()), append_time, max_bytes, retention_ns, json.dumps(settings)),
                )
                key = cursor.lastrowid
                cursor.executemany(
                    "INSERT INTO partitions (topic, number, earliest, next, last_ns) VALUES (?, ?, 0, 0, 0)",
                    ((key, number) for number in range(partitions)),
                )
                topic = records.get_topic(cursor, name)
        if topic.info.partitions != partitions:
            raise TopicError(f"{name}: expected {partitions} partitions, found {topic.info.partitions}")
        return topic.info

    def extend_topic(self, name: str, partitions: int) -> TopicInfo:
        """Add partitions up to a number; see `transport.Transport.extend_topic`."""
        with self._file.writing() as cursor:
            topic = records.get_topic(cursor, name)
            if topic.info.partitions >= partitions:
                return topic.info
            cursor.executemany(
                "INSERT INTO partitions (topic, number, earliest, next, last_ns) VALUES (?, ?, 0, 0, 0)",
                ((topic.key, number) for number in range(topic.info.partitions, partitions)),
            )
            topic = records.get_topic(cursor, name)
            groups.extend(cursor, topic)
            return topic.info

    def topic(self, name: str) -> TopicInfo:
        """Describe a topic.

        Raises:
            TopicError: the topic does not exist.
        """
        with self._file.reading() as cursor:
            return records.get_topic(cursor, name).info

    def delete_topic(self, name: str) -> None:
        """Delete a topic with its records, groups and committed positions; a no-op if it is missing.

        If killed half-way, it leaves a topic without its older records.
        """
        with self._file.reading() as cursor:
            topic = records.find_topic(cursor, name)
        if topic is None:
            return
        for number in range(topic.info.partitions):
            partition = topic.partition(number)
            self.trim(partition, self.bounds(partition)[1])
        with self._file.writing() as cursor:
            for pid in topic.pids:
                base = pid << OFFSET_BITS  # appended since the trim
                cursor.execute("DELETE FROM records WHERE at >= ? AND at < ?", (base, base + (1 << OFFSET_BITS)))
                cursor.execute("DELETE FROM positions WHERE pid = ?", (pid,))
            for table in ("partitions", "holdings", "members", "generations"):
                cursor.execute(f"DELETE FROM {table} WHERE topic = ?", (topic.key,))  # noqa: S608 - fixed names
            cursor.execute("DELETE FROM topics WHERE key = ?", (topic.key,))

    def trim(self, partition: Partition, before_offset: int) -> None:
        """Delete records below an offset; reading them then raises PositionError.

        Uses short transactions, so that a long trim does not block writers.
        """
        while True:
            with self._file.writing() as cursor:
                pid = records.get_topic(cursor, partition.topic).pid(partition)
                earliest, end = records.bounds(cursor, partition, pid)
                stop = min(before_offset, end, earliest + CHUNK_RECORDS)
                if stop <= earliest:
                    return
                records.drop(cursor, pid, earliest, stop)

    def append(self, topic: str, records_: Iterable[Record]) -> None:
        """Append records durably, one transaction per chunk; see `transport.Transport.append`.

        After an error, earlier chunks are in the log.
        """
        with self._file.reading() as cursor:
            found = records.get_topic(cursor, topic)
        for chunk in chunked(records_, CHUNK_RECORDS, CHUNK_BYTES, CHUNK_S):
            rows = records.pack_by_partition(found, chunk, self._turns)
            with self._file.writing() as cursor:
                records.insert(cursor, found, rows, self._clock, extra_offsets=0)
            self._renew()

    def read(self, partition: Partition, start: int, stop: int) -> Iterator[RawBatch]:
        """Read records with start <= offset < stop, or up to the end of the log.

        Raises:
            PositionError: `start` is no longer retained, or beyond the end.
        """
        while start < stop:
            with self._file.reading() as cursor:
                pid = records.get_topic(cursor, partition.topic).pid(partition)
                earliest, end = records.bounds(cursor, partition, pid)
                records.check_offset(partition, start, earliest, end)
                stop = min(stop, end)
                batch = records.fetch(cursor, partition, pid, start, stop, READ_RECORDS, records.READ_BYTES)
            self._renew()
            if len(batch):
                yield batch
            start = batch.next_offset

    def bounds(self, partition: Partition) -> tuple[int, int]:
        """Return the earliest retained offset and the offset after the last record."""
        with self._file.reading() as cursor:
            pid = records.get_topic(cursor, partition.topic).pid(partition)
            return records.bounds(cursor, partition, pid)

    def committed(self, group: str, partition: Partition) -> Position | None:
        """Return a group's committed position for a partition, or None."""
        with self._file.reading() as cursor:
            topic = records.get_topic(cursor, partition.topic)
            topic.pid(partition)
            return groups.position(cursor, group, topic, partition.number)

    def set_positions(self, group: str, topic: str, positions: Mapping[Partition, tuple[int, str] | None]) -> None:
        """Write a group's positions as a non-member; see `transport.Transport.set_positions`."""
        with self._file.writing() as cursor:
            found = records.get_topic(cursor, topic)
            pids = {partition: found.pid(partition) for partition in positions}
            if members := groups.living(cursor, group, found):
                raise PositionError(f"group {group}: expected no members, found {', '.join(members)}")
            for partition, position in positions.items():
                groups.set_position(cursor, group, pids[partition], position)

    def owners(self, group: str, topic: str) -> Mapping[Partition, str]:
        """Return the owner of each partition in a group; see `transport.Transport.owners`."""
        with self._file.reading() as cursor:
            found = records.get_topic(cursor, topic)
            return {found.partition(number): name for number, name in groups.owners(cursor, group, found).items()}

    def join(self, topic: str, group: str, owner: Owner, member: str) -> LocalSource:
        """Join a group as a static member; an older process of this name is fenced at once."""
        with self._file.reading() as cursor:
            found = records.get_topic(cursor, topic)
        file = LogFile(self.path, self._timeout_s, durable=False)
        try:
            source = LocalSource(file, Member(group, found, member, str(uuid.uuid4()), self._lease_ns), owner)
        except BaseException:
            file.close()
            raise
        self._sources.add(source)
        return source

    def committer(self, source: Source, member: str) -> LocalCommitter:
        """Return the committer bound to a source; it fences earlier ones of this name in the group."""
        if not isinstance(source, LocalSource):
            raise ContractError(f"source: expected a source of this log, found {type(source).__name__}")
        file = LogFile(self.path, self._timeout_s, durable=True)
        try:
            committer = LocalCommitter(file, source.member, member, self._clock, self._turns)
        except BaseException:
            file.close()
            raise
        self._committers.add(committer)
        return committer

    def close(self) -> None:
        """Close the file; open sources do not leave their groups."""
        for source in list(self._sources):
            source.abandon()
        for committer in list(self._committers):
            committer.close()
        self._file.close()

    def _renew(self) -> None:
        """Renew the leases of this process's members, so that a long recovery does not count as silence."""
        for source in list(self._sources):
            source.renew()


def _checked(name: str, partitions: int, settings: Mapping[str, str]) -> tuple[bool, int, int | None]:
    """Return append_time, max_bytes and retention_ns."""
    if not NAME.fullmatch(name):
        raise TopicError(f"{name!r}: expected a name of letters, digits, '.', '_' and '-'")
    if partitions < 1:
        raise TopicError(f"{name}: expected at least 1 partition, found {partitions}")
    stamp = settings.get("message.timestamp.type", "LogAppendTime")
    if stamp not in TIMESTAMPS:
        raise TopicError(f"{name}: message.timestamp.type: expected {' or '.join(TIMESTAMPS)}, found {stamp!r}")
    size = settings.get("max.message.bytes", str(MAX_RECORD_BYTES))
    if not size.isdecimal():
        raise TopicError(f"{name}: max.message.bytes: expected a number, found {size!r}")
    kept_ms = settings.get("retention.ms", "-1")
    if kept_ms != "-1" and not kept_ms.isdecimal():
        raise TopicError(f"{name}: retention.ms: expected a number, or -1 for unlimited, found {kept_ms!r}")
    return TIMESTAMPS[stamp], int(size), None if kept_ms == "-1" else int(kept_ms) * 1_000_000
