"""The baseline: a consumer that only decodes the same messages.

Run as `python -m benchmarks.bare kafka SERVER TOPIC MESSAGES FORM` (or `local FILE …`); prints seconds.
"""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable, Iterable

import orjson
import pyarrow as pa

TIMED_SHARES = (0.1, 0.9)
"""Shares of the messages between which both sides are timed: excludes startup and the wait for the last commit (up to
`commit.every_s`)."""


def decoder(form: str) -> Callable[[bytes], object]:
    """Return the plain decoder of a message form."""
    if form == "arrow":
        return lambda value: pa.ipc.open_stream(io.BytesIO(value)).read_all()
    return orjson.loads


def kafka(server: str, topic: str, messages: int, form: str) -> tuple[float, float]:
    """Read a topic with kafka-python (crc32c installed) and decode each message."""
    from kafka import KafkaConsumer, TopicPartition

    decode = decoder(form)
    consumer = KafkaConsumer(bootstrap_servers=server, enable_auto_commit=False, isolation_level="read_committed")
    consumer.assign([TopicPartition(topic, 0)])
    consumer.seek_to_beginning()

    def batches() -> Iterable[list[bytes]]:
        while True:
            for records in consumer.poll(timeout_ms=1_000, max_records=2_000).values():
                yield [record.value for record in records]

    return timed(batches(), decode, messages)


def local(path: str, topic: str, messages: int, form: str) -> tuple[float, float]:
    """Read a topic of the embedded log and decode each message."""
    from pathlib import Path

    from stream_ad.io.local.log import LocalLog
    from stream_ad.io.transport import Partition

    log = LocalLog(Path(path))
    partition = Partition(topic, 0)
    return timed((list(raw.values) for raw in log.read(partition, *log.bounds(partition))), decoder(form), messages)


def timed(batches: Iterable[list[bytes]], decode: Callable[[bytes], object], messages: int) -> tuple[float, float]:
    """Return wall and processor seconds for all messages, at the pace measured within `TIMED_SHARES`."""
    done = 0
    first, last = (int(share * messages) for share in TIMED_SHARES)
    begun: tuple[float, float, int] | None = None
    for values in batches:
        for value in values:
            decode(value)
        done += len(values)
        if begun is None and done >= first:
            begun = time.perf_counter(), time.process_time(), done
        elif done >= last:
            break
    if begun is None or done < last:
        raise SystemExit(f"expected {messages} messages, found {done}")
    share = messages / (done - begun[2])
    return (time.perf_counter() - begun[0]) * share, (time.process_time() - begun[1]) * share


if __name__ == "__main__":
    where, address, topic, messages, form = sys.argv[1:]
    run = kafka if where == "kafka" else local
    print(*run(address, topic, int(messages), form))
