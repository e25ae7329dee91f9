"""Refused records -> dead letters: the original bytes, with origin and reason in headers.

The headers are those of Kafka Connect's error reporting, which its tools can read, plus this package's own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import orjson

from stream_ad.core.batches import Reason, Refused
from stream_ad.errors import ContractError
from stream_ad.io.transport import Headers, Partition, Record

CONNECT = "__connect.errors."
PREFIX = "stream-ad-"
RESENT = PREFIX + "resent"
"""Header of a record that was resent: its original place. If it is refused again, its letter has the header too and is
never resent."""
RESENT_LETTER = PREFIX + "resent-letter"
"""Header of a note among the letters: `partition@offset` of a letter that was resent."""
MAX_SIDE_BYTES = 16_384
"""Keys and original headers beyond this size are omitted, to leave room for the value."""
MAX_DETAIL_BYTES = 2_000
MAX_RESENT_BYTES = 300
OWN_BYTES = 4_096
"""Maximum size of our own headers, including the detail and topic names."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A decoded dead letter.

    Attributes:
        source: partition of the refused record.
        refused: offset, reason, detail and rows.
        log_ns: append time of the refused record.
        value: its bytes, or the first of them.
        size: its original number of bytes.
        digest: BLAKE2b (32 bytes, hex) of all of them.
        headers: its own headers.
        resent: the record's original place if it was resent, else "".
    """

    source: Partition
    refused: Refused
    log_ns: int
    value: bytes
    size: int
    digest: str
    headers: Headers
    resent: str = ""

    @property
    def is_whole(self) -> bool:
        """Whether the letter contains the complete record, so that it can be resent."""
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
    """Return a record's dead letter.

    Args:
        refused: the refusal by the decoder or the windows.
        value: the record's bytes; truncated if the letter would exceed `max_bytes`.
        key: the record's key, kept.
        headers: the record's headers, kept in front of ours.
        source: the record's partition.
        log_ns: its append time.
        max_bytes: limit of value, key and headers together; at least 64 KiB.

    Raises:
        ContractError: `max_bytes` is too small.
    """
    if max_bytes < 65_536:
        raise ContractError(f"max_bytes: expected at least 65536, found {max_bytes}")
    resent = dict(headers).get(RESENT)
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
    if refused.device:
        facts[PREFIX + "device"] = refused.device
    ours = [(name, text.encode("utf-8", "backslashreplace")) for name, text in facts.items()]
    if resent is not None:
        ours.append((RESENT, resent[:MAX_RESENT_BYTES]))
    detail = refused.detail.encode("utf-8", "backslashreplace")[:MAX_DETAIL_BYTES]
    ours.append((CONNECT + "exception.message", detail.decode("utf-8", "ignore").encode()))
    return Record(value=value[:room], key=key, headers=(*kept, *ours))


def decode(value: bytes, headers: Headers) -> DeadLetter:
    """Decode a dead letter.

    Raises:
        ContractError: the headers are not those of a dead letter.
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
                device=texts.get(PREFIX + "device", ""),
            ),
            log_ns=int(texts[PREFIX + "log-ns"]),
            value=value,
            size=int(texts[PREFIX + "bytes"]),
            digest=texts[PREFIX + "blake2b"],
            headers=tuple(pair for pair in headers if not pair[0].startswith((CONNECT, PREFIX))),
            resent=texts.get(RESENT, ""),
        )
    except (KeyError, ValueError) as error:
        raise ContractError(f"dead letter: expected its headers, found: {type(error).__name__} {error}") from error


def again(letter: DeadLetter, key: bytes | None, partitions: int) -> Record:
    """Return a letter's original record, marked as resent.

    It goes to its original partition, which has its device's state.

    Args:
        letter: a complete one that was not resent before.
        key: the letter's key.
        partitions: number of partitions of the readings topic.

    Raises:
        ContractError: the letter is truncated or was resent before.
    """
    if not letter.is_whole or letter.resent:
        found = "a letter of a resent record" if letter.resent else f"{len(letter.value)} of {letter.size} bytes"
        raise ContractError(f"dead letter: expected a complete one that was never resent, found {found}")
    number = letter.source.number if letter.source.number < partitions else None
    mark = (RESENT, f"{letter.source.topic}/{letter.source.number}@{letter.refused.offset}".encode())
    return Record(letter.value, key, (*letter.headers, mark), number)


def note(place: Partition, offset: int) -> Record:
    """Return the note that a letter was resent, for the letter's partition."""
    return Record(b"", None, ((RESENT_LETTER, f"{place.number}@{offset}".encode()),), place.number)


def noted(headers: Headers) -> tuple[int, int] | None:
    """Return partition and offset of the letter that a note refers to, None for any other record."""
    for name, content in headers:
        if name == RESENT_LETTER:
            number, _, offset = content.decode("ascii", "replace").partition("@")
            return (int(number), int(offset)) if number.isdecimal() and offset.isdecimal() else None
    return None


def device_in(value: bytes, key: bytes | None) -> str:
    """Return the device of a refused record if it can be recovered, else its key, else ""."""
    try:
        document = orjson.loads(value)
    except ValueError:
        document = None
    named: Mapping[str, object] = document if isinstance(document, dict) else {}
    device = named.get("device")
    return device if isinstance(device, str) and device else (key or b"").decode("utf-8", "replace")


def _size(headers: Headers) -> int:
    return sum(len(name.encode()) + len(content) for name, content in headers)


def _digest(value: bytes) -> str:
    return hashlib.blake2b(value, digest_size=32).hexdigest()
