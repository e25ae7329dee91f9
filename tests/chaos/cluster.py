"""Three real brokers: who leads and coordinates what, killing one, waiting until all replicas are in sync again."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from kafka import errors as kafka_errors
from kafka.admin import ConfigResource, ConfigResourceType

from deploy.kafka.broker import KafkaCluster
from stream_ad.errors import TransportError
from stream_ad.io.kafka.clients import KafkaClients
from tests.chaos.schedule import Aim

BROKERS = 3
OFFSETS, TRANSACTIONS = "__consumer_offsets", "__transaction_state"
IN_SYNC_S = 180.0
ASK_S = 60.0

T = TypeVar("T")


class Cluster:
    """A running cluster and what an administrator sees of it; used by one thread.

    Args:
        folder: of the brokers' data and logs.
    """

    def __init__(self, folder: Path) -> None:
        self.brokers = KafkaCluster(folder, brokers=BROKERS)
        self.brokers.start_all()
        self._clients = KafkaClients(self.brokers.servers, 5.0, 1_000_000, {})
        self._admin: Any = None

    @property
    def servers(self) -> list[str]:
        """`host:port` of each broker."""
        return self.brokers.servers

    def close(self) -> None:
        """End the brokers."""
        self._let_go()
        self.brokers.stop(clean=False)

    def topics(self) -> list[dict[str, Any]]:
        """Return what the cluster says of all topics, its own included."""
        return self._ask(lambda admin: admin.describe_topics(None))

    def unsafe_topics(self) -> list[str]:
        """Return the topics that do not have three replicas of which two must be in sync."""
        found = self.topics()
        names = [topic["name"] for topic in found]
        resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
        answer = self._ask(lambda admin: admin.describe_configs(resources, config_filter="all"))
        least = {name: configs["min.insync.replicas"]["value"] for name, configs in next(iter(answer.values())).items()}
        copies = {topic["name"]: {len(part["replica_nodes"]) for part in topic["partitions"]} for topic in found}
        return [
            f"{name}: {sorted(copies[name])} replicas, {least[name]} in sync"
            for name in names
            if copies[name] != {BROKERS} or least[name] != "2"
        ]

    def aimed_at(self, aim: Aim, topic: str, partition: int, group: str, transaction: str) -> int:
        """Return the broker that an aim means now."""
        if aim is Aim.LEADER:
            return self._leader(topic, partition)
        name, key = (OFFSETS, group) if aim is Aim.GROUP else (TRANSACTIONS, transaction)
        return self._leader(name, None, key)

    def coordinator(self, group: str) -> int:
        """Return the broker that coordinates a group now."""
        return self._leader(OFFSETS, None, group)

    def kill(self, index: int) -> None:
        """Kill a broker with SIGKILL."""
        self.brokers.kill(index)

    def start(self, index: int) -> None:
        """Start it again and wait until it serves."""
        self.brokers.start(index)

    def await_in_sync(self) -> float:
        """Wait until every replica of every partition is in sync; return how long it took.

        Raises:
            TimeoutError: that took more than three minutes.
        """
        begun = time.monotonic()
        while behind := [
            f"{topic['name']}/{part['partition_index']}"
            for topic in self.topics()
            for part in topic["partitions"]
            if len(part["isr_nodes"]) < BROKERS or part["leader_id"] < 0
        ]:
            if time.monotonic() - begun > IN_SYNC_S:
                raise TimeoutError(f"replicas not in sync after {IN_SYNC_S:.0f} s: {behind}")
            time.sleep(0.3)
        return time.monotonic() - begun

    def _leader(self, topic: str, partition: int | None, key: str = "") -> int:
        end = time.monotonic() + ASK_S
        while True:
            (found,) = [each for each in self.topics() if each["name"] == topic]
            parts = {part["partition_index"]: part for part in found["partitions"]}
            number = partition if partition is not None else java_hash(key) % len(parts)
            leader = int(parts[number % len(parts)]["leader_id"])
            if leader >= 0:
                return leader
            if time.monotonic() > end:
                raise TimeoutError(f"{topic}/{number} has no leader")
            time.sleep(0.2)

    def _ask(self, question: Callable[[Any], T]) -> T:
        """Ask an admin client, a new one where the old one has trouble."""
        end = time.monotonic() + ASK_S
        while True:
            try:
                if self._admin is None:
                    self._admin = self._clients.open_admin()
                return question(self._admin)
            except (kafka_errors.KafkaError, TransportError, OSError):
                self._let_go()
                if time.monotonic() > end:
                    raise
                time.sleep(0.3)

    def _let_go(self) -> None:
        if self._admin is not None:
            self._admin.close()
            self._admin = None


def java_hash(text: str) -> int:
    """Return the hash by which Kafka picks a group's or a transaction's partition: Java's, made positive."""
    value = 0
    for unit in text.encode("utf-16-be")[1::2]:  # ASCII names only, so a code unit is its low byte
        value = (31 * value + unit) & 0xFFFFFFFF
    return value & 0x7FFFFFFF
