"""One JSON record -> readings, whatever is in it: the complete way, and the meaning of the fast ones.

`io.wire` reads well-formed records along two shorter ways and comes here with all others. A value
that is no finite number is handed on as infinity (bad), null as NaN (missing).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from stream_ad.core.batches import BoolArray, Float64Array, Int32Array, Int64Array, Reason
from stream_ad.io.wire_times import EXPECTED, MAX_MS, MIN_MS, grid_fits, grid_ns, milliseconds_ns, time_ns

NUMBERS = frozenset({int, float, type(None)})
MAX_DEVICE_LENGTH = 256
MAX_LENIENT_BRACKETS = 500


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a record was refused, wholly or in part; `core.batches.Refused` without the offset."""

    reason: Reason
    detail: str
    rows: int = 0
    first_event_ns: int | None = None


class Unreadable(Exception):  # noqa: N818 - never leaves the decoder: a refused record is data, not an error
    """A record is refused wholly."""

    def __init__(self, reason: Reason, detail: str, rows: int = 0, first_event_ns: int | None = None) -> None:
        super().__init__(detail)
        self.problem = Problem(reason, detail, rows, first_event_ns)


@dataclass(frozen=True, slots=True)
class Chunk:
    """The usable readings of one record.

    Attributes:
        ids: text of the devices.
        device: int32[n], index into `ids`.
        event_ns: int64[n].
        values: float64[n, c]; NaN missing, infinite bad.
    """

    ids: Sequence[str]
    device: Int32Array
    event_ns: Int64Array
    values: Float64Array


@dataclass(frozen=True, slots=True)
class Found:
    """What a record held: readings, a problem, both, or neither (skipped)."""

    chunk: Chunk | None = None
    problem: Problem | None = None
    unknown_devices: int = 0
    unknown_channels: int = 0


def shown(value: Any, length: int = 60) -> str:
    """Return a value as one short ASCII line for a refusal."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "an array"
    text = ascii(value[:length] if isinstance(value, str | bytes) else value)
    return text if len(text) <= length else text[: length - 3] + "..."


def parse(raw: bytes) -> Any:
    """Return the document.

    Beyond the standard, `NaN`, `Infinity` and numbers beyond a double are read, as infinity: many
    producers write them, and one bad value must not cost the record.

    Raises:
        Unreadable: not UTF-8, or not JSON.
    """
    try:
        return orjson.loads(raw)
    except ValueError as error:
        first = error
    # The brackets bound the depth, so that the parser's recursion limit never decides about a record.
    if raw.count(b"[") + raw.count(b"{") <= MAX_LENIENT_BRACKETS:
        try:
            return json.loads(raw.decode(), parse_constant=lambda _: math.inf, parse_int=_integer)
        except (ValueError, RecursionError):
            pass
    raise Unreadable(Reason.UNDECODABLE, f"expected JSON, found: {shown(str(first), 200)[1:-1]}") from first


def _integer(text: str) -> float:
    return int(text) if len(text) < 20 else float(text)


def device_of(value: Any) -> str:
    """Check a device's id.

    Raises:
        Unreadable: not a text of 1 to 256 characters.
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


def decode_document(raw: bytes, channels: Sequence[str], is_known: Callable[[str], bool]) -> Found:
    """Decode one JSON record of any shape.

    Args:
        raw: the payload.
        channels: the bundle's channels, in the order of the columns.
        is_known: tells whether a device belongs to the stream.

    Raises:
        Unreadable: the record is refused wholly.
    """
    document = parse(raw)
    if type(document) is not dict:
        raise Unreadable(Reason.WRONG_TYPE, f"expected an object, found {shown(document)}")
    for name in ("device", "ts", "values"):
        if name not in document:
            raise Unreadable(Reason.MISSING_FIELD, f"{name}: expected this field, found none")
    device, ts, values = device_of(document["device"]), document["ts"], document["values"]
    if not is_known(device):
        return Found(unknown_devices=1)
    if type(values) is not dict:
        raise Unreadable(Reason.WRONG_TYPE, f"values: expected an object, found {shown(values)}")
    known = [channel for channel in channels if channel in values]
    if type(ts) is list or type(ts) is dict:
        samples = _length(ts, values, known)
        event_ns, bad_time = _times(ts, samples)
    else:
        samples, values = 1, {channel: [values[channel]] for channel in values}
        event_ns, bad_time = _times([ts], 1)
    matrix, bad_type = _matrix(values, channels, samples)
    chunk, problem = _keep(device, event_ns, matrix, bad_time, bad_type)
    if problem is not None:
        problem = _explain(problem, ts, values, known, bad_time, bad_type)
    return Found(chunk, problem, 0, len(values) - len(known))


def _length(ts: Any, values: dict[str, Any], known: Sequence[str]) -> int:
    expected = len(ts) if type(ts) is list else None
    for channel in known:
        column = values[channel]
        if column is None:
            continue
        if type(column) is not list:
            raise Unreadable(Reason.WRONG_TYPE, f"values.{shown(channel)}: expected an array, found {shown(column)}")
        expected = len(column) if expected is None else expected
        if len(column) != expected:
            raise Unreadable(
                Reason.WRONG_TYPE, f"values.{shown(channel)}: expected {expected} samples, found {len(column)}"
            )
    return expected or 0


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
        raise Unreadable(Reason.BAD_TIME, f"ts.start: {EXPECTED}, found {shown(ts['start'])}", samples)
    if not grid_fits(start_ns, samples, step_ms):
        raise Unreadable(
            Reason.BAD_TIME,
            f"ts.step_ms: expected a positive number that ends the series before 2262, found {shown(step_ms)}",
            samples,
            start_ns,
        )
    return start_ns + grid_ns(samples, float(step_ms))


def _matrix(values: dict[str, Any], channels: Sequence[str], samples: int) -> tuple[Float64Array, BoolArray]:
    """Return float64[n, c] and bool[n], True where a value is neither number nor null."""
    matrix = np.full((samples, len(channels)), np.nan)
    bad = np.zeros(samples, np.bool_)
    for number, channel in enumerate(channels):
        column = values.get(channel)
        if column is None:
            continue
        if not {*map(type, column)} <= NUMBERS:
            odd = np.array([type(value) not in NUMBERS for value in column], np.bool_)
            bad |= odd
            column = [None if is_odd else value for value, is_odd in zip(column, odd, strict=True)]
        matrix[:, number] = np.array(column, np.float64)
    return matrix, bad


def _keep(
    device: str, event_ns: Int64Array, matrix: Float64Array, bad_time: BoolArray, bad_type: BoolArray
) -> tuple[Chunk, Problem | None]:
    bad = bad_time | bad_type
    if not bad.any():
        return Chunk((device,), np.zeros(len(event_ns), np.int32), event_ns, matrix), None
    good = ~bad
    chunk = Chunk((device,), np.zeros(int(good.sum()), np.int32), event_ns[good], matrix[good])
    return chunk, refused_rows(event_ns, bad_time, bad_type)


def refused_rows(event_ns: Int64Array, bad_time: BoolArray, bad_type: BoolArray) -> Problem:
    """Name the refused rows of a record, of which there is at least one."""
    bad = bad_time | bad_type
    rows = np.flatnonzero(bad)
    first = int(rows[0])
    named = ", ".join(str(row) for row in rows[:20]) + (", ..." if len(rows) > 20 else "")
    return Problem(
        Reason.BAD_TIME if bad_time[first] else Reason.WRONG_TYPE,
        f"{len(rows)} of {len(bad)} readings refused, rows {named}",
        len(rows),
        None if bad_time[first] else int(event_ns[first]),
    )


def _explain(
    problem: Problem,
    ts: Any,
    values: dict[str, Any],
    known: Sequence[str],
    bad_time: BoolArray,
    bad_type: BoolArray,
) -> Problem:
    """Add what was expected and found in the first refused row."""
    first = int(np.flatnonzero(bad_time | bad_type)[0])
    if bad_time[first]:
        what = f"ts: {EXPECTED}, found {shown(ts[first] if type(ts) is list else ts)}"
    else:
        columns = [name for name in known if values[name] is not None]
        channel = next(name for name in columns if type(values[name][first]) not in NUMBERS)
        what = f"values.{shown(channel)}: expected a number or null, found {shown(values[channel][first])}"
    return Problem(problem.reason, f"{problem.detail}: {what}", problem.rows, problem.first_event_ns)
