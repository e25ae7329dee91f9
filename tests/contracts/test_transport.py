"""What every transport promises, one suite for all: only the protocol of `io.transport` is used."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from multiprocessing.connection import Connection

import numpy as np
import pytest

from stream_ad.errors import FencedError, PositionError, RecordTooLargeError, TopicError, UnreachableError
from stream_ad.io.transport import (
    HOLD,
    Commit,
    CommitOutcome,
    Committer,
    Partition,
    Position,
    RawBatch,
    Record,
    Transport,
)
from tests.contracts.conftest import Backend

Journal = list[tuple[str, str, int]]
Factory = Callable[[], Transport]

KEYS_ON_4 = {
    b"pump-1": 3,
    b"pump-2": 3,
    b"pump-3": 0,
    b"pump-4": 1,
    b"pump-12": 2,
    b"fan-21": 1,
    "süd".encode(): 3,
    b"": 1,
}
"""Where Kafka's Java client sends these keys on four partitions."""


class Reader:
    """An owner with its source that writes down all it is told and given."""

    def __init__(
        self,
        transport: Transport,
        topic: str,
        member: str,
        journal: Journal | None = None,
        starts: dict[int, int] | None = None,
    ) -> None:
        self.member = member
        self.journal = [] if journal is None else journal
        self.starts = starts or {}
        self.positions: dict[int, Position | None] = {}
        self.before_leaving: Callable[[Partition], None] = lambda partition: None
        self.batches: dict[int, list[RawBatch]] = {}
        self.source = transport.join(topic, f"{topic}.group", self, member)

    def gained(self, position: Position | None, partition: Partition) -> int | None:
        self.journal.append((self.member, "gained", partition.number))
        self.positions[partition.number] = position
        return self.starts.get(partition.number)

    def leaving(self, partition: Partition) -> None:
        self.before_leaving(partition)
        self.journal.append((self.member, "leaving", partition.number))

    def lost(self, partition: Partition) -> None:
        self.journal.append((self.member, "lost", partition.number))

    def poll(self, max_records: int = 1_000, wait_s: float = 0.1) -> int:
        """Poll once and check what holds of every batch; return the number of records."""
        batches = self.source.poll(max_records, wait_s)
        assert len({batch.partition for batch in batches}) == len(batches)
        for batch in batches:
            assert batch.partition in self.source.assignment()
            check_batch(batch)
            self.batches.setdefault(batch.partition.number, []).append(batch)
        total = sum(map(len, batches))
        assert total <= max_records
        return total

    @property
    def owned(self) -> set[int]:
        return {partition.number for partition in self.source.assignment()}

    def values(self, number: int = 0) -> list[bytes]:
        return [value for batch in self.batches.get(number, []) for value in batch.values]

    def count(self) -> int:
        return sum(len(batch) for batches in self.batches.values() for batch in batches)


def check_batch(batch: RawBatch) -> None:
    n = len(batch)
    assert batch.offset.dtype == batch.log_ns.dtype == np.int64
    assert len(batch.log_ns) == len(batch.keys) == len(batch.values) == len(batch.headers) == n
    assert (np.diff(batch.offset) > 0).all()
    assert n == 0 or batch.next_offset > batch.offset[-1]


def poll_until(readers: Sequence[Reader], done: Callable[[], bool], deadline_s: float) -> None:
    """Let the readers poll in turn until something holds."""
    deadline = time.monotonic() + deadline_s
    while not done():
        assert time.monotonic() < deadline, f"not reached within {deadline_s} s: {[r.journal for r in readers]}"
        for reader in readers:
            reader.poll()


def poll_records(reader: Reader, count: int, deadline_s: float) -> None:
    """Let a reader poll until it has been given so many records."""
    poll_until([reader], lambda: reader.count() == count, deadline_s)


def own_all(transport: Transport, topic: str, partitions: int, deadline_s: float, member: str = "a-0") -> Reader:
    reader = Reader(transport, topic, member)
    poll_until([reader], lambda: reader.owned == set(range(partitions)), deadline_s)
    return reader


def read_batches(transport: Transport, partition: Partition, count: int, deadline_s: float) -> list[RawBatch]:
    """Read a partition from its start once it holds so many records: commits may take a moment to show."""
    deadline = time.monotonic() + deadline_s
    while True:
        batches = list(transport.read(partition, *transport.bounds(partition)))
        if sum(map(len, batches)) >= count:
            return batches
        assert time.monotonic() < deadline, f"{partition}: {sum(map(len, batches))} of {count} records"
        time.sleep(0.02)


def read_values(transport: Transport, partition: Partition, count: int, deadline_s: float) -> list[bytes]:
    return [value for batch in read_batches(transport, partition, count, deadline_s) for value in batch.values]


def refused(committer: Committer, commit: Commit) -> bool:
    """Commit and tell whether it was turned down."""
    try:
        return committer.commit(commit) is CommitOutcome.REJECTED
    except FencedError:
        return True


def assert_only_after(transport: Transport, topic: str, deadline_s: float) -> None:
    """Nothing was published on partition 0 of a topic: what is appended now is its first record."""
    transport.append(topic, [Record(b"after", partition=0)])
    assert read_values(transport, Partition(topic, 0), 1, deadline_s) == [b"after"]


# Topics


def test_a_topic_is_made_once_and_described(transport: Transport, name: str) -> None:
    made = transport.ensure_topic(name, 3)
    assert (made.name, made.partitions, made.append_time) == (name, 3, True)
    assert transport.ensure_topic(name, 3).topic_id == made.topic_id == transport.topic(name).topic_id


def test_another_topic_has_another_id(transport: Transport, name: str) -> None:
    assert transport.ensure_topic(name, 1).topic_id != transport.ensure_topic(f"{name}-b", 1).topic_id


def test_producers_clocks_show(transport: Transport, name: str) -> None:
    made = transport.ensure_topic(name, 1, {"message.timestamp.type": "CreateTime"})
    assert not made.append_time
    assert not transport.topic(name).append_time


def test_a_topic_with_other_partitions_is_refused(transport: Transport, name: str) -> None:
    transport.ensure_topic(name, 3)
    with pytest.raises(TopicError):
        transport.ensure_topic(name, 4)
    assert transport.topic(name).partitions == 3


def test_a_missing_topic_is_refused(transport: Transport, name: str) -> None:
    with pytest.raises(TopicError):
        transport.topic(name)
    with pytest.raises(TopicError):
        transport.append(name, [Record(b"x")])


# Records


def test_records_of_a_key_go_to_kafkas_partition_in_order(transport: Transport, name: str, backend: Backend) -> None:
    transport.ensure_topic(name, 4)
    transport.append(name, [Record(b"%d" % i, key) for i in range(50) for key in KEYS_ON_4])
    reader = Reader(transport, name, "a-0")
    poll_records(reader, 50 * len(KEYS_ON_4), backend.deadline_s)
    for key, number in KEYS_ON_4.items():
        seen = [
            value
            for batch in reader.batches[number]
            for found, value in zip(batch.keys, batch.values, strict=True)
            if found == key
        ]
        assert seen == [b"%d" % i for i in range(50)]


def test_a_named_partition_wins_over_the_key(transport: Transport, name: str, backend: Backend) -> None:
    transport.ensure_topic(name, 4)
    transport.append(name, [Record(b"v", b"pump-1", partition=2)])
    assert read_values(transport, Partition(name, 2), 1, backend.deadline_s) == [b"v"]


def test_keyless_records_all_arrive(transport: Transport, name: str, backend: Backend) -> None:
    transport.ensure_topic(name, 2)
    transport.append(name, (Record(b"%d" % i) for i in range(3_000)))
    reader = Reader(transport, name, "a-0")
    poll_records(reader, 3_000, backend.deadline_s)
    assert sorted(map(int, reader.values(0) + reader.values(1))) == list(range(3_000))


def test_keys_values_and_headers_come_back(transport: Transport, name: str, backend: Backend) -> None:
    transport.ensure_topic(name, 1)
    sent = [
        Record(b"", None),
        Record(b"", b"key"),
        Record(b"\x00\xff", b"\x00", (("content-type", b"application/json"),)),
        Record(b"v", None, (("a", b""), ("ü", b"\xff" * 300), ("a", b"2"))),
    ]
    transport.append(name, sent)
    (batch,) = read_batches(transport, Partition(name, 0), 4, backend.deadline_s)
    assert list(batch.keys) == [record.key for record in sent]
    assert list(batch.values) == [record.value for record in sent]
    assert list(batch.headers) == [record.headers for record in sent]
    reader = Reader(transport, name, "a-0")
    poll_records(reader, 4, backend.deadline_s)
    assert [h for batch in reader.batches[0] for h in batch.headers] == [record.headers for record in sent]


def test_append_times_are_the_logs_and_never_decrease(transport: Transport, name: str, backend: Backend) -> None:
    transport.ensure_topic(name, 1)
    begin_ns = time.time_ns()
    for i in range(5):
        transport.append(name, [Record(b"%d" % i)] * 3)
    batches = read_batches(transport, Partition(name, 0), 15, backend.deadline_s)
    log_ns = np.concatenate([batch.log_ns for batch in batches])
    assert (np.diff(log_ns) >= 0).all()
    assert begin_ns - 1_000_000 <= log_ns[0] <= log_ns[-1] <= time.time_ns() + 1_000_000  # Kafka cuts to milliseconds


def test_a_record_that_is_too_large_is_refused(transport: Transport, name: str, backend: Backend) -> None:
    transport.ensure_topic(name, 1)
    transport.ensure_topic(f"{name}-out", 1, {"max.message.bytes": "20000"})
    assert transport.topic(f"{name}-out").max_record_bytes == 20_000
    large = Record(os.urandom(30_000), partition=0)
    with pytest.raises(RecordTooLargeError):
        transport.append(f"{name}-out", [large])
    reader = own_all(transport, name, 1, backend.deadline_s)
    committer = transport.committer(reader.source, "a-0")
    with pytest.raises(RecordTooLargeError):
        committer.commit(
            Commit({f"{name}-out": [Record(b"small", partition=0), large]}, {Partition(name, 0): (0, "never")})
        )
    assert transport.committed(f"{name}.group", Partition(name, 0)) is None
    assert_only_after(transport, f"{name}-out", backend.deadline_s)


# Reading without a group


def test_bounds_of_an_empty_and_a_filled_partition(transport: Transport, name: str, backend: Backend) -> None:
    transport.ensure_topic(name, 2)
    assert transport.bounds(Partition(name, 1)) == (0, 0)
    assert list(transport.read(Partition(name, 1), 0, 10)) == []
    transport.append(name, [Record(b"v", partition=1)] * 7)
    assert transport.bounds(Partition(name, 1)) == (0, 7)
    assert transport.bounds(Partition(name, 0)) == (0, 0)


@pytest.mark.parametrize(("start", "stop"), [(0, 10), (3, 7), (0, 1), (9, 10), (5, 5), (4, 99)])
def test_read_stops_where_it_is_told(transport: Transport, name: str, start: int, stop: int) -> None:
    transport.ensure_topic(name, 1)
    transport.append(name, [Record(b"%d" % i) for i in range(10)])
    batches = list(transport.read(Partition(name, 0), start, stop))
    assert [int(o) for batch in batches for o in batch.offset] == list(range(start, min(stop, 10)))
    assert [v for batch in batches for v in batch.values] == [b"%d" % i for i in range(start, min(stop, 10))]
    assert all(batch.next_offset <= stop for batch in batches)


def test_what_retention_took_cannot_be_read(transport: Transport, name: str, backend: Backend) -> None:
    transport.ensure_topic(name, 1)
    partition = Partition(name, 0)
    transport.append(name, [Record(b"%d" % i) for i in range(10)])
    backend.trim(partition, 6)
    assert transport.bounds(partition) == (6, 10)
    with pytest.raises(PositionError):
        list(transport.read(partition, 5, 8))
    assert [v for batch in transport.read(partition, 6, 8) for v in batch.values] == [b"6", b"7"]
    fresh = Reader(transport, name, "a-0")  # without a position: from the earliest there is
    poll_until([fresh], lambda: fresh.values() == [b"6", b"7", b"8", b"9"], backend.deadline_s)


def test_a_position_below_the_earliest_record_is_refused(transport: Transport, name: str, backend: Backend) -> None:
    transport.ensure_topic(name, 1)
    transport.append(name, [Record(b"%d" % i) for i in range(10)])
    backend.trim(Partition(name, 0), 6)
    reader = Reader(transport, name, "a-0", starts={0: 2})
    with pytest.raises(PositionError):
        poll_until([reader], lambda: False, backend.deadline_s)
    assert reader.values() == []


# Polling


def test_poll_keeps_to_its_wait_and_wakes_for_a_record(transport: Transport, name: str, backend: Backend) -> None:
    transport.ensure_topic(name, 1)
    reader = own_all(transport, name, 1, backend.deadline_s)
    begin = time.monotonic()
    assert reader.poll(wait_s=0.3) == 0
    assert time.monotonic() - begin > 0.2  # how late it comes back is up to the machine
    transport.append(name, [Record(b"v")])
    poll_until([reader], lambda: reader.values() == [b"v"], backend.deadline_s)


def test_a_large_backlog_comes_in_bounded_polls_from_all_partitions(
    transport: Transport, name: str, backend: Backend
) -> None:
    transport.ensure_topic(name, 3)
    for number, count in enumerate((1, 40, 400)):
        transport.append(name, [Record(b"%d" % i, partition=number) for i in range(count)])
    reader = own_all(transport, name, 3, backend.deadline_s)
    deadline = time.monotonic() + backend.deadline_s
    while reader.count() < 441:
        reader.poll(max_records=25)
        assert time.monotonic() < deadline
    for number, count in enumerate((1, 40, 400)):
        assert reader.values(number) == [b"%d" % i for i in range(count)]


def test_end_offsets_tell_the_lag(transport: Transport, name: str, backend: Backend) -> None:
    transport.ensure_topic(name, 2)
    transport.append(name, [Record(b"v", partition=0)] * 5)
    reader = own_all(transport, name, 2, backend.deadline_s)
    deadline = time.monotonic() + backend.deadline_s
    while reader.count() < 1:
        reader.poll(max_records=1)
        assert time.monotonic() < deadline
    assert reader.source.end_offsets() == {Partition(name, 0): 5, Partition(name, 1): 0}


def test_gained_says_where_reading_starts(transport: Transport, name: str, backend: Backend) -> None:
    transport.ensure_topic(name, 2)
    transport.append(name, [Record(b"%d" % i, partition=p) for i in range(10) for p in (0, 1)])
    reader = Reader(transport, name, "a-0", starts={0: 7})
    poll_records(reader, 13, backend.deadline_s)
    assert reader.positions == {0: None, 1: None}
    assert reader.values(0) == [b"7", b"8", b"9"]
    assert reader.values(1) == [b"%d" % i for i in range(10)]


# Commits


def test_a_commit_publishes_records_and_positions(transport: Transport, name: str, backend: Backend) -> None:
    topic_id = transport.ensure_topic(name, 2).topic_id
    for output in ("scores", "alerts"):
        transport.ensure_topic(f"{name}-{output}", 2)
    reader = own_all(transport, name, 2, backend.deadline_s)
    committer = transport.committer(reader.source, "a-0")
    metadata = "checkpoint=ü" + "x" * 4_000
    commit = Commit(
        {
            f"{name}-scores": [Record(b"s0", partition=0), Record(b"s1", b"k", (("h", b"1"),), partition=1)],
            f"{name}-alerts": [Record(b"alert", partition=0)],
        },
        {Partition(name, 0): (17, metadata), Partition(name, 1): (5, "")},
    )
    assert transport.committed(f"{name}.group", Partition(name, 0)) is None
    assert committer.commit(commit) is CommitOutcome.LANDED
    assert transport.committed(f"{name}.group", Partition(name, 0)) == Position(
        Partition(name, 0), topic_id, 17, metadata
    )
    assert transport.committed(f"{name}.group", Partition(name, 1)) == Position(Partition(name, 1), topic_id, 5, "")
    assert transport.committed(f"{name}.other", Partition(name, 0)) is None
    assert read_values(transport, Partition(f"{name}-scores", 0), 1, backend.deadline_s) == [b"s0"]
    (batch,) = read_batches(transport, Partition(f"{name}-scores", 1), 1, backend.deadline_s)
    assert (list(batch.keys), list(batch.headers)) == ([b"k"], [(("h", b"1"),)])
    assert read_values(transport, Partition(f"{name}-alerts", 0), 1, backend.deadline_s) == [b"alert"]


def test_commits_of_positions_or_records_alone(transport: Transport, name: str, backend: Backend) -> None:
    transport.ensure_topic(name, 1)
    transport.ensure_topic(f"{name}-out", 1)
    reader = own_all(transport, name, 1, backend.deadline_s)
    committer = transport.committer(reader.source, "a-0")
    partition = Partition(name, 0)
    assert committer.commit(Commit(positions={partition: (3, "m")})) is CommitOutcome.LANDED
    assert committer.commit(Commit({f"{name}-out": [Record(b"v")]})) is CommitOutcome.LANDED
    assert read_values(transport, Partition(f"{name}-out", 0), 1, backend.deadline_s) == [b"v"]
    position = transport.committed(f"{name}.group", partition)
    assert position is not None
    assert (position.offset, position.metadata) == (3, "m")


def test_offsets_that_commits_burn_never_break_reading(transport: Transport, name: str, backend: Backend) -> None:
    transport.ensure_topic(name, 1)
    output = Partition(f"{name}-out", 0)
    transport.ensure_topic(output.topic, 1)
    writer = own_all(transport, name, 1, backend.deadline_s)
    committer = transport.committer(writer.source, "a-0")
    follower = own_all(transport, output.topic, 1, backend.deadline_s, "follower")
    sent: list[bytes] = []
    for i in range(5):
        values = [b"%d.%d" % (i, j) for j in range(i + 1)]
        outcome = committer.commit(Commit({output.topic: [Record(v) for v in values]}, {Partition(name, 0): (i, "")}))
        assert outcome is CommitOutcome.LANDED
        sent += values
        poll_records(follower, len(sent), backend.deadline_s)
    assert follower.values() == sent
    batches = read_batches(transport, output, len(sent), backend.deadline_s)
    offsets = np.concatenate([batch.offset for batch in batches])
    assert [v for batch in batches for v in batch.values] == sent
    assert offsets[-1] > len(sent) - 1  # offsets were burnt on the way
    # Each way of cutting the span at any offset, also at a burnt one, gives the same records.
    end = transport.bounds(output)[1]
    assert end > offsets[-1]
    for cut in range(end + 1):
        parts = [*transport.read(output, 0, cut), *transport.read(output, cut, end)]
        assert [v for batch in parts for v in batch.values] == sent
    # Going on from each next_offset misses and repeats nothing.
    assert committer.commit(Commit({output.topic: [Record(b"last")]})) is CommitOutcome.LANDED
    poll_until([follower], lambda: follower.values() == [*sent, b"last"], backend.deadline_s)
    resumed = batches[-1].next_offset
    later = [
        v
        for batch in read_batches(transport, output, len(sent) + 1, backend.deadline_s)
        for o, v in zip(batch.offset, batch.values, strict=True)
        if o >= resumed
    ]
    assert later == [b"last"]


def test_a_partition_of_another_member_cannot_be_committed(
    transport_factory: Factory, name: str, backend: Backend
) -> None:
    first, second = transport_factory(), transport_factory()
    first.ensure_topic(name, 2)
    first.ensure_topic(f"{name}-out", 1)
    a = own_all(first, name, 2, backend.deadline_s, "a-0")
    committer = first.committer(a.source, "a-0")
    b = Reader(second, name, "b-0")
    poll_until([a, b], lambda: len(a.owned) == len(b.owned) == 1, backend.deadline_s)
    (theirs,) = b.owned
    commit = Commit({f"{name}-out": [Record(b"never")]}, {Partition(name, theirs): (1, "never")})
    assert refused(committer, commit)
    assert first.committed(f"{name}.group", Partition(name, theirs)) is None
    assert_only_after(first, f"{name}-out", backend.deadline_s)


def test_nothing_is_published_after_the_source_has_left(transport: Transport, name: str, backend: Backend) -> None:
    transport.ensure_topic(name, 1)
    transport.ensure_topic(f"{name}-out", 1)
    reader = own_all(transport, name, 1, backend.deadline_s)
    committer = transport.committer(reader.source, "a-0")
    reader.source.close()
    assert refused(committer, Commit({f"{name}-out": [Record(b"never")]}, {Partition(name, 0): (1, "never")}))
    assert transport.committed(f"{name}.group", Partition(name, 0)) is None
    assert_only_after(transport, f"{name}-out", backend.deadline_s)


# Groups


def test_owners_are_told_by_member(transport_factory: Factory, name: str, backend: Backend) -> None:
    first, second, onlooker = transport_factory(), transport_factory(), transport_factory()
    first.ensure_topic(name, 4)
    group = f"{name}.group"
    assert onlooker.owners(group, name) == {}  # no such group
    a = own_all(first, name, 4, backend.deadline_s, "a-0")
    assert onlooker.owners(group, name) == {Partition(name, number): "a-0" for number in range(4)}
    b = Reader(second, name, "b-0")
    poll_until([a, b], lambda: len(a.owned) == len(b.owned) == 2, backend.deadline_s)
    expected = dict.fromkeys(a.owned, "a-0") | dict.fromkeys(b.owned, "b-0")

    def told() -> bool:
        found = onlooker.owners(group, name)
        return {partition.number: member for partition, member in found.items()} == expected

    poll_until([a, b], told, backend.deadline_s)
    assert onlooker.owners(f"{name}.other", name) == {}
    a.source.close()
    poll_until([b], lambda: len(b.owned) == 4 and set(onlooker.owners(group, name).values()) == {"b-0"}, 60.0)
    b.source.close()
    assert onlooker.owners(group, name) == {}
    with pytest.raises(TopicError):
        onlooker.owners(group, f"{name}-missing")


def test_a_member_that_died_is_no_owner_after_its_session(
    transport_factory: Factory, name: str, backend: Backend
) -> None:
    transport, onlooker = transport_factory(), transport_factory()
    transport.ensure_topic(name, 1)
    own_all(transport, name, 1, backend.deadline_s)
    transport.close()  # without a word to the group
    deadline = time.monotonic() + backend.deadline_s
    while onlooker.owners(f"{name}.group", name):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_second_member_takes_its_share_and_gives_it_back(
    transport_factory: Factory, name: str, backend: Backend
) -> None:
    journal: Journal = []
    first, second = transport_factory(), transport_factory()
    first.ensure_topic(name, 4)
    first.append(name, [Record(b"%d" % i, partition=p) for i in range(5) for p in range(4)])
    a = Reader(first, name, "a-0", journal)
    committer = first.committer(a.source, "a-0")
    poll_records(a, 20, backend.deadline_s)

    def hand_over(partition: Partition) -> None:
        assert partition in a.source.assignment()
        assert committer.commit(Commit(positions={partition: (5, "handed over")})) is CommitOutcome.LANDED

    a.before_leaving = hand_over
    b = Reader(second, name, "b-0", journal)
    poll_until([a, b], lambda: len(a.owned) == len(b.owned) == 2, backend.deadline_s)
    assert a.owned | b.owned == {0, 1, 2, 3}
    for number in b.owned:  # left, with a last commit, before it was gained
        assert journal.index(("a-0", "leaving", number)) < journal.index(("b-0", "gained", number))
        position = b.positions[number]
        assert position is not None
        assert (position.offset, position.metadata) == (5, "handed over")
    first.append(name, [Record(b"new", partition=p) for p in range(4)])
    poll_until([a, b], lambda: a.count() + b.count() == 24, backend.deadline_s)
    assert all(b.values(number) == [b"new"] for number in b.owned)

    a.source.close()
    poll_until([b], lambda: b.owned == {0, 1, 2, 3}, backend.deadline_s)
    assert ("a-0", "lost", 0) not in journal
    assert sum(event == "leaving" for _, event, _ in journal) == 4
    assert a.source.assignment() == frozenset()


def test_a_restarted_member_resumes_and_fences_the_older_one(
    transport_factory: Factory, name: str, backend: Backend
) -> None:
    old, new = transport_factory(), transport_factory()
    partition = Partition(name, 0)
    old.ensure_topic(name, 1)
    old.ensure_topic(f"{name}-out", 1)
    old.append(name, [Record(b"%d" % i) for i in range(10)])
    killed = own_all(old, name, 1, backend.deadline_s)
    committer = old.committer(killed.source, "a-0")
    assert committer.commit(Commit(positions={partition: (4, "m")})) is CommitOutcome.LANDED

    restarted = Reader(new, name, "a-0")
    new_committer = new.committer(restarted.source, "a-0")
    poll_until([restarted], lambda: restarted.values() == [b"%d" % i for i in range(4, 10)], backend.deadline_s)
    assert restarted.positions[0] == new.committed(f"{name}.group", partition)
    assert refused(committer, Commit({f"{name}-out": [Record(b"never")]}, {partition: (9, "never")}))
    assert new_committer.commit(Commit({f"{name}-out": [Record(b"v")]}, {partition: (10, "n")})) is CommitOutcome.LANDED
    assert read_values(new, Partition(f"{name}-out", 0), 1, backend.deadline_s) == [b"v"]
    with pytest.raises(FencedError):
        poll_until([killed], lambda: False, backend.deadline_s)
    assert killed.journal[-1] == ("a-0", "lost", 0)
    position = new.committed(f"{name}.group", partition)
    assert position is not None
    assert (position.offset, position.metadata) == (10, "n")


def test_a_later_committer_of_a_member_fences_the_earlier(transport: Transport, name: str, backend: Backend) -> None:
    transport.ensure_topic(name, 1)
    transport.ensure_topic(f"{name}-out", 1)
    reader = own_all(transport, name, 1, backend.deadline_s)
    earlier = transport.committer(reader.source, "a-0")
    later = transport.committer(reader.source, "a-0")
    with pytest.raises(FencedError):
        earlier.commit(Commit({f"{name}-out": [Record(b"never")]}, {Partition(name, 0): (1, "never")}))
    earlier.close()
    assert later.commit(Commit({f"{name}-out": [Record(b"v")]}, {Partition(name, 0): (1, "m")})) is CommitOutcome.LANDED
    assert read_values(transport, Partition(f"{name}-out", 0), 1, backend.deadline_s) == [b"v"]
    later.close()


def stopped_member(backend: Backend, name: str, pipe: Connection) -> None:
    """Run in a process of its own: own the topic, be stopped, try to commit, then poll."""
    transport = backend.open()
    try:
        reader = own_all(transport, name, 2, backend.deadline_s, "stopped")
        committer = transport.committer(reader.source, "stopped")
        pipe.send("owner")
        pipe.recv()
        pipe.send(refused(committer, Commit({f"{name}-out": [Record(b"never")]}, {Partition(name, 0): (1, "never")})))
        try:
            poll_until([reader], lambda: False, backend.deadline_s)
        except FencedError:
            pipe.send(sorted(number for _, event, number in reader.journal if event == "lost"))
        committer.close()
    finally:
        transport.close()


@pytest.mark.process
def test_a_member_stopped_beyond_its_session_cannot_commit(transport: Transport, name: str, backend: Backend) -> None:
    transport.ensure_topic(name, 2)
    transport.ensure_topic(f"{name}-out", 1)
    context = multiprocessing.get_context("spawn")
    pipe, far_end = context.Pipe()
    process = context.Process(target=stopped_member, args=(backend, name, far_end))
    process.start()
    far_end.close()
    try:
        assert pipe.poll(backend.deadline_s)
        assert pipe.recv() == "owner"
        assert process.pid is not None
        os.kill(process.pid, signal.SIGSTOP)
        survivor = own_all(transport, name, 2, backend.deadline_s, "survivor")
        committer = transport.committer(survivor.source, "survivor")
        assert committer.commit(Commit(positions={Partition(name, 0): (8, "mine")})) is CommitOutcome.LANDED
        os.kill(process.pid, signal.SIGCONT)
        pipe.send("go on")
        assert pipe.poll(backend.deadline_s)
        assert pipe.recv() is True
        assert pipe.poll(backend.deadline_s)
        assert pipe.recv() == [0, 1]
        process.join(backend.deadline_s)
        assert process.exitcode == 0
    finally:
        process.kill()
        process.join()
        pipe.close()
    position = transport.committed(f"{name}.group", Partition(name, 0))
    assert position is not None
    assert (position.offset, position.metadata) == (8, "mine")
    assert_only_after(transport, f"{name}-out", backend.deadline_s)


# Failure


def test_a_log_that_does_not_answer_is_unreachable(backend: Backend, name: str) -> None:
    with pytest.raises(UnreachableError), closing(backend.unreachable().open()) as transport:
        transport.topic(name)


def test_a_position_is_written_from_outside_while_the_group_has_no_members(transport: Transport, name: str) -> None:
    transport.ensure_topic(name, 2)
    first, second = Partition(name, 0), Partition(name, 1)
    transport.append(name, [Record(b"x", partition=0)] * 5)
    transport.set_positions(name, name, {first: (3, "said"), second: (1, "")})
    found = transport.committed(name, first)
    assert found is not None
    assert (found.offset, found.metadata) == (3, "said")
    transport.set_positions(name, name, {first: None})
    assert transport.committed(name, first) is None
    assert transport.committed(name, second) is not None
    with pytest.raises(TopicError):
        transport.set_positions(name, name, {Partition(name, 2): (0, "")})


def test_no_position_is_written_over_that_of_a_member(transport: Transport, backend: Backend, name: str) -> None:
    transport.ensure_topic(name, 1)
    reader = Reader(transport, name, "a")
    deadline = time.monotonic() + backend.deadline_s
    while not reader.source.assignment():
        assert time.monotonic() < deadline
        reader.source.poll(10, 0.1)
    for position in ((0, ""), None):
        with pytest.raises(PositionError, match="expected no members"):
            transport.set_positions(f"{name}.group", name, {Partition(name, 0): position})
    reader.source.close()
    transport.set_positions(f"{name}.group", name, {Partition(name, 0): (0, "")})


class Hesitant(Reader):
    """Takes partitions over when it is let."""

    may_take = False
    offers = 0

    def gained(self, position: Position | None, partition: Partition) -> int | None:
        self.offers += 1
        return super().gained(position, partition) if self.may_take else HOLD


def test_partitions_are_added_and_dealt_while_members_read(
    transport: Transport, transport_factory: Factory, backend: Backend, name: str
) -> None:
    transport.ensure_topic(name, 1)
    transport.append(name, [Record(b"a", partition=0)])
    readers = [Reader(transport_factory(), name, member) for member in ("a", "b")]
    poll_until(readers, lambda: sorted(len(one.owned) for one in readers) == [0, 1], backend.deadline_s)
    assert transport.extend_topic(name, 3).partitions == 3
    assert transport.extend_topic(name, 2).partitions == 3  # none is taken away
    poll_until(readers, lambda: sorted(len(one.owned) for one in readers) == [1, 2], backend.deadline_s)
    assert {one.source.partitions() for one in readers} == {3}
    transport.append(name, [Record(b"c", partition=2)])
    poll_until(readers, lambda: any(one.values(2) == [b"c"] for one in readers), backend.deadline_s)
    with pytest.raises(TopicError):
        transport.extend_topic(f"{name}-none", 2)
    for one in readers:
        one.source.close()


def test_a_member_that_was_killed_gets_partitions_that_were_added_meanwhile(
    transport: Transport, transport_factory: Factory, backend: Backend, name: str
) -> None:
    transport.ensure_topic(name, 1)
    killed = transport_factory()
    reader = Reader(killed, name, "a")
    poll_until([reader], lambda: len(reader.owned) == 1, backend.deadline_s)
    killed.close()
    transport.extend_topic(name, 3)
    again = Reader(transport, name, "a")
    poll_until([again], lambda: len(again.owned) == 3, backend.deadline_s)
    again.source.close()


def test_a_partition_that_is_held_is_offered_again(transport: Transport, backend: Backend, name: str) -> None:
    transport.ensure_topic(name, 1)
    transport.append(name, [Record(b"a")])
    reader = Hesitant(transport, name, "a")
    poll_until([reader], lambda: reader.offers == 2, backend.deadline_s)
    assert reader.values() == []
    assert reader.owned == set()
    reader.may_take = True
    poll_until([reader], lambda: reader.values() == [b"a"], backend.deadline_s)
    reader.source.close()
    assert [what for _, what, _ in reader.journal] == ["gained", "leaving"]
