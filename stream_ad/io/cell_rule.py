"""What a cell of a reading is, wherever it comes from: recordings, JSON, Arrow, the complete ways and the short ones.

A cell is a number, missing or bad.

- A finite number is itself, up to `LARGEST`. `true` and `false` are 1 and 0.
- `null` is missing, and so is a cell that is not there.
- Text is what it spells, with blanks around it allowed: a decimal number (`60.3`, `-1e3`, `+.5`), `true`, `false` or
  `null` in any case. Empty and blank text is missing.
- Everything else is bad: other text (`Bad Input`, `#N/A`, `nan`, `0x1F`, `1_000`), NaN and infinities, numbers beyond
  `LARGEST`, arrays, objects, times.

A bad cell counts as missing and flags its window with BAD_VALUE; the other cells of the reading are used. In arrays
of float64 a missing cell is NaN and a bad one is infinite, until the reading leaves the decoder or the recording.
`number_of` is the rule; `numbers_of` and `io.cells` apply it to many cells at once.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np

from stream_ad.core.batches import Float64Array

LARGEST = math.nextafter(2.0**128 - 2.0**103, 0.0)
"""Whatever is larger is infinite in single precision: no measurement but a bad value."""
MISSING = math.nan
BAD = math.inf
BLANKS = " \t\r\n\f\v\u00a0"
"""What may stand around a number in text; the last is the no-break space."""
NUMBER = r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?"
"""A decimal number as a regular expression that Python and RE2 read alike."""
WORDS = {"true": 1.0, "false": 0.0, "null": MISSING, "": MISSING}
"""What text in lower case means that is no number."""
PLAIN = frozenset({int, float, bool, type(None)})
"""Types of cells that numpy turns into float64 as the rule wants it."""

_NUMBER = re.compile(NUMBER)
_SURE = LARGEST * LARGEST / 4


def number_of(cell: object) -> float:
    """Return what a cell is: a finite number, MISSING or BAD."""
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
    """Return float64[n] of cells as a JSON parser gives them: NaN missing, bad beyond LARGEST.

    A parser of JSON gives no NaN, so that a NaN can only come from null.
    """
    if {*map(type, cells)} <= PLAIN:
        return np.fromiter(cells, np.float64, len(cells))  # None as NaN
    return np.fromiter(map(number_of, cells), np.float64, len(cells))


def are_numbers(values: Float64Array) -> bool:
    """Return whether all cells are surely numbers, none missing or bad; one pass, without a copy.

    Args:
        values: float64[...], C-contiguous. The sum of squares tells: small if all are small, NaN with a NaN.
    """
    flat = values.reshape(-1)
    return bool(np.vdot(flat, flat) <= _SURE)
