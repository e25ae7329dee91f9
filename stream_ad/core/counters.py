"""Counters: channels that only rise (energy meters, run hours), converted to increments per cell of the grid.

A level that only rises inevitably leaves the training range, so its increments are scored instead. They are computed
only from the window's own samples, so that training, service and replay give the same values.
"""

from __future__ import annotations

import numpy as np

from stream_ad.core.batches import Float64Array

BINARY = (2.0**16, 2.0**32)
"""Sizes of registers in which a signed counter continues from the negative end."""
REGISTERS = np.array(sorted([*BINARY, *(10.0**digits for digits in range(5, 10))]))
"""Values at which a register restarts from 0."""
USUAL = 10.0
"""Maximum increment by a rollover, as a multiple of the largest step in the window, per cell."""
LEAST_SHARE = 1e-3
"""Maximum increment by a rollover, as a share of the register, if the window has no other step."""
RESET = 0.5
"""A counter that falls to this share of its value or less was reset; one that falls less was corrected."""


def rates(values: Float64Array) -> Float64Array:
    """Return the increments of counters per cell.

    A sample adds its difference to the sample before, spread evenly over the cells since then; the first takes the rate
    of the next. A fall is the rollover of a register if the register's size (16 or 32 bits, 10^5 to 10^9) makes it a
    step like the others; otherwise it is a reset or a correction, which hides the increment and takes the rate of the
    next sample. A new value far beyond the usual steps counts from 0.

    Args:
        values: float64[n, t, k], levels of k counters, NaN if a sample is missing.

    Returns:
        float64[n, t, k]; NaN after the last sample, and everywhere if there are fewer than two.
    """
    samples = values.shape[1]
    step = np.arange(samples)[None, :, None]
    present = ~np.isnan(values)
    last = np.maximum.accumulate(np.where(present, step, -1), axis=1)
    before = np.full_like(last, -1)
    before[:, 1:] = last[:, :-1]
    is_step = present & (before >= 0)
    level = np.take_along_axis(values, np.maximum(before, 0), axis=1)
    cells = np.where(is_step, step - before, 1)
    with np.errstate(over="ignore", invalid="ignore"):
        rate = np.where(is_step, (values - level) / cells, np.nan)
    falls = rate < 0
    if falls.any():
        largest = np.fmax.reduce(np.where(falls, np.nan, rate), axis=1, keepdims=True)
        usual = np.broadcast_to(np.where(np.isnan(largest), 0.0, largest), values.shape)[falls]
        rate[falls] = _after_fall(level[falls], values[falls], USUAL * usual * cells[falls]) / cells[falls]
    is_step &= ~np.isnan(rate)
    following = np.minimum.accumulate(np.where(is_step, step, samples)[:, ::-1], axis=1)[:, ::-1]
    spread = np.take_along_axis(rate, np.minimum(following, samples - 1), axis=1)
    return np.where(following < samples, spread, np.nan)


def _after_fall(before: Float64Array, after: Float64Array, most: Float64Array) -> Float64Array:
    """Return the increments of falls, float64[m]: a rollover's step, a reset's new value if it is large, else NaN."""
    added = np.where((after <= RESET * before) & (after > most), after, np.nan)
    for size in REGISTERS[::-1]:  # the smallest register that explains a fall wins
        wrapped = after - before + size
        is_unsigned = (before <= size) & (after >= 0)
        is_signed = (before <= size / 2) & (after < 0) & (size in BINARY)
        fits = (wrapped >= 0) & (wrapped <= np.maximum(most, LEAST_SHARE * size))
        added = np.where((is_unsigned | is_signed) & fits, wrapped, added)
    return np.asarray(added, np.float64)
