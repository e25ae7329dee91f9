"""Events of devices (`sensor.events.v1`): reports by machines and operators, besides readings."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import orjson

from stream_ad.core.batches import Reason, Refused
from stream_ad.io.time_guesses import guess
from stream_ad.io.wire.json import Unreadable, device_of, parse, shown
from stream_ad.io.wire.times import EXPECTED, time_ns

FIELDS = ("device", "ts", "code", "severity", "text")
MAX_CODE_LENGTH = 64
MAX_TEXT_LENGTH = 2_000


class Severity(StrEnum):
    """Severity of an event."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"
    CRITICAL = "critical"


@dataclass(frozen=True, slots=True)
class Event:
    """An event reported by a device.

    Attributes:
        device: the device's id.
        event_ns: event time, UTC nanoseconds.
        code: kind of the event, 1 to 64 characters.
        severity: its severity.
        text: for people, at most 2,000 characters.
    """

    device: str
    event_ns: int
    code: str
    severity: Severity
    text: str


def encode(device: str, ts_ms: float | str, code: str, severity: Severity, text: str) -> bytes:
    """Return the JSON of an event; `ts_ms` is epoch milliseconds, or RFC 3339 text with an offset."""
    return orjson.dumps({"device": device, "ts": ts_ms, "code": code, "severity": severity.value, "text": text})


def decode(value: bytes, offset: int) -> Event | Refused:
    """Decode an event, or return why it is refused. All five fields are required, others ignored.

    Args:
        value: the payload.
        offset: the record's offset, for the refusal.
    """
    try:
        return _decode(value)
    except Unreadable as error:
        problem = error.problem
        return Refused(offset, problem.reason, problem.detail, problem.rows, problem.first_event_ns)


def _decode(value: bytes) -> Event:
    if not value:
        raise Unreadable(Reason.UNDECODABLE, "expected a payload, found an empty one")
    document = parse(value)
    if type(document) is not dict:
        raise Unreadable(Reason.WRONG_TYPE, f"expected an object, found {shown(document)}")
    for name in FIELDS:
        if name not in document:
            raise Unreadable(Reason.MISSING_FIELD, f"{name}: expected this field, found none")
    device = device_of(document["device"])
    event_ns = time_ns(document["ts"])
    if event_ns is None:
        raise Unreadable(Reason.BAD_TIME, f"ts: {EXPECTED}, found {shown(document['ts'])}{guess(document['ts'])}")
    code = _text("code", document["code"], 1, MAX_CODE_LENGTH)
    text = _text("text", document["text"], 0, MAX_TEXT_LENGTH)
    severity = document["severity"]
    if not isinstance(severity, str) or severity not in {level.value for level in Severity}:
        raise Unreadable(Reason.WRONG_TYPE, f"severity: expected {', '.join(Severity)}, found {shown(severity)}")
    return Event(device, event_ns, code, Severity(severity), text)


def _text(name: str, value: object, low: int, high: int) -> str:
    if not isinstance(value, str) or not low <= len(value) <= high:
        raise Unreadable(
            Reason.WRONG_TYPE, f"{name}: expected text of {low} to {high} characters, found {shown(value)}"
        )
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise Unreadable(Reason.UNDECODABLE, f"{name}: expected Unicode text, found {shown(value)}")
    return value
