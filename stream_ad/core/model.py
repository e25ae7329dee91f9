"""A model with everything that scoring needs: the content of a loaded bundle."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum

import numpy as np

from stream_ad.core.batches import Float64Array, expect
from stream_ad.core.detectors.base import Detector, Settings
from stream_ad.core.device_scales import DeviceScales
from stream_ad.core.overrange import Overrange
from stream_ad.core.thresholds.base import Calibration
from stream_ad.errors import ContractError


class Fill(StrEnum):
    """How a channel's empty cells are filled before scoring."""

    NAN = "nan"
    """Left empty; counts against coverage."""
    HOLD = "hold"
    """The last value, for at most `hold_max_age_ns` (historians report on change)."""


@dataclass(frozen=True, slots=True)
class Channel:
    """A sensor of a device.

    Attributes:
        name: name in the readings.
        unit: unit of the values, "" if unknown.
        fill: rule for empty cells.
        hold_max_age_ns: maximum age of a held value; unused for `Fill.NAN`.
        always_moves: in training the channel had more than one value in every window, so a window without movement
            means a stuck sensor.
        missing: values that count as missing (-9999).
        counter: it only rises; windows contain its increments per cell, see `core.counters`.
    """

    name: str
    unit: str = ""
    fill: Fill = Fill.NAN
    hold_max_age_ns: int = 0
    always_moves: bool = False
    missing: tuple[float, ...] = ()
    counter: bool = False


@dataclass(frozen=True, slots=True)
class WindowShape:
    """The window grid; its origin is the Unix epoch.

    Attributes:
        period_ns: time between two cells of the grid, > 0.
        samples: cells per window, t >= 1.
        stride: cells between the ends of two windows, >= 1. Window ends are at multiples of the
            stride, counted in cells from the epoch.
    """

    period_ns: int
    samples: int
    stride: int

    def __post_init__(self) -> None:
        if self.period_ns < 1 or self.samples < 1 or self.stride < 1:
            raise ContractError(f"window: period, samples and stride must be positive, found {self}")

    @property
    def length_ns(self) -> int:
        """Length of a window."""
        return self.samples * self.period_ns


@dataclass(frozen=True, slots=True)
class Normaliser:
    """Per channel `(x - center) / scale`; a missing value becomes 0, the centre.

    A detector is fitted on values limited to +-clip; a window beyond it is scaled down as a whole, see `overrange`.

    Attributes:
        center: float64[c], mean of the training rows.
        scale: float64[c], > 0, standard deviation of the training rows (a floor keeps a constant
            channel finite).
        clip: largest normalised value that a detector is fitted on, > 0.
    """

    center: Float64Array
    scale: Float64Array
    clip: float = 10.0

    def __post_init__(self) -> None:
        expect("center", self.center, np.float64, (None,))
        expect("scale", self.scale, np.float64, self.center.shape)
        if not (np.isfinite(self.center).all() and np.isfinite(self.scale).all() and (self.scale > 0).all()):
            raise ContractError("normaliser: center must be finite and scale finite and > 0")
        if not self.clip > 0:
            raise ContractError(f"normaliser: clip must be > 0, found {self.clip}")


@dataclass(frozen=True, slots=True)
class Model:
    """Everything that scoring needs, immutable.

    Attributes:
        name: the bundle's name.
        model_id: digest of the bundle's content (hex), the same wherever it is loaded.
        channels: c channels in the order of the values, sorted by name.
        window: the grid.
        min_coverage: a channel with a smaller share of filled cells counts as missing, 0..1.
        normaliser: fitted on training rows only.
        detector: the fitted detector.
        kind: the detector's name in the catalogue.
        settings: the detector's settings, complete.
        smoothing: weight of the newest log score in the exponential moving average, 0 < a <= 1;
            1 means none.
        calibration: leave-block-out scores that seed the thresholds.
        card: the training card: data range, rows, seed, metrics, limits, versions (plain JSON).
        overrange: scores of values far from the training mean; None only in models that calibrate one.
        ignored: names that devices send and the model ignores on purpose: labels, row numbers, counters, texts.
        scales: centre and scale of single devices; None if all devices use the normaliser's.
    """

    name: str
    model_id: str
    channels: tuple[Channel, ...]
    window: WindowShape
    min_coverage: float
    normaliser: Normaliser
    detector: Detector
    kind: str
    settings: Settings
    smoothing: float
    calibration: Calibration
    card: Settings = field(default_factory=dict)
    overrange: Overrange | None = None
    ignored: tuple[str, ...] = ()
    scales: DeviceScales | None = None

    def __post_init__(self) -> None:
        names = [channel.name for channel in self.channels]
        if not names or names != sorted(set(names)):
            raise ContractError(f"model: expected channels with unique names in sorted order, found {names}")
        if len(self.normaliser.center) != len(names):
            raise ContractError(f"model: normaliser has {len(self.normaliser.center)} channels, expected {len(names)}")
        if self.overrange is not None and len(self.overrange.reach) != len(names):
            raise ContractError(f"model: expected a reach of {len(names)} channels, found {len(self.overrange.reach)}")
        if self.scales is not None and self.scales.center.shape[1] != len(names):
            raise ContractError(f"model: device scales have {self.scales.center.shape[1]} channels, not {len(names)}")
        if not 0 < self.smoothing <= 1:
            raise ContractError(f"model: smoothing must be in (0, 1], found {self.smoothing}")


def grid_differences(one: Model, other: Model) -> list[str]:
    """Return the differences between two models' windows; without any, one can replace the other between two windows.

    Compares the window and each channel's name, unit, fill rule, missing values, and whether it is a counter.
    """
    found = []
    if one.window != other.window:
        found.append(f"window {other.window}, not {one.window}")
    if [channel.name for channel in one.channels] != [channel.name for channel in other.channels]:
        names = [channel.name for channel in other.channels], [channel.name for channel in one.channels]
        found.append(f"channels {names[0]}, not {names[1]}")
        return found
    for mine, theirs in zip(one.channels, other.channels, strict=True):
        if replace(mine, always_moves=theirs.always_moves) != theirs:
            found.append(f"channel {theirs.name} with {_rules(theirs)}, not {_rules(mine)}")
    return found


def _rules(channel: Channel) -> str:
    held = f" for {channel.hold_max_age_ns / 1e9:g} s" if channel.fill is Fill.HOLD else ""
    missing = f" without {', '.join(f'{value:g}' for value in channel.missing)}" if channel.missing else ""
    counter = " as a counter" if channel.counter else ""
    return f"unit {channel.unit or 'unknown'!r} and fill {channel.fill}{held}{missing}{counter}"
