"""The traps of Kafka and of its client that the transport steps over, on a real broker."""

from __future__ import annotations

import contextlib
import gc
import time
import uuid
import warnings
from collections.abc import Callable, Iterator

import pytest
from kafka import KafkaAdminClient
from kafka.admin import MemberToRemove

from deploy.kafka.broker import KafkaCluster
from stream_ad.errors import (
    AccessError,
    ContractError,
    DeadlineError,
    FencedError,
    RecordTooLargeError,
    TopicError,
    TransportError,
    UnreachableError,
)
from stream_ad.io.kafka.log import KafkaLog
from stream_ad.io.kafka.source import KafkaSource
from stream_ad.io.transport import Commit, CommitOutcome, Partition, Position, RawBatch, Record, Source
from tests.support.e2e import wait_until

pytestmark = pytest.mark.broker

WAIT_S = 30.0
SASL = {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "PLAIN", "sasl_plain_username": "pumps"}
MODULE = "org.apache.kafka.common.security.plain.PlainLoginModule required"
OPTIONS = {
    "listener.security.protocol.map": "PLAINTEXT:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT",
    "inter.broker.listener.name": "PLAINTEXT",
    "sasl.enabled.mechanisms": "PLAIN",
    "sasl.mechanism.inter.broker.protocol": "PLAIN",
    "listener.name.plaintext.plain.sasl.jaas.config": (
        f'{MODULE} username="broker" password="b" user_broker="b" user_pumps="right";'
    ),
}
"""A broker with passwords; the listener keeps its name."""


class Member:
    """An owner with its source and a journal of what it is told."""

    def __init__(self, log: KafkaLog, topic: str, name: str) -> None:
        self.journal: list[tuple[str, int]] = []
        self.batches: list[RawBatch] = []
        self.source: Source = log.join(topic, f"{topic}.group", self, name)

    def gained(self, position: Position | None, partition: Partition) -> int | None:
        self.journal.append(("gained", partition.number))
        return None

    def leaving(self, partition: Partition) -> None:
        self.journal.append(("leaving", partition.number))

    def lost(self, partition: Partition) -> None:
        self.journal.append(("lost", partition.number))

    def poll(self, wait_s: float = 0.1) -> None:
        self.batches += self.source.poll(1_000, wait_s)

    def count(self) -> int:
        return len(self.source.assignment())

    def values(self) -> list[bytes]:
        return [value for batch in self.batches for value in batch.values]


def poll_until(done: Callable[[], bool], *members: Member, wait_s: float = 0.1) -> None:
    deadline = time.monotonic() + WAIT_S
    while not done():
        assert time.monotonic() < deadline, [member.journal for member in members]
        for member in members:
            member.poll(wait_s)


def await_read(log: KafkaLog, topic: str, expected: list[bytes]) -> None:
    """Check what a topic holds; a landed commit becomes visible just after the coordinator's answer."""
    poll_until(lambda: len(read(log, topic)) >= len(expected))
    assert read(log, topic) == expected


def joined(log: KafkaLog, topic: str, name: str, partitions: int = 1) -> Member:
    member = Member(log, topic, name)
    poll_until(lambda: member.count() == partitions, member)
    return member


def read(log: KafkaLog, topic: str) -> list[bytes]:
    partition = Partition(topic, 0)
    return [value for batch in log.read(partition, *log.bounds(partition)) for value in batch.values]


def evict(servers: list[str], topic: str, name: str) -> None:
    """Do at once what the session time-out does."""
    admin = KafkaAdminClient(bootstrap_servers=servers)
    admin.remove_group_members(f"{topic}.group", [MemberToRemove(group_instance_id=name)])
    admin.close()


@pytest.fixture
def topic() -> str:
    return f"traps-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def open_log(kafka_broker: list[str]) -> Iterator[Callable[[], KafkaLog]]:
    logs: list[KafkaLog] = []

    def open_one() -> KafkaLog:
        logs.append(KafkaLog(kafka_broker, session_timeout_s=6.0, request_timeout_s=5.0))
        return logs[-1]

    yield open_one
    for log in logs:
        log.close()


@pytest.fixture
def log(open_log: Callable[[], KafkaLog], topic: str) -> KafkaLog:
    log = open_log()
    log.ensure_topic(topic, 1)
    log.ensure_topic(f"{topic}-out", 1, {"max.message.bytes": "20000"})
    return log


@pytest.fixture(scope="module")
def private_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    """A broker that a test may kill; clients need a password."""
    with KafkaCluster(tmp_path_factory.mktemp("kafka"), options=OPTIONS) as cluster:
        yield cluster
    with warnings.catch_warnings():
        # kafka-python leaks the socket of each connection that is refused.
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def test_a_zombie_with_an_open_transaction_publishes_nothing_and_harms_nobody(log: KafkaLog, topic: str) -> None:
    member = joined(log, topic, "a-0")
    zombie = log.committer(member.source, "a-0")
    output, partition = f"{topic}-out", Partition(topic, 0)
    zombie._producer.begin_transaction()
    zombie._producer.send(output, b"half").get(WAIT_S)
    newer = log.committer(member.source, "a-0")
    assert newer.commit(Commit({output: [Record(b"1")]}, {partition: (1, "")})) is CommitOutcome.LANDED
    zombie._producer.send(output, b"zombie")  # the client answers this by asking for a new epoch, which is refused
    wait_until(lambda: bool(zombie._producer._transaction_manager.has_fatal_error()))
    for _ in range(2):
        with pytest.raises(FencedError):
            zombie.commit(Commit({output: [Record(b"never")]}, {partition: (9, "never")}))
    assert newer.commit(Commit({output: [Record(b"2")]}, {partition: (2, "")})) is CommitOutcome.LANDED
    await_read(log, output, [b"1", b"2"])
    zombie.close()
    newer.close()


def test_a_member_without_partitions_also_learns_that_a_newer_process_has_its_name(
    open_log: Callable[[], KafkaLog], log: KafkaLog, topic: str
) -> None:
    reader, spare = joined(log, topic, "a-0"), Member(log, topic, "a-1")

    def is_idle() -> bool:
        assert isinstance(spare.source, KafkaSource)
        return spare.source.consumer.group_metadata().generation_id >= 0 and reader.count() == 1

    poll_until(is_idle, reader, spare)
    newer = Member(open_log(), topic, "a-1")
    with pytest.raises(FencedError, match="a newer process joined as this member"):
        poll_until(lambda: False, newer, reader, spare)
    assert spare.journal == []


def test_an_evicted_member_is_refused_by_the_broker_then_at_home_and_must_leave(
    kafka_broker: list[str], log: KafkaLog, topic: str
) -> None:
    member = joined(log, topic, "a-0")
    committer = log.committer(member.source, "a-0")
    commit = Commit({f"{topic}-out": [Record(b"never")]}, {Partition(topic, 0): (9, "never")})
    evict(kafka_broker, topic, "a-0")
    assert committer.commit(commit) is CommitOutcome.REJECTED  # with a generation that is no more
    assert isinstance(member.source, KafkaSource)
    assert member.source.consumer.group_metadata().generation_id < 0  # and by now that is known here as well
    assert committer.commit(commit) is CommitOutcome.REJECTED  # generation -1, which the broker would take
    with pytest.raises(FencedError):
        member.poll()
    assert member.journal == [("gained", 0), ("lost", 0)]
    assert member.count() == 0
    assert read(log, f"{topic}-out") == []
    assert log.committed(f"{topic}.group", Partition(topic, 0)) is None
    member.source.close()
    assert member.journal[-1] == ("lost", 0)


def test_a_restarted_static_member_disturbs_nobody(open_log: Callable[[], KafkaLog], topic: str) -> None:
    first, other, restarted = open_log(), open_log(), open_log()
    first.ensure_topic(topic, 4)
    a, b = Member(first, topic, "a-0"), Member(other, topic, "b-0")
    poll_until(lambda: a.count() == b.count() == 2, a, b)
    before = list(b.journal)
    first.close()  # as a kill does: nobody is told
    again = joined(restarted, topic, "a-0", 2)
    b.poll(1.5)  # longer than a heartbeat
    assert again.count() == 2
    assert b.journal == before


def test_members_whose_polls_are_short_agree_all_the_same(open_log: Callable[[], KafkaLog], topic: str) -> None:
    logs = [open_log() for _ in range(3)]
    logs[0].ensure_topic(topic, 6)
    members = [Member(log, topic, f"m-{i}") for i, log in enumerate(logs)]
    poll_until(lambda: all(member.count() == 2 for member in members), *members, wait_s=0.01)
    events = [event for member in members for event in member.journal]
    gained = sum(kind == "gained" for kind, _ in events)
    left = sum(kind == "leaving" for kind, _ in events)
    assert gained - left == 6
    assert ("lost", 0) not in events
    source = members[0].source
    assert isinstance(source, KafkaSource)
    assert (
        source.consumer.group_metadata().generation_id <= 12
    )  # a client that drops what a join answers between polls needs dozens


def test_positions_move_past_what_the_broker_writes_itself(log: KafkaLog, topic: str) -> None:
    member = joined(log, topic, "a-0")
    committer = log.committer(member.source, "a-0")
    output = f"{topic}-out"
    follower = joined(log, output, "f-0")
    for value in (b"1", b"2"):
        assert committer.commit(Commit({output: [Record(value)]})) is CommitOutcome.LANDED
    with pytest.raises(RecordTooLargeError):
        committer.commit(Commit({output: [Record(b"aborted"), Record(bytes(30_000))]}))
    partition = Partition(output, 0)
    deadline = time.monotonic() + WAIT_S
    while not follower.batches or follower.batches[-1].next_offset < log.bounds(partition)[1]:
        assert time.monotonic() < deadline
        follower.poll()
    assert follower.values() == [b"1", b"2"]
    assert [int(offset) for batch in follower.batches for offset in batch.offset] == [0, 2]
    assert follower.batches[-1].next_offset == log.bounds(partition)[1] >= 4
    assert committer.commit(Commit({output: [Record(b"3")]})) is CommitOutcome.LANDED
    await_read(log, output, [b"1", b"2", b"3"])


def test_a_record_beyond_the_clients_own_limit_is_refused(log: KafkaLog, topic: str) -> None:
    member = joined(log, topic, "a-0")
    committer = log.committer(member.source, "a-0")
    large = Record(bytes(1_500_000))
    with pytest.raises(RecordTooLargeError):
        committer.commit(Commit({topic: [Record(b"never"), large]}))
    with pytest.raises(RecordTooLargeError):
        log.append(topic, [large])
    assert committer.commit(Commit({topic: [Record(b"v")]})) is CommitOutcome.LANDED
    log.append(topic, [Record(b"w")])
    assert read(log, topic) == [b"v", b"w"]


def test_what_cannot_be_committed_is_said_before_anything_is_sent(log: KafkaLog, topic: str) -> None:
    member = joined(log, topic, "a-0")
    committer = log.committer(member.source, "a-0")
    partition = Partition(topic, 0)
    with pytest.raises(ContractError, match="4096"):
        committer.commit(Commit(positions={partition: (1, "ü" * 2_049)}))
    with pytest.raises(TopicError):
        committer.commit(Commit({f"{topic}-missing": [Record(b"never")]}, {partition: (1, "")}))
    with pytest.raises(TopicError):
        committer.commit(Commit({f"{topic}-out": [Record(b"never", partition=1)]}, {partition: (1, "")}))
    assert committer.commit(Commit({}, {Partition(f"{topic}-out", 0): (1, "")})) is CommitOutcome.REJECTED
    assert committer.commit(Commit()) is CommitOutcome.LANDED
    assert log.committed(f"{topic}.group", partition) is None
    assert committer.commit(Commit(positions={partition: (1, "m")})) is CommitOutcome.LANDED


def test_a_closed_member_is_not_waited_for(kafka_broker: list[str], topic: str) -> None:
    # A session longer than the test waits.
    leaver, stayer = (KafkaLog(kafka_broker, session_timeout_s=2 * WAIT_S, request_timeout_s=5.0) for _ in range(2))
    leaver.ensure_topic(topic, 2)
    a = joined(leaver, topic, "a-0", 2)
    b = Member(stayer, topic, "b-0")
    poll_until(lambda: a.count() == b.count() == 1, a, b)
    a.source.close()
    poll_until(lambda: b.count() == 2, b)
    leaver.close()
    stayer.close()


def test_a_wrong_password_is_said(private_cluster: KafkaCluster, topic: str) -> None:
    """The broker refuses and hangs up; where both arrive at once the client sees the hang-up only."""
    said: list[TransportError] = []
    while not said or (isinstance(said[-1], UnreachableError) and len(said) < 5):
        wrong = SASL | {"sasl_plain_password": "x"}
        log = KafkaLog(private_cluster.servers, request_timeout_s=5.0, client_options=wrong)
        with pytest.raises(TransportError, match=private_cluster.servers[0]) as caught:
            log.topic(topic)
        said.append(caught.value)
        log.close()
    assert isinstance(said[-1], AccessError)


def open_private(cluster: KafkaCluster, request_timeout_s: float = 2.0) -> KafkaLog:
    return KafkaLog(
        cluster.servers,
        session_timeout_s=6.0,
        transaction_timeout_s=5.0,
        request_timeout_s=request_timeout_s,
        client_options=SASL | {"sasl_plain_password": "right"},
    )


def test_a_commit_under_a_silent_broker_ends_at_its_deadline(private_cluster: KafkaCluster, topic: str) -> None:
    log = open_private(private_cluster, request_timeout_s=10.0)
    output, partition = f"{topic}-out", Partition(topic, 0)
    log.ensure_topic(topic, 1)
    log.ensure_topic(output, 1)
    log.append(topic, [Record(b"%d" % i) for i in range(5)])
    member = joined(log, topic, "a-0")
    committer = log.committer(member.source, "a-0")
    assert committer.commit(Commit({output: [Record(b"1")]}, {partition: (1, "")})) is CommitOutcome.LANDED
    log.commit_deadline_s = 3.0
    private_cluster.pause(0)
    try:
        with pytest.raises(DeadlineError):
            committer.commit(Commit({output: [Record(b"2")]}, {partition: (2, "")}))
        with pytest.raises(DeadlineError):
            committer.commit(Commit({output: [Record(b"3")]}, {partition: (3, "")}))
        committer.close()
        log.close()
    finally:
        private_cluster.resume(0)
    restarted = open_private(private_cluster)
    member = Member(restarted, topic, "a-0")
    committer = restarted.committer(member.source, "a-0")  # what was open is ended now
    poll_until(lambda: member.count() == 1, member)
    position = restarted.committed(f"{topic}.group", partition)
    assert position is not None
    expected = [b"1", b"2"][: position.offset]
    await_read(restarted, output, expected)  # both or none
    assert committer.commit(Commit({output: [Record(b"4")]}, {partition: (4, "")})) is CommitOutcome.LANDED
    await_read(restarted, output, [*expected, b"4"])
    restarted.close()


def test_a_dead_broker_is_unreachable_and_a_restarted_one_goes_on(private_cluster: KafkaCluster, topic: str) -> None:
    log = open_private(private_cluster)
    output, partition = f"{topic}-out", Partition(topic, 0)
    log.ensure_topic(topic, 1)
    log.ensure_topic(output, 1)
    log.append(topic, [Record(b"%d" % i) for i in range(5)])
    member = joined(log, topic, "a-0")
    committer = log.committer(member.source, "a-0")
    assert committer.commit(Commit({output: [Record(b"1")]}, {partition: (3, "m")})) is CommitOutcome.LANDED
    log.commit_deadline_s = 3.0
    private_cluster.kill(0)
    with pytest.raises(UnreachableError, match=private_cluster.servers[0]):
        poll_until(lambda: False, member)
    with contextlib.suppress(DeadlineError):
        outcome = committer.commit(Commit({output: [Record(b"2")]}, {partition: (5, "never")}))
        assert outcome is CommitOutcome.UNKNOWN
    with pytest.raises(UnreachableError):
        log.append(topic, [Record(b"lost")])
    with pytest.raises(UnreachableError):
        log.bounds(partition)
    log.close()
    private_cluster.start(0)
    restarted = open_private(private_cluster)
    member = Member(restarted, topic, "a-0")
    committer = restarted.committer(member.source, "a-0")
    poll_until(lambda: len(member.values()) >= 2, member)
    assert member.values() == [b"3", b"4"]
    assert committer.commit(Commit({output: [Record(b"2")]}, {partition: (5, "n")})) is CommitOutcome.LANDED
    await_read(restarted, output, [b"1", b"2"])
    restarted.close()
