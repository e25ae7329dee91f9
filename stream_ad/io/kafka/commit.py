"""Committers on Kafka: one transaction a commit, each of its steps seen to succeed, under a deadline.

What is relied on in kafka-python 3, and what is not:

- `commit_transaction()` returns though batches were dropped, so it is called only after every record was seen
  acknowledged, with an offset of its own; otherwise the transaction is aborted.
- The transactional calls can hang for ever, so a thread of its own makes them. That they do when a coordinator dies is
  stepped around in `clients.NetClient`.
- The group's metadata is taken live at the commit: the broker refuses a stale generation, but takes one below 0
  unchecked, so that is refused here.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kafka import KafkaProducer, OffsetAndMetadata, TopicPartition
from kafka import errors as kafka_errors

from stream_ad.errors import (
    AccessError,
    ContractError,
    DeadlineError,
    FencedError,
    PositionError,
    RecordTooLargeError,
    StreamAdError,
    TopicError,
    TransportError,
)
from stream_ad.io.kafka.admin import KafkaAdmin
from stream_ad.io.kafka.errors import meaning, translated, translating
from stream_ad.io.kafka.records import close_producer, send_all
from stream_ad.io.kafka.source import KafkaSource
from stream_ad.io.kafka.topic import TopicWatch
from stream_ad.io.transport import Commit, CommitOutcome, Partition

METADATA_BYTES = 4_096
"""What a broker takes with an offset by default."""


class Helper:
    """A thread that makes calls which may never return; whoever waits for them has a deadline."""

    def __init__(self, name: str) -> None:
        self.is_stuck = False
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def call(self, job: Callable[[], None], deadline_s: float, what: str) -> None:
        """Run a job and wait for it.

        Raises:
            DeadlineError: it did not return in time; it may still be running.
            BaseException: what the job raised.
        """
        if self.is_stuck:
            raise DeadlineError(f"{what}: an earlier call has not returned; leave the process")
        done = threading.Event()
        raised: list[BaseException] = []

        def run() -> None:
            try:
                job()
            except BaseException as error:  # handed to the caller
                raised.append(error)
            finally:
                done.set()

        self._jobs.put(run)
        if not done.wait(deadline_s):
            self.is_stuck = True
            raise DeadlineError(f"{what}: not done within {deadline_s:g} s; leave the process")
        if raised:
            raise raised[0]

    def end(self) -> None:
        """Let the thread end after its job."""
        self._jobs.put(None)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()


class KafkaCommitter:
    """One transaction a commit; implements `transport.Committer`.

    `transactional.id` is `<group>.<member>`: the same member's next process ends what this one left open.

    Args:
        admin: the log that made it.
        source: whose positions are committed.
        member: of the group.
        on_close: called when it is closed or abandoned.
    """

    def __init__(
        self, admin: KafkaAdmin, source: KafkaSource, member: str, *, on_close: Callable[[KafkaCommitter], None]
    ) -> None:
        self._admin = admin
        self._on_close = on_close
        self._source = source
        self._where = f"committer {source.group}.{member} on {admin.clients.where}"
        self._member = member
        self._end: StreamAdError | None = None
        self._helper = Helper(f"stream-ad-commit-{member}")
        self._producer: KafkaProducer = self._open()
        try:
            self._initialize()
        except BaseException:
            self.close()
            raise

    def commit(self, commit: Commit) -> CommitOutcome:
        """Publish records and positions in one transaction; see `transport.Committer.commit`.

        REJECTED: a partition is not (any more) owned, the group has moved on, or sending failed; the transaction was
        aborted before its commit was asked for. Where the group refused it as no member's,
        the next poll knows why.
        UNKNOWN: asking for the commit failed, or even the abort did: this committer takes no more; a new one, best in
        a new process, ends what is open, and `committed` then tells.

        Raises:
            FencedError: a newer process or committer of this member exists. Nothing was published, unless the answer to
                a commit of ours was lost before it was fenced: the committed position tells.
            RecordTooLargeError: a record does not fit; nothing was published.
            TopicError: an output topic or partition is missing; nothing was published.
            PositionError: the source's topic was deleted and made anew; nothing was published.
            ContractError: metadata above 4,096 bytes; nothing was published.
            AccessError, UnreachableError: not allowed to, or nobody there to begin with; nothing was published.
            DeadlineError: the outcome is unknown and the client hangs: leave the process.
        """
        if self._end is not None:
            raise self._end
        for partition, (_, text) in commit.positions.items():
            if (size := len(text.encode())) > METADATA_BYTES:
                raise ContractError(f"{partition}: metadata of {size} bytes, at most {METADATA_BYTES} are kept")
        if not self._source.is_member() or not self._source.assignment() >= commit.positions.keys():
            return CommitOutcome.REJECTED
        sent = {topic: records for topic, records in commit.records.items() if records}
        if not sent and not commit.positions:
            return CommitOutcome.LANDED
        counts = self._admin.partitions(sent)
        transaction = Transaction(
            self._producer, self._source, self._watch, sent, counts, commit.positions, self._newest
        )
        try:
            self._helper.call(transaction.run, self._admin.commit_deadline_s, self._where)
        except DeadlineError as error:
            transaction.is_abandoned = True
            self._end = error
            raise
        except Exception as error:
            return self._judge(error, transaction)
        return CommitOutcome.LANDED

    def close(self) -> None:
        """Let go of the client within about two seconds; an open transaction is left to the broker or our next."""
        self._end = self._end or ContractError(f"{self._where}: closed")
        self._on_close(self)
        self._helper.end()
        close_producer(self._producer, 1.0)

    abandon = close

    def _open(self) -> KafkaProducer:
        admin = self._admin
        self._newest: dict[tuple[str, int], int] = {}
        producer = admin.clients.open_producer(
            # Never before the commit's own deadline: batches that run out of time vanish from their transaction.
            2 * admin.commit_deadline_s + 60.0,
            transactional_id=f"{self._source.group}.{self._member}",
            client_id=f"stream-ad.{self._member}",
            transaction_timeout_ms=round(1_000 * admin.transaction_timeout_s),
            # The client waits this long after each step of a transaction: at its default of 100 a commit takes 0.1 s.
            retry_backoff_ms=5,
            max_block_ms=round(1_000 * admin.commit_deadline_s),
        )
        source = self._source
        # The producer's metadata: the consumer's question would wait behind a fetch that waits for records.
        self._watch = TopicWatch(
            producer._metadata, source.topic, source.topic_id, self._where, wait_s=admin.request_timeout_s
        )
        return producer

    def _initialize(self) -> None:
        """End what an earlier producer of this name left open, and fence it."""
        with translating(self._where):
            self._helper.call(self._producer.init_transactions, self._admin.commit_deadline_s, self._where)

    def _judge(self, error: Exception, transaction: Transaction) -> CommitOutcome:
        """Turn what went wrong into an outcome, or raise."""
        cause = self._cause(error)
        kind = type(cause) if isinstance(cause, StreamAdError) else meaning(cause)
        replaced = isinstance(cause, kafka_errors.ProducerFencedError | kafka_errors.InvalidProducerEpochError)
        if replaced or isinstance(cause, kafka_errors.FencedInstanceIdError):
            self._end = FencedError(f"{self._where}: {type(cause).__name__}: a newer one exists")
            if not replaced:
                self._abort()
            close_producer(self._producer, 1.0)
            raise self._end from error
        if transaction.is_committing or not self._take_back(transaction):
            self._end = self._end or TransportError(
                f"{self._where}: the outcome of an earlier commit is unknown; make a new committer"
            )
            return CommitOutcome.UNKNOWN
        if issubclass(kind, RecordTooLargeError | TopicError | PositionError | AccessError):
            if isinstance(cause, StreamAdError):
                raise cause
            raise translated(cause, self._where) from error
        if isinstance(cause, kafka_errors.CommitFailedError):
            self._source.await_verdict()
        return CommitOutcome.REJECTED

    def _cause(self, error: Exception) -> Exception:
        """Look through the bare KafkaError in which the client wraps what put it into its error state."""
        if type(error) is kafka_errors.KafkaError:
            nested = [argument for argument in error.args if isinstance(argument, Exception)]
            last = self._producer._transaction_manager.last_error
            return nested[0] if nested else last if isinstance(last, Exception) else error
        return error

    def _take_back(self, transaction: Transaction) -> bool:
        """Abort; says whether that is certain and the next commit can begin."""
        is_aborted = self._abort()
        if is_aborted and transaction.is_sent:
            return True
        # A batch that failed leaves the client out of sequence with the broker: the next commit would fail as well.
        if self._end is not None or not self._source.is_member():
            return is_aborted
        close_producer(self._producer, 1.0)
        try:
            self._producer = self._open()
            self._initialize()
        except (TransportError, DeadlineError) as error:
            self._end = error
            return is_aborted
        return True

    def _abort(self) -> bool:
        """Abort; says whether the broker has confirmed it."""
        try:
            self._helper.call(self._producer.abort_transaction, self._admin.commit_deadline_s, self._where)
        except DeadlineError as error:
            self._end = error
            return False
        except kafka_errors.ProducerFencedError as error:
            self._end = FencedError(f"{self._where}: a newer one exists")
            raise self._end from error
        except kafka_errors.KafkaError:
            return False
        return True


class Transaction:
    """One commit's calls, made on the helper's thread.

    Attributes:
        is_sent: the broker has acknowledged every record.
        is_committing: the broker has been asked to commit: from here on an error leaves the outcome open.
        is_abandoned: the caller has given up; set from its thread.
    """

    def __init__(
        self,
        producer: KafkaProducer,
        source: KafkaSource,
        watch: TopicWatch,
        records: Mapping[str, Sequence[Any]],
        partitions: Mapping[str, int],
        positions: Mapping[Partition, tuple[int, str]],
        newest: dict[tuple[str, int], int],
    ) -> None:
        self.is_sent = False
        self.is_committing = False
        self.is_abandoned = False
        self._producer = producer
        self._source = source
        self._watch = watch
        self._records = records
        self._partitions = partitions
        self._newest = newest
        self._positions = {
            TopicPartition(*partition): OffsetAndMetadata(offset, text, -1)
            for partition, (offset, text) in positions.items()
        }

    def run(self) -> None:
        """Begin, send, see all acknowledged and the topic to be the same, add the positions, and only then commit."""
        producer = self._producer
        self._watch.ask()
        producer.begin_transaction()
        send_all(producer, self._records, self._partitions, newest=self._newest)
        self.is_sent = True
        if self._positions:
            self._watch.confirm()
            metadata = self._source.consumer.group_metadata()
            if metadata.generation_id < 0:
                # The broker takes such positions unchecked.
                raise kafka_errors.CommitFailedError("the member has lost its generation")
            producer.send_offsets_to_transaction(self._positions, metadata)
        if self.is_abandoned:
            raise DeadlineError("the caller has given up")
        self.is_committing = True
        producer.commit_transaction()
