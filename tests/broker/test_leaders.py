"""Leaders and coordinators change: what asked the old ones before must find the new ones, and soon."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from kafka import KafkaAdminClient, TopicPartition

from deploy.kafka.broker import KafkaCluster
from stream_ad.io.kafka.log import KafkaLog
from stream_ad.io.transport import Commit, CommitOutcome, Partition, Position, Record
from tests.chaos.cluster import java_hash
from tests.support.e2e import LONG_S, wait_until

pytestmark = pytest.mark.broker

TRANSACTIONS, TRANSACTION_PARTITIONS = "__transaction_state", 4


class Everything:
    """An owner that takes what it is given."""

    def gained(self, position: Position | None, partition: Partition) -> int | None:
        return None

    def leaving(self, partition: Partition) -> None: ...

    def lost(self, partition: Partition) -> None: ...


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    with KafkaCluster(tmp_path_factory.mktemp("kafka"), brokers=3) as cluster:
        yield cluster


@pytest.fixture
def admin(cluster: KafkaCluster) -> Iterator[KafkaAdminClient]:
    admin = KafkaAdminClient(bootstrap_servers=cluster.servers)
    yield admin
    admin.close()


def leader(admin: KafkaAdminClient, topic: str, partition: int = 0) -> int:
    (found,) = admin.describe_topics([topic])
    return next(int(part["leader_id"]) for part in found["partitions"] if part["partition_index"] == partition)


def test_bounds_follow_a_partition_to_its_new_leader(cluster: KafkaCluster, admin: KafkaAdminClient) -> None:
    """As after the restart of a broker, which serves others' partitions on, but leads none."""
    log = KafkaLog(cluster.servers, request_timeout_s=10.0)
    try:
        log.ensure_topic("moved", 1)
        log.append("moved", [Record(b"1"), Record(b"2")])
        partition = Partition("moved", 0)
        assert log.bounds(partition) == (0, 2)
        old = leader(admin, "moved")
        others = [index for index in range(3) if index != old]
        admin.alter_partition_reassignments({TopicPartition("moved", 0): others})
        wait_until(lambda: leader(admin, "moved") in others, LONG_S)
        assert log.bounds(partition) == (0, 2)  # else the client looks for the leader after five minutes
        assert [value for batch in log.read(partition, 0, 2) for value in batch.values] == [b"1", b"2"]
    finally:
        log.close()


def test_commits_go_on_when_the_coordinator_of_their_transactions_dies(
    cluster: KafkaCluster, admin: KafkaAdminClient
) -> None:
    """Each of them has an outcome, none hangs, and later ones land at the next coordinator."""
    log = KafkaLog(cluster.servers, request_timeout_s=5.0, commit_deadline_s=40.0)
    try:
        log.ensure_topic("in", 1)
        log.ensure_topic("out", 1)
        source = log.join("in", "in.group", Everything(), "a-0")
        wait_until(lambda: len(source.assignment()) == 1, LONG_S, each=lambda: source.poll(10, 0.05))
        committer = log.committer(source, "a-0")
        landed: list[bytes] = []

        def commit() -> None:
            source.poll(10, 0.0)
            text = b"%d" % len(landed)
            if committer.commit(Commit({"out": [Record(text)]}, {Partition("in", 0): (0, "")})) is CommitOutcome.LANDED:
                landed.append(text)

        commit()
        dead = leader(admin, TRANSACTIONS, java_hash("in.group.a-0") % TRANSACTION_PARTITIONS)
        cluster.kill(dead)
        wait_until(lambda: len(landed) >= 10, 4 * LONG_S, each=commit)
        cluster.start(dead)
        found = [value for batch in log.read(Partition("out", 0), 0, 1_000) for value in batch.values]
        assert found[: len(landed)] == landed
    finally:
        log.close()
