"""Principal axes of training rows, computed over the smaller dimension: windows or values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from stream_ad.core.batches import Float32Array, Float64Array
from stream_ad.core.detectors.windows import moments

MOST_VALUES = 1 << 24
"""Values of the axes, k x d, above which rows are thinned; corresponds to 128 MiB in a bundle in float64. Nothing is
thinned if a row has at most 4,096 values."""
LEAST_ROWS = 64
"""Minimum number of rows kept, whatever their length."""
ROUNDING = 1e-10
"""Share of the largest variance below which an axis computed from products of rows is rounding."""


@dataclass(frozen=True, slots=True)
class PrincipalAxes:
    """Directions of variation of rows, in decreasing order.

    Attributes:
        mean: float64[d].
        variances: float64[r], >= 0, decreasing; divided by n.
        leading: `leading(k)` gives float64[k, d], orthonormal rows, the axes of the k largest variances, k <= r, with
            the library's signs.
    """

    mean: Float64Array
    variances: Float64Array
    leading: Callable[[int], Float64Array]


def thinned(rows: Float32Array) -> Float32Array:
    """Return the rows, or an even sample if all of them would make the axes too large to store.

    Args:
        rows: float32[n, d], in order of time.
    """
    n, size = rows.shape
    most = max(MOST_VALUES // size, LEAST_ROWS)
    if min(n, size) <= most:
        return rows
    return rows[np.linspace(0, n - 1, most).astype(np.int64)]


def axes_of_values(rows: Float32Array) -> PrincipalAxes:
    """Return the d axes from the covariance in float64; O(n d^2 + d^3)."""
    mean, covariance = moments(rows)
    variances, vectors = np.linalg.eigh(covariance)
    falling = vectors[:, ::-1].T
    return PrincipalAxes(mean, np.clip(variances[::-1], 0.0, None), lambda k: falling[:k])


def axes_of_rows(rows: Float32Array) -> PrincipalAxes:
    """Return the r < n axes of fewer rows than values, from the rows' products; O(n^2 d + n^3).

    The covariance X'X / n and the products XX' / n have the same positive variances; an axis is X'u for an eigenvector
    u of the products. They are orthonormalised again, since products square the rounding. No d x d matrix is built.
    """
    mean = rows.mean(axis=0, dtype=np.float64)
    centred = rows - mean
    variances, vectors = np.linalg.eigh(centred @ centred.T / len(rows))
    variances, vectors = np.clip(variances[::-1], 0.0, None), vectors[:, ::-1]
    # Centred rows add up to 0: one axis fewer than rows.
    rank = min(int((variances > ROUNDING * variances[0]).sum()), len(rows) - 1)

    def leading(k: int) -> Float64Array:
        if k == 0:
            return np.zeros((0, rows.shape[1]))
        lifted: Float64Array = np.linalg.qr(centred.T @ vectors[:, :k])[0].T
        return lifted

    return PrincipalAxes(mean, variances[:rank], leading)
