"""Normalised windows of a small machine, and faults to put into them."""

from __future__ import annotations

from enum import StrEnum

import numpy as np

from stream_ad.core.batches import Float32Array

SAMPLES = 16
CHANNELS = 4
CLIP = 10.0


def machine_windows(n: int, seed: int, samples: int = SAMPLES, channels: int = CHANNELS) -> Float32Array:
    """Return float32[n, t, c] windows: a cycle of random phase and size that all channels share, plus noise."""
    rng = np.random.default_rng(seed)
    phase = rng.uniform(0.0, 2.0 * np.pi, (n, 1, 1))
    size = rng.normal(1.2, 0.15, (n, 1, 1))
    gain = np.linspace(1.0, 0.5, channels) * np.where(np.arange(channels) % 2, -1.0, 1.0)
    angle = 2.0 * np.pi * np.arange(samples)[None, :, None] / samples
    values = size * np.sin(angle + phase) * gain + 0.3 * rng.standard_normal((n, samples, channels))
    return np.clip(values, -CLIP, CLIP).astype(np.float32)


def constant_windows(n: int, samples: int = SAMPLES, channels: int = CHANNELS, level: float = 0.0) -> Float32Array:
    """Return float32[n, t, c] windows that are all the same."""
    return np.full((n, samples, channels), level, dtype=np.float32)


class Fault(StrEnum):
    """A kind of fault; each is additive and scales with its size."""

    SHIFT = "shift"
    SPIKE = "spike"
    NOISE = "noise"
    DRIFT = "drift"


def inject(values: Float32Array, fault: Fault, sigma: float, channels: tuple[int, ...], seed: int = 5) -> Float32Array:
    """Return a copy with a fault of `sigma` training deviations in some channels, cut as the normaliser does.

    The same seed gives the same fault at every size.
    """
    n, samples, _ = values.shape
    shape = np.zeros((n, samples, 1))
    if fault is Fault.SHIFT:
        shape[:, samples // 4 :] = 1.0
    elif fault is Fault.SPIKE:
        shape[:, samples // 2] = 1.0
    elif fault is Fault.DRIFT:
        shape[:] = np.linspace(0.0, 1.0, samples)[None, :, None]
    else:
        shape = np.random.default_rng(seed).standard_normal((n, samples, len(channels)))
    changed = values.astype(np.float64)
    changed[:, :, list(channels)] += sigma * shape
    return np.clip(changed, -CLIP, CLIP).astype(np.float32)
