"""The matrix product used in scoring."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

Real = TypeVar("Real", np.float32, np.float64)

MOST_ROWS = 1_024
"""Rows above which a product is not tested; a scorer's chunks are far smaller."""
OUTPUTS = 64
"""Minimum number of outputs per row that a test compares: sums in another order differ in about every third."""


def row_products(rows: npt.NDArray[Real], matrix: npt.NDArray[Real]) -> npt.NDArray[Real]:
    """Return `rows @ matrix`, each row with the same bits wherever it stands, on one arithmetic thread.

    A BLAS splits a product into tiles, and some kernels sum the rows of different tiles in different orders: OpenBLAS'
    float32 kernels on Haswell and Zen in nearly every shape, its float64 kernel on Skylake-X in a few. If a test with
    equal rows of this shape finds that, rows are multiplied one by one, which takes 2 to 3 times as long.

    Args:
        rows: float32 or float64 [n, k], contiguous.
        matrix: [k, m] of the same type, contiguous by row or by column.

    Returns:
        [n, m] of the same type.
    """
    n, width = rows.shape
    height = matrix.shape[1]
    if n <= MOST_ROWS and _alike(n, width, height, rows.dtype.char, matrix.flags.c_contiguous):
        return rows @ matrix
    found: npt.NDArray[Any] = np.matmul(rows[:, None, :], matrix)
    return found.reshape(n, height)


@lru_cache(maxsize=1_024)
def _alike(n: int, width: int, height: int, dtype: str, by_row: bool) -> bool:
    """Return whether equal rows give equal results in one product; nothing else selects the kernel."""
    rng = np.random.default_rng(0)
    # One thread, as in a scorer, whatever this process has: an audit must make the same choice.
    with threadpool_limits(1):
        for _ in range(-(-OUTPUTS // max(height, 1))):
            rows = np.repeat(rng.standard_normal((1, width)), n, axis=0).astype(dtype)
            matrix = rng.standard_normal((width, height)).astype(dtype)
            found = rows @ (matrix if by_row else np.asfortranarray(matrix))
            if (found != found[:1]).any():
                return False
    return True
