"""Measures a model's sensitivity: shifts injected into training windows, compared with a limit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stream_ad.core.model import Model
from stream_ad.core.scoring import Scoring
from stream_ad.training.normalising import in_frame
from stream_ad.training.windows import Windows

SIZES = (1.0, 2.0, 4.0, 8.0)
SAMPLE = 256
MOST_CHANNELS = 32
"""Maximum number of channels tested; an even sample of more."""
MOST_VALUES = 1 << 23
"""Values scored per size of shift; long and wide windows are sampled accordingly."""
LEAST_SAMPLE = 16


def sensitivity(model: Model, windows: Windows, ids: Sequence[str], limit: float) -> dict[str, float]:
    """Return the share of windows that score over the limit, by size of shift.

    A constant is added to one channel at a time, in the younger half of the window, in standard deviations of the
    channel. Single windows without smoothing: a lasting fault is easier to detect.

    Args:
        model: the model.
        windows: windows to shift; an even sample of 256 is used (fewer if windows are large), and at most 32 channels.
        ids: names of the devices; a shift is in deviations of the window's device.
        limit: in units of the score.

    Returns:
        share by size, 0..1; "0" is the share without a shift.
    """
    samples, channels = windows.values.shape[1:]
    chosen = np.linspace(0, channels - 1, min(MOST_CHANNELS, channels)).astype(np.int64)
    most = max(MOST_VALUES // (samples * channels * len(chosen)), LEAST_SAMPLE)
    rows = np.linspace(0, len(windows) - 1, min(SAMPLE, most, len(windows))).astype(np.int64)
    values = in_frame(model, windows.take(rows), ids)
    scoring = Scoring(model)
    found = {"0": float((scoring.score_values(values).score > limit).mean())}
    # All channels at once, to fill the scorer's chunks.
    shifted = np.repeat(values[None], len(chosen), axis=0)
    number = np.arange(len(chosen))[:, None, None]
    half = np.arange(samples // 2, samples)[None, None, :]
    window = np.arange(len(rows))[None, :, None]
    plain = shifted[number, window, half, chosen[:, None, None]]
    for size in SIZES:
        step = size * model.normaliser.scale[chosen]
        shifted[number, window, half, chosen[:, None, None]] = plain + step[:, None, None]
        score = scoring.score_values(shifted.reshape(-1, samples, channels)).score
        found[f"{size:g}"] = float((score > limit).mean())
    return found
