"""Columns that count instead of measuring: row numbers, and counters that only rise.

A model trained on them would meet unseen values in service and raise alarms on a healthy machine.
"""

from __future__ import annotations

import re

import numpy as np

from stream_ad.core.batches import BoolArray, Float64Array, Int32Array, Int64Array

ROW_NAMES = re.compile(
    r"(#|no|nr|index|idx|row|rows|rn|line|n|i"
    r"|(row|record|rec|sample|line|entry|scan)[ _-]*(no|nr|num|number|id|index|count)?"
    r"|seq|sequence([ _-]*(no|nr|number|id))?|id|unnamed: ?\d+|level_\d+|__index_level_\d+__|lfd\.? ?nr)\.?",
    re.IGNORECASE,
)
COUNTER_NAMES = re.compile(
    r"(^|[^a-z])(counter|count|counts|cnt|total|totaliser|totalizer|energy|[kmg]?wh|kvarh|hours|operating_?hours|runtime|"
    r"run_?time|uptime|odometer|mileage|pulses?|cycles?|betriebsstunden|z[aä]hler(stand)?|bytes|packets|requests|errors)"
    r"([^a-z]|$)",
    re.IGNORECASE,
)
MIN_ROWS, MIN_RISES = 200, 100
"""Minimum number of values and rises of a counter, unless its name says that it is one."""
MIN_NAMED_ROWS, MIN_NAMED_RISES = 20, 5
RESET_SHARE = 0.05
"""A counter that falls restarts near zero: at most this share of its previous value."""
RISES_PER_RESET = 200
EVEN_SHARE = 0.1
"""If the last third rises less than this share of the first third, it is a machine that warms up, not a counter."""


def is_row_number(name: str, values: Float64Array, device: Int32Array, unnamed: bool) -> bool:
    """Return whether a column numbers the rows, possibly restarting in each file or device.

    Args:
        name: of the column.
        values: float64[n], in file order.
        device: int32[n].
        unnamed: the column has no name in the file.
    """
    hinted = unnamed or ROW_NAMES.fullmatch(name.strip()) is not None
    if len(values) < (2 if hinted else MIN_ROWS) or np.isnan(values).mean() > 0.01:
        return False
    by_device = np.argsort(device, kind="stable")
    return any(_steps_evenly(values[order], hinted) for order in (slice(None), by_device))


def _steps_evenly(values: Float64Array, any_step: bool) -> bool:
    values = values[~np.isnan(values)]
    steps = np.diff(values)
    rises = steps[steps > 0]
    if not len(rises) or (values != np.floor(values)).any():
        return False
    step = float(np.median(rises)) if any_step else 1.0
    return bool((steps == step).mean() >= (0.9 if len(steps) < 20 else 0.99))


def is_counter(name: str, values: Float64Array, device: Int32Array) -> bool:
    """Return whether a column only rises, except for resets to zero, on every device and for long enough.

    Noisy values fall often, set-points have few levels, and a machine that warms up stops rising: none is a counter.

    Args:
        name: of the column; one that says so needs fewer rows.
        values: float64[n], by device, then time.
        device: int32[n].
    """
    hinted = COUNTER_NAMES.search(name) is not None
    known = ~np.isnan(values)
    values, device = values[known], device[known]
    if len(values) < (MIN_NAMED_ROWS if hinted else MIN_ROWS) or values.min() < 0:
        return False
    same: BoolArray = device[1:] == device[:-1]
    steps = np.diff(values)
    rises = same & (steps > 0)
    falls = same & (steps < 0)
    count = int(np.count_nonzero(rises))
    if count < (MIN_NAMED_RISES if hinted else MIN_RISES):
        return False
    at = np.flatnonzero(falls)
    if len(at) * RISES_PER_RESET > max(count, RISES_PER_RESET) or (values[at + 1] > RESET_SHARE * values[at]).any():
        return False
    return hinted or not _dies_away(np.where(rises, steps, 0.0), device[1:])


def _dies_away(rises: Float64Array, device: Int32Array) -> bool:
    """Return whether a device rose far less in its last third than in its first."""
    order: Int64Array = np.flatnonzero(np.diff(device, prepend=-1))
    for start, stop in zip(order, [*order[1:], len(rises)], strict=True):
        third = (stop - start) // 3
        if third and 0 < rises[stop - third : stop].sum() < EVEN_SHARE * rises[start : start + third].sum():
            return True
    return False
