"""One Arrow IPC stream -> readings: `device`, `ts` and a numeric column per channel, many devices in one record."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stream_ad.core.batches import BoolArray, Float64Array, Int32Array, Int64Array, Reason
from stream_ad.io.wire_json import MAX_DEVICE_LENGTH, Chunk, Found, Unreadable, refused_rows, shown
from stream_ad.io.wire_times import MAX_MS, MIN_MS, milliseconds_ns, time_ns

_UNIT_NS = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1}


def decode_table(raw: bytes, channels: Sequence[str], is_known: Callable[[str], bool], max_rows: int) -> Found:
    """Decode one Arrow IPC stream.

    `ts` is a timestamp with a zone, epoch milliseconds (integers or floats) or RFC 3339 text. A null
    value is missing, a NaN or infinite one is bad.

    Args:
        raw: the payload.
        channels: the bundle's channels, in the order of the columns.
        is_known: tells whether a device belongs to the stream.
        max_rows: more rows than this are refused: compression and null columns hide any number.

    Raises:
        Unreadable: the record is refused wholly.
    """
    table = _table(raw, max_rows)
    names = table.schema.names
    for name in ("device", "ts"):
        if names.count(name) != 1:
            raise Unreadable(Reason.MISSING_FIELD, f"{name}: expected one column, found {names.count(name)}")
    codes, ids = _devices(table["device"])
    event_ns, bad_time = _times(table["ts"])
    known = [channel for channel in channels if channel in names]
    values = np.full((table.num_rows, len(channels)), np.nan)
    for number, channel in enumerate(channels):
        if channel in names:
            values[:, number] = _channel(channel, table, names)

    mine = np.array([is_known(name) for name in ids] + [False], np.bool_)
    no_device = codes < 0
    wanted = mine[codes] | no_device
    bad_time, no_device = bad_time & wanted, no_device & wanted
    good = wanted & ~bad_time & ~no_device
    problem = refused_rows(event_ns, bad_time, no_device) if (bad_time | no_device).any() else None
    chunk = Chunk(ids, codes[good], event_ns[good], values[good])
    unknown = len(set(names) - {"device", "ts"}) - len(known)
    return Found(chunk, problem, len(ids) - int(mine.sum()), unknown)


def _table(raw: bytes, max_rows: int) -> Any:
    try:
        with pa.ipc.open_stream(raw) as reader:
            batches, rows = [], 0
            for batch in reader:
                rows += batch.num_rows
                if rows > max_rows:
                    raise Unreadable(Reason.TOO_LARGE, f"expected at most {max_rows} rows, found more")
                batch.validate(full=True)
                batches.append(batch)
            return pa.Table.from_batches(batches, reader.schema)
    except (pa.ArrowException, OSError, ValueError, MemoryError, KeyError, TypeError) as error:
        raise Unreadable(
            Reason.UNDECODABLE, f"expected an Arrow IPC stream, found: {shown(str(error), 200)[1:-1]}"
        ) from error


def _devices(column: Any) -> tuple[Int32Array, list[str]]:
    """Return int32[n] indices, -1 where there is no usable id, and the ids in the order seen."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise Unreadable(Reason.WRONG_TYPE, f"device: expected a text column, found {shown(str(column.type))[1:-1]}")
    encoded = pc.dictionary_encode(column.cast(pa.large_string())).combine_chunks()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = (
            pa.concat_arrays(encoded.chunks) if encoded.num_chunks else pa.array([], pa.string()).dictionary_encode()
        )
    codes = np.asarray(encoded.indices.fill_null(-1), np.int32)
    ids: list[str] = encoded.dictionary.to_pylist()
    usable = np.array([1 <= len(name) <= MAX_DEVICE_LENGTH for name in ids] + [False], np.bool_)
    return np.where(usable[codes], codes, np.int32(-1)), ids


def _times(column: Any) -> tuple[Int64Array, BoolArray]:
    """Return int64[n] times (0 where bad) and bool[n], True where bad."""
    kind = column.type
    if pa.types.is_timestamp(kind) and kind.tz is not None:
        factor = _UNIT_NS[kind.unit]
        ticks, absent = _numbers(column.cast(pa.int64()), np.int64)
        bad = absent | (ticks < MIN_MS * 1_000_000 // factor) | (ticks > MAX_MS * 1_000_000 // factor)
        return np.where(bad, 0, ticks) * factor, bad
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        ms, absent = _numbers(column.cast(pa.float64(), safe=False), np.float64)
        bad = absent | ~((ms >= MIN_MS) & (ms <= MAX_MS))
        return np.where(bad, 0, milliseconds_ns(np.where(bad, 0.0, ms))), bad
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        times = [time_ns(text) for text in column.to_pylist()]
        return np.array([time or 0 for time in times], np.int64), np.array([time is None for time in times], np.bool_)
    raise Unreadable(
        Reason.BAD_TIME, f"ts: expected milliseconds, text or a timestamp with a zone, found {shown(str(kind))[1:-1]}"
    )


def _channel(channel: str, table: Any, names: Sequence[str]) -> Float64Array:
    """Return float64[n]: null is NaN, NaN is infinite."""
    if names.count(channel) != 1:
        raise Unreadable(Reason.WRONG_TYPE, f"{shown(channel)}: expected one column, found {names.count(channel)}")
    column = table[channel]
    kind = column.type
    if not (pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind)):
        raise Unreadable(
            Reason.WRONG_TYPE, f"{shown(channel)}: expected a numeric column, found {shown(str(kind))[1:-1]}"
        )
    values, absent = _numbers(column.cast(pa.float64(), safe=False), np.float64)
    values = np.where(np.isnan(values), np.inf, values)
    values[absent] = np.nan
    return values


def _numbers(column: Any, dtype: type) -> tuple[Any, BoolArray]:
    absent = np.asarray(column.is_null(), np.bool_)
    return np.asarray(column.fill_null(0), dtype), absent
