"""The scorer as a plain at-least-once loop, which `benchmarks.proof` compares with the real one.

Same process, polling, decoding, step and encoding; but an ordinary idempotent producer with acks=all and no
transactions, offsets committed after its flush, and no checkpoints. A kill between flush and commit repeats rows.
Run as `python -m benchmarks.plain SETTINGS`.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from kafka import KafkaProducer, OffsetAndMetadata, TopicPartition

from benchmarks.load import settings_of
from stream_ad import assembly
from stream_ad.config import KafkaTransport, Settings
from stream_ad.errors import ContractError
from stream_ad.io.kafka.log import KafkaLog
from stream_ad.io.kafka.records import close_producer, send_all
from stream_ad.io.kafka.source import KafkaSource
from stream_ad.io.transport import Commit, CommitOutcome, Source
from stream_ad.service import logs
from stream_ad.service.role import Pulse, run_role, stop_on_signals
from stream_ad.service.roles.catalog import RoleContext, build


class PlainCommitter:
    """Flushes records, then commits positions; implements `transport.Committer`."""

    def __init__(self, log: KafkaLog, source: KafkaSource) -> None:
        self._log = log
        self._source = source
        self._producer: KafkaProducer = log.clients.open_producer(60.0, retry_backoff_ms=5)

    def commit(self, commit: Commit) -> CommitOutcome:
        """Send, flush, commit."""
        sent = {topic: records for topic, records in commit.records.items() if records}
        send_all(self._producer, sent, self._log.partitions(sent))
        positions = {
            TopicPartition(*partition): OffsetAndMetadata(offset, text, -1)
            for partition, (offset, text) in commit.positions.items()
        }
        # Asynchronous: its response would queue behind the fetch that waits for records.
        self._source.consumer.commit_async(positions)
        return CommitOutcome.LANDED

    def close(self) -> None:
        """Close the client."""
        close_producer(self._producer, 1.0)


class PlainLog(KafkaLog):
    """A log whose committers use no transactions."""

    def committer(self, source: Source, member: str) -> PlainCommitter:  # type: ignore[override]  # the plain one
        """Return a plain committer."""
        if not isinstance(source, KafkaSource):
            raise ContractError(f"source: expected a source of this log, found {type(source).__name__}")
        return PlainCommitter(self, source)


def open_plain(settings: Settings) -> PlainLog:
    """Open the log as `assembly.open_transport` does."""
    transport = settings.transport
    if not isinstance(transport, KafkaTransport):
        raise SystemExit("the plain loop needs Kafka")
    return PlainLog(
        transport.servers,
        session_timeout_s=transport.session_timeout_s,
        request_timeout_s=transport.request_timeout_s,
        max_record_bytes=transport.max_record_bytes,
    )


def main() -> int:
    """Run until stopped."""
    settings = settings_of(Path(sys.argv[1]))
    # One checkpoint at the first commit, before anything is measured, and none after.
    store = settings.store.model_copy(update={"checkpoint_every_s": 1e9})
    settings = settings.model_copy(update={"store": store})
    assembly.open_transport = open_plain
    logs.configure("warning", "json", {"role": "plain"})
    stop = threading.Event()
    stop_on_signals(stop)
    pulse = Pulse(60.0)
    return run_role(
        lambda: build("scorer", RoleContext(settings, 0, pulse.beat)), pulse, stop, shutdown_timeout_s=30.0, http=None
    )


if __name__ == "__main__":
    sys.exit(main())
