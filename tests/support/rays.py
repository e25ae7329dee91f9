"""Windows along rays: deviations of one direction and form that only grow."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, product

import numpy as np

from stream_ad.core.batches import BoolArray, Float64Array
from stream_ad.core.model import Normaliser


def directions(normaliser: Normaliser) -> Iterator[tuple[str, Float64Array]]:
    """Yield float64[c] with 1 as the largest: each channel and pair, up and down, all of them, and all to rest."""
    channels = len(normaliser.center)
    groups = [*combinations(range(channels), 1), *combinations(range(channels), 2), tuple(range(channels))]
    for group in groups:
        for signs in product((1.0, -1.0), repeat=len(group)) if len(group) < 3 else ((1.0,) * channels,):
            found = np.zeros(channels)
            found[list(group)] = signs
            yield " ".join(f"{sign * (channel + 1):+.0f}" for channel, sign in zip(group, signs, strict=True)), found
    yield "all down", -np.ones(channels)
    rest = -normaliser.center.astype(np.float64) / normaliser.scale
    if np.abs(rest).max() > 0:
        yield "to rest", rest / np.abs(rest).max()


def forms(samples: int) -> dict[str, Float64Array]:
    """Return float64[t] by name: how a deviation of size 1 lies in a window."""
    at = np.arange(samples)
    return {
        "level": np.ones(samples),
        "step": (at >= samples // 2).astype(np.float64),
        "ramp": np.linspace(0.0, 1.0, samples),
        "spike": (at == samples // 2).astype(np.float64),
    }


def along(
    start: Float64Array, direction: Float64Array, form: Float64Array, sizes: Float64Array, normaliser: Normaliser
) -> Float64Array:
    """Return float64[sizes, t, c], raw windows: `start` with a deviation of each size, in training deviations."""
    deviation = form[:, None] * direction * normaliser.scale.astype(np.float64)
    return start + sizes[:, None, None] * deviation


def returns_under(scores: Float64Array, limit: float) -> BoolArray:
    """Return bool[n] of float64[n, sizes]: whether a row that was over the limit is under it at a larger size."""
    over = scores > limit
    found = (np.maximum.accumulate(over, axis=1) & ~over).any(axis=1)
    return np.asarray(found, np.bool_)
