"""Cells of a recording's columns as numbers."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stream_ad.core.batches import Float64Array
from stream_ad.io.cell_rule import LARGEST
from stream_ad.io.tables import EMPTY_WORDS

NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"


def to_float(column: pa.Array, decimal_comma: bool = False) -> tuple[Float64Array, int]:
    """Read a column of numbers.

    Args:
        column: n values of any plain type.
        decimal_comma: take "1,5" as a number.

    Returns:
        float64[n], NaN where there is no finite number, and how many cells hold something else than
        nothing, a number or a word for nothing.
    """
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.uint8())
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return _text_to_float(column, decimal_comma)
    if pa.types.is_null(column.type):
        return np.full(len(column), np.nan), 0
    numeric = pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_decimal(column.type)
    if not numeric:
        return np.full(len(column), np.nan), len(column) - column.null_count
    return _narrow(column.cast(pa.float64(), safe=False))


def _text_to_float(column: pa.Array, decimal_comma: bool) -> tuple[Float64Array, int]:
    text = pc.utf8_trim_whitespace(column)
    text = pc.if_else(pc.is_in(pc.utf8_lower(text), pa.array(EMPTY_WORDS, text.type)), None, text)
    try:
        return _narrow(text.cast(pa.float64()))
    except pa.ArrowInvalid:
        if decimal_comma:
            text = pc.replace_substring_regex(text, r"^([+-]?\d+),(\d+([eE][+-]?\d+)?)$", r"\1.\2")
        number = pc.if_else(pc.match_substring_regex(text, NUMBER), text, None)
        values, bad = _narrow(number.cast(pa.float64()))
        return values, bad + number.null_count - text.null_count


def _narrow(column: pa.Array) -> tuple[Float64Array, int]:
    values = column.to_numpy(False).astype(np.float64, copy=True)
    bad = np.abs(values) > LARGEST
    values[bad] = np.nan
    return values, int(np.count_nonzero(bad))
