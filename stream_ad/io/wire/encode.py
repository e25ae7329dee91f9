"""Readings -> bytes, for the simulators, `send` and the tests: the inverse of `io.wire.readings`.

In JSON, NaN and infinities become `null`, which is missing. The content type names a record's format; a record without
one is JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import orjson

from stream_ad.errors import ContractError
from stream_ad.io.transport import Headers

if TYPE_CHECKING:
    from pydantic import ValidationError

CONTENT_TYPE = "content-type"
JSON = "application/json"
ARROW = "application/vnd.apache.arrow.stream"
Samples: TypeAlias = Sequence[float | str | None] | npt.NDArray[Any]
JSON_HEADERS: Headers = ((CONTENT_TYPE, JSON.encode()),)
ARROW_HEADERS: Headers = ((CONTENT_TYPE, ARROW.encode()),)


def first_problem(error: ValidationError) -> str:
    """Return the first of pydantic's findings in one line."""
    problem = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in problem["loc"]) or "body"
    return f"{where}: {problem['msg']}".replace("\n", " ")


def encode_reading(device: str, ts_ms: float | str, values: Mapping[str, float | str | None]) -> bytes:
    """Return the JSON of one reading.

    Args:
        device: the device's id.
        ts_ms: epoch milliseconds, or RFC 3339 text with an offset.
        values: per channel a number, None if missing, or text, which the cell rule interprets.
    """
    return orjson.dumps({"device": device, "ts": ts_ms, "values": values}, option=orjson.OPT_SERIALIZE_NUMPY)


def encode_series(device: str, start_ms: float, step_ms: float, values: Mapping[str, Samples]) -> bytes:
    """Return the JSON of a series on an even grid: sample i is at `start_ms + i * step_ms`.

    Args:
        device: the device's id.
        start_ms: time of the first sample, epoch milliseconds.
        step_ms: milliseconds between two samples, > 0, may be fractional.
        values: per channel the samples, all of one length; C-contiguous arrays are fastest.
    """
    return _series(device, {"start": start_ms, "step_ms": step_ms}, values)


def encode_series_at(
    device: str,
    ts_ms: Sequence[float | str] | npt.NDArray[Any],
    values: Mapping[str, Samples],
) -> bytes:
    """Return the JSON of a series with one time per sample.

    Args:
        device: the device's id.
        ts_ms: one time per sample: epoch milliseconds, or RFC 3339 text with an offset.
        values: per channel the samples, as many as times.
    """
    return _series(device, ts_ms, values)


def encode_arrow(device: Sequence[str], ts_ms: Sequence[float] | npt.NDArray[Any], values: Mapping[str, Any]) -> bytes:
    """Return an Arrow IPC stream with one row per reading; send it with `ARROW_HEADERS`.

    Args:
        device: the device of each row.
        ts_ms: epoch milliseconds of each row, integers or floats.
        values: per channel a float column; NaN becomes null, infinity stays and is bad.

    Raises:
        ContractError: the columns differ in length or are not numeric.
    """
    import pyarrow as pa

    try:
        columns = {"device": pa.array(device, pa.string()), "ts": pa.array(np.asarray(ts_ms))}
        for channel, column in values.items():
            columns[channel] = pa.array(np.asarray(column), from_pandas=True)
        table = pa.table(columns)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise ContractError(f"readings: expected columns of one length, found: {error}") from error
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def _series(device: str, ts: object, values: Mapping[str, Samples]) -> bytes:
    columns = {
        channel: np.ascontiguousarray(column) if isinstance(column, np.ndarray) else column
        for channel, column in values.items()
    }
    return orjson.dumps({"device": device, "ts": ts, "values": columns}, option=orjson.OPT_SERIALIZE_NUMPY)
