"""The cell rule: what a cell of a reading is in every format (recordings, JSON, Arrow) and on every code path.

A cell is a number, missing or bad.

- A finite number up to `LARGEST` is itself. `true` and `false` are 1 and 0.
- `null` and an absent cell are missing.
- Text is parsed, surrounding blanks allowed: a decimal number (`60.3`, `-1e3`, `+.5`), or `true`, `false` or `null` in
  any case. Empty and blank text is missing.
- Everything else is bad: other text (`Bad Input`, `#N/A`, `nan`, `0x1F`, `1_000`), NaN and infinities, numbers beyond
  `LARGEST`, arrays, objects, times.

A bad cell counts as missing and flags its window with BAD_VALUE; the other cells of the reading are used. In float64
arrays a missing cell is NaN and a bad one infinite, until the reading leaves the decoder or the recording.
`number_of` defines the rule; `numbers_of` and `io.cells` apply it to many cells at once.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np

from stream_ad.core.batches import Float64Array

LARGEST = math.nextafter(2.0**128 - 2.0**103, 0.0)
"""Larger numbers are infinite in single precision, and bad."""
MISSING = math.nan
BAD = math.inf
BLANKS = " \t\r\n\f\v\u00a0"
"""Allowed around a number in text; the last one is the no-break space."""
NUMBER = r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?"
"""Regular expression of a decimal number, valid in Python and RE2."""
WORDS = {"true": 1.0, "false": 0.0, "null": MISSING, "": MISSING}
"""Meaning of lower-case text that is not a number."""
PLAIN = frozenset({int, float, bool, type(None)})
"""Cell types that numpy converts to float64 according to the rule."""

_NUMBER = re.compile(NUMBER)
_SURE = LARGEST * LARGEST / 4


def number_of(cell: object) -> float:
    """Return a cell's value: a finite number, MISSING or BAD."""
    if cell is None:
        return MISSING
    if isinstance(cell, str):
        text = cell.strip(BLANKS)
        number = float(text) if _NUMBER.fullmatch(text) else WORDS.get(text.lower(), BAD)
    elif isinstance(cell, int | float):
        try:
            number = float(cell)
        except OverflowError:
            return BAD
        number = BAD if number != number else number
    else:
        return BAD
    return BAD if abs(number) > LARGEST else number


def numbers_of(cells: Sequence[object]) -> Float64Array:
    """Return float64[n] of cells from a JSON parser: NaN if missing, beyond LARGEST if bad.

    JSON parsers return no NaN, so a NaN can only come from null.
    """
    if {*map(type, cells)} <= PLAIN:
        return np.fromiter(cells, np.float64, len(cells))  # converts None to NaN
    return np.fromiter(map(number_of, cells), np.float64, len(cells))


def are_numbers(values: Float64Array) -> bool:
    """Return whether all cells are certainly numbers, none missing or bad; one pass, no copy.

    Args:
        values: float64[...], C-contiguous. The sum of squares decides: small if all are small, NaN if any is NaN.
    """
    flat = values.reshape(-1)
    return bool(np.vdot(flat, flat) <= _SURE)
