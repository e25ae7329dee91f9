"""How large a fault a model sees: shifts injected into training windows, judged at a limit."""

from __future__ import annotations

import numpy as np

from stream_ad.core.model import Model
from stream_ad.core.scoring import Scoring
from stream_ad.lab.windows import Windows

SIZES = (1.0, 2.0, 4.0, 8.0)
SAMPLE = 256


def sensitivity(model: Model, windows: Windows, limit: float) -> dict[str, float]:
    """Return per size of shift the share of windows that score over the limit.

    A constant is added to one channel at a time, in the younger half of the window, in standard
    deviations of the channel. Unsmoothed single windows: a lasting fault is seen better.

    Args:
        model: what scores.
        windows: where the shifts are put; an even sample of 256 is used.
        limit: in units of the score.

    Returns:
        share by size, 0..1; "0" is the share without a shift.
    """
    rows = np.linspace(0, len(windows) - 1, min(SAMPLE, len(windows))).astype(np.int64)
    values = windows.values[rows]
    scoring = Scoring(model)
    half = values.shape[1] // 2
    found = {"0": float((scoring.score_values(values).score > limit).mean())}
    for size in SIZES:
        shares = []
        for channel in range(values.shape[2]):
            shifted = values.copy()
            shifted[:, half:, channel] += np.float32(size) * model.normaliser.scale[channel]
            shares.append((scoring.score_values(shifted).score > limit).mean())
        found[f"{size:g}"] = float(np.mean(shares))
    return found
