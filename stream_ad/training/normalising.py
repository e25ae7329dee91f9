"""Centre and scale of a model, for the fleet and for each training device; docs/adr/0019-device-scales.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stream_ad.core.batches import BoolArray, Float64Array, Int64Array
from stream_ad.core.device_scales import DeviceScales
from stream_ad.core.model import Model, Normaliser
from stream_ad.training.windows import Windows

STILL = 1e-12
"""Share of the level below which a standard deviation counts as float64 rounding: the channel never moved."""
COUNTS = 3.0
"""Number of scales that a still channel's change by 1 % of its level (by 1 if the level is 0) amounts to."""
FEW = 2.0
"""Weight of the fleet's spread against a device's own, in independent windows."""
OTHER_UNIT = 10.0
"""Ratio of a device's spread to the fleet's at which the fleet's weight halves: chance is unlikely to explain it."""
ALIKE_LEVELS = 0.5
"""Differences of the devices' levels, in standard deviations of one device, of which half is kept: machines of one kind
that start and stop differ by less over a day."""
ALIKE_SPREADS = float(np.log(1.5))
"""Differences of the logarithms of the devices' spreads of which half is kept."""
RARE = 0.25
"""Standard deviation, in smallest steps, below which a channel hardly ever left its value in training."""
STEPS_SAMPLED = 50_000
MOST_VALUES = 1 << 21
"""Devices times channels above which all devices use the fleet's scale; corresponds to 32 MiB in a bundle."""
BLOCK_VALUES = 1 << 22


@dataclass(frozen=True, slots=True)
class Fitted:
    """Normalisation of windows.

    Attributes:
        normaliser: the fleet's mean and standard deviation over all samples, differences between devices included.
        scales: of single devices, None for one device.
        is_still: bool[c], the channel never or hardly ever moved on any device; its scale is assumed.
    """

    normaliser: Normaliser
    scales: DeviceScales | None
    is_still: BoolArray

    def framed(self, windows: Windows, ids: Sequence[str]) -> Float64Array:
        """Return the windows' values in the fleet's frame, float64[n, t, c]."""
        return _framed(self.scales, self.normaliser, windows, ids)


def fit(windows: Windows, ids: Sequence[str], clip: float, apart: float, per_device: bool = True) -> Fitted:
    """Return centre and scale of the fleet and, with at least two devices, of each device.

    A device's scale is `own^w * usual^(1 - w)`: its own standard deviation, the median of all devices', and
    w = m / (m + few) with m its windows without common samples. `few` is 2 and vanishes if the two differ far more
    than tenfold: a device with few rows relies on the fleet, unless it uses another unit. If a channel is still on one
    device but moves on others, their median is used. A device without windows uses the fleet's.

    Differences between equal devices are due to chance: per channel the share `d^4 / (d^4 + alike^4)` of the
    differences is kept, where d is their root mean square over the devices.

    Args:
        windows: n >= 1.
        ids: names of the devices.
        clip: limit of normalised values.
        apart: share of the windows without common samples, 0 < apart <= 1.
        per_device: False uses the fleet's for all devices.
    """
    values, device = windows.values, windows.device
    steps = smallest_steps(values)
    mean, std = _moments(values, np.zeros(len(values), np.int64), 1)
    scale, still = assumed(mean, std, steps)
    normaliser = Normaliser(mean[0], scale[0], clip)
    seen, row, count = np.unique(device, return_inverse=True, return_counts=True)
    if not per_device or len(ids) < 2 or len(seen) * values.shape[2] > MOST_VALUES:
        return Fitted(normaliser, None, still[0])
    centers, own = _moments(values, row, len(seen))
    own, stands = assumed(centers, own, steps)
    logs = np.log(own)
    moving = np.where(stands, np.nan, logs)
    some = np.isfinite(moving).any(axis=0)
    usual = logs.copy()
    usual[:, some] = np.nanmedian(moving[:, some], axis=0)
    beside = np.where(stands, 0.0, logs - usual)
    few = FEW / (1.0 + (beside / np.log(OTHER_UNIT)) ** 4)
    apart_each = (count * apart)[:, None]
    scales = np.exp(usual + beside * _kept(beside, ALIKE_SPREADS) * apart_each / (apart_each + few))
    levels = centers - mean[0]
    centers = mean[0] + levels * _kept(levels / np.exp(usual), ALIKE_LEVELS)
    named = [ids[number] for number in seen.tolist()]
    order = sorted(range(len(named)), key=named.__getitem__)
    names = tuple(named[number] for number in order)
    is_still: BoolArray = np.logical_not(some)
    return Fitted(normaliser, DeviceScales(names, centers[order], scales[order]), is_still)


def _kept(differences: Float64Array, alike: float) -> Float64Array:
    """Return float64[c], the share of the devices' differences that is not due to chance.

    Args:
        differences: float64[k, c].
        alike: their root mean square at which the share is one half.
    """
    fourth = np.square(np.square(differences).mean(axis=0))
    share: Float64Array = fourth / (fourth + alike**4)
    return share


def in_frame(model: Model, windows: Windows, ids: Sequence[str]) -> Float64Array:
    """Return windows' values in the frame of a model's fleet, float64[n, t, c]."""
    return _framed(model.scales, model.normaliser, windows, ids)


def _framed(scales: DeviceScales | None, normaliser: Normaliser, windows: Windows, ids: Sequence[str]) -> Float64Array:
    if scales is None:
        return windows.values
    return scales.in_frame(windows.values, scales.rows(ids)[windows.device], normaliser.center, normaliser.scale)


def completed(part: Fitted, whole: Fitted) -> Fitted:
    """Return `part` with the devices of `whole` that it lacks: a block of time may hold all windows of a device."""
    if part.scales is None or whole.scales is None:
        return Fitted(part.normaliser, whole.scales, part.is_still)
    row = part.scales.rows(whole.scales.devices)
    has = (row >= 0)[:, None]
    center = np.where(has, part.scales.center[row], whole.scales.center)
    scale = np.where(has, part.scales.scale[row], whole.scales.scale)
    return Fitted(part.normaliser, DeviceScales(whole.scales.devices, center, scale), part.is_still)


def assumed(mean: Float64Array, std: Float64Array, steps: Float64Array) -> tuple[Float64Array, BoolArray]:
    """Return scales, assumed ones for channels that never or hardly ever moved, and a mask of these channels.

    For them a change by 1 % of the level counts 3 scales. A channel that left its value in only a few samples gets
    twice its smallest step, at most the scale of one that never moved: a step in the last digit is no emergency.

    Args:
        mean: float64[k, c].
        std: float64[k, c].
        steps: float64[c], smallest difference of two values of a channel, infinite if it has one value.
    """
    level = np.abs(mean)
    still = std <= STILL * np.maximum(level, 1.0)
    most = np.where(level > 0, 0.01 * level, 1.0) / COUNTS
    least = np.where(still, most, np.where(std < RARE * steps, np.minimum(2.0 * steps, most), 0.0))
    found = np.maximum(std, least)
    return np.maximum(found, np.maximum(8.0 * np.spacing(level), 1e-12)), still | (least > std)


def smallest_steps(values: Float64Array) -> Float64Array:
    """Return float64[c], the smallest difference between two values of each channel, infinite if it has one value.

    Args:
        values: float64[n, t, c], NaN if missing; an even sample of about 50,000 is used.
    """
    flat = values.reshape(-1, values.shape[2])
    flat = flat[:: max(len(flat) // STEPS_SAMPLED, 1)]
    found = np.full(flat.shape[1], np.inf)
    for channel in range(flat.shape[1]):
        column = np.unique(flat[np.isfinite(flat[:, channel]), channel])
        if len(column) > 1:
            found[channel] = np.diff(column).min()
    return found


def _moments(values: Float64Array, row: Int64Array, rows: int) -> tuple[Float64Array, Float64Array]:
    """Return mean and standard deviation over the samples of each row's windows, float64[rows, c]."""
    n, samples, channels = values.shape
    step = max(BLOCK_VALUES // max(samples * channels, 1), 1)

    def added(of: object, about: Float64Array | None) -> Float64Array:
        total = np.zeros((rows, channels))
        for start in range(0, n, step):
            part, at = values[start : start + step], row[start : start + step]
            part = part if about is None else part - about[at][:, None]
            part = (
                np.isfinite(part)
                if of is np.isfinite
                else np.nan_to_num(part, nan=0.0) ** (2 if of is np.square else 1)
            )
            np.add.at(total, at, part.sum(axis=1))
        return total

    count = np.maximum(added(np.isfinite, None), 1)
    mean = added(np.add, None) / count
    mean += added(np.add, mean) / count  # corrects rounding at large levels
    return mean, np.sqrt(added(np.square, mean) / count)
