"""Records between kafka-python's types and the transport's."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from kafka import KafkaProducer
from kafka import errors as kafka_errors

from stream_ad.errors import TopicError
from stream_ad.io.transport import Headers, Partition, RawBatch, Record

NO_HEADERS: Headers = ()
METADATA_S = 10.0
"""For a producer to hear of a partition that was added."""


def raw_batch(partition: Partition, records: Sequence[Any], next_offset: int) -> RawBatch:
    """Turn consumer records of one partition into columns, with no object more a record.

    Args:
        partition: where they came from.
        records: kafka-python's consumer records, in offset order.
        next_offset: the offset to read on from.
    """
    count = len(records)
    offset = np.fromiter((record.offset for record in records), np.int64, count)
    log_ms = np.fromiter((record.timestamp for record in records), np.int64, count)
    return RawBatch(
        partition=partition,
        offset=offset,
        log_ns=log_ms * 1_000_000,
        keys=[record.key for record in records],
        values=[record.value or b"" for record in records],
        headers=[tuple(record.headers) if record.headers else NO_HEADERS for record in records],
        next_offset=next_offset,
    )


def send_all(
    producer: KafkaProducer,
    records: Mapping[str, Sequence[Record]],
    partitions: Mapping[str, int],
    timeout_s: float | None = None,
    newest: dict[tuple[str, int], int] | None = None,
) -> None:
    """Send records and wait until the broker has acknowledged each of them.

    kafka-python drops a batch whose retries run out without failing the transaction around it, so every future is
    looked at. A broker that takes new records for repeated ones acknowledges them unwritten, with the offsets of the
    old or with none: `newest` finds that out.

    Args:
        producer: an idempotent producer, inside a transaction or not.
        records: per topic.
        partitions: how many each of these topics has.
        timeout_s: how long to wait for one acknowledgement; None for the producer's delivery time-out.
        newest: the highest offset that this producer had acknowledged, by topic and partition; brought up to date.

    Raises:
        TopicError: a record names a partition that its topic lacks; records before it may have been sent.
        kafka.errors.KafkaError: of the first record that failed, or that has the offset of an earlier one.
    """
    futures = []
    for topic, chunk in records.items():
        count = partitions[topic]
        for record in chunk:
            if record.partition is not None and not 0 <= record.partition < count:
                raise TopicError(f"{topic}: has {count} partitions, no number {record.partition}")
            if record.partition is not None:
                _await_partition(producer, topic, record.partition)
            headers = list(record.headers)
            futures.append(producer.send(topic, record.value, record.key, headers, record.partition))
    with contextlib.suppress(kafka_errors.UnknownError):
        # It says so of batches that were found too large and split; their records' futures go on.
        producer.flush(timeout_s)
    for future in futures:
        sent = future.get(timeout_s)
        if newest is not None:
            where = (sent.topic, sent.partition)
            if sent.offset <= (before := newest.get(where, -1)):
                raise kafka_errors.OutOfOrderSequenceNumberError(
                    f"{sent.topic}[{sent.partition}]: expected an offset above {before} for a new record, "
                    f"found {sent.offset}: the broker took it for an earlier one"
                )
            newest[where] = sent.offset


def _await_partition(producer: KafkaProducer, topic: str, number: int) -> None:
    """Wait until a producer has heard of a partition that was added to a topic it knows: it would refuse the record.

    Raises:
        TopicError: it has not in time.
    """
    cluster = producer._metadata
    deadline = time.monotonic() + METADATA_S
    while (known := cluster.partitions_for_topic(topic)) and number not in known:
        if time.monotonic() > deadline:
            raise TopicError(f"{topic}: partition {number} was not heard of within {METADATA_S:g} s")
        done = threading.Event()
        cluster.request_update().add_both(lambda _, done=done: done.set())
        done.wait(METADATA_S)


def close_producer(producer: KafkaProducer, timeout_s: float) -> None:
    """Close a producer whatever its state; returns within twice the time-out, and its threads end by themselves."""

    def close() -> None:
        with contextlib.suppress(kafka_errors.KafkaError):
            producer.close(timeout=timeout_s)
        # A flush that fails leaves the sender thread running, spinning if its coordinator is gone.
        producer._sender.force_close()

    closing = threading.Thread(target=close, name="stream-ad-close", daemon=True)
    closing.start()
    closing.join(2 * timeout_s)
    if closing.is_alive():
        producer._sender.force_close()
