from __future__ import annotations

import numpy as np

from stream_ad.core.thresholds.fixed import Fixed
from tests.core.judged import calibration


def test_the_limit_is_what_was_set_or_the_calibrations_quantile() -> None:
    seed = calibration()

    assert Fixed(seed, limit=3.5).limit == 3.5
    assert Fixed(seed, quantile=0.9, factor=2.0).limit == 2 * np.quantile(seed.score, 0.9)
