"""Thresholds by their name in settings; a new one is one file and one line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from stream_ad.core.thresholds.base import Calibration, Threshold
from stream_ad.core.thresholds.fixed import Fixed
from stream_ad.core.thresholds.quantile import Quantile
from stream_ad.core.thresholds.spot import Spot
from stream_ad.errors import ConfigError

THRESHOLDS: Mapping[str, Callable[..., Threshold]] = {"fixed": Fixed, "quantile": Quantile, "spot": Spot}


def make_threshold(kind: str, calibration: Calibration, settings: Mapping[str, Any]) -> Threshold:
    """Create a threshold without slots; `grow` adds them.

    Args:
        kind: a key of `THRESHOLDS`.
        calibration: the bundle's calibration scores.
        settings: other constructor arguments by name; missing ones have defaults.

    Raises:
        ConfigError: unknown kind or argument, or a value out of range.
    """
    if kind not in THRESHOLDS:
        raise ConfigError(f"threshold: expected one of {sorted(THRESHOLDS)}, found {kind!r}")
    try:
        return THRESHOLDS[kind](calibration, **settings)
    except TypeError as error:
        raise ConfigError(f"threshold {kind}: {error}") from error
