"""Converts a recording to the records that its devices would have sent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from stream_ad.core.batches import Int64Array
from stream_ad.errors import RecordingError
from stream_ad.io.recordings.recordings import Recording
from stream_ad.io.transport import Record
from stream_ad.io.wire.encode import (
    ARROW_HEADERS,
    JSON_HEADERS,
    encode_arrow,
    encode_reading,
    encode_series,
    encode_series_at,
)
from stream_ad.io.wire.json import MAX_DEVICE_LENGTH

MS = 1_000_000
BAD_TEXT = "NaN"
"""Sent in place of a recording's bad cell."""


class Form(StrEnum):
    """How readings are packed into records."""

    JSON = "json"
    """One reading per record."""
    SERIES = "series"
    """Consecutive readings of a device as one JSON series."""
    ARROW = "arrow"
    """Consecutive readings of a device as one Arrow stream."""


class Message(NamedTuple):
    """A record and when a device would send it.

    Attributes:
        due_ns: event time of its last reading, UTC nanoseconds.
        rows: number of readings.
        record: keyed by device.
    """

    due_ns: int
    rows: int
    record: Record


def without_long_ids(recording: Recording) -> tuple[Recording, tuple[str, ...]]:
    """Return a recording without the devices whose ids exceed the wire's limit, and these ids."""
    long = tuple(device for device in recording.devices if len(device) > MAX_DEVICE_LENGTH)
    if not long:
        return recording, ()
    kept = [number for number, device in enumerate(recording.devices) if device not in long]
    number_of = np.full(len(recording.devices), -1, np.int32)
    number_of[kept] = np.arange(len(kept))
    device = number_of[recording.device]
    rows = np.flatnonzero(device >= 0)
    left = replace(
        recording,
        devices=tuple(recording.devices[number] for number in kept),
        device=device[rows],
        event_ns=recording.event_ns[rows],
        values=recording.values[rows],
        labels={name: label[rows] for name, label in recording.labels.items()},
        bad=None if recording.bad is None else recording.bad[rows],
    )
    return left, long


def messages(recording: Recording, form: Form, samples: int = 64, shift_ns: int = 0) -> Iterator[Message]:
    """Yield a recording's records in the order in which they would be sent.

    Times keep their microseconds; finer digits are subject to float64 rounding.

    Args:
        recording: the recording; its labels are not sent.
        form: the wire format.
        samples: readings per record, for series and Arrow.
        shift_ns: added to every time.

    Raises:
        RecordingError: `samples` is below 1.
    """
    if samples < 1:
        raise RecordingError(f"samples: expected at least 1 per record, found {samples}")
    rows, starts = _cut(recording, 1 if form is Form.JSON else samples)
    stops = np.append(starts[1:], len(rows))
    due_ns = recording.event_ns[rows[stops - 1]] if len(starts) else np.zeros(0, np.int64)
    for number in np.argsort(due_ns, kind="stable").tolist():
        taken = rows[starts[number] : stops[number]]
        device = recording.devices[recording.device[taken[0]]]
        value = _encode(recording, device, taken, form, shift_ns)
        headers = ARROW_HEADERS if form is Form.ARROW else JSON_HEADERS
        record = Record(value, device.encode(), headers)
        yield Message(int(due_ns[number]) + shift_ns, len(taken), record)


def _cut(recording: Recording, samples: int) -> tuple[Int64Array, Int64Array]:
    """Return the rows by device and time, and the first row of each record."""
    rows = np.argsort(recording.device, kind="stable")
    device = recording.device[rows]
    position = np.arange(len(rows))
    new = np.ones(len(rows), bool)
    new[1:] = device[1:] != device[:-1]
    since = position - np.maximum.accumulate(np.where(new, position, 0)) if len(rows) else position
    return rows, np.flatnonzero(since % samples == 0)


def _encode(recording: Recording, device: str, rows: Int64Array, form: Form, shift_ns: int) -> bytes:
    event_ns = recording.event_ns[rows] + shift_ns
    values = _values(recording, rows)
    if form is Form.ARROW:
        return encode_arrow([device] * len(rows), _milliseconds(event_ns), values)
    cells = {name: _cells(column) for name, column in values.items()}
    if form is Form.JSON:
        ts_ms = _milliseconds(event_ns).tolist()[0]
        return encode_reading(device, ts_ms, {name: column[0] for name, column in cells.items()})
    steps = np.diff(event_ns)
    if len(steps) and steps[0] > 0 and (steps == steps[0]).all():
        start, step = _milliseconds(event_ns[:1]).tolist()[0], _milliseconds(steps[:1]).tolist()[0]
        return encode_series(device, start, step, cells)
    return encode_series_at(device, _milliseconds(event_ns), cells)


def _values(recording: Recording, rows: Int64Array) -> Mapping[str, npt.NDArray[np.float64]]:
    """Return the channels with any cell in the rows, bad ones infinite; all channels if none has one."""
    block = recording.values[rows]
    if recording.bad is not None:
        block[recording.bad[rows]] = np.inf
    present = np.flatnonzero((~np.isnan(block)).any(axis=0)).tolist() or range(len(recording.channels))
    return {recording.channels[number]: np.ascontiguousarray(block[:, number]) for number in present}


def _cells(column: npt.NDArray[np.float64]) -> Sequence[float | str | None]:
    """Return a column for JSON: a bad cell as text that is bad on the wire too, a missing one as null."""
    if np.isfinite(column).all():
        return list(column.tolist())
    return [None if cell != cell else BAD_TEXT if cell == np.inf else cell for cell in column.tolist()]


def _milliseconds(time_ns: Int64Array) -> npt.NDArray[Any]:
    """Return milliseconds as integers if all are whole, else as fractions."""
    return time_ns // MS if not (time_ns % MS).any() else time_ns / MS
