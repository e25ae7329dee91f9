"""Sensor signals of healthy pumps: simple physics of a few hidden causes.

Speed follows mode, time of day and demand; flow, pressure, current, vibration and heat follow speed; the valve moves
flow and pressure in opposite directions. Everything is a function of (seed, pump, sample number), so any range can be
generated alone, and chunks of any length have the same bits. For that, sums are written out term by term: a
library's dot product may add in another order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simulators.fleet import CHANNELS, DECIMALS, SPEED, Operation, Pumps, pumps
from simulators.randomness import LANES, Randomness, Stream
from stream_ad.core.batches import Float64Array, Int64Array

DAY_S = 86_400.0
DEMAND_S, VALVE_S, GRID_S = 40.0, 90.0, 300.0
"""Lattice steps of the slow random causes, seconds: about how often they turn."""
PULSE = np.array([0.12, 0.11, 0.3, 0.05, 0.0, 0.0, 0.0, 1.1])
"""Amplitude of the pulsation by channel, at rated speed, in the channel's unit."""
PULSE_LAG = np.array([0.0, 0.9, 0.3, 1.8, 0.0, 0.0, 0.0, 2.2])
"""Phase of the pulsation by channel, radians."""
HARMONIC = 0.3
"""Amplitude of the pulsation's second harmonic, relative to the first."""
NOISE = np.array([0.045, 0.045, 0.55, 0.035, 0.12, 0.08, 0.5, 0.8])
"""Standard deviation of the fast noise by channel at rated speed, in the channel's unit."""
NOISE_AT_REST = np.array([0.2, 0.2, 0.1, 0.3, 1.0, 1.0, 1.0, 0.1])
"""Share of the noise that remains in a stopped pump."""
MEMORY = (0.6, 0.48, 0.42, 0.48)
"""Weights of the last four random numbers in a noise value; their squares sum to 1."""
MOTOR_S, FLUID_S = 600.0, 240.0
"""Time constants of motor and fluid temperature."""
LAG_STEPS = 10
"""Lattice steps per time constant."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive samples of a fleet's signals.

    Attributes:
        fleet: the d pumps.
        first: number of the first sample.
        period_s: time between two samples.
        seconds: float64[n] since the scenario's start.
        values: float64[d, 8, n], in the order of `fleet.CHANNELS`, not yet rounded.
        noise: float64[d, 8, n], the fast noise contained in `values`.
        pulse_gain: float64[d, n], amplitude of the pulsation, 1 at rated speed.
        pulse_phase: float64[d, n], radians, without each channel's lag.
        demand: float64[d, n], about standard normal: moves current, pressure and flow together.
    """

    fleet: Pumps
    first: int
    period_s: float
    seconds: Float64Array
    values: Float64Array
    noise: Float64Array
    pulse_gain: Float64Array
    pulse_phase: Float64Array
    demand: Float64Array


def pulse_shape(phase: Float64Array) -> Float64Array:
    """Return the pulsation over one turn, with its second harmonic, in -1.3..1.3."""
    return np.sin(phase) + HARMONIC * np.sin(2.0 * phase)


def rounded(values: Float64Array) -> Float64Array:
    """Round float64[d, 8, n] to the sensors' resolution, in place; NaN stays."""
    for channel, decimals in enumerate(DECIMALS.values()):
        np.round(values[:, channel], decimals, out=values[:, channel])
    return values


class Signals:
    """The healthy signals of a fleet.

    Args:
        random: the seed's numbers.
        number: int64[d], numbers of the pumps.
        period_ms: time between two samples.
        stay_s: mean length of a stay in a mode.
        clock_h: the site's time of day at the first sample, hours.
    """

    def __init__(self, random: Randomness, number: Int64Array, period_ms: int, stay_s: float, clock_h: float) -> None:
        self.fleet = pumps(random, number)
        self.operation = Operation(random, self.fleet, stay_s)
        self._random = random
        self._period_ms = period_ms
        self._clock_s = clock_h * 3_600.0

    def chunk(self, first: int, samples: int) -> Chunk:
        """Return samples first..first + samples - 1."""
        index = np.arange(first, first + samples, dtype=np.int64)
        seconds = index * self._period_ms / 1e3
        fleet = self.fleet
        demand = self.wander(Stream.DEMAND, seconds, DEMAND_S)
        valve = self.wander(Stream.VALVE, seconds, VALVE_S)
        speed = self.operation.speed(seconds) * self._daily(seconds, 0.04) * (1.0 + 0.03 * demand)
        phase = 2.0 * np.pi * fleet.pulse_hz[:, None] * seconds[None, :] + fleet.pulse_phase[:, None]
        noise = self._noise(index, speed)
        values = self._causes(seconds, speed, valve)
        values += noise
        self._add_pulse(values, speed, phase)
        return Chunk(fleet, first, self.period_s, seconds, values, noise, speed, phase, demand)

    def wander(self, stream: int, seconds: Float64Array, lattice_s: float, shared: bool = False) -> Float64Array:
        """Return a smooth random signal, float64[d, n], about standard normal.

        Args:
            stream: number of the random stream.
            seconds: float64[n], ascending.
            lattice_s: distance between independent values.
            shared: one signal for all pumps of the site.
        """
        place = seconds / lattice_s
        corner = np.floor(place).astype(np.int64)
        share = place - corner
        share = share * share * (3.0 - 2.0 * share)
        lattice = np.arange(corner[0], corner[-1] + 2, dtype=np.int64) if len(seconds) else np.empty(0, np.int64)
        number = np.zeros_like(self.fleet.number) if shared else self.fleet.number
        points = self._random.normal(stream, number, lattice)
        at = corner - lattice[0] if len(seconds) else corner
        left = points[:, at]
        # 1.16 restores the variance that interpolation loses between lattice points
        return 1.16 * (left + (points[:, at + 1] - left) * share)

    @property
    def period_s(self) -> float:
        """Time between two samples."""
        return self._period_ms / 1e3

    @staticmethod
    def _add_pulse(values: Float64Array, gain: Float64Array, phase: Float64Array) -> None:
        """Add `PULSE * gain * pulse_shape(phase + lag)` to each channel, with two sines for all of them."""
        sine, cosine = np.sin(phase), np.cos(phase)
        double_sine, double_cosine = 2.0 * sine * cosine, 1.0 - 2.0 * sine * sine
        for channel in np.flatnonzero(PULSE):
            lag = PULSE_LAG[channel]
            shape = np.cos(lag) * sine + np.sin(lag) * cosine
            shape += HARMONIC * (np.cos(2.0 * lag) * double_sine + np.sin(2.0 * lag) * double_cosine)
            shape *= PULSE[channel] * gain
            values[:, channel] += shape

    def _daily(self, seconds: Float64Array, amplitude: float) -> Float64Array:
        """Return float64[d, n] around 1: highest in the afternoon, lowest at night."""
        clock = self._clock_s + seconds[None, :] - self.fleet.day_shift_s[:, None]
        return 1.0 + amplitude * np.sin(2.0 * np.pi * (clock / DAY_S - 9.0 / 24.0))

    def _noise(self, index: Int64Array, speed: Float64Array) -> Float64Array:
        reach = len(MEMORY) - 1
        wide = np.arange(index[0] - reach, index[-1] + 1, dtype=np.int64) if len(index) else index
        noise = np.empty((len(self.fleet), len(CHANNELS), len(index)))
        for block in range(len(CHANNELS) // LANES):
            lanes = self._random.normals(Stream.NOISE + block, self.fleet.number, wide)
            for lane in range(LANES):
                channel = LANES * block + lane
                target = noise[:, channel]
                np.multiply(lanes[lane, :, reach:], MEMORY[0], out=target)
                for back in range(1, reach + 1):
                    target += MEMORY[back] * lanes[lane, :, reach - back : wide.size - back]
                rest = NOISE_AT_REST[channel]
                target *= NOISE[channel] * (rest + (1.0 - rest) * np.minimum(speed, 1.0))
        return noise

    def _causes(self, seconds: Float64Array, speed: Float64Array, valve: Float64Array) -> Float64Array:
        """Return float64[d, 8, n] without noise and pulsation."""
        square = speed * speed
        run = np.minimum(speed / SPEED[1], 1.0)
        grid = self.wander(Stream.GRID, seconds, GRID_S, shared=True)
        room = 20.0 + 80.0 * (self._daily(seconds, 0.05) - 1.0)
        values = np.empty((len(self.fleet), len(CHANNELS), len(seconds)))
        values[:, 0] = 0.15 + 0.35 * run + 1.5 * square
        values[:, 1] = 0.12 + 0.30 * run + 1.3 * square * (1.0 - 0.04 * valve)
        values[:, 2] = 9.0 * run + 36.0 * square * speed * (1.0 + 0.012 * valve)
        values[:, 3] = 0.8 + 4.2 * square * (1.0 - 0.016 * valve)
        values[:, 4] = room + 48.0 * self._heat(seconds, MOTOR_S)
        values[:, 5] = 16.0 + 0.3 * (room - 20.0) + 9.0 * self._heat(seconds, FLUID_S)
        values[:, 6] = 400.0 + 1.3 * grid - 2.5 * square
        values[:, 7] = 105.0 * speed * (1.0 + 0.02 * valve)
        values *= self.fleet.gain[:, :, None]
        values[:, 6] += 400.0 * (1.0 - self.fleet.gain[:, 6, None])
        return values

    def _heat(self, seconds: Float64Array, constant_s: float) -> Float64Array:
        """Return the power loss as filtered by a body with this time constant (first-order lag), float64[d, n].

        The lag is a sum over the past, on a fixed lattice that is independent of the chunk.
        """
        if len(seconds) == 0:
            return np.empty((len(self.fleet), 0))
        step_s = constant_s / LAG_STEPS
        place = seconds / step_s
        corner = np.floor(place).astype(np.int64)
        past = 6 * LAG_STEPS
        lattice = np.arange(corner[0] - past, corner[-1] + 2, dtype=np.int64)
        power = self.operation.speed(lattice * step_s) ** 2
        weights = np.exp(-np.arange(past + 1) / LAG_STEPS)
        weights /= weights.sum()
        felt = np.zeros((len(self.fleet), len(lattice) - past))
        for back, weight in enumerate(weights):
            felt += weight * power[:, past - back : len(lattice) - back]
        at = corner - corner[0]
        left = felt[:, at]
        return left + (felt[:, at + 1] - left) * (place - corner)
