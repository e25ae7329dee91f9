"""Columns of Arrow -> numbers, by the rule for cells (`io.cell_rule`): of recordings and of Arrow records."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stream_ad.core.batches import Float64Array
from stream_ad.io.cell_rule import BAD, BLANKS, LARGEST, NUMBER, WORDS

_FLOATS = (pa.types.is_floating, pa.types.is_integer, pa.types.is_decimal)
_TEXTS = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)


def to_float(column: pa.Array) -> Float64Array:
    """Read a column of any type.

    Args:
        column: n cells.

    Returns:
        float64[n], writable: finite numbers, NaN where a cell is missing, infinite where it is bad.
    """
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


def _of_numbers(column: pa.Array) -> Float64Array:
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
    except pa.ArrowInvalid:  # some cell is no number
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
