"""The log on Apache Kafka, through kafka-python 3; implements `transport.Transport`.

The modules `kafka_*` beside it are all that sees kafka-python. Imported only where Kafka is chosen.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka import errors as kafka_errors
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.structs import OffsetAndMetadata

from stream_ad.errors import ContractError, PositionError, TopicError, TransportError, UnreachableError
from stream_ad.io.kafka.clients import KafkaClients, Option, ask_offsets
from stream_ad.io.kafka.commit import KafkaCommitter
from stream_ad.io.kafka.errors import translated, translating
from stream_ad.io.kafka.records import close_producer, raw_batch, send_all
from stream_ad.io.kafka.security import Security
from stream_ad.io.kafka.source import KafkaSource, owners_in
from stream_ad.io.transport import Owner, Partition, Position, RawBatch, Record, Source, TopicInfo

T = TypeVar("T")

READ_RECORDS = 2_000
CHUNK_RECORDS = 5_000
CHUNK_BYTES = 16_000_000
"""kafka-python buffers without a bound, so `append` waits for its records after this many."""
RETRY_S = 0.05
HAS_MEMBERS = (
    kafka_errors.UnknownMemberIdError,
    kafka_errors.IllegalGenerationError,
    kafka_errors.RebalanceInProgressError,
    kafka_errors.NonEmptyGroupError,
    kafka_errors.GroupSubscribedToTopicError,
)
"""What a coordinator answers to somebody who writes a group's offsets and is none of its members."""


class KafkaLog:
    """A log on Apache Kafka (2.5 or later); implements `transport.Transport`.

    Topics are made with `message.timestamp.type=LogAppendTime`, so append times are the broker's, in milliseconds.
    Nothing is connected before it is needed.

    Args:
        servers: `host:port` of one or more brokers.
        session_timeout_s: a member silent for longer loses its partitions.
        transaction_timeout_s: a killed committer's open transaction holds readers back at most this long, plus
            the broker's own interval of looking for such (10 s by default).
        request_timeout_s: how long a broker may take to answer; calls without an answer raise after about
            twice this time.
        commit_deadline_s: how long a commit may take.
        max_record_bytes: largest record sent; at most the topic's `max.message.bytes`.
        security: TLS and who we are; None for neither.
        client_options: handed to kafka-python as they are; those that exactly-once hangs on
            (`kafka_clients.DECIDED_HERE`) are refused.

    Raises:
        ConfigError: the `crc32c` package is missing, a client option is unknown or not to be chosen, or a certificate
            cannot be used.
    """

    def __init__(
        self,
        servers: Sequence[str],
        *,
        session_timeout_s: float = 10.0,
        transaction_timeout_s: float = 10.0,
        request_timeout_s: float = 15.0,
        commit_deadline_s: float = 30.0,
        max_record_bytes: int = 1_000_000,
        security: Security | None = None,
        client_options: Mapping[str, Option] | None = None,
    ) -> None:
        self.clients = KafkaClients(servers, request_timeout_s, max_record_bytes, client_options or {}, security)
        self.session_timeout_s = session_timeout_s
        self.transaction_timeout_s = transaction_timeout_s
        self.request_timeout_s = request_timeout_s
        self.commit_deadline_s = commit_deadline_s
        # Reentrant: an owner's callback inside a call may call the log again.
        self._lock = threading.RLock()
        self._admin: KafkaAdminClient | None = None
        self._producer: KafkaProducer | None = None
        self._queries: dict[str | None, KafkaConsumer] = {}
        self._readers: list[KafkaConsumer] = []
        self._partitions: dict[str, int] = {}
        self._open: set[KafkaSource | KafkaCommitter] = set()

    # Topics

    def ensure_topic(self, name: str, partitions: int, settings: Mapping[str, str] | None = None) -> TopicInfo:
        """Make the topic with append times if it is missing; return what it is.

        Args:
            name: of the topic.
            partitions: how many; replicas are the broker's default.
            settings: Kafka's topic settings, over `message.timestamp.type=LogAppendTime`.

        Raises:
            TopicError: it exists with another number of partitions, or name or a setting is not valid.
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
            raise TopicError(f"{name}: has {found.partitions} partitions, expected {partitions}")
        return found

    def extend_topic(self, name: str, partitions: int) -> TopicInfo:
        """Add partitions to a topic until it has so many; see `transport.Transport.extend_topic`."""
        found = self.topic(name)
        if found.partitions >= partitions:
            return found
        try:
            self._ask(f"topic {name}", lambda admin: admin.create_partitions({name: partitions}))
        except TopicError as error:
            if not isinstance(error.__cause__, kafka_errors.InvalidPartitionsError):
                raise  # else another process was faster
        deadline = time.monotonic() + self.request_timeout_s
        while (found := self.topic(name)).partitions < partitions and time.monotonic() < deadline:
            time.sleep(RETRY_S)
        return found

    def topic(self, name: str) -> TopicInfo:
        """Describe a topic.

        Raises:
            TopicError: there is no such topic.
            AccessError, UnreachableError.
        """

        def describe(admin: KafkaAdminClient) -> tuple[dict[str, Any], dict[str, Any]]:
            (found,) = admin.describe_topics([name])
            kind = kafka_errors.for_code(found["error_code"])
            if kind is not kafka_errors.NoError:
                raise kind(name)
            # A topic that is being made shows partitions before they have leaders.
            if not found["partitions"] or any(entry["leader_id"] < 0 for entry in found["partitions"]):
                raise kafka_errors.LeaderNotAvailableError(name)
            resource = ConfigResource(ConfigResourceType.TOPIC, name)
            configs = next(iter(admin.describe_configs([resource], config_filter="all").values()))[name]
            if not configs:  # the client drops the error that says why
                if "DESCRIBE_CONFIGS" in (found.get("authorized_operations") or ()):
                    # Asked of another broker, which has not heard of a new topic yet.
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
        """Return what we may do with a resource, by Kafka's names of operations.

        None where Kafka tells only that it may be described: of a transactional id, and of a group without members.

        Args:
            resource: `TOPIC`, `GROUP` or `TRANSACTIONAL_ID`.
            name: its name. A topic that is not there allows nothing.

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
                    raise kafka_errors.CoordinatorNotAvailableError(error)  # asked again
                return None if "GroupIdNotFound" in error else frozenset()
            return frozenset(found.get("authorized_operations") or ())

        return self._ask(f"rights on {resource.lower()} {name}", describe)

    def delete_topic(self, name: str) -> None:
        """Delete a topic with its records and committed positions; a no-op without one."""
        with contextlib.suppress(TopicError):
            self._ask(f"topic {name}", lambda admin: admin.delete_topics([name]))
        self._partitions.pop(name, None)

    def trim(self, partition: Partition, before_offset: int) -> None:
        """Drop records below an offset; reading there raises PositionError from now on."""
        target = {self._known(partition): before_offset}
        self._ask(f"{partition}", lambda admin: admin.delete_records(target))

    # Records

    def append(self, topic: str, records: Iterable[Record]) -> None:
        """Append records, acknowledged by all replicas in sync, outside any transaction.

        An error leaves records before the failed one in the log, perhaps also some behind it.

        Raises:
            TopicError, RecordTooLargeError, AccessError, UnreachableError.
        """
        where = f"{topic} on {self.clients.where}"
        count = self._count(topic)
        with self._lock:
            try:
                with translating(where):
                    if self._producer is None:
                        self._producer = self.clients.open_producer(self.request_timeout_s, retry_backoff_ms=50)
                    for chunk in _chunks(records):
                        send_all(self._producer, {topic: chunk}, {topic: count})
            except Exception:
                # An idempotent producer that failed a batch may be out of sequence with the broker for good.
                producer, self._producer = self._producer, None
                if producer is not None:
                    close_producer(producer, 1.0)
                raise

    def read(self, partition: Partition, start: int, stop: int) -> Iterator[RawBatch]:
        """Read committed records with start <= offset < stop, or to the end of the log if that comes first.

        Raises:
            PositionError: `start` is no longer retained, or beyond the end.
            TopicError, AccessError, UnreachableError.
        """
        earliest, end = self.bounds(partition)
        if start < earliest:
            raise PositionError(f"{partition}: offset {start} is no longer retained, the earliest is {earliest}")
        if start > end and start > self._end(partition):
            raise PositionError(f"{partition}: offset {start} is beyond the end {end}")
        stop = min(stop, end)
        if start >= stop:
            return
        tp = TopicPartition(partition.topic, partition.number)
        with self._lock:
            # A new consumer takes 0.1 s to learn a topic's leaders; an idle one knows them.
            consumer = self._readers.pop() if self._readers else self.clients.open_consumer(None)
        try:
            with translating(f"{partition} on {self.clients.where}"):
                consumer.assign([tp])
                consumer.seek(tp, start)
            yield from self._read_on(consumer, partition, start, stop)
        except Exception:
            consumer.close(autocommit=False)
            raise
        except GeneratorExit:
            self._readers.append(consumer)
            raise
        self._readers.append(consumer)

    def _read_on(self, consumer: KafkaConsumer, partition: Partition, start: int, stop: int) -> Iterator[RawBatch]:
        tp = TopicPartition(partition.topic, partition.number)
        moved_at = time.monotonic()
        while start < stop:
            with translating(f"{partition} on {self.clients.where}"):
                # Short, because a fetch of nothing but control records moves the position without an answer.
                records = consumer.poll(timeout_ms=20, max_records=READ_RECORDS).get(tp, [])
                position = consumer.position(tp, timeout_ms=1_000 * self.request_timeout_s)
            if position is not None and position > start:
                start, moved_at = min(position, stop), time.monotonic()
                batch = raw_batch(partition, [record for record in records if record.offset < stop], start)
                if len(batch):
                    yield batch
                    moved_at = time.monotonic()
            elif time.monotonic() - moved_at > self.request_timeout_s:
                raise UnreachableError(
                    f"{partition} on {self.clients.where}: nothing came for {self.request_timeout_s:g} s"
                )

    def bounds(self, partition: Partition) -> tuple[int, int]:
        """Return the earliest retained offset and the one after the last committed record.

        Raises:
            TopicError, AccessError, UnreachableError.
        """
        tp = self._known(partition)
        with self._lock, translating(f"{partition} on {self.clients.where}"):
            return ask_offsets(self._query(None), tp, self.request_timeout_s)

    def committed(self, group: str, partition: Partition) -> Position | None:
        """Return what a group committed for a partition, or None.

        Waits for a transaction that is being ended: the answer is final. Kafka forgets the positions of a topic that is
        deleted, so `topic_id` is that of today's topic.

        Raises:
            TopicError, AccessError, UnreachableError.
        """
        tp = self._known(partition)
        with self._lock, translating(f"group {group} on {self.clients.where}"):
            found = self._query(group).committed(tp, metadata=True, timeout_ms=1_000 * self.settle_s)
        if found is None:
            return None
        return Position(partition, self.topic(partition.topic).topic_id, found.offset, found.metadata or "")

    # Groups

    def owners(self, group: str, topic: str) -> Mapping[Partition, str]:
        """Return which member of a group has which partition; see `transport.Transport.owners`."""
        self._count(topic)
        return self._ask(f"group {group}", lambda admin: owners_in(admin.describe_groups([group])[group], topic))

    def set_positions(self, group: str, topic: str, positions: Mapping[Partition, tuple[int, str] | None]) -> None:
        """Write a group's positions from outside; see `transport.Transport.set_positions`.

        A member that died counts until its session time-out.
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

    def join(self, topic: str, group: str, owner: Owner, member: str) -> Source:
        """Join a consumer group as a static member; an older process of this name is fenced.

        The group learns of the member at the first poll.
        """
        self._count(topic)
        source = KafkaSource(self, topic, group, owner, member)
        self._open.add(source)
        return source

    def committer(self, source: Source, member: str) -> KafkaCommitter:
        """Return the committer bound to a source; a later one of this name in its group fences it.

        Returns when an earlier one's open transaction has been ended, so what `committed` says afterwards is final:
        make the committer before the first poll.

        Raises:
            DeadlineError: not within the commit's deadline.
            AccessError, UnreachableError.
        """
        if not isinstance(source, KafkaSource):
            raise ContractError(f"source: expected one of this log, found {type(source).__name__}")
        committer = KafkaCommitter(self, source, member)
        self._open.add(committer)
        return committer

    def close(self) -> None:
        """Let go of all sockets; sources still open do not leave their groups."""
        for part in list(self._open):
            part.abandon()
        with self._lock:
            for consumer in (*self._queries.values(), *self._readers):
                consumer.close(autocommit=False, timeout_ms=1_000)
            self._queries.clear()
            self._readers.clear()
            if self._producer is not None:
                close_producer(self._producer, 1.0)
                self._producer = None
            if self._admin is not None:
                self._admin.close()
                self._admin = None

    # For the sources and committers of this log

    @property
    def settle_s(self) -> float:
        """How long to wait for a position that an open transaction of a killed process holds back."""
        return self.transaction_timeout_s + self.request_timeout_s + 10.0

    def forget(self, part: KafkaSource | KafkaCommitter) -> None:
        """Drop a source or committer that is closed."""
        self._open.discard(part)

    def partitions(self, topics: Iterable[str]) -> dict[str, int]:
        """Return the partition counts of topics.

        Raises:
            TopicError: one of them is missing.
        """
        return {topic: self._count(topic) for topic in topics}

    def topic_id(self, topic: str) -> str:
        """Return the identity of a topic."""
        return self.topic(topic).topic_id

    def remove_member(self, group: str, member: Any) -> None:
        """Take a static member out of its group, which would otherwise wait for the session time-out."""
        self._ask(f"group {group}", lambda admin: admin.remove_group_members(group, [member]))

    def _query(self, group: str | None) -> KafkaConsumer:
        if group not in self._queries:
            self._queries[group] = self.clients.open_consumer(group)
        return self._queries[group]

    def _ask(self, what: str, question: Callable[[KafkaAdminClient], T]) -> T:
        """Ask the cluster, again while the answer is one of passing trouble."""
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
        """Describe a topic just made: other brokers may learn of it a moment later."""
        deadline = time.monotonic() + self.request_timeout_s
        while True:
            try:
                return self.topic(name)
            except TopicError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(RETRY_S)

    def _end(self, partition: Partition) -> int:
        """Return the offset after the last record, committed or not."""
        tp = TopicPartition(partition.topic, partition.number)
        with self._lock, translating(f"{partition} on {self.clients.where}"):
            consumer = self.clients.open_consumer(None, isolation_level="read_uncommitted")
            try:
                return ask_offsets(consumer, tp, self.request_timeout_s)[1]
            finally:
                consumer.close(autocommit=False)

    def _count(self, topic: str) -> int:
        if topic not in self._partitions:
            self.topic(topic)
        return self._partitions[topic]

    def _known(self, partition: Partition) -> TopicPartition:
        # kafka-python waits for a partition that does not exist as if it could still come.
        count = self._count(partition.topic)
        if partition.number >= count:  # some may have been added
            count = self.topic(partition.topic).partitions
        if not 0 <= partition.number < count:
            raise TopicError(f"{partition.topic}: has {count} partitions, no number {partition.number}")
        return TopicPartition(partition.topic, partition.number)


def _chunks(records: Iterable[Record]) -> Iterator[list[Record]]:
    chunk: list[Record] = []
    size = 0
    for record in records:
        chunk.append(record)
        size += len(record.value)
        if len(chunk) >= CHUNK_RECORDS or size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
