"""The pump fleet: channels and units, properties of each pump, and its operating modes over time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType

import numpy as np

from simulators.randomness import Randomness, Stream
from stream_ad.core.batches import Float64Array, Int64Array

CHANNELS: Mapping[str, str] = MappingProxyType(
    {
        "vibration_drive": "mm/s",
        "vibration_pump": "mm/s",
        "current": "A",
        "pressure": "bar",
        "temperature_motor": "°C",
        "temperature_fluid": "°C",
        "voltage": "V",
        "flow": "m³/h",
    }
)
"""Unit of each channel; all arrays of this package have this order."""

DECIMALS: Mapping[str, int] = MappingProxyType(
    {
        "vibration_drive": 3,
        "vibration_pump": 3,
        "current": 2,
        "pressure": 3,
        "temperature_motor": 2,
        "temperature_fluid": 2,
        "voltage": 1,
        "flow": 2,
    }
)
"""Resolution of the sensors; more digits would only make messages longer."""

SPREAD: Mapping[str, float] = MappingProxyType(
    {
        "vibration_drive": 0.1,
        "vibration_pump": 0.1,
        "current": 1.9,
        "pressure": 0.18,
        "temperature_motor": 0.7,
        "temperature_fluid": 0.2,
        "voltage": 1.0,
        "flow": 3.5,
    }
)
"""Standard deviation within a running mode, over minutes: the unit of a fault's magnitude."""


class Mode(IntEnum):
    """Operating modes."""

    OFF = 0
    IDLE = 1
    NORMAL = 2
    HIGH = 3


SPEED = np.array([0.0, 0.62, 0.8, 0.95])
"""Share of the rated speed, by mode."""
SHARE = np.array([0.04, 0.12, 0.58, 0.26])
"""Share of stays, by mode."""
RAMP_S = 90.0
"""Duration of a change of mode."""
JITTER = 0.5
"""A change happens up to this share of a stay after its slot's beginning: stays last 0.5 to 1.5 slots."""
VARIETY = 0.03
"""Relative half-width of the differences between pumps of the same make."""


@dataclass(frozen=True, slots=True)
class Pumps:
    """Properties of some pumps, one row each.

    Attributes:
        number: int64[d], 0 for the first pump of the fleet.
        gain: float64[d, 8], around 1: this pump's rated values relative to its make's.
        pulse_hz: float64[d], frequency of the pulsation seen in vibration, pressure and flow.
        pulse_phase: float64[d], radians.
        day_shift_s: float64[d], delay of this pump's daily cycle against the fleet's.
        slot_phase: float64[d], 0..1, phase of the pump's operation slots.
    """

    number: Int64Array
    gain: Float64Array
    pulse_hz: Float64Array
    pulse_phase: Float64Array
    day_shift_s: Float64Array
    slot_phase: Float64Array

    def __len__(self) -> int:
        return len(self.number)


def device_id(number: int) -> str:
    """Return the id of a pump: `pump-0001` for number 0."""
    return f"pump-{number + 1:04d}"


def pumps(random: Randomness, number: Int64Array) -> Pumps:
    """Draw the properties of these pumps; each is independent of the others."""
    draws = random.uniform(Stream.DEVICE, number, np.arange(16, dtype=np.int64))
    return Pumps(
        number=number,
        gain=1.0 + VARIETY * (2.0 * draws[:, :8] - 1.0),
        pulse_hz=0.07 + 0.02 * draws[:, 8],
        pulse_phase=2.0 * np.pi * draws[:, 9],
        day_shift_s=3_600.0 * (draws[:, 10] - 0.5),
        slot_phase=draws[:, 11],
    )


class Operation:
    """Operating mode of each pump over time: one stay per time slot, drawn by counter.

    Args:
        random: the seed's numbers.
        fleet: the pumps.
        stay_s: mean length of a stay, seconds; at least four ramps.
    """

    def __init__(self, random: Randomness, fleet: Pumps, stay_s: float) -> None:
        self._random = random
        self._fleet = fleet
        self.stay_s = stay_s

    def stays(self, first: int, last: int) -> tuple[Int64Array, Float64Array]:
        """Return the stays of slots first..last (both included).

        Returns:
            int64[d, k] modes and float64[d, k] seconds at which each stay's ramp begins.
        """
        slots = np.arange(first, last + 1, dtype=np.int64)
        draws = self._random.uniform(Stream.MODE, self._fleet.number, np.stack((2 * slots, 2 * slots + 1)).ravel())
        choice, jitter = draws[:, : len(slots)], draws[:, len(slots) :]
        mode = np.searchsorted(np.cumsum(SHARE)[:-1], choice, side="right").astype(np.int64)
        begin = (slots[None, :] - self._fleet.slot_phase[:, None] + JITTER * jitter) * self.stay_s
        return mode, begin

    def speed(self, seconds: Float64Array) -> Float64Array:
        """Return the speed setpoint, float64[d, n] as share of the rated speed, at float64[n] ascending seconds."""
        if len(seconds) == 0:
            return np.empty((len(self._fleet), 0))
        first = int(np.floor(seconds[0] / self.stay_s)) - 2
        last = int(np.floor(seconds[-1] / self.stay_s)) + 1
        mode, begin = self.stays(first, last)
        level = SPEED[mode]
        slot = np.floor(seconds[None, :] / self.stay_s + self._fleet.slot_phase[:, None]).astype(np.int64) - first
        slot -= seconds[None, :] < np.take_along_axis(begin, slot, axis=1)
        before = np.take_along_axis(level, slot - 1, axis=1)
        share = np.minimum((seconds[None, :] - np.take_along_axis(begin, slot, axis=1)) / RAMP_S, 1.0)
        change = np.take_along_axis(level, slot, axis=1) - before
        speed: Float64Array = before + change * (share * share * (3.0 - 2.0 * share))
        return speed
