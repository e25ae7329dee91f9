"""Contributions in the score log: one map per row, independent of the stream's channels.

Messages hold a struct of all the model's channels. In files that would be a column per channel, and a query over files
from before and after a sensor was added would see only the first file's channels.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from stream_ad.core.batches import Float32Array

COLUMN = "contribution"
TYPE = pa.map_(pa.string(), pa.float32())
KEY_PATH, VALUE_PATH = f"{COLUMN}.key_value.key", f"{COLUMN}.key_value.value"
"""Paths of the columns in Parquet."""
_ROWS = 65_536
"""Rows converted at once, since their keys are expanded to text."""


def as_map(table: pa.Table) -> pa.Table:
    """Return a table of scores with contributions as maps, converted from structs if necessary.

    Keys are sorted; channels without a value (null or NaN) are omitted.
    """
    at = table.schema.get_field_index(COLUMN)
    if at < 0 or not pa.types.is_struct(table.schema.field(at).type):
        return table
    chunks = [
        _map_of(chunk.slice(begin, _ROWS)) for chunk in table.column(at).chunks for begin in range(0, len(chunk), _ROWS)
    ]
    return table.set_column(at, pa.field(COLUMN, TYPE), pa.chunked_array(chunks, TYPE))


def matrix(column: pa.ChunkedArray) -> tuple[tuple[str, ...], Float32Array]:
    """Return the channels in a column of maps, sorted, and float32[n, c], NaN where a row lacks one."""
    chunks = [_entries(chunk) for chunk in column.chunks if len(chunk)]
    if not chunks:
        return (), np.empty((len(column), 0), np.float32)
    keys = pa.chunked_array([keys for keys, _, _ in chunks]).combine_chunks().dictionary_encode()
    names = np.array(keys.dictionary.to_pylist(), object)
    order = np.argsort(names)
    place = np.empty(len(names), np.int64)
    place[order] = np.arange(len(names))
    values: Float32Array = np.full((len(column), len(names)), np.nan, np.float32)
    begins = np.cumsum([0, *(len(lengths) for _, _, lengths in chunks)])
    rows = [
        np.repeat(np.arange(*pair), lengths) for pair, (_, _, lengths) in zip(pairwise(begins), chunks, strict=True)
    ]
    values[np.concatenate(rows), place[np.asarray(keys.indices)]] = np.concatenate([items for _, items, _ in chunks])
    return tuple(names[order].tolist()), values


def _map_of(struct: Any) -> Any:
    """Convert a struct array to maps."""
    fields = sorted((field.name, number) for number, field in enumerate(struct.type))
    is_null = np.asarray(struct.is_null())
    values = np.empty((len(struct), len(fields)), np.float32)
    flat = struct.flatten()  # the fields of a null row are null
    for at, (_, number) in enumerate(fields):
        values[:, at] = flat[number].to_numpy(zero_copy_only=False)
    is_there = ~np.isnan(values)
    offsets = np.zeros(len(struct) + 1, np.int32)
    np.cumsum(is_there.sum(axis=1), out=offsets[1:])
    channel = np.broadcast_to(np.arange(len(fields), dtype=np.int32), values.shape)[is_there]
    keys = pa.array([name for name, _ in fields], pa.string()).take(pa.array(channel))
    # A row is null if its offset is.
    starts = pa.array(offsets, mask=np.append(is_null, False))
    return pa.MapArray.from_arrays(starts, keys, pa.array(values[is_there])).cast(TYPE)


def _entries(chunk: Any) -> tuple[Any, Float32Array, Any]:
    """Return keys and values of an array of maps, and the number of entries per row."""
    offsets = np.asarray(chunk.offsets)
    begin, lengths = int(offsets[0]), np.diff(offsets)
    keys, items = (part.slice(begin, int(offsets[-1]) - begin) for part in (chunk.keys, chunk.items))
    is_null = np.asarray(chunk.is_null())
    if lengths[is_null].any():  # valid, but unusual
        keep = pa.array(np.repeat(~is_null, lengths))
        keys, items, lengths = keys.filter(keep), items.filter(keep), np.where(is_null, 0, lengths)
    return keys, np.asarray(items.to_numpy(zero_copy_only=False), np.float32), lengths
