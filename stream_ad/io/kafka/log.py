"""The log on Apache Kafka, through kafka-python 3; implements `transport.Transport`.

Only the modules of this package import kafka-python. Imported only if Kafka is configured.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from stream_ad.errors import ContractError, PositionError, UnreachableError
from stream_ad.io.kafka.admin import KafkaAdmin
from stream_ad.io.kafka.clients import KafkaClients, Option, ask_offsets
from stream_ad.io.kafka.commit import KafkaCommitter
from stream_ad.io.kafka.errors import translating
from stream_ad.io.kafka.records import close_producer, raw_batch, send_all
from stream_ad.io.kafka.security import Security
from stream_ad.io.kafka.source import KafkaSource
from stream_ad.io.transport import Owner, Partition, Position, RawBatch, Record, Source, chunked

T = TypeVar("T")

READ_RECORDS = 2_000
CHUNK_RECORDS = 5_000
CHUNK_BYTES = 16_000_000
"""kafka-python's buffer is unbounded, so `append` waits for acknowledgements after this many."""


class KafkaLog(KafkaAdmin):
    """A log on Apache Kafka (2.5 or later); implements `transport.Transport`.

    Topics are created with `message.timestamp.type=LogAppendTime`, so append times are the broker's, in milliseconds.
    Connects lazily.

    Args:
        servers: `host:port` of one or more brokers.
        session_timeout_s: a member that is silent for longer loses its partitions.
        transaction_timeout_s: maximum time that a killed committer's open transaction blocks readers, plus the
            broker's own check interval (10 s by default).
        request_timeout_s: timeout of a broker's answer; unanswered calls raise after about twice this time.
        commit_deadline_s: maximum duration of a commit.
        max_record_bytes: largest record sent; at most the topic's `max.message.bytes`.
        security: TLS and SASL; None for neither.
        client_options: passed to kafka-python unchanged; those that exactly-once delivery depends on
            (`clients.FIXED_OPTIONS`) are refused.

    Raises:
        ConfigError: the `crc32c` package is missing, a client option is unknown or cannot be overridden, or a
            certificate is unusable.
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
        super().__init__(
            KafkaClients(servers, request_timeout_s, max_record_bytes, client_options or {}, security),
            session_timeout_s=session_timeout_s,
            transaction_timeout_s=transaction_timeout_s,
            request_timeout_s=request_timeout_s,
            commit_deadline_s=commit_deadline_s,
        )
        self._producer: KafkaProducer | None = None
        self._queries: dict[str | None, KafkaConsumer] = {}
        self._readers: list[KafkaConsumer] = []
        self._open: set[KafkaSource | KafkaCommitter] = set()

    # Records

    def append(self, topic: str, records: Iterable[Record]) -> None:
        """Append records outside any transaction, acknowledged by all in-sync replicas.

        After an error, the records before the failed one are in the log, and possibly some after it.

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
                    for chunk in chunked(records, CHUNK_RECORDS, CHUNK_BYTES):
                        send_all(self._producer, {topic: chunk}, {topic: count})
            except Exception:
                # After a failed batch, an idempotent producer may be permanently out of sequence with the broker.
                producer, self._producer = self._producer, None
                if producer is not None:
                    close_producer(producer, 1.0)
                raise

    def read(self, partition: Partition, start: int, stop: int) -> Iterator[RawBatch]:
        """Read committed records with start <= offset < stop, or up to the end of the log.

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
            # A new consumer needs 0.1 s to learn a topic's leaders; an idle one knows them.
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
                # Short: a fetch with only control records moves the position without returning.
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
                    f"{partition} on {self.clients.where}: no records for {self.request_timeout_s:g} s"
                )

    def bounds(self, partition: Partition) -> tuple[int, int]:
        """Return the earliest retained offset and the offset after the last committed record.

        Raises:
            TopicError, AccessError, UnreachableError.
        """
        tp = self._known(partition)
        with self._lock, translating(f"{partition} on {self.clients.where}"):
            return ask_offsets(self._query(None), tp, self.request_timeout_s)

    def committed(self, group: str, partition: Partition) -> Position | None:
        """Return a group's committed position for a partition, or None.

        Waits for a transaction that is being ended, so the answer is final. Kafka deletes the positions of a deleted
        topic, so `topic_id` is the current topic's.

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

    def join(self, topic: str, group: str, owner: Owner, member: str) -> Source:
        """Join a consumer group as a static member; an older process of this name is fenced.

        The member joins with the first poll.
        """
        self._count(topic)
        source = KafkaSource(self, topic, group, owner, member, on_close=self._open.discard)
        self._open.add(source)
        return source

    def committer(self, source: Source, member: str) -> KafkaCommitter:
        """Return the committer bound to a source; it fences earlier ones of this name in the group.

        Returns once an earlier one's open transaction has ended, so that `committed` is then final. Create the
        committer before the first poll.

        Raises:
            DeadlineError: not within the commit deadline.
            AccessError, UnreachableError.
        """
        if not isinstance(source, KafkaSource):
            raise ContractError(f"source: expected a source of this log, found {type(source).__name__}")
        committer = KafkaCommitter(self, source, member, on_close=self._open.discard)
        self._open.add(committer)
        return committer

    def close(self) -> None:
        """Close all sockets; open sources do not leave their groups."""
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
        self.close_admin()

    def _query(self, group: str | None) -> KafkaConsumer:
        if group not in self._queries:
            self._queries[group] = self.clients.open_consumer(group)
        return self._queries[group]

    def _end(self, partition: Partition) -> int:
        """Return the offset after the last record, committed or not."""
        tp = TopicPartition(partition.topic, partition.number)
        with self._lock, translating(f"{partition} on {self.clients.where}"):
            consumer = self.clients.open_consumer(None, isolation_level="read_uncommitted")
            try:
                return ask_offsets(consumer, tp, self.request_timeout_s)[1]
            finally:
                consumer.close(autocommit=False)
