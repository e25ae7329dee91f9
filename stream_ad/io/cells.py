"""Arrow columns of recordings and records -> numbers, by the cell rule (`io.cell_rule`)."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stream_ad.core.batches import Float64Array
from stream_ad.io.cell_rule import BAD, BLANKS, LARGEST, NUMBER, WORDS, are_numbers

_FLOATS = (pa.types.is_floating, pa.types.is_integer, pa.types.is_decimal)
_PLAIN = frozenset(kind.id for kind in (pa.float64(), pa.float32(), pa.int64(), pa.int32(), pa.int16(), pa.int8()))
"""Types that numpy reads without an Arrow cast."""
_TEXTS = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)


def to_float(column: pa.Array) -> Float64Array:
    """Convert a column of any type.

    Args:
        column: n cells.

    Returns:
        float64[n], writable: finite numbers, NaN for missing cells, infinite for bad ones.
    """
    if column.type.id in _PLAIN:
        return _of_numbers(column)
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    kind = column.type
    if pa.types.is_dictionary(kind):
        return to_float(column.cast(kind.value_type))
    if pa.types.is_boolean(kind):
        column = column.cast(pa.uint8())
    elif any(is_text(kind) for is_text in _TEXTS):
        return _of_text(column.cast(pa.large_string()))
    elif not any(is_number(kind) for is_number in _FLOATS):
        return np.where(_absent(column), np.nan, BAD)
    return _of_numbers(column)


def is_plain(column: pa.Array) -> bool:
    """Return whether numpy can read a column directly: no nulls, and a type that numpy has."""
    return bool(column.type.id in _PLAIN and column.null_count == 0)


def _of_numbers(column: pa.Array) -> Float64Array:
    if is_plain(column):
        values = np.array(column.to_numpy(), np.float64)
        if are_numbers(values):
            return values
    absent = _absent(column)
    values = np.array(column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False), np.float64)
    with np.errstate(invalid="ignore"):
        values[~(np.abs(values) <= LARGEST)] = BAD
    values[absent] = np.nan
    return values


def _of_text(column: pa.Array) -> Float64Array:
    text = pc.utf8_trim(column, BLANKS)
    try:
        values = _of_numbers(text.cast(pa.float64()))
        if not np.isinf(values).any():
            return values
    except pa.ArrowInvalid:  # some cell is not a number
        pass
    is_number = pc.fill_null(pc.match_substring_regex(text, f"^(?:{NUMBER})$"), False)
    values = _of_numbers(pc.if_else(is_number, text, None).cast(pa.float64()))
    others = np.flatnonzero(~is_number.to_numpy(zero_copy_only=False) & ~_absent(text))
    if len(others):
        coded = pc.ascii_lower(text.take(pa.array(others))).dictionary_encode()
        meaning = np.array([WORDS.get(word, BAD) for word in coded.dictionary.to_pylist()])
        values[others] = meaning[coded.indices.to_numpy(zero_copy_only=False)]
    return values


def _absent(column: pa.Array) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    return np.asarray(column.is_null(), np.bool_)
