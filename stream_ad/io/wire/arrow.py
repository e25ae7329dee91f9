"""One Arrow IPC stream -> readings: `device`, `ts` and one column per channel, many devices per record."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from stream_ad.core.batches import BoolArray, Float64Array, Int32Array, Int64Array, Reason
from stream_ad.io.cell_rule import LARGEST, are_numbers
from stream_ad.io.cells import is_plain, to_float
from stream_ad.io.time_guesses import guess
from stream_ad.io.wire.json import MAX_DEVICE_LENGTH, Chunk, Found, Problem, Stranger, Unreadable, refused_rows, shown
from stream_ad.io.wire.times import EXPECTED, MAX_MS, MIN_MS, milliseconds_ns, time_ns

FLAW = (pa.ArrowException, OSError, ValueError, MemoryError, KeyError, TypeError)
"""Raised by pyarrow on malformed input, at various points: names are decoded on access."""
_UNIT_NS = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1}


def decode_table(
    raw: bytes,
    channels: Sequence[str],
    is_known: Callable[[str], bool],
    max_rows: int,
    ignored: frozenset[str] = frozenset(),
) -> Found:
    """Decode one Arrow IPC stream.

    `ts` is a timestamp with a zone, epoch milliseconds (integers or floats) or RFC 3339 text. `io.cell_rule` defines
    the cells of a channel, for any column type.

    Args:
        raw: the payload.
        channels: the bundle's channels, in column order.
        is_known: returns whether a device belongs to the stream.
        max_rows: records with more rows are refused: compression and null columns can hide any number.
        ignored: names that are neither used nor unknown.

    Raises:
        Unreadable: the record is refused as a whole.
    """
    try:
        return _decode(raw, channels, is_known, max_rows, ignored)
    except FLAW as error:
        detail = f"expected an Arrow IPC stream, found: {shown(str(error), 200)[1:-1]}"
        raise Unreadable(Reason.UNDECODABLE, detail) from error


def _decode(
    raw: bytes, channels: Sequence[str], is_known: Callable[[str], bool], max_rows: int, ignored: frozenset[str]
) -> Found:
    schema, batches = _read(raw, max_rows)
    names = schema.names
    for name in ("device", "ts"):
        if names.count(name) != 1:
            raise Unreadable(Reason.MISSING_FIELD, f"{name}: expected one column, found {names.count(name)}")
    codes, ids = _devices(_column(schema, batches, "device"))
    ts = _column(schema, batches, "ts")
    event_ns, bad_time = _times(ts)
    known = [channel for channel in channels if channel in names]
    values = np.full((len(codes), len(channels)), np.nan)
    columns: dict[int, Any] = {}
    for number, channel in enumerate(channels):
        count = names.count(channel)
        if count > 1:
            raise Unreadable(Reason.WRONG_TYPE, f"{shown(channel)}: expected one column, found {count}")
        if count:
            column = columns[number] = _column(schema, batches, channel)
            values[:, number] = column.to_numpy() if is_plain(column) else to_float(column)
    are_good = are_numbers(values)
    if not are_good:  # a NaN in a float column is bad, not missing
        for number, column in columns.items():
            values[:, number] = to_float(column)

    mine = np.array([is_known(name) for name in ids] + [False], np.bool_)
    no_device = codes < 0
    wanted = mine[codes] | no_device
    bad_time, no_device = bad_time & wanted, no_device & wanted
    good = wanted & ~bad_time & ~no_device
    problem = _problem(ts, event_ns, bad_time, no_device) if (bad_time | no_device).any() else None
    bad_cell = "" if are_good else _first_bad(values, good, columns)
    if good.all():
        chunk = Chunk(ids, codes, event_ns, values, bad_cell)
    else:
        chunk = Chunk(ids, codes[good], event_ns[good], values[good], bad_cell)
    unknown = sorted(set(names) - {"device", "ts"} - set(known) - ignored)
    counts = np.bincount(codes[codes >= 0], minlength=len(ids)).tolist()
    of_stream = mine[:-1].tolist()
    strangers = tuple(
        Stranger(name, "", rows) for name, rows, ours in zip(ids, counts, of_stream, strict=True) if not ours
    )
    newcomer = None
    if unknown and wanted.any():
        code = int(codes[wanted][0])
        newcomer = Stranger(ids[code] if code >= 0 else "", unknown[0], int(wanted.sum()))
    return Found(chunk, problem, len(unknown), strangers, newcomer)


def _first_bad(values: Float64Array, good: BoolArray, columns: Mapping[int, Any]) -> str:
    bad = np.argwhere((np.abs(values) > LARGEST) & good[:, None])
    return shown(columns[int(bad[0, 1])][int(bad[0, 0])].as_py()) if len(bad) else ""


def _problem(ts: Any, event_ns: Int64Array, bad_time: BoolArray, no_device: BoolArray) -> Problem:
    problem = refused_rows(event_ns, bad_time, no_device)
    if problem.reason is not Reason.BAD_TIME:
        return problem
    kind = ts.type
    first = int(np.flatnonzero(bad_time)[0])
    cell = ts.slice(first, 1)
    found = (cell.view(pa.int64()) if pa.types.is_timestamp(kind) else cell)[0].as_py()  # a date may be beyond Python's
    unit = f" {kind.unit}" if pa.types.is_timestamp(kind) else ""
    detail = f"{problem.detail}: ts: {EXPECTED}, found {shown(found)}{unit}{'' if unit else guess(found)}"
    return replace(problem, detail=detail)


def _read(raw: bytes, max_rows: int) -> tuple[Any, list[Any]]:
    """Return schema and batches, validated to the last byte."""
    with pa.ipc.open_stream(raw) as reader:
        batches, rows = [], 0
        for batch in reader:
            rows += batch.num_rows
            if rows > max_rows:
                raise Unreadable(Reason.TOO_LARGE, f"expected at most {max_rows} rows, found more")
            batch.validate(full=True)
            batches.append(batch)
        return reader.schema, batches


def _column(schema: Any, batches: list[Any], name: str) -> Any:
    """Return a column as one array, without dictionary encoding."""
    number = schema.get_field_index(name)
    kind = schema.field(number).type
    plain = kind.value_type if pa.types.is_dictionary(kind) else kind
    pieces = [batch.column(number) for batch in batches]
    if plain != kind:
        pieces = [piece.cast(plain) for piece in pieces]
    return pieces[0] if len(pieces) == 1 else pa.concat_arrays(pieces) if pieces else pa.array([], plain)


def _devices(column: Any) -> tuple[Int32Array, list[str]]:
    """Return int32[n] indices, -1 where there is no valid id, and the ids in order of appearance."""
    kind = column.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise Unreadable(Reason.WRONG_TYPE, f"device: expected a text column, found {shown(str(column.type))[1:-1]}")
    encoded = column.dictionary_encode()
    codes = _numbers(encoded.indices, np.int32, -1)[0]
    ids: list[str] = encoded.dictionary.to_pylist()
    usable = np.array([1 <= len(name) <= MAX_DEVICE_LENGTH for name in ids] + [False], np.bool_)
    return np.where(usable[codes], codes, np.int32(-1)), ids


def _times(column: Any) -> tuple[Int64Array, BoolArray]:
    """Return int64[n] times (0 where bad) and bool[n], True where bad."""
    kind = column.type
    if pa.types.is_timestamp(kind) and kind.tz is not None:
        factor = _UNIT_NS[kind.unit]
        ticks, absent = _numbers(column.view(pa.int64()), np.int64)
        bad = absent | (ticks < MIN_MS * 1_000_000 // factor) | (ticks > MAX_MS * 1_000_000 // factor)
        return np.where(bad, 0, ticks) * factor, bad
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        ms, absent = _numbers(column, np.float64)
        bad = absent | ~((ms >= MIN_MS) & (ms <= MAX_MS))
        return np.where(bad, 0, milliseconds_ns(np.where(bad, 0.0, ms))), bad
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        times = [time_ns(text) for text in column.to_pylist()]
        return np.array([time or 0 for time in times], np.int64), np.array([time is None for time in times], np.bool_)
    raise Unreadable(
        Reason.BAD_TIME, f"ts: expected milliseconds, text or a timestamp with a zone, found {shown(str(kind))[1:-1]}"
    )


def _numbers(column: Any, dtype: type, fill: int = 0) -> tuple[Any, BoolArray]:
    """Return the numbers, `fill` where null, and bool[n], True where null."""
    if column.null_count == 0:
        return column.to_numpy(zero_copy_only=False).astype(dtype, copy=False), np.zeros(len(column), np.bool_)
    absent = np.asarray(column.is_null(), np.bool_)
    if pa.types.is_null(column.type):
        return np.full(len(column), fill, dtype), absent
    return np.asarray(column.fill_null(fill)).astype(dtype, copy=False), absent
