"""Sources on Kafka: static members of a consumer group.

How kafka-python 3 is used, and what is not relied on:

- Joining and rebalancing happen only inside `consumer.poll`, on the client's own thread while the caller waits;
  heartbeats are sent independently. The listener here pauses new partitions, records the event and raises: `poll` then
  ends before the next JoinGroup, and the owner is called on the caller's thread.
- A cooperative rebalance first revokes a partition, in a generation in which nobody else has it, and reassigns it in
  the next one, which cannot begin before this member polls again. So `Owner.leaving` in a planned hand-over runs while
  the generation is valid and the partition is not reassigned: its last commit lands.
- From a JoinGroup to the poll that receives its answer no heartbeats are sent: poll often enough.
- Fetches identify a topic only by name: see `kafka.topic`.
- A member that lost its generation must not rejoin in the same process (stale claims would assign a partition to two
  members): `Owner.lost` is called, FencedError raised, and the process ends.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from kafka import ConsumerRebalanceListener, KafkaConsumer, TopicPartition
from kafka import errors as kafka_errors
from kafka.admin import MemberToRemove
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor

from stream_ad.errors import ContractError, FencedError, UnreachableError
from stream_ad.io.kafka.admin import KafkaAdmin
from stream_ad.io.kafka.clients import ask_offsets
from stream_ad.io.kafka.errors import meaning, translated, translating
from stream_ad.io.kafka.records import raw_batch
from stream_ad.io.kafka.topic import TopicWatch
from stream_ad.io.transport import HOLD, HOLD_S, Owner, Partition, Position, RawBatch

MEMBERSHIP_BEATS = 3.0
"""Heartbeat intervals after which membership is known: one until a heartbeat, the rest for a coordinator lookup."""

ASSIGNMENT_CHECK_S = 2.0
"""Minimum time from a rebalance or an assignment check to the next check."""
TOPIC_EVERY_S = 1.0
"""Maximum interval between checks of the topic's identity."""


class RebalancedError(Exception):
    """Ends `consumer.poll` after a rebalance; never leaves this module."""


def _without_rebalances(record: logging.LogRecord) -> bool:
    """Keep kafka-python from logging RebalancedError as a failed listener."""
    return record.exc_info is None or not isinstance(record.exc_info[1], RebalancedError)


class Listener(ConsumerRebalanceListener):  # type: ignore[misc]  # kafka-python is untyped
    """Records the group's decisions; called on the client's thread."""

    def __init__(self) -> None:
        self.events: list[tuple[str, list[TopicPartition]]] = []
        self.consumer: KafkaConsumer | None = None
        self.is_closing = False

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Pause new partitions until their owner decides where to start."""
        consumer = self.consumer
        for tp in assigned:
            if consumer is not None:
                consumer.pause(tp)
                # Any position works; without one, poll would look for a committed position and fail if there is none.
                consumer.seek(tp, 0)
        self._note("gained", assigned)

    def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """Record a planned revocation: the group waits for us."""
        self._note("leaving", revoked)

    def on_partitions_lost(self, lost: Iterable[TopicPartition]) -> None:
        """Record an eviction: others may already own the partitions. Raising keeps the client from rejoining."""
        self._note("lost", lost)

    def _note(self, kind: str, partitions: Iterable[TopicPartition]) -> None:
        if self.is_closing:
            return
        found = sorted(partitions)
        if found:
            self.events.append((kind, found))
            raise RebalancedError(kind)


class FinishedJoin:
    """A join that finished between two polls, presented to the client as unfinished.

    The client would otherwise discard the result and send another JoinGroup; members with short polls would then
    rebalance indefinitely.
    """

    is_done = False

    def __init__(self, task: Any) -> None:
        self._task = task

    def add_callback(self, function: Any) -> None:
        """Call back with the result, at once."""
        self._task.add_callback(function)

    def add_errback(self, function: Any) -> None:
        """Call back with the error, at once."""
        self._task.add_errback(function)


class KafkaSource:
    """A static member of a consumer group; implements `transport.Source`.

    `close` removes the member from its group, so that scaling down does not wait for the session timeout; only a dead
    process is waited for.

    Args:
        admin: the log that created it.
        topic: the topic to read.
        group: the consumer group.
        owner: called when partitions are gained and lost.
        member: `group.instance.id`.
        on_close: called when it is closed or abandoned.
    """

    def __init__(
        self,
        admin: KafkaAdmin,
        topic: str,
        group: str,
        owner: Owner,
        member: str,
        *,
        on_close: Callable[[KafkaSource], None],
    ) -> None:
        self.group = group
        self.member = member
        self._admin = admin
        self._on_close = on_close
        self.topic = topic
        self.topic_id = admin.topic_id(topic)
        self._owner = owner
        self._where = f"{group}/{member} on {admin.clients.where}"
        self._positions: dict[TopicPartition, int] = {}
        self._held: dict[TopicPartition, float] = {}
        self._assigned_count = 0
        self._checked_at = time.monotonic()
        self._was_incomplete = False
        self._is_closed = False
        self._has_joined = False
        self._answered_at = time.monotonic()
        self._listener = Listener()
        logger = logging.getLogger("kafka.coordinator.consumer")
        if _without_rebalances not in logger.filters:
            logger.addFilter(_without_rebalances)
        session_ms = round(1_000 * admin.session_timeout_s)
        heartbeat_ms = min(1_000, session_ms // 3)
        self._heartbeat_s = heartbeat_ms / 1_000
        self.consumer = admin.clients.open_consumer(
            group,
            group_instance_id=member,
            client_id=f"stream-ad.{member}",
            session_timeout_ms=session_ms,
            heartbeat_interval_ms=heartbeat_ms,
            partition_assignment_strategy=[CooperativeStickyAssignor],
        )
        self._listener.consumer = self.consumer
        self.consumer.subscribe([topic], listener=self._listener)
        self._watch = TopicWatch(
            self.consumer._cluster, topic, self.topic_id, self._where, wait_s=admin.request_timeout_s
        )
        try:
            # A leader that joins before it knows the topic's partitions assigns none, sometimes permanently.
            self._probe()
        except BaseException:
            self.abandon()
            raise

    def poll(self, max_records: int, wait_s: float) -> Sequence[RawBatch]:
        """Return committed records of the owned partitions; see `transport.Source.poll`.

        Raises:
            FencedError: another process joined as this member, or the member was evicted: end the process.
            UnreachableError: no broker answered for about the request timeout.
            PositionError: the offset to read is no longer retained, or the topic was recreated.
        """
        if self._is_closed:
            raise ContractError(f"{self._where}: the source is closed")
        if max_records < 1:
            raise ContractError(f"max_records: expected at least 1, found {max_records}")
        deadline = time.monotonic() + wait_s
        while True:
            self._follow_group()
            records: Mapping[TopicPartition, Sequence[Any]] = {}
            left_ms = max(0.0, 1_000 * (deadline - time.monotonic()))
            self._keep_join()
            try:
                records = self.consumer.poll(timeout_ms=left_ms, max_records=max_records)
            except kafka_errors.KafkaError as error:
                if not isinstance(error.__cause__, RebalancedError):
                    if meaning(error) is FencedError:
                        self._drop(list(self._positions))
                    raise translated(error, self._where) from error
            self._follow_group()
            self._check_assigned()
            batches = self._batches(records)
            if batches:
                self._answered_at = time.monotonic()
                self._ask_for_more()
                return batches
            if time.monotonic() >= deadline:
                if time.monotonic() - self._answered_at > self._admin.request_timeout_s / 2:
                    self._probe()
                    self._check_all_read()
                return batches

    def assignment(self) -> frozenset[Partition]:
        """Return the partitions currently owned."""
        return frozenset(Partition(*tp) for tp in self._positions)

    def partitions(self) -> int:
        """Return the topic's number of partitions, according to the client's metadata."""
        return len(self.consumer._cluster.partitions_for_topic(self.topic) or ())

    def end_offsets(self) -> Mapping[Partition, int]:
        """Return the offset after the last record of each owned partition, according to the last fetch.

        A request to the broker would queue behind the fetch that waits for records, half a second on an idle topic.
        Records of an open transaction are included. Before the first fetch it is the own position.
        """
        ends = {tp: self.consumer.highwater(tp) for tp in self._positions}
        return {Partition(*tp): self._positions[tp] if end is None else end for tp, end in ends.items()}

    def close(self) -> None:
        """Hand over all partitions (`Owner.leaving`, or `lost` after an eviction) and leave the group."""
        if self._is_closed:
            return
        is_member = self.is_member()
        try:
            for tp in sorted(self._positions):
                if is_member:
                    self._owner.leaving(Partition(*tp))
                else:
                    self._owner.lost(Partition(*tp))
                del self._positions[tp]
        finally:
            metadata = self.consumer.group_metadata()
            self.abandon()
            if is_member and metadata.generation_id >= 0:
                # With the member id, the broker does not remove a newer process of this name.
                leaver = MemberToRemove(member_id=metadata.member_id, group_instance_id=self.member)
                with contextlib.suppress(UnreachableError):
                    self._admin.remove_member(self.group, leaver)

    def abandon(self) -> None:
        """Close the sockets without calling the owner or leaving the group."""
        self._is_closed = True
        self._listener.is_closing = True
        self._positions.clear()
        self._on_close(self)
        closing = threading.Thread(target=self._close_consumer, name="stream-ad-close", daemon=True)
        closing.start()
        closing.join(2.0)

    def is_member(self) -> bool:
        """Return whether a commit may be tried: joined, not evicted, not replaced."""
        if self._is_closed or self._is_replaced():
            return False
        return not self._has_joined or self.consumer.group_metadata().generation_id >= 0

    def await_membership(self) -> None:
        """Wait until a heartbeat shows whether we are still a member; call it after the group rejected a commit.

        A process that was suspended beyond its session continues with an outdated generation, and its first heartbeat
        follows a second later. Until then every commit is rejected as if a retry could help.
        """
        coordinator, begun = self.consumer._coordinator, time.monotonic()
        deadline = begun + MEMBERSHIP_BEATS * self._heartbeat_s
        while self.is_member() and coordinator.stable() and time.monotonic() < deadline:
            if coordinator.heartbeat.last_receive > begun:
                return
            time.sleep(0.01)

    def _close_consumer(self) -> None:
        with contextlib.suppress(kafka_errors.KafkaError, OSError, RuntimeError):
            self.consumer.close(autocommit=False, timeout_ms=1_000)

    def _ask_for_more(self) -> None:
        """Start the next fetch while we work; after an idle wait the client would start it only in the next poll."""
        fetcher = self.consumer._fetcher
        if not fetcher._nodes_with_pending_fetch_requests and not fetcher._completed_fetches:
            fetcher.send_fetches()

    def _keep_join(self) -> None:
        coordinator = self.consumer._coordinator
        task = coordinator._join_task
        if task is None:
            return
        # A leader that rejoins because the topic grew learns of the new partitions while assigning them. The client
        # then sees no reason to wait for its own join, sends no heartbeats, and is evicted.
        coordinator.rejoin_needed = True
        if task.is_done:
            coordinator._join_task = FinishedJoin(task)

    def _is_replaced(self) -> bool:
        """Return whether a newer process joined as this member: the client then only stops heartbeats."""
        coordinator = self.consumer._coordinator
        return bool(coordinator.stable() and not coordinator._heartbeat_enabled and not coordinator.rejoining)

    def _follow_group(self) -> None:
        """Handle the listener's events in order; an event is removed once its owner has handled it."""
        events = self._listener.events
        self._offer_held()
        while events:
            kind, partitions = events[0]
            self._has_joined = True
            if kind == "lost":
                self._drop(partitions)
                raise FencedError(f"{self._where}: evicted from the group; its partitions were reassigned")
            while partitions:
                tp = partitions[0]
                if kind == "gained":
                    self._take_over(tp)
                elif tp in self._positions:
                    self._owner.leaving(Partition(*tp))
                    del self._positions[tp]
                else:
                    self._held.pop(tp, None)
                partitions.pop(0)
            events.pop(0)
            self._answered_at = self._checked_at = time.monotonic()
        if self._is_replaced():
            self._drop(list(self._positions))
            raise FencedError(f"{self._where}: a newer process joined as this member")
        if self._positions and not self.is_member():
            self._drop(list(self._positions))
            raise FencedError(f"{self._where}: evicted from the group; its partitions were reassigned")

    def _drop(self, partitions: Iterable[TopicPartition]) -> None:
        self._listener.events.clear()
        self._held.clear()
        for tp in sorted(partitions):
            if self._positions.pop(tp, None) is not None:
                self._owner.lost(Partition(*tp))

    def _take_over(self, tp: TopicPartition) -> None:
        if tp not in self.consumer.assignment():
            return  # assigned and revoked between two polls
        partition = Partition(*tp)
        timeout_ms = 1_000 * self._admin.settle_s
        with translating(f"{partition} for {self._where}"):
            found = self.consumer.committed(tp, metadata=True, timeout_ms=timeout_ms)
        position = None
        if found is not None:
            topic_id = self._admin.topic_id(tp.topic)
            position = Position(partition, topic_id, found.offset, found.metadata or "")
        start = self._owner.gained(position, partition)
        if start == HOLD:
            self._held[tp] = time.monotonic() + HOLD_S  # stays paused
            return
        self._held.pop(tp, None)
        if start is None and position is not None:
            start = position.offset
        with translating(f"{partition} for {self._where}"):
            if start is None:
                start, _ = ask_offsets(self.consumer, tp, self._admin.request_timeout_s)
            self._positions[tp] = start
            self.consumer.seek(tp, start)
            self.consumer.resume(tp)

    def _offer_held(self) -> None:
        """Offer held partitions to their owner again."""
        for tp, due in list(self._held.items()):
            if time.monotonic() >= due and not self._listener.events:
                del self._held[tp]
                self._take_over(tp)

    def _batches(self, records: Mapping[TopicPartition, Sequence[Any]]) -> list[RawBatch]:
        if time.monotonic() - self._watch.asked_at > TOPIC_EVERY_S:
            self._watch.ask()
        self._watch.is_known()
        batches = []
        for tp, before in self._positions.items():
            found = records.get(tp, ())
            position = self.consumer.position(tp, timeout_ms=0)
            if position is None:
                position = found[-1].offset + 1 if found else before
            if found or position > before:
                self._positions[tp] = position
                batches.append(raw_batch(Partition(*tp), found, position))
        return batches

    def _probe(self) -> None:
        """Query the topic's first broker: poll itself does not report unreachable brokers."""
        with translating(f"{self._where}: no answer"):
            ask_offsets(self.consumer, TopicPartition(self.topic, 0), 0.5 * self._admin.request_timeout_s)
        self._answered_at = time.monotonic()

    def _check_assigned(self) -> None:
        """Trigger a rebalance if added partitions were not assigned.

        A static member that returns gets its previous assignment, and kafka-python then misses that the topic has
        grown; it also misses growth during an assignment. Two checks in a row exclude a rebalance in progress.
        """
        count = self.partitions()
        if count <= self._assigned_count or not self._has_joined or not self.consumer._coordinator.stable():
            return
        if time.monotonic() - self._checked_at < ASSIGNMENT_CHECK_S:
            return
        self._checked_at = time.monotonic()
        with contextlib.suppress(UnreachableError):
            if len(self._admin.owners(self.group, self.topic)) >= count:
                self._assigned_count, self._was_incomplete = count, False
            elif self._was_incomplete:
                self._was_incomplete = False
                logging.getLogger(__name__).warning("%s: partitions of %s have no owner", self._where, self.topic)
                self.consumer._coordinator.request_rejoin()
            else:
                self._was_incomplete = True

    def _check_all_read(self) -> None:
        """Trigger a rebalance if a partition has no reader.

        This happens after an assignment while the topic was missing: the broker gives a returning static member its
        previous assignment, and if that member is the leader, kafka-python has nobody who watches the topic. The
        broker may also count a partition as ours without the client having reported it.
        """
        if self._positions or self._held or not self.consumer._coordinator.stable():
            return
        with contextlib.suppress(UnreachableError):
            owners = self._admin.owners(self.group, self.topic)
            if len(owners) < self._admin.partitions([self.topic])[self.topic] or self.member in owners.values():
                logging.getLogger(__name__).warning("%s: partitions of %s are not read", self._where, self.topic)
                if unreported := sorted(self.consumer.assignment()):
                    self.consumer.pause(*unreported)
                    self._listener.events.append(("gained", unreported))
                else:
                    self.consumer._coordinator.request_rejoin()
