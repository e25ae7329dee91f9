"""The channels' parts of a score as the score log holds them: a map per row, whatever channels a stream has later.

Messages hold a struct of all channels of the model. In files that would be a column a channel, and a query over files
of before and after a sensor was fitted would see the channels of the first file only.
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
"""Of the columns in Parquet."""
_ROWS = 65_536
"""Rows converted at once: their keys are held as text."""


def as_map(table: pa.Table) -> pa.Table:
    """Return a table of scores whose contributions are maps, made of structs where they are none yet.

    Keys are sorted, and those of channels without a value (null or not a number) are left out.
    """
    at = table.schema.get_field_index(COLUMN)
    if at < 0 or not pa.types.is_struct(table.schema.field(at).type):
        return table
    chunks = [
        _map_of(chunk.slice(begin, _ROWS)) for chunk in table.column(at).chunks for begin in range(0, len(chunk), _ROWS)
    ]
    return table.set_column(at, pa.field(COLUMN, TYPE), pa.chunked_array(chunks, TYPE))


def matrix(column: pa.ChunkedArray) -> tuple[tuple[str, ...], Float32Array]:
    """Return the channels that occur in a column of maps, sorted, and float32[n, c], NaN where a row lacks one."""
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
    """Turn a struct array into maps."""
    fields = sorted((field.name, number) for number, field in enumerate(struct.type))
    is_null = np.asarray(struct.is_null())
    values = np.empty((len(struct), len(fields)), np.float32)
    flat = struct.flatten()  # a row that is null has null parts
    for at, (_, number) in enumerate(fields):
        values[:, at] = flat[number].to_numpy(zero_copy_only=False)
    is_there = ~np.isnan(values)
    offsets = np.zeros(len(struct) + 1, np.int32)
    np.cumsum(is_there.sum(axis=1), out=offsets[1:])
    channel = np.broadcast_to(np.arange(len(fields), dtype=np.int32), values.shape)[is_there]
    keys = pa.array([name for name, _ in fields], pa.string()).take(pa.array(channel))
    # A row is null where its offset is.
    starts = pa.array(offsets, mask=np.append(is_null, False))
    return pa.MapArray.from_arrays(starts, keys, pa.array(values[is_there])).cast(TYPE)


def _entries(chunk: Any) -> tuple[Any, Float32Array, Any]:
    """Return keys and values of an array of maps, and how many each row has."""
    offsets = np.asarray(chunk.offsets)
    begin, lengths = int(offsets[0]), np.diff(offsets)
    keys, items = (part.slice(begin, int(offsets[-1]) - begin) for part in (chunk.keys, chunk.items))
    is_null = np.asarray(chunk.is_null())
    if lengths[is_null].any():  # allowed, though nobody writes it
        keep = pa.array(np.repeat(~is_null, lengths))
        keys, items, lengths = keys.filter(keep), items.filter(keep), np.where(is_null, 0, lengths)
    return keys, np.asarray(items.to_numpy(zero_copy_only=False), np.float32), lengths
