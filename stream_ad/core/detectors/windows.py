"""Window handling shared by detectors: form, lags, moments, and arrays from a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from stream_ad.core.batches import Arrays, Float32Array, Float64Array, expect
from stream_ad.errors import BundleFormatError, ConfigError, ContractError, TrainingError

BLOCK_ROWS = 4_096
"""Rows held in float64 at once; bounds the memory of a fit."""


@dataclass(frozen=True, slots=True)
class WindowForm:
    """Samples and channels of the windows a detector was fitted on.

    Attributes:
        samples: t.
        channels: c.
        lags: the youngest samples that the detector looks at, 1..t.
    """

    samples: int
    channels: int
    lags: int

    @property
    def size(self) -> int:
        """Values in a flattened row: lags x channels."""
        return self.lags * self.channels

    def rows(self, values: Float32Array) -> Float32Array:
        """Flatten the youngest `lags` samples.

        Args:
            values: float32[n, t, c].

        Returns:
            float32[n, lags * c], a view where all samples are used; never written to.

        Raises:
            ContractError: other samples or channels than fitted on.
        """
        expect("values", values, np.float32, (None, self.samples, self.channels))
        return np.ascontiguousarray(values[:, self.samples - self.lags :]).reshape(len(values), self.size)

    def per_channel(self, rows: Float32Array) -> Float32Array:
        """Average over samples.

        Args:
            rows: float32[n, lags * c].

        Returns:
            float32[n, c].
        """
        # einsum adds whole rows of channels and is several times faster than mean(axis=1) here.
        total: Float32Array = np.einsum("ntc->nc", rows.reshape(len(rows), self.lags, self.channels))
        total /= np.float32(self.lags)
        return total

    def array(self) -> npt.NDArray[np.int64]:
        """Return what `read_form` reads: int64[2], samples and channels."""
        return np.array([self.samples, self.channels], dtype=np.int64)


def training_form(values: Float32Array, lags: int | None, least: int) -> WindowForm:
    """Check the windows of a fit.

    Args:
        values: float32[n, t, c].
        lags: youngest samples to be used, None for all.
        least: smallest number of windows that gives a sensible fit.

    Raises:
        ContractError: not float32[n, t, c], or without samples or channels.
        TrainingError: too few windows, or values that are not finite.
        ConfigError: more lags than samples.
    """
    expect("values", values, np.float32, (None, None, None))
    n, samples, channels = values.shape
    if samples < 1 or channels < 1:
        raise ContractError(f"values: expected at least one sample and channel, found shape {values.shape}")
    if n < least:
        raise TrainingError(f"training: expected at least {least} windows, found {n}")
    if not np.isfinite(values).all():
        raise TrainingError("training: expected finite values, found NaN or infinity")
    if lags is not None and lags > samples:
        raise ConfigError(f"lags: expected at most the window's {samples} samples, found {lags}")
    return WindowForm(samples, channels, samples if lags is None else lags)


def stored(arrays: Arrays, name: str, dtype: npt.DTypeLike, shape: Sequence[int | None]) -> npt.NDArray[Any]:
    """Read an array that a bundle stored.

    Raises:
        BundleFormatError: missing, of another dtype or shape, or not finite.
    """
    if name not in arrays:
        raise BundleFormatError(f"detector: array {name} is missing, found {', '.join(sorted(arrays)) or 'none'}")
    array = np.ascontiguousarray(arrays[name])
    try:
        expect(name, array, dtype, shape)
    except ContractError as error:
        raise BundleFormatError(f"detector: {error}") from error
    if not np.isfinite(array).all():
        raise BundleFormatError(f"detector: array {name} holds values that are not finite")
    return array


def read_form(arrays: Arrays, lags: int | None) -> WindowForm:
    """Read the array `form` that every detector here stores.

    Raises:
        BundleFormatError: missing, malformed, or fewer samples than lags.
    """
    samples, channels = (int(size) for size in stored(arrays, "form", np.int64, (2,)))
    if samples < 1 or channels < 1 or (lags is not None and lags > samples):
        raise BundleFormatError(f"detector: {samples} samples of {channels} channels do not fit lags = {lags}")
    return WindowForm(samples, channels, samples if lags is None else lags)


def moments(rows: Float32Array) -> tuple[Float64Array, Float64Array]:
    """Return mean float64[d] and covariance float64[d, d] (divided by n) of float32[n, d]; O(n d^2)."""
    mean = rows.mean(axis=0, dtype=np.float64)
    covariance = np.zeros((rows.shape[1], rows.shape[1]))
    for start in range(0, len(rows), BLOCK_ROWS):
        block = rows[start : start + BLOCK_ROWS] - mean
        covariance += block.T @ block
    covariance /= len(rows)
    return mean, covariance
