"""The product that scores are made of: the same bits of a row wherever it stands, with every kernel of the BLAS."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from stream_ad.core.detectors.products import MOST_ROWS, row_products

SHAPES = (
    (64, 24),
    (24, 8),
    (8, 24),
    (24, 64),
    (3, 1),
    (1, 5),
    (7, 7),
    (320, 40),
    (40, 320),
    (511, 33),
    (33, 511),
    (320, 320),
)
NEEDS = {"Prescott": "SSE3", "Nehalem": "SSE42", "Sandybridge": "AVX", "Haswell": "AVX2", "SkylakeX": "AVX512_SKX"}
"""Kernels of OpenBLAS, and the instructions of an x86 processor that runs them."""
USUAL = ("Prescott", "Haswell")
"""The narrowest registers, and fused multiplication; `make thorough` tries the others."""

Dtype = type[np.float32] | type[np.float64]


def products(dtype: Dtype, n: int, width: int, height: int, transposed: bool) -> tuple[Any, Any, Any]:
    """Return equal rows, a matrix in either layout and their product."""
    rng = np.random.default_rng(width * 1_000 + height)
    rows = np.repeat(rng.normal(size=(1, width)), n, axis=0).astype(dtype)
    matrix = rng.normal(size=(width, height)).astype(dtype)
    if transposed:
        matrix = np.ascontiguousarray(matrix.T).T
    return rows, matrix, row_products(rows, matrix)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [1, 64, 128, MOST_ROWS + 5])
def test_equal_rows_give_equal_bits(n: int, dtype: Dtype, transposed: bool) -> None:
    for width, height in SHAPES:
        with threadpool_limits(1):
            rows, matrix, found = products(dtype, n, width, height, transposed)
        assert {row.tobytes() for row in found} == {found[0].tobytes()}, (width, height)
        exact = rows[:1].astype(np.longdouble) @ matrix.astype(np.longdouble)
        tolerance = 4 * width * np.finfo(dtype).eps
        assert np.abs(found[:1] - exact).max() <= tolerance * np.abs(exact).max() + tolerance


@pytest.mark.process
@pytest.mark.parametrize(
    "kernel", [pytest.param(kernel, marks=() if kernel in USUAL else pytest.mark.thorough) for kernel in NEEDS]
)
def test_equal_rows_give_equal_bits_on_other_processors(kernel: str) -> None:
    """What this processor's BLAS would do on another one, in a process of its own."""
    if not any("openblas" in found["internal_api"] for found in threadpool_info()):
        pytest.skip("numpy runs on another BLAS than OpenBLAS")
    features = importlib.import_module("numpy._core._multiarray_umath").__cpu_features__
    if not features.get(NEEDS[kernel], False):
        pytest.skip(f"the processor has no {NEEDS[kernel]}")
    tests = f"{__file__}::{test_equal_rows_give_equal_bits.__name__}"
    contract = "tests/contracts/test_detectors.py::test_a_row_scores_the_same_bits_at_every_position"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", tests, contract]
    surroundings = {**os.environ, "OPENBLAS_CORETYPE": kernel}
    done = subprocess.run(command, env=surroundings, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("shape", [(0, 4, 3), (5, 4, 0), (5, 0, 3), (0, 0, 0)], ids=str)
def test_nothing_times_nothing(shape: tuple[int, int, int]) -> None:
    n, width, height = shape
    found = row_products(np.ones((n, width), np.float32), np.ones((width, height), np.float32))
    assert found.shape == (n, height)
    assert not found.any()
