"""One JSON record -> readings, complete and general; it also defines the meaning of the fast paths.

`io.wire.readings` decodes well-formed records on two fast paths and passes all others here. `io.cell_rule` defines a
cell; a bad one is returned as infinity, a missing one as NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from stream_ad.core.batches import BoolArray, Float64Array, Int32Array, Int64Array, Reason
from stream_ad.io import json_text
from stream_ad.io.cell_rule import BAD, LARGEST, numbers_of
from stream_ad.io.time_guesses import guess
from stream_ad.io.wire.times import EXPECTED, MAX_MS, MIN_MS, grid_fits, grid_ns, milliseconds_ns, time_ns

MAX_DEVICE_LENGTH = 256


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a record was refused, wholly or in part; `core.batches.Refused` without the offset."""

    reason: Reason
    detail: str
    rows: int = 0
    first_event_ns: int | None = None


class Unreadable(Exception):  # noqa: N818 - never leaves the decoder: a refused record is data, not an error
    """The record is refused as a whole."""

    def __init__(self, reason: Reason, detail: str, rows: int = 0, first_event_ns: int | None = None) -> None:
        super().__init__(detail)
        self.problem = Problem(reason, detail, rows, first_event_ns)


@dataclass(frozen=True, slots=True)
class Chunk:
    """The usable readings of one record.

    Attributes:
        ids: device ids.
        device: int32[n], index into `ids`.
        event_ns: int64[n].
        values: float64[n, c]; NaN missing, bad beyond LARGEST.
        bad: its first bad cell as text for people, "" if there is none.
    """

    ids: Sequence[str]
    device: Int32Array
    event_ns: Int64Array
    values: Float64Array
    bad: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """Content of a record: readings, a problem, both, or neither (skipped).

    Attributes:
        chunk: its usable readings.
        problem: why it was refused, wholly or in part.
        unknown_channels: number of channels not in the bundle.
        strangers: devices outside the stream's pattern, with the number of readings of each.
        newcomer: the first of these channels, with the number of readings that have any of them.
    """

    chunk: Chunk | None = None
    problem: Problem | None = None
    unknown_channels: int = 0
    strangers: tuple[Stranger, ...] = ()
    newcomer: Stranger | None = None


class Stranger(NamedTuple):
    """An unknown device or channel of a record.

    Attributes:
        device: its id.
        channel: its name; "" if the device is unknown.
        readings: number of the record's readings affected.
    """

    device: str
    channel: str
    readings: int


def shown(value: Any, length: int = 60) -> str:
    """Return a value as one short ASCII line for a refusal."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "an array"
    text = ascii(value[:length] if isinstance(value, str | bytes) else value)
    return text if len(text) <= length else text[: length - 3] + "..."


def parse(raw: bytes) -> Any:
    """Return a document, parsed by `io.json_text`.

    Raises:
        Unreadable: not UTF-8, or not JSON.
    """
    try:
        return json_text.parse(raw)
    except ValueError as error:
        detail = f"expected JSON, found: {shown(str(error), 200)[1:-1]}"
        raise Unreadable(Reason.UNDECODABLE, detail) from error


def device_of(value: Any) -> str:
    """Validate a device id.

    Raises:
        Unreadable: not text of 1 to 256 characters.
    """
    if type(value) is not str or not 1 <= len(value) <= MAX_DEVICE_LENGTH:
        raise Unreadable(
            Reason.WRONG_TYPE, f"device: expected text of 1 to {MAX_DEVICE_LENGTH} characters, found {shown(value)}"
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise Unreadable(Reason.UNDECODABLE, f"device: expected Unicode text, found {shown(value)}") from error
    return value


def decode_document(
    raw: bytes, channels: Sequence[str], is_known: Callable[[str], bool], ignored: frozenset[str] = frozenset()
) -> Found:
    """Decode one JSON record of any shape.

    Args:
        raw: the payload.
        channels: the bundle's channels, in column order.
        is_known: returns whether a device belongs to the stream.
        ignored: names that are neither used nor unknown.

    Raises:
        Unreadable: the record is refused as a whole.
    """
    document = parse(raw)
    if type(document) is not dict:
        raise Unreadable(Reason.WRONG_TYPE, f"expected an object, found {shown(document)}")
    for name in ("device", "ts", "values"):
        if name not in document:
            raise Unreadable(Reason.MISSING_FIELD, f"{name}: expected this field, found none")
    device, ts, values = device_of(document["device"]), document["ts"], document["values"]
    if not is_known(device):
        stranger = Stranger(device, "", _readings_in(ts, values))
        return Found(strangers=(stranger,))
    if type(values) is not dict:
        raise Unreadable(Reason.WRONG_TYPE, f"values: expected an object, found {shown(values)}")
    known = [channel for channel in channels if channel in values]
    if type(ts) is list or type(ts) is dict:
        samples = _length(ts, values, known)
        event_ns, bad_time = _times(ts, samples)
    else:
        samples, values = 1, {channel: [values[channel]] for channel in values}
        event_ns, bad_time = _times([ts], 1)
    matrix = _matrix(values, channels, samples)
    good = ~bad_time
    chunk = Chunk((device,), np.zeros(int(good.sum()), np.int32), event_ns[good], matrix[good])
    problem = None
    if not good.all():
        problem = _explain(refused_rows(event_ns, bad_time, np.zeros_like(bad_time)), ts, bad_time)
    bad = np.argwhere((np.abs(matrix) > LARGEST) & good[:, None])
    if len(bad):
        column = values[channels[bad[0, 1]]]
        chunk = replace(chunk, bad=shown(column[bad[0, 0]] if type(column) is list else column))
    unknown = [name for name in values if name not in known] if len(values) > len(known) else []
    unknown = [name for name in unknown if name not in ignored]
    newcomer = Stranger(device, unknown[0], samples) if unknown and samples else None
    return Found(chunk, problem, len(unknown), newcomer=newcomer)


def _readings_in(ts: Any, values: Any) -> int:
    """Return the estimated number of readings in an unknown device's record, at least one."""
    columns = [ts, *values.values()] if type(values) is dict else [ts]
    return max((len(column) for column in columns if type(column) is list), default=1) or 1


def _length(ts: Any, values: dict[str, Any], known: Sequence[str]) -> int:
    """Return the number of samples of a series: that of its times or, on a grid, of all its arrays.

    A column that is not an array has bad cells, as has one whose length differs from the times if others match.

    Raises:
        Unreadable: the number of samples cannot be determined.
    """
    given = [channel for channel in known if values[channel] is not None]
    lengths = {channel: len(values[channel]) for channel in given if type(values[channel]) is list}
    if type(ts) is list and (not lengths or len(ts) in lengths.values()):
        return len(ts)
    if given and not lengths:
        detail = f"values.{shown(given[0])}: expected an array, found {shown(values[given[0]])}"
        raise Unreadable(Reason.WRONG_TYPE, detail)
    expected = len(ts) if type(ts) is list else next(iter(lengths.values()), 0)
    for channel, length in lengths.items():
        if length != expected:
            detail = f"values.{shown(channel)}: expected {expected} samples, found {length}"
            raise Unreadable(Reason.WRONG_TYPE, detail)
    return expected


def _times(ts: Any, samples: int) -> tuple[Int64Array, BoolArray]:
    """Return int64[n] times (0 where bad) and bool[n], True where bad."""
    if type(ts) is dict:
        return _grid(ts, samples), np.zeros(samples, np.bool_)
    if {*map(type, ts)} <= {int, float}:
        ms = np.array(ts, np.float64)
        bad = ~((ms >= MIN_MS) & (ms <= MAX_MS))
        return np.where(bad, 0, milliseconds_ns(np.where(bad, 0.0, ms))), bad
    times = [time_ns(value) for value in ts]
    bad = np.array([time is None for time in times], np.bool_)
    return np.array([time or 0 for time in times], np.int64), bad


def _grid(ts: dict[str, Any], samples: int) -> Int64Array:
    for name in ("start", "step_ms"):
        if name not in ts:
            raise Unreadable(Reason.MISSING_FIELD, f"ts.{name}: expected this field, found none", samples)
    start_ns, step_ms = time_ns(ts["start"]), ts["step_ms"]
    if start_ns is None:
        raise Unreadable(
            Reason.BAD_TIME, f"ts.start: {EXPECTED}, found {shown(ts['start'])}{guess(ts['start'])}", samples
        )
    if not grid_fits(start_ns, samples, step_ms):
        raise Unreadable(
            Reason.BAD_TIME,
            f"ts.step_ms: expected a positive number that ends the series before 2262, found {shown(step_ms)}",
            samples,
            start_ns,
        )
    return start_ns + grid_ns(samples, float(step_ms))


def _matrix(values: dict[str, Any], channels: Sequence[str], samples: int) -> Float64Array:
    """Return float64[n, c]: NaN missing, bad beyond LARGEST."""
    matrix = np.full((samples, len(channels)), np.nan)
    for number, channel in enumerate(channels):
        column = values.get(channel)
        if column is None:
            continue
        if type(column) is list and len(column) == samples:
            matrix[:, number] = numbers_of(column)
        else:
            matrix[:, number] = BAD
    return matrix


def refused_rows(event_ns: Int64Array, bad_time: BoolArray, no_device: BoolArray) -> Problem:
    """Describe the refused rows of a record, which has at least one."""
    bad = bad_time | no_device
    rows = np.flatnonzero(bad)
    first = int(rows[0])
    named = ", ".join(str(row) for row in rows[:20]) + (", ..." if len(rows) > 20 else "")
    return Problem(
        Reason.BAD_TIME if bad_time[first] else Reason.WRONG_TYPE,
        f"{len(rows)} of {len(bad)} readings refused, rows {named}",
        len(rows),
        None if bad_time[first] else int(event_ns[first]),
    )


def _explain(problem: Problem, ts: Any, bad_time: BoolArray) -> Problem:
    """Add what was expected and found in the first refused row."""
    first = int(np.flatnonzero(bad_time)[0])
    found = ts[first] if type(ts) is list else ts
    what = f"ts: {EXPECTED}, found {shown(found)}{guess(found)}"
    return Problem(problem.reason, f"{problem.detail}: {what}", problem.rows, problem.first_event_ns)
