"""One constant limit for all devices."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from stream_ad.core.thresholds.base import SCORE_FLOOR, Calibration, Threshold
from stream_ad.errors import ConfigError


class Fixed(Threshold):
    """A limit that never changes.

    Args:
        calibration: scores from which the limit is derived if none is given.
        limit: in units of the score, > 0; None: `factor` times the `quantile` of the calibration.
        quantile: 0..1, exclusive; ignored if a limit is given.
        factor: > 0; ignored if a limit is given.

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
        # With a calibration of zeros, a score of 0, smoothed to 1e-12, must not exceed the limit.
        derived = max(calibration.quantile(quantile) * factor, 2 * SCORE_FLOOR)
        self.limit = derived if limit is None else limit
        # The limit is in the snapshot so that this records everything in force.
        super().__init__(calibration, {"limit": np.float64(self.limit)})
