"""Finds from cells what names do not reveal: the time column, and columns that name devices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from stream_ad.core.batches import BoolArray, Int32Array, Int64Array
from stream_ad.errors import RecordingError
from stream_ad.io.recordings.csv_head import is_date, is_number

LOOKED_AT = 20
"""Number of cells examined per column."""
REPEATED_SHARE = 0.4
"""Share of rows with a repeated time above which several devices are likely."""


def date_columns(columns: Mapping[str, pa.Array]) -> list[str]:
    """Return the text columns whose first cells are all dates or times.

    Args:
        columns: the first block of a file.
    """
    found = []
    for name, column in columns.items():
        if pa.types.is_string(column.type):
            cells = [cell for cell in column.slice(0, LOOKED_AT).to_pylist() if cell and cell.strip()]
            if cells and all(map(is_date, cells)):
                found.append(name)
    return found


def is_text(column: pa.Array) -> bool:
    """Return whether a column contains words, and no numbers among its first cells."""
    if pa.types.is_dictionary(column.type):
        return bool(pa.types.is_string(column.type.value_type))
    if not pa.types.is_string(column.type):
        return False
    cells = [cell for cell in column.slice(0, LOOKED_AT).to_pylist() if cell and cell.strip()]
    return bool(cells) and not any(map(is_number, cells))


def refuse_mixed(
    event_ns: Int64Array, groups: Sequence[Int32Array], others: Mapping[str, Int32Array], layout: str, origin: str
) -> None:
    """Refuse rows of several devices that would be read as one.

    Args:
        event_ns: int64[n].
        groups: int32[n] each, what already distinguishes rows of one time (device, tag).
        others: by column, int32[n], codes of its cells, -1 if there is none.
        layout: its name, for the advice.
        origin: the recording.

    Raises:
        RecordingError: times repeat, except within one of the columns.
    """
    if not others or _repeats(event_ns, groups).mean() < REPEATED_SHARE:
        return
    for name, codes in others.items():
        kinds = len(np.unique(codes))
        if 1 < kinds <= len(codes) // 2 and _repeats(event_ns, [*groups, codes]).mean() < 0.01:
            raise RecordingError(
                f"{origin}: times repeat, and the column {name!r} distinguishes the rows ({kinds:,} values): "
                f"add --layout {layout},device={name} if it names the devices, or --device NAME if all rows are one"
            )


def _repeats(event_ns: Int64Array, groups: Sequence[Int32Array]) -> BoolArray:
    """Return bool[n - 1], in order of time: the next row has the same time and groups."""
    keys: list[Int32Array | Int64Array] = [*groups, event_ns]
    order = np.lexsort(keys)
    same = np.ones(max(len(order) - 1, 1), bool)
    for key in keys:
        column = key[order]
        same[: len(column) - 1] &= column[1:] == column[:-1]
    return same
