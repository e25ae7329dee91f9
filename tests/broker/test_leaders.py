"""A partition's leader changes while its old one lives on: what asked before must find the new one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from kafka import KafkaAdminClient, TopicPartition

from deploy.kafka.broker import KafkaCluster
from stream_ad.io.kafka_log import KafkaLog
from stream_ad.io.transport import Partition, Record
from tests.support.e2e import LONG_S, wait_until

pytestmark = pytest.mark.broker

TOPIC = "moved"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    options = {"default.replication.factor": "1", "min.insync.replicas": "1"}
    with KafkaCluster(tmp_path_factory.mktemp("kafka"), brokers=2, options=options) as cluster:
        yield cluster


def leader(admin: KafkaAdminClient) -> int:
    (topic,) = admin.describe_topics([TOPIC])
    return int(topic["partitions"][0]["leader_id"])


def test_bounds_follow_a_partition_to_its_new_leader(pair: KafkaCluster) -> None:
    """As after the restart of a broker, which serves others' partitions on, but leads none."""
    log = KafkaLog(pair.servers, request_timeout_s=10.0)
    admin = KafkaAdminClient(bootstrap_servers=pair.servers)
    try:
        log.ensure_topic(TOPIC, 1)
        log.append(TOPIC, [Record(b"1"), Record(b"2")])
        partition = Partition(TOPIC, 0)
        assert log.bounds(partition) == (0, 2)
        old = leader(admin)
        admin.alter_partition_reassignments({TopicPartition(TOPIC, 0): [1 - old]})
        wait_until(lambda: leader(admin) == 1 - old, LONG_S)
        assert log.bounds(partition) == (0, 2)  # else the client looks for the leader after five minutes
        assert [value for batch in log.read(partition, 0, 2) for value in batch.values] == [b"1", b"2"]
    finally:
        admin.close()
        log.close()
