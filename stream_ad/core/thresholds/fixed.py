"""One limit for all devices and for ever."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from stream_ad.core.thresholds.base import SCORE_FLOOR, Calibration, Threshold
from stream_ad.errors import ConfigError


class Fixed(Threshold):
    """A limit that never learns.

    Args:
        calibration: scores that give the limit where none is set.
        limit: the limit in units of the score, > 0; None takes `factor` times the `quantile` of
            the calibration.
        quantile: 0..1, exclusive; unused with a limit.
        factor: > 0; unused with a limit.

    Raises:
        ConfigError: an argument is out of range.
    """

    learns: ClassVar[bool] = False

    def __init__(
        self, calibration: Calibration, limit: float | None = None, quantile: float = 0.999, factor: float = 1.0
    ) -> None:
        if not 0 < quantile < 1 or not 0 < factor < np.inf:
            raise ConfigError(f"fixed threshold: expected 0 < quantile < 1 and factor > 0, found {quantile}, {factor}")
        if limit is not None and not 0 < limit < np.inf:
            raise ConfigError(f"fixed threshold: expected a finite limit > 0, found {limit}")
        # A calibration of zeros must not give a limit that a score of 0, smoothed to 1e-12, exceeds.
        derived = max(calibration.quantile(quantile) * factor, 2 * SCORE_FLOOR)
        self.limit = derived if limit is None else limit
        # The limit is part of a snapshot so that the record of what was in force is complete.
        super().__init__(calibration, {"limit": np.float64(self.limit)})
