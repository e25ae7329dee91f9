"""Source and committer of the embedded log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from stream_ad.errors import ContractError, FencedError, PositionError, TopicError
from stream_ad.io.local import groups, records
from stream_ad.io.local.file import CommitInDoubtError, Cursor, LogBusyError, LogFile
from stream_ad.io.local.groups import Member
from stream_ad.io.steps import reached
from stream_ad.io.transport import HOLD, HOLD_S, Commit, CommitOutcome, Owner, Partition, RawBatch

NAP_S = (0.001, 0.01)
"""Shortest and longest sleep between two checks of the file while idle."""
CHECK_S = 0.25
"""Interval between lease checks while idle, since leases expire without a write."""


def shares(waiting: Sequence[int], total: int, first: int) -> list[int]:
    """Split a poll over partitions: small backlogs completely, the rest evenly, starting at `first`.

    Args:
        waiting: backlog of each partition.
        total: number of records to distribute.
        first: index of the partition served first if not all can be.

    Returns:
        number of records per partition: at most its backlog, and `total` together.
    """
    count = len(waiting)
    even = -(-total // max(count, 1))
    result = [0] * count
    ranked = sorted(range(count), key=lambda i: (min(waiting[i], even), (i - first) % count))
    for place, i in enumerate(ranked):
        result[i] = min(waiting[i], -(-total // (count - place)))
        total -= result[i]
    return result


class LocalSource:
    """A member of a group; implements `transport.Source`.

    Args:
        file: its own connection; closed with the source.
        member: an incarnation that has not joined yet.
        owner: called when partitions are gained and lost.
    """

    def __init__(self, file: LogFile, member: Member, owner: Owner) -> None:
        self.member = member
        self._file = file
        self._owner = owner
        self._next: dict[int, int] = {}
        self._held: dict[int, float] = {}
        self._generation = -1
        self._turn = 0
        self._is_closed = False
        with file.writing() as cursor:
            groups.enter(cursor, member)
        self._renewed_ns = time.monotonic_ns()

    def poll(self, max_records: int, wait_s: float) -> Sequence[RawBatch]:
        """Return committed records of the owned partitions; see `transport.Source.poll`."""
        self._refuse_closed()
        if max_records < 1:
            raise ContractError(f"max_records: expected at least 1, found {max_records}")
        deadline = time.monotonic() + wait_s
        while True:
            version = self._file.data_version()  # before reading, otherwise a write in between is missed
            self._follow_group()
            batches = self._read(max_records)
            if batches or time.monotonic() >= deadline:
                return batches
            self._wait(version, deadline)

    def _wait(self, version: int, deadline: float) -> None:
        """Sleep until another connection writes, a lease check is due, or the deadline."""
        until = min(deadline, time.monotonic() + CHECK_S)
        nap = NAP_S[0]
        while (left := until - time.monotonic()) > 0 and self._file.data_version() == version:
            time.sleep(min(nap, left))
            nap = min(2 * nap, NAP_S[1])

    def _follow_group(self) -> None:
        """Renew the lease, remove silent members, hand over and take over partitions."""
        with self._file.reading() as cursor:
            current = groups.is_current(cursor, self.member)
            silent = groups.silent(cursor, self.member)
            generation = groups.generation(cursor, self.member)
        if not current:
            self._lose()
        if silent:
            with self._file.writing() as cursor:
                # Checked again under the write lock: they may be back, or have removed us.
                if groups.is_current(cursor, self.member) and (silent := groups.silent(cursor, self.member)):
                    groups.leave(cursor, self.member, silent)
        self.renew()
        if silent or generation != self._generation or any(time.monotonic() >= due for due in self._held.values()):
            self._rebalance()

    def renew(self) -> None:
        """Renew the lease if a quarter of it has passed; called on any use of the log by this process."""
        if self._is_closed or time.monotonic_ns() - self._renewed_ns < self.member.lease_ns // 4:
            return
        # While another process holds the lock, nobody can take our partitions: reading may continue.
        with suppress(LogBusyError), self._file.writing() as cursor:
            groups.renew(cursor, self.member)
        self._renewed_ns = time.monotonic_ns()

    def _rebalance(self) -> None:
        with self._file.reading() as cursor:
            generation = groups.generation(cursor, self.member)
            rows = groups.holdings(cursor, self.member)
            topic = records.find_topic(cursor, self.member.topic.info.name)
        if topic is not None and topic.key == self.member.topic.key:
            self.member = replace(self.member, topic=topic)  # with partitions added since
        for row in rows:
            # A release that failed after the owner had left is retried: nobody else may end our claim.
            is_ours = row.number in self._next or row.number in self._held or row.holder == self.member.incarnation
            if is_ours and row.target != self.member.name:
                self._hand_over(row.number)
        for row in rows:
            is_due = time.monotonic() >= self._held.get(row.number, 0.0)
            if row.number not in self._next and row.target == self.member.name and is_due:
                self._take_over(row.number)
        self._generation = generation

    def _hand_over(self, number: int) -> None:
        if number in self._next:
            self._owner.leaving(self.member.topic.partition(number))
            del self._next[number]
        self._held.pop(number, None)
        with self._file.writing() as cursor:
            groups.release(cursor, self.member, number)

    def _take_over(self, number: int) -> None:
        topic = self.member.topic
        partition = topic.partition(number)
        with self._file.writing() as cursor:
            if not groups.take(cursor, self.member, number):
                return  # not released yet; the release will change the generation
            position = groups.position(cursor, self.member.group, topic, number)
            earliest, _ = records.bounds(cursor, partition, topic.pids[number])
        start = self._owner.gained(position, partition)
        if start == HOLD:
            self._held[number] = time.monotonic() + HOLD_S
            return
        self._held.pop(number, None)
        if start is None:
            start = earliest if position is None else position.offset
        self._next[number] = start

    def _lose(self) -> None:
        """Drop all partitions and raise the reason."""
        lost = sorted(self._next)
        self._next.clear()
        self._held.clear()
        for number in lost:
            self._owner.lost(self.member.topic.partition(number))
        with self._file.reading() as cursor:
            topic = records.find_topic(cursor, self.member.topic.info.name)
            replaced = groups.is_current(cursor, self.member) is False
        name = f"{self.member.group}/{self.member.name}"
        if topic is None or topic.key != self.member.topic.key:
            raise TopicError(f"{self.member.topic.info.name}: the topic was deleted")
        if replaced:
            raise FencedError(f"{name}: a newer process joined as this member")
        raise FencedError(
            f"{name}: evicted after more than {self.member.lease_ns / 1e9:g} s of silence; its partitions were lost"
        )

    def _read(self, max_records: int) -> list[RawBatch]:
        numbers = sorted(self._next)
        if not numbers:
            return []
        self._turn += 1
        topic = self.member.topic
        owned = [(topic.partition(number), topic.pids[number]) for number in numbers]
        batches = []
        with self._file.reading() as cursor:
            ends = []
            for partition, pid in owned:
                earliest, end = records.bounds(cursor, partition, pid)
                records.check_offset(partition, self._next[partition.number], earliest, end)
                ends.append(end)
            waiting = [end - self._next[number] for end, number in zip(ends, numbers, strict=True)]
            limits = shares(waiting, max_records, self._turn % len(numbers))
            some_bytes = records.READ_BYTES // len(numbers)
            for (partition, pid), end, limit in zip(owned, ends, limits, strict=True):
                if limit:
                    start = self._next[partition.number]
                    batches.append(records.fetch(cursor, partition, pid, start, end, limit, some_bytes))
        for batch in batches:
            self._next[batch.partition.number] = batch.next_offset
        return batches

    def assignment(self) -> frozenset[Partition]:
        """Return the partitions currently owned."""
        return frozenset(self.member.topic.partition(number) for number in self._next)

    def partitions(self) -> int:
        """Return the topic's number of partitions."""
        return self.member.topic.info.partitions

    def end_offsets(self) -> Mapping[Partition, int]:
        """Return the offset after the last record of each owned partition."""
        self._refuse_closed()
        topic = self.member.topic
        with self._file.reading() as cursor:
            return {
                partition: records.bounds(cursor, partition, topic.pids[partition.number])[1]
                for partition in sorted(self.assignment())
            }

    def close(self) -> None:
        """Hand over all partitions and leave; a fenced source only drops them."""
        if self._is_closed:
            return
        try:
            with self._file.reading() as cursor:
                current = groups.is_current(cursor, self.member)
            for number in sorted(self._next):
                partition = self.member.topic.partition(number)
                if current:
                    self._owner.leaving(partition)
                else:
                    self._owner.lost(partition)
            with self._file.writing() as cursor:
                if groups.is_current(cursor, self.member):
                    groups.leave(cursor, self.member, [self.member.name])
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Close the file without leaving the group, as a killed process would."""
        self._is_closed = True
        self._next.clear()
        self._file.close()

    def _refuse_closed(self) -> None:
        if self._is_closed:
            raise PositionError(f"{self.member.group}/{self.member.name}: the source is closed")


class LocalCommitter:
    """Publishes for one source; implements `transport.Committer`.

    Args:
        file: its own durable connection; closed with the committer.
        member: the source's member.
        name: of the committer; a later one of this name in the group fences this one.
        clock: append times, UTC nanoseconds.
        turns: numbers for round-robin partitioning of records without key and partition.
    """

    def __init__(
        self, file: LogFile, member: Member, name: str, clock: Callable[[], int], turns: Iterator[int]
    ) -> None:
        self._file = file
        self._member = member
        self._name = name
        self._clock = clock
        self._turns = turns
        with file.writing() as cursor:
            self._epoch = groups.open_epoch(cursor, member.group, name)

    def commit(self, commit: Commit) -> CommitOutcome:
        """Publish records and positions in one SQLite transaction; see `transport.Committer.commit`.

        REJECTED: a partition is not or no longer held by the source, or the lock was not available within the timeout.
        UNKNOWN: the disk failed inside COMMIT.

        Raises:
            FencedError: a newer process joined as this member, or a newer committer was created.
            RecordTooLargeError: a record exceeds the limit; nothing was published.
            TopicError: an output topic is missing; nothing was published.
            UnreachableError: the file is not writable (disk full, read-only); nothing was published.
        """
        outputs = []
        with self._file.reading() as cursor:
            topics = [(records.get_topic(cursor, name), sent) for name, sent in commit.records.items()]
        for topic, sent in topics:
            outputs.append((topic, records.pack_by_partition(topic, sent, self._turns)))
        try:
            with self._file.writing() as cursor:
                self._note_growth(cursor)
                if not self._may_publish(cursor, commit.positions):
                    return CommitOutcome.REJECTED
                for topic, rows in outputs:
                    # Each commit consumes one extra offset per partition, as Kafka's commit marker does.
                    records.insert(cursor, topic, rows, self._clock, extra_offsets=1)
                reached("records sent")
                for partition, (offset, metadata) in commit.positions.items():
                    pid = self._member.topic.pids[partition.number]
                    groups.set_position(cursor, self._member.group, pid, (offset, metadata))
                groups.renew(cursor, self._member)
                reached("positions sent")
        except LogBusyError:
            return CommitOutcome.REJECTED
        except CommitInDoubtError:
            return CommitOutcome.UNKNOWN
        return CommitOutcome.LANDED

    def _note_growth(self, cursor: Cursor) -> None:
        """Refresh the topic if partitions were added to it."""
        known = self._member.topic
        topic = records.find_topic(cursor, known.info.name)
        if topic is not None and topic.key == known.key and topic.info.partitions > known.info.partitions:
            self._member = replace(self._member, topic=topic)

    def _may_publish(self, cursor: Cursor, positions: Mapping[Partition, tuple[int, str]]) -> bool:
        member = self._member
        if groups.epoch(cursor, member.group, self._name) != self._epoch:
            raise FencedError(f"{member.group}/{self._name}: a newer committer exists")
        current = groups.is_current(cursor, member)
        if current is False:
            raise FencedError(f"{member.group}/{member.name}: a newer process joined as this member")
        return current is True and all(
            partition.topic == member.topic.info.name and groups.holds(cursor, member, partition.number)
            for partition in positions
        )

    def close(self) -> None:
        """Close the file."""
        self._file.close()
