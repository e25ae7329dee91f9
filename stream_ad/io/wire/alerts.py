"""Alerts <-> messages of the alerts topic: CloudEvents 1.0, binary mode, key = device."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stream_ad.core.batches import Alert, AlertKind, AlertPhase
from stream_ad.errors import ContractError
from stream_ad.io.following import Stored
from stream_ad.io.transport import Partition, Record
from stream_ad.io.wire.encode import CONTENT_TYPE, JSON, first_problem
from stream_ad.io.wire.times import rfc3339_ns

TYPE_PREFIX = "io.github.stream-ad.alert."
SCHEMA_ID = "urn:stream-ad:alert:v1"

UtcTime = Annotated[str, Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{9}Z$")]
"""RFC 3339, UTC, nanoseconds; a number of that size would lose digits in JavaScript."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)


class ChannelShare(_Part):
    """A channel that contributed to the incident."""

    channel: str
    share: Annotated[float, Field(ge=0, le=1)]
    """Its share of the score, 0 to 1."""


class InputPosition(_Part):
    """The message's origin in the readings."""

    topic: str
    partition: Annotated[int, Field(ge=0)]
    opened_offset: Annotated[int, Field(ge=0)]
    """The record that closed the window that opened the incident."""
    offset: Annotated[int, Field(ge=0)]
    """The record that closed the window that caused the message."""


class AlertMessage(_Part):
    """An incident opened, changed or ended. Fields may be added but are never changed or removed."""

    id: str
    """Id of the incident: the same in all its messages, also after a restart."""
    version: Annotated[int, Field(ge=0)]
    """Counts the messages of the incident from 0."""
    phase: Literal["opened", "updated", "resolved"]
    kind: Literal["process", "sensor", "silence", "regime"]
    stream: str
    device: str
    opened_end: UtcTime
    """End of the window that opened the incident, event time."""
    end: UtcTime
    """End of the window that caused this message, event time."""
    score: float | None
    """Smoothed score of that window; null if unscored."""
    limit: float | None
    """Limit in force, in units of the score; null if there is none."""
    peak: float | None
    """Highest smoothed score of the incident so far."""
    channels: tuple[ChannelShare, ...]
    """The contributing channels, largest share first."""
    reason: str
    """One line for people."""
    model_id: str
    """Digest of the bundle that scored."""
    config_digest: str
    """Digest of the settings in force."""
    input: InputPosition

    @property
    def opened_end_ns(self) -> int:
        """`opened_end` in UTC nanoseconds."""
        return rfc3339_ns(self.opened_end) or 0

    @property
    def end_ns(self) -> int:
        """`end` in UTC nanoseconds."""
        return rfc3339_ns(self.end) or 0

    def alert(self) -> Alert:
        """Return the core's alert; encoding it gives an equal message."""
        return Alert(
            id=self.id,
            version=self.version,
            phase=AlertPhase(self.phase),
            kind=AlertKind(self.kind),
            stream=self.stream,
            device=self.device,
            opened_end_ns=self.opened_end_ns,
            end_ns=self.end_ns,
            opened_offset=self.input.opened_offset,
            offset=self.input.offset,
            score=_number(self.score),
            limit=_number(self.limit),
            peak=_number(self.peak),
            channels=tuple((part.channel, part.share) for part in self.channels),
            model_id=self.model_id,
            reason=self.reason,
        )


def encode(alert: Alert, source: Partition, config_digest: str) -> Record:
    """Return an alert's message; its key, the device, selects the partition.

    Args:
        alert: the core's alert.
        source: the partition of the readings.
        config_digest: digest of the settings in force.

    Raises:
        ContractError: a share is outside 0..1, or another field violates the schema.
    """
    try:
        message = AlertMessage(
            id=alert.id,
            version=alert.version,
            phase=alert.phase.value,
            kind=alert.kind.value,
            stream=alert.stream,
            device=alert.device,
            opened_end=_text(alert.opened_end_ns),
            end=_text(alert.end_ns),
            score=_finite(alert.score),
            limit=_finite(alert.limit),
            peak=_finite(alert.peak),
            channels=tuple(ChannelShare(channel=name, share=share) for name, share in alert.channels),
            reason=alert.reason,
            model_id=alert.model_id,
            config_digest=config_digest,
            input=InputPosition(
                topic=source.topic, partition=source.number, opened_offset=alert.opened_offset, offset=alert.offset
            ),
        )
    except ValidationError as error:
        raise ContractError(f"alert {alert.id}: {first_problem(error)}") from error
    headers = {
        CONTENT_TYPE: JSON,
        "ce_specversion": "1.0",
        "ce_id": f"{alert.id}-{alert.version}",
        "ce_source": f"/stream-ad/{alert.stream}",
        "ce_type": f"{TYPE_PREFIX}{alert.phase.value}.v1",
        "ce_time": message.end,
        "ce_subject": alert.device,
        "ce_dataschema": SCHEMA_ID,
    }
    return Record(
        value=message.model_dump_json().encode(),
        key=alert.device.encode(),
        headers=tuple((name, text.encode()) for name, text in headers.items()),
    )


def decode(value: bytes) -> AlertMessage:
    """Decode the body of an alert message.

    Raises:
        ContractError: invalid body.
    """
    try:
        return AlertMessage.model_validate_json(value)
    except ValidationError as error:
        raise ContractError(f"alert message: {first_problem(error)}") from error


@dataclass(frozen=True, slots=True)
class Published:
    """An alert and its place in the log."""

    at: Stored
    alert: AlertMessage


def published(
    records: Iterable[Stored], skip: Callable[[Stored, ContractError], None] = lambda *_: None
) -> Iterator[Published]:
    """Yield the alerts among an alerts topic's records.

    Args:
        records: in any order, which is kept.
        skip: called with records that are not alerts of this version.
    """
    for record in records:
        try:
            yield Published(record, decode(record.value))
        except ContractError as error:
            skip(record, error)


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of the body, for subscribers."""
    schema = AlertMessage.model_json_schema(mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": SCHEMA_ID, **schema}


def _text(ns: int) -> str:
    seconds, rest = divmod(ns, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09}Z"


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _number(value: float | None) -> float:
    return math.nan if value is None else value
