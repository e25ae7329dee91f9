"""Refused records -> the dead letters topic: the original bytes, and in headers where from and why.

The headers are those of Kafka Connect's error reporting plus ours, so that its users' tools read them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from stream_ad.core.batches import Reason, Refused
from stream_ad.errors import ContractError
from stream_ad.io.transport import Headers, Partition, Record

CONNECT = "__connect.errors."
PREFIX = "stream-ad-"
MAX_SIDE_BYTES = 16_384
"""Keys and original headers beyond this are left out: the limit is for the value."""
MAX_DETAIL_BYTES = 2_000
OWN_BYTES = 4_096
"""What our own headers take at most, the detail included, names of topics too."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A dead letter read back.

    Attributes:
        source: partition of the refused record.
        refused: offset, reason, detail and rows.
        log_ns: append time of the refused record.
        value: its bytes, or the first of them.
        size: number of bytes it had.
        digest: BLAKE2b (32 bytes, hex) of all of them.
        headers: its own headers.
    """

    source: Partition
    refused: Refused
    log_ns: int
    value: bytes
    size: int
    digest: str
    headers: Headers

    @property
    def is_whole(self) -> bool:
        """Whether the letter holds all bytes, so that it can be sent again."""
        return len(self.value) == self.size


def encode(
    refused: Refused,
    value: bytes,
    key: bytes | None,
    headers: Headers,
    source: Partition,
    log_ns: int,
    max_bytes: int = 900_000,
) -> Record:
    """Return the dead letter of a record.

    Args:
        refused: what the decoder or the windows said.
        value: the record's bytes; cut where the letter would exceed `max_bytes`.
        key: the record's key, kept.
        headers: the record's headers, kept in front of ours.
        source: where it came from.
        log_ns: its append time.
        max_bytes: limit of value, key and headers together; at least 64 KiB.

    Raises:
        ContractError: `max_bytes` leaves no room.
    """
    if max_bytes < 65_536:
        raise ContractError(f"max_bytes: expected at least 65536, found {max_bytes}")
    kept = tuple(pair for pair in headers if not pair[0].startswith((CONNECT, PREFIX)))
    if _size(kept) > MAX_SIDE_BYTES:
        kept = ()
    if key is not None and len(key) > MAX_SIDE_BYTES:
        key = None
    room = max_bytes - _size(kept) - len(key or b"") - OWN_BYTES
    facts = {
        CONNECT + "topic": source.topic,
        CONNECT + "partition": str(source.number),
        CONNECT + "offset": str(refused.offset),
        CONNECT + "stage": "VALUE_CONVERTER",
        CONNECT + "exception.class.name": f"stream_ad.{refused.reason.value}",
        PREFIX + "reason": refused.reason.value,
        PREFIX + "rows": str(refused.rows),
        PREFIX + "log-ns": str(log_ns),
        PREFIX + "bytes": str(len(value)),
        PREFIX + "blake2b": _digest(value),
    }
    if refused.first_event_ns is not None:
        facts[PREFIX + "first-event-ns"] = str(refused.first_event_ns)
    ours = [(name, text.encode()) for name, text in facts.items()]
    detail = refused.detail.encode("utf-8", "backslashreplace")[:MAX_DETAIL_BYTES]
    ours.append((CONNECT + "exception.message", detail.decode("utf-8", "ignore").encode()))
    return Record(value=value[:room], key=key, headers=(*kept, *ours))


def decode(value: bytes, headers: Headers) -> DeadLetter:
    """Read a dead letter.

    Raises:
        ContractError: the headers are not those of one.
    """
    texts = {name: content.decode("utf-8", "replace") for name, content in headers}
    try:
        first = texts.get(PREFIX + "first-event-ns")
        return DeadLetter(
            source=Partition(texts[CONNECT + "topic"], int(texts[CONNECT + "partition"])),
            refused=Refused(
                offset=int(texts[CONNECT + "offset"]),
                reason=Reason(texts[PREFIX + "reason"]),
                detail=texts[CONNECT + "exception.message"],
                rows=int(texts[PREFIX + "rows"]),
                first_event_ns=None if first is None else int(first),
            ),
            log_ns=int(texts[PREFIX + "log-ns"]),
            value=value,
            size=int(texts[PREFIX + "bytes"]),
            digest=texts[PREFIX + "blake2b"],
            headers=tuple(pair for pair in headers if not pair[0].startswith((CONNECT, PREFIX))),
        )
    except (KeyError, ValueError) as error:
        raise ContractError(f"dead letter: expected its headers, found: {type(error).__name__} {error}") from error


def _size(headers: Headers) -> int:
    return sum(len(name.encode()) + len(content) for name, content in headers)


def _digest(value: bytes) -> str:
    return hashlib.blake2b(value, digest_size=32).hexdigest()
