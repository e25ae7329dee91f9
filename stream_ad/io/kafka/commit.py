"""Committers on Kafka: one transaction per commit, each step verified, under a deadline.

How kafka-python 3 is used, and what is not relied on:

- `commit_transaction()` returns even if batches were dropped, so it is called only after every record was
  acknowledged with its own offset; otherwise the transaction is aborted.
- The transactional calls can hang forever, so they run on their own thread. `clients.NetClient` works around the
  known hang when a coordinator dies.
- The group metadata are read at commit time: the broker rejects a stale generation but does not check a negative one,
  so that is rejected here.
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
from stream_ad.io.steps import reached
from stream_ad.io.transport import Commit, CommitOutcome, Partition


class CallThread:
    """A thread for calls that may never return; callers wait for them with a deadline."""

    def __init__(self, name: str) -> None:
        self.is_stuck = False
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def call(self, job: Callable[[], None], deadline_s: float, what: str) -> None:
        """Run a job and wait for it.

        Raises:
            DeadlineError: it did not return in time; it may still be running.
            BaseException: raised by the job.
        """
        if self.is_stuck:
            raise DeadlineError(f"{what}: an earlier call has not returned; restart the process")
        done = threading.Event()
        raised: list[BaseException] = []

        def run() -> None:
            try:
                job()
            except BaseException as error:  # reraised in the caller
                raised.append(error)
            finally:
                done.set()

        self._jobs.put(run)
        if not done.wait(deadline_s):
            self.is_stuck = True
            raise DeadlineError(f"{what}: not done within {deadline_s:g} s; restart the process")
        if raised:
            raise raised[0]

    def end(self) -> None:
        """End the thread after its current job."""
        self._jobs.put(None)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()


class KafkaCommitter:
    """Commits with one transaction each; implements `transport.Committer`.

    `transactional.id` is `<group>.<member>`, so the member's next process ends a transaction left open by this one.

    Args:
        admin: the log that created it.
        source: the source whose positions are committed.
        member: member of the group.
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
        self._calls = CallThread(f"stream-ad-commit-{member}")
        self._producer: KafkaProducer = self._open()
        try:
            self._initialize()
        except BaseException:
            self.close()
            raise

    def commit(self, commit: Commit) -> CommitOutcome:
        """Publish records and positions in one transaction; see `transport.Committer.commit`.

        REJECTED: a partition is not or no longer owned, the group's generation has changed, or sending failed; the
        transaction was aborted before commit was requested. If the group rejected the member, the next poll raises the
        reason.
        UNKNOWN: requesting the commit failed, or even the abort did. This committer is finished; a new one, best in a
        new process, ends the open transaction, and `committed` then shows the outcome.

        Raises:
            FencedError: a newer process or committer of this member exists. Nothing was published, unless the answer
                to our commit was lost before we were fenced; the committed position shows it.
            RecordTooLargeError: a record exceeds the limit; nothing was published.
            TopicError: an output topic or partition is missing; nothing was published.
            PositionError: the source's topic was recreated; nothing was published.
            AccessError, UnreachableError: not allowed, or the broker did not answer at first; nothing was published.
            DeadlineError: the outcome is unknown and the client hangs: restart the process.
        """
        if self._end is not None:
            raise self._end
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
            self._calls.call(transaction.run, self._admin.commit_deadline_s, self._where)
        except DeadlineError as error:
            transaction.is_abandoned = True
            self._end = error
            raise
        except Exception as error:
            return self._judge(error, transaction)
        return CommitOutcome.LANDED

    def close(self) -> None:
        """Close the client within about two seconds; an open transaction is ended by the broker or our successor."""
        self._end = self._end or ContractError(f"{self._where}: closed")
        self._on_close(self)
        self._calls.end()
        close_producer(self._producer, 1.0)

    abandon = close

    def _open(self) -> KafkaProducer:
        admin = self._admin
        self._newest: dict[tuple[str, int], int] = {}
        producer = admin.clients.open_producer(
            # Must exceed the commit's deadline: expired batches silently drop out of their transaction.
            2 * admin.commit_deadline_s + 60.0,
            transactional_id=f"{self._source.group}.{self._member}",
            client_id=f"stream-ad.{self._member}",
            transaction_timeout_ms=round(1_000 * admin.transaction_timeout_s),
            # The client waits this long after each step of a transaction; its default of 100 makes a commit take 0.1 s.
            retry_backoff_ms=5,
            max_block_ms=round(1_000 * admin.commit_deadline_s),
        )
        source = self._source
        # Uses the producer's metadata: the consumer's request would queue behind a fetch that waits for records.
        self._watch = TopicWatch(
            producer._metadata, source.topic, source.topic_id, self._where, wait_s=admin.request_timeout_s
        )
        return producer

    def _initialize(self) -> None:
        """End a transaction left open by an earlier producer of this name, and fence that producer."""
        with translating(self._where):
            self._calls.call(self._producer.init_transactions, self._admin.commit_deadline_s, self._where)

    def _judge(self, error: Exception, transaction: Transaction) -> CommitOutcome:
        """Translate an error into an outcome, or raise."""
        cause = self._cause(error)
        kind = type(cause) if isinstance(cause, StreamAdError) else meaning(cause)
        replaced = isinstance(cause, kafka_errors.ProducerFencedError | kafka_errors.InvalidProducerEpochError)
        if replaced or isinstance(cause, kafka_errors.FencedInstanceIdError):
            self._end = FencedError(f"{self._where}: {type(cause).__name__}: a newer committer exists")
            if not replaced:
                self._abort()
            close_producer(self._producer, 1.0)
            raise self._end from error
        if transaction.is_committing or not self._take_back(transaction):
            self._end = self._end or TransportError(
                f"{self._where}: the outcome of an earlier commit is unknown; create a new committer"
            )
            return CommitOutcome.UNKNOWN
        if issubclass(kind, RecordTooLargeError | TopicError | PositionError | AccessError):
            if isinstance(cause, StreamAdError):
                raise cause
            raise translated(cause, self._where) from error
        if isinstance(cause, kafka_errors.CommitFailedError):
            self._source.await_membership()
        return CommitOutcome.REJECTED

    def _cause(self, error: Exception) -> Exception:
        """Unwrap the bare KafkaError that the client raises once it is in its error state."""
        if type(error) is kafka_errors.KafkaError:
            nested = [argument for argument in error.args if isinstance(argument, Exception)]
            last = self._producer._transaction_manager.last_error
            return nested[0] if nested else last if isinstance(last, Exception) else error
        return error

    def _take_back(self, transaction: Transaction) -> bool:
        """Abort; return whether that is certain and the next commit can start."""
        is_aborted = self._abort()
        if is_aborted and transaction.is_sent:
            return True
        # A failed batch leaves the client out of sequence with the broker: the next commit would fail as well.
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
        """Abort; return whether the broker confirmed it."""
        try:
            self._calls.call(self._producer.abort_transaction, self._admin.commit_deadline_s, self._where)
        except DeadlineError as error:
            self._end = error
            return False
        except kafka_errors.ProducerFencedError as error:
            self._end = FencedError(f"{self._where}: a newer committer exists")
            raise self._end from error
        except kafka_errors.KafkaError:
            return False
        return True


class Transaction:
    """The calls of one commit, made on the call thread.

    Attributes:
        is_sent: the broker has acknowledged every record.
        is_committing: commit was requested; an error from here on leaves the outcome unknown.
        is_abandoned: the caller gave up; set from the caller's thread.
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
        """Begin, send, verify acknowledgements and the topic's identity, add positions, and only then commit."""
        producer = self._producer
        self._watch.ask()
        producer.begin_transaction()
        send_all(producer, self._records, self._partitions, newest=self._newest)
        self.is_sent = True
        reached("records sent")
        if self._positions:
            self._watch.confirm()
            metadata = self._source.consumer.group_metadata()
            if metadata.generation_id < 0:
                # The broker would accept such positions unchecked.
                raise kafka_errors.CommitFailedError("the member has lost its generation")
            producer.send_offsets_to_transaction(self._positions, metadata)
        reached("positions sent")
        if self.is_abandoned:
            raise DeadlineError("the caller gave up")
        self.is_committing = True
        producer.commit_transaction()
