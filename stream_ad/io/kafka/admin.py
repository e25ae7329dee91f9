"""Administration of a Kafka cluster: topics, rights, consumer groups and their positions."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from kafka import KafkaAdminClient, TopicPartition
from kafka import errors as kafka_errors
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.structs import OffsetAndMetadata

from stream_ad.errors import PositionError, TopicError, TransportError
from stream_ad.io.kafka.clients import KafkaClients
from stream_ad.io.kafka.errors import translated
from stream_ad.io.transport import Partition, TopicInfo

T = TypeVar("T")

RETRY_S = 0.05
HAS_MEMBERS = (
    kafka_errors.UnknownMemberIdError,
    kafka_errors.IllegalGenerationError,
    kafka_errors.RebalanceInProgressError,
    kafka_errors.NonEmptyGroupError,
    kafka_errors.GroupSubscribedToTopicError,
)
"""A coordinator's answers when a non-member writes the offsets of a group that has members."""


class KafkaAdmin:
    """Administers one cluster and holds its clients and deadlines; base of `KafkaLog`, used by sources and committers.

    Args:
        clients: opens the admin client.
        session_timeout_s, transaction_timeout_s, request_timeout_s, commit_deadline_s: see `KafkaLog`.
    """

    def __init__(
        self,
        clients: KafkaClients,
        *,
        session_timeout_s: float,
        transaction_timeout_s: float,
        request_timeout_s: float,
        commit_deadline_s: float,
    ) -> None:
        self.clients = clients
        self.session_timeout_s = session_timeout_s
        self.transaction_timeout_s = transaction_timeout_s
        self.request_timeout_s = request_timeout_s
        self.commit_deadline_s = commit_deadline_s
        # Reentrant: an owner's callback inside a call may call the log again.
        self._lock = threading.RLock()
        self._admin: KafkaAdminClient | None = None
        self._partitions: dict[str, int] = {}

    def ensure_topic(self, name: str, partitions: int, settings: Mapping[str, str] | None = None) -> TopicInfo:
        """Create the topic with append times if it is missing; return its description.

        Args:
            name: of the topic.
            partitions: number of partitions; the replication factor is the broker's default.
            settings: Kafka's topic settings, in addition to `message.timestamp.type=LogAppendTime`.

        Raises:
            TopicError: it exists with another number of partitions, or the name or a setting is invalid.
            AccessError, UnreachableError.
        """
        try:
            found = self.topic(name)
        except TopicError:
            configs = {"message.timestamp.type": "LogAppendTime", **(settings or {})}
            topics = {name: {"num_partitions": partitions, "configs": configs}}
            try:
                self._ask(f"topic {name}", lambda admin: admin.create_topics(topics, wait_for_metadata=True))
            except TopicError as error:
                if not isinstance(error.__cause__, kafka_errors.TopicAlreadyExistsError):
                    raise
            found = self._await_topic(name)
        if found.partitions != partitions:
            raise TopicError(f"{name}: expected {partitions} partitions, found {found.partitions}")
        return found

    def extend_topic(self, name: str, partitions: int) -> TopicInfo:
        """Add partitions up to a number; see `transport.Transport.extend_topic`."""
        found = self.topic(name)
        if found.partitions >= partitions:
            return found
        try:
            self._ask(f"topic {name}", lambda admin: admin.create_partitions({name: partitions}))
        except TopicError as error:
            if not isinstance(error.__cause__, kafka_errors.InvalidPartitionsError):
                raise  # otherwise another process was faster
        deadline = time.monotonic() + self.request_timeout_s
        while (found := self.topic(name)).partitions < partitions and time.monotonic() < deadline:
            time.sleep(RETRY_S)
        return found

    def topic(self, name: str) -> TopicInfo:
        """Describe a topic.

        Raises:
            TopicError: the topic does not exist.
            AccessError, UnreachableError.
        """

        def describe(admin: KafkaAdminClient) -> tuple[dict[str, Any], dict[str, Any]]:
            (found,) = admin.describe_topics([name])
            kind = kafka_errors.for_code(found["error_code"])
            if kind is not kafka_errors.NoError:
                raise kind(name)
            # A topic that is being created shows partitions before they have leaders.
            if not found["partitions"] or any(entry["leader_id"] < 0 for entry in found["partitions"]):
                raise kafka_errors.LeaderNotAvailableError(name)
            resource = ConfigResource(ConfigResourceType.TOPIC, name)
            configs = next(iter(admin.describe_configs([resource], config_filter="all").values()))[name]
            if not configs:  # the client drops the error with the reason
                if "DESCRIBE_CONFIGS" in (found.get("authorized_operations") or ()):
                    # Another broker answered, which does not know the new topic yet.
                    raise kafka_errors.LeaderNotAvailableError(name)
                raise kafka_errors.TopicAuthorizationFailedError(f"{name} (DescribeConfigs)")
            return found, configs

        found, configs = self._ask(f"topic {name}", describe)
        count = len(found["partitions"])
        self._partitions[name] = count
        size = configs.get("max.message.bytes", {}).get("value")
        return TopicInfo(
            name=name,
            topic_id=str(found["topic_id"]),
            partitions=count,
            append_time=configs.get("message.timestamp.type", {}).get("value") == "LogAppendTime",
            max_record_bytes=None if size is None else int(size),
        )

    def allowed(self, resource: str, name: str) -> frozenset[str] | None:
        """Return the operations allowed on a resource, by Kafka's names.

        None if Kafka only reveals that it may be described: for a transactional id, and for a group without members.

        Args:
            resource: `TOPIC`, `GROUP` or `TRANSACTIONAL_ID`.
            name: its name. A missing topic allows nothing.

        Raises:
            AccessError, UnreachableError.
        """

        def describe(admin: KafkaAdminClient) -> frozenset[str] | None:
            try:
                if resource == "TRANSACTIONAL_ID":
                    admin.describe_transactions([name])
                    return None
                found = admin.describe_topics([name])[0] if resource == "TOPIC" else admin.describe_groups([name])[name]
            except (
                kafka_errors.GroupAuthorizationFailedError,
                kafka_errors.TransactionalIdAuthorizationFailedError,
            ):
                return frozenset()
            except kafka_errors.TransactionalIdNotFoundError:
                return None
            if error := str(found.get("error") or ""):
                if "GroupIdNotFound" not in error and "GroupAuthorization" not in error:
                    raise kafka_errors.CoordinatorNotAvailableError(error)  # retried
                return None if "GroupIdNotFound" in error else frozenset()
            return frozenset(found.get("authorized_operations") or ())

        return self._ask(f"rights on {resource.lower()} {name}", describe)

    def delete_topic(self, name: str) -> None:
        """Delete a topic with its records and committed positions; a no-op if it is missing."""
        with contextlib.suppress(TopicError):
            self._ask(f"topic {name}", lambda admin: admin.delete_topics([name]))
        self._partitions.pop(name, None)

    def trim(self, partition: Partition, before_offset: int) -> None:
        """Delete records below an offset; reading them then raises PositionError."""
        target = {self._known(partition): before_offset}
        self._ask(f"{partition}", lambda admin: admin.delete_records(target))

    def partitions(self, topics: Iterable[str]) -> dict[str, int]:
        """Return the partition counts of topics.

        Raises:
            TopicError: one of them is missing.
        """
        return {topic: self._count(topic) for topic in topics}

    def topic_id(self, topic: str) -> str:
        """Return a topic's id."""
        return self.topic(topic).topic_id

    def remove_member(self, group: str, member: Any) -> None:
        """Remove a static member from its group, which would otherwise wait for the session timeout."""
        self._ask(f"group {group}", lambda admin: admin.remove_group_members(group, [member]))

    def owners(self, group: str, topic: str) -> Mapping[Partition, str]:
        """Return the owner of each partition in a group; see `transport.Transport.owners`."""
        self._count(topic)
        return self._ask(f"group {group}", lambda admin: owners_in(admin.describe_groups([group])[group], topic))

    def set_positions(self, group: str, topic: str, positions: Mapping[Partition, tuple[int, str] | None]) -> None:
        """Write a group's positions as a non-member; see `transport.Transport.set_positions`.

        A dead member counts until its session timeout.
        """
        known = {self._known(partition): position for partition, position in positions.items()}
        kept = {tp: OffsetAndMetadata(*put, -1) for tp, put in known.items() if put is not None}
        gone = [tp for tp, put in known.items() if put is None]

        def write(admin: KafkaAdminClient) -> None:
            answers = admin.alter_group_offsets(group, kept) if kept else {}
            answers |= admin.delete_group_offsets(group, gone) if gone else {}
            for error in answers.values():
                if error is not kafka_errors.NoError:
                    raise error(f"{group}: {topic}")

        try:
            self._ask(f"group {group}", write)
        except TransportError as error:
            if isinstance(error.__cause__, HAS_MEMBERS):
                raise PositionError(f"group {group}: expected no members, found some: {error}") from error
            raise

    @property
    def settle_s(self) -> float:
        """Maximum wait for a position blocked by a killed process's open transaction, seconds."""
        return self.transaction_timeout_s + self.request_timeout_s + 10.0

    def close_admin(self) -> None:
        """Close the admin client."""
        with self._lock:
            if self._admin is not None:
                self._admin.close()
                self._admin = None

    def _ask(self, what: str, question: Callable[[KafkaAdminClient], T]) -> T:
        """Call the admin client, retrying while the error is transient."""
        deadline = time.monotonic() + self.request_timeout_s
        with self._lock:
            if self._admin is None:
                self._admin = self.clients.open_admin()
            while True:
                try:
                    return question(self._admin)
                except (kafka_errors.KafkaError, OSError) as error:
                    passing = isinstance(error, kafka_errors.RetriableError | OSError)
                    missing = isinstance(error, kafka_errors.UnknownTopicOrPartitionError)
                    if missing or not passing or time.monotonic() > deadline:
                        raise translated(error, f"{what} on {self.clients.where}") from error
                    time.sleep(RETRY_S)

    def _await_topic(self, name: str) -> TopicInfo:
        """Describe a new topic, which other brokers may learn of a moment later."""
        deadline = time.monotonic() + self.request_timeout_s
        while True:
            try:
                return self.topic(name)
            except TopicError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(RETRY_S)

    def _count(self, topic: str) -> int:
        if topic not in self._partitions:
            self.topic(topic)
        return self._partitions[topic]

    def _known(self, partition: Partition) -> TopicPartition:
        # kafka-python waits for a partition that does not exist, as if it were about to be created.
        count = self._count(partition.topic)
        if partition.number >= count:  # some may have been added
            count = self.topic(partition.topic).partitions
        if not 0 <= partition.number < count:
            raise TopicError(f"{partition.topic}: expected a partition below {count}, found {partition.number}")
        return TopicPartition(partition.topic, partition.number)


def owners_in(description: Mapping[str, Any], topic: str) -> dict[Partition, str]:
    """Return the owner of each partition of a topic.

    Args:
        description: a group's description from the admin client.
        topic: the topic.

    Raises:
        kafka.errors.KafkaError: the broker answered with an error; a missing group is not one.
    """
    if description["error"] is not None:
        code = re.match(r"\[Error (\d+)\]", description["error"])  # the client keeps only the text
        kind = kafka_errors.for_code(int(code[1])) if code else kafka_errors.UnknownError
        if kind is kafka_errors.GroupIdNotFoundError:
            return {}
        raise kind(description["error"])
    owners: dict[Partition, str] = {}
    for member in description["members"]:
        name = member["group_instance_id"] or member["member_id"]
        assigned = member["member_assignment"]
        # Empty bytes during a rebalance.
        for entry in assigned["assigned_partitions"] if isinstance(assigned, Mapping) else ():
            if entry["topic"] == topic:
                owners |= {Partition(topic, number): name for number in entry["partitions"]}
    return owners
