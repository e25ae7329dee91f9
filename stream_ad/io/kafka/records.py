"""Conversion of records between kafka-python's types and the transport's."""

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
"""Timeout for a producer to learn of an added partition."""


def raw_batch(partition: Partition, records: Sequence[Any], next_offset: int) -> RawBatch:
    """Turn one partition's consumer records into columns, without extra objects per record.

    Args:
        partition: their partition.
        records: kafka-python's consumer records, in offset order.
        next_offset: the offset to read next.
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

    kafka-python drops a batch that runs out of retries without failing the surrounding transaction, so every future is
    checked. A broker that takes new records for duplicates acknowledges them unwritten, with the old offsets or none;
    `newest` reveals that.

    Args:
        producer: an idempotent producer, inside a transaction or not.
        records: records by topic.
        partitions: number of partitions by topic.
        timeout_s: timeout per acknowledgement; None for the producer's delivery timeout.
        newest: highest acknowledged offset of this producer by topic and partition; updated.

    Raises:
        TopicError: a record's partition does not exist; earlier records may have been sent.
        kafka.errors.KafkaError: of the first record that failed or got an earlier record's offset.
    """
    futures = []
    for topic, chunk in records.items():
        count = partitions[topic]
        for record in chunk:
            if record.partition is not None and not 0 <= record.partition < count:
                raise TopicError(f"{topic}: expected a partition below {count}, found {record.partition}")
            if record.partition is not None:
                _await_partition(producer, topic, record.partition)
            headers = list(record.headers)
            futures.append(producer.send(topic, record.value, record.key, headers, record.partition))
    with contextlib.suppress(kafka_errors.UnknownError):
        # Raised for batches that were too large and are split; the futures of their records stay valid.
        producer.flush(timeout_s)
    for future in futures:
        sent = future.get(timeout_s)
        if newest is not None:
            where = (sent.topic, sent.partition)
            if sent.offset <= (before := newest.get(where, -1)):
                raise kafka_errors.OutOfOrderSequenceNumberError(
                    f"{sent.topic}[{sent.partition}]: expected an offset above {before} for a new record, "
                    f"found {sent.offset}: the broker took it for a duplicate"
                )
            newest[where] = sent.offset


def _await_partition(producer: KafkaProducer, topic: str, number: int) -> None:
    """Wait until a producer knows an added partition; before that it would refuse the record.

    Raises:
        TopicError: the timeout expired.
    """
    cluster = producer._metadata
    deadline = time.monotonic() + METADATA_S
    while (known := cluster.partitions_for_topic(topic)) and number not in known:
        if time.monotonic() > deadline:
            raise TopicError(f"{topic}: partition {number} not known after {METADATA_S:g} s")
        done = threading.Event()
        cluster.request_update().add_both(lambda _, done=done: done.set())
        done.wait(METADATA_S)


def close_producer(producer: KafkaProducer, timeout_s: float) -> None:
    """Close a producer in any state within twice the timeout; its threads end on their own."""

    def close() -> None:
        with contextlib.suppress(kafka_errors.KafkaError):
            producer.close(timeout=timeout_s)
        # A failed flush leaves the sender thread running, in a busy loop if its coordinator is gone.
        producer._sender.force_close()

    closing = threading.Thread(target=close, name="stream-ad-close", daemon=True)
    closing.start()
    closing.join(2 * timeout_s)
    if closing.is_alive():
        producer._sender.force_close()
