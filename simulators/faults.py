"""Labelled faults: their effects on channels, their schedules and their labels.

A fault is a pure function of the healthy segment and a magnitude. It changes only its channels, within its span; a
larger magnitude changes more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

import numpy as np

from simulators.fleet import CHANNELS, SPREAD, device_id
from simulators.randomness import Randomness, Stream
from simulators.signals import PULSE, PULSE_LAG, Chunk, Signals, pulse_shape, rounded
from stream_ad.core.batches import Float64Array, Int64Array
from stream_ad.errors import ConfigError

NAMES = tuple(CHANNELS)
SPIKE_SHARE = 1 / 12
"""Share of a span's samples that a spike fault changes, besides the first."""
OSCILLATION_S = 24.0
WANDER_S = 25.0
SQRT_HALF = 0.5**0.5


@dataclass(frozen=True, slots=True)
class FaultSpec:
    """A labelled fault.

    Attributes:
        device: number of the pump, from 0.
        kind: one of `KINDS`.
        channels: the channels it changes.
        first: number of the first changed sample.
        last: number after the last.
        magnitude: in the unit of its kind, see `KINDS`; 0 has no effect except for `stuck` and `silence`.
    """

    device: int
    kind: str
    channels: tuple[str, ...]
    first: int
    last: int
    magnitude: float

    def truth(self, start_ms: int, period_ms: int) -> dict[str, object]:
        """Return the label as published in the truth topic; `start` and `end` (exclusive) in epoch milliseconds."""
        return {
            "device": device_id(self.device),
            "fault": self.kind,
            "channels": list(self.channels),
            "start": start_ms + self.first * period_ms,
            "end": start_ms + self.last * period_ms,
            "magnitude": self.magnitude,
        }


@dataclass(frozen=True, slots=True)
class Segment:
    """One channel within a fault's span: inputs of a fault's effect. Arrays are float64[n] for n samples.

    Attributes:
        values: the samples before the fault.
        noise: their fast noise, part of `values`.
        pulse: their pulsation, part of `values`.
        faster: function of a phase (radians), returning the pulsation with that phase added, same amplitude.
        pulse_rad_s: the pulsation's angular frequency.
        number: int64[n], index in the span, from 0.
        seconds: time since the fault's start, > 0; one period at the first sample.
        length_s: duration of the whole span.
        demand: the signal shared with other channels, about standard normal.
        own: a signal like `demand`, independent of all other channels.
        chance: uniform in [0, 1), one per sample.
        sign: direction of the fault, -1.0 or 1.0.
        held: the channel's rounded value at the span's first sample.
        spread: the channel's normal standard deviation.
    """

    values: Float64Array
    noise: Float64Array
    pulse: Float64Array
    faster: Callable[[Float64Array], Float64Array]
    pulse_rad_s: float
    number: Int64Array
    seconds: Float64Array
    length_s: float
    demand: Float64Array
    own: Float64Array
    chance: Float64Array
    sign: float
    held: float
    spread: float


Effect: TypeAlias = Callable[[Segment, float], Float64Array]


def spike(segment: Segment, magnitude: float) -> Float64Array:
    """Single samples jump by `magnitude` spreads: the first of the span and about one in twelve."""
    hit = segment.chance < SPIKE_SHARE
    hit |= segment.number == 0
    return segment.values + hit * (segment.sign * magnitude * segment.spread)


def level_shift(segment: Segment, magnitude: float) -> Float64Array:
    """The level moves by `magnitude` spreads."""
    return segment.values + segment.sign * magnitude * segment.spread


def slow_drift(segment: Segment, magnitude: float) -> Float64Array:
    """The level moves linearly, by `magnitude` spreads at the span's end."""
    return segment.values + segment.sign * magnitude * segment.spread * (segment.seconds / segment.length_s)


def stuck(segment: Segment, magnitude: float) -> Float64Array:
    """The sensor repeats its value at the span's first sample, `magnitude` spreads off."""
    return np.full(len(segment.values), segment.held + segment.sign * magnitude * segment.spread)


def drop_out(segment: Segment, magnitude: float) -> Float64Array:
    """A share `magnitude` (0 to 1) of the samples is missing."""
    return np.where(segment.chance < magnitude, np.nan, segment.values)


def silence(segment: Segment, magnitude: float) -> Float64Array:
    """Nothing is sent, for any magnitude."""
    return np.full(len(segment.values), np.nan)


def noise_up(segment: Segment, magnitude: float) -> Float64Array:
    """Fast noise is multiplied by `1 + magnitude`."""
    return segment.values + segment.noise * magnitude


def noise_down(segment: Segment, magnitude: float) -> Float64Array:
    """Fast noise and pulsation are divided by `1 + magnitude`: a clogged or overdamped sensor."""
    return segment.values - (segment.noise + segment.pulse) * (magnitude / (1.0 + magnitude))


def frequency_change(segment: Segment, magnitude: float) -> Float64Array:
    """The pulsation's frequency is multiplied by `1 + magnitude`; its amplitude is unchanged."""
    return segment.values - segment.pulse + segment.faster(segment.pulse_rad_s * magnitude * segment.seconds)


def broken_correlation(segment: Segment, magnitude: float) -> Float64Array:
    """The channel follows an independent signal instead of the shared one, `magnitude` spreads wide."""
    return segment.values + magnitude * segment.spread * SQRT_HALF * (segment.own - segment.demand)


def oscillation(segment: Segment, magnitude: float) -> Float64Array:
    """A sine of `magnitude` spreads is added, with a period of 24 s: a hunting controller."""
    return segment.values + magnitude * segment.spread * np.sin(2.0 * np.pi * segment.seconds / OSCILLATION_S)


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault.

    Attributes:
        effect: function of healthy segment and magnitude, returning faulty values.
        channels: channels that can have it.
        magnitude: default in scenarios, and the middle of random schedules.
        length_s: the same for its duration.
    """

    effect: Effect
    channels: tuple[str, ...]
    magnitude: float
    length_s: float = 300.0


PULSING = tuple(name for name, amplitude in zip(NAMES, PULSE, strict=True) if amplitude > 0)
DRIVEN = ("current", "pressure", "flow", "vibration_drive", "vibration_pump")

KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "spike": Kind(spike, NAMES, 12.0),
        "level_shift": Kind(level_shift, NAMES, 8.0),
        "slow_drift": Kind(slow_drift, NAMES, 15.0, 600.0),
        "stuck": Kind(stuck, NAMES, 0.0),
        "drop_out": Kind(drop_out, NAMES, 1.0, 240.0),
        "noise_up": Kind(noise_up, NAMES, 8.0),
        "noise_down": Kind(noise_down, PULSING, 9.0, 420.0),
        "frequency_change": Kind(frequency_change, PULSING, 2.0, 420.0),
        "broken_correlation": Kind(broken_correlation, DRIVEN, 5.0, 420.0),
        "oscillation": Kind(oscillation, NAMES, 5.0),
        "silence": Kind(silence, NAMES, 1.0, 240.0),
    }
)


def check(spec: FaultSpec) -> None:
    """Check a fault.

    Raises:
        ConfigError: an unknown kind or channel, a channel that the kind does not affect, an empty span, or a
            magnitude out of range.
    """
    kind = KINDS.get(spec.kind)
    if kind is None:
        raise ConfigError(f"fault {spec.kind!r}: expected one of {', '.join(KINDS)}")
    wrong = [name for name in spec.channels if name not in kind.channels]
    if wrong or not spec.channels:
        raise ConfigError(f"fault {spec.kind}: channels: expected some of {', '.join(kind.channels)}, found {wrong}")
    if spec.kind == "silence" and set(spec.channels) != set(NAMES):
        raise ConfigError("fault silence: channels: expected all channels, or none")
    if not 0 <= spec.first < spec.last:
        raise ConfigError(f"fault {spec.kind}: expected last > first, found samples {spec.first} to {spec.last}")
    limit = 1.0 if spec.kind == "drop_out" else np.inf
    if not 0.0 <= spec.magnitude <= limit:
        raise ConfigError(f"fault {spec.kind}: magnitude: expected 0 to {limit:g}, found {spec.magnitude:g}")


def inject(chunk: Chunk, specs: tuple[FaultSpec, ...], random: Randomness, signals: Signals) -> None:
    """Apply the faults that overlap a chunk to its values, in place, in the given order.

    Args:
        chunk: healthy signals.
        specs: the faults; those of other pumps and times are ignored.
        random: the seed's numbers.
        signals: source of the chunk, for the value that a stuck sensor repeats.
    """
    rows = {int(number): row for row, number in enumerate(chunk.fleet.number)}
    end = chunk.first + len(chunk.seconds)
    for spec in specs:
        if spec.device not in rows or spec.last <= chunk.first or spec.first >= end:
            continue
        row = rows[spec.device]
        at = slice(max(spec.first - chunk.first, 0), min(spec.last, end) - chunk.first)
        for name in spec.channels:
            segment = _segment(chunk, row, at, name, spec, random, signals)
            chunk.values[row, NAMES.index(name), at] = KINDS[spec.kind].effect(segment, spec.magnitude)


def _segment(
    chunk: Chunk, row: int, at: slice, name: str, spec: FaultSpec, random: Randomness, signals: Signals
) -> Segment:
    channel = NAMES.index(name)
    index = np.arange(at.start, at.stop, dtype=np.int64) + chunk.first
    pump = chunk.fleet.number[row : row + 1]
    gain, phase = PULSE[channel] * chunk.pulse_gain[row, at], chunk.pulse_phase[row, at] + PULSE_LAG[channel]
    held = np.nan
    if spec.kind == "stuck":
        held = float(rounded(signals.chunk(spec.first, 1).values)[row, channel, 0])
    place = np.array([spec.first * len(NAMES) + channel], np.int64)
    return Segment(
        values=chunk.values[row, channel, at].copy(),
        noise=chunk.noise[row, channel, at],
        pulse=gain * pulse_shape(phase),
        faster=lambda extra: gain * pulse_shape(phase + extra),
        pulse_rad_s=float(2.0 * np.pi * chunk.fleet.pulse_hz[row]),
        number=index - spec.first,
        seconds=(index - spec.first + 1) * chunk.period_s,
        length_s=(spec.last - spec.first) * chunk.period_s,
        demand=chunk.demand[row, at],
        own=signals.wander(Stream.FAULT_WANDER + channel, chunk.seconds[at], WANDER_S)[row],
        chance=random.uniform(Stream.FAULT_SPIKES + channel, pump, index)[0],
        sign=1.0 if random.uniform(Stream.FAULT_SIZE, pump, place)[0, 0] < 0.5 else -1.0,
        held=held,
        spread=SPREAD[name],
    )


@dataclass(frozen=True, slots=True)
class Schedule:
    """How random faults are distributed over a fleet.

    Attributes:
        per_device_hour: one fault in each slot of `1 / per_device_hour` hours of each pump.
        first_s: no fault starts before.
        kinds: kinds to use; neighbouring pumps get different ones.
        strength: factor on every kind's default magnitude.
    """

    per_device_hour: float
    first_s: float
    kinds: tuple[str, ...]
    strength: float


CANDIDATES = 8
GRID_S = 30.0


def draw_faults(schedule: Schedule, signals: Signals, random: Randomness, samples: int) -> tuple[FaultSpec, ...]:
    """Draw a run's random faults; a pump's depend only on seed and pump, and a longer run only appends.

    Of several random positions in a slot, the one where the pump runs fastest is used: many faults are invisible in a
    stopped pump.

    Args:
        schedule: number and kinds of faults.
        signals: the fleet.
        random: the seed's numbers.
        samples: length of the run; faults that would end after it are left out.

    Returns:
        the faults by first sample.
    """
    period_s = signals.period_s
    slot_s = 3_600.0 / schedule.per_device_hour
    specs = []
    for slot in range(int(np.ceil(max(samples * period_s - schedule.first_s, 0.0) / slot_s))):
        begin_s = schedule.first_s + slot * slot_s
        speed = signals.operation.speed(begin_s + np.arange(0.0, slot_s + GRID_S, GRID_S))
        index = np.arange(slot * 32, (slot + 1) * 32, dtype=np.int64)
        draws = random.uniform(Stream.FAULT_PLACE, signals.fleet.number, index)
        for row, number in enumerate(signals.fleet.number.tolist()):
            name = schedule.kinds[(number + slot) % len(schedule.kinds)]
            specs.append(_placed(schedule, name, number, draws[row], speed[row], (begin_s, slot_s, period_s)))
    ending = [spec for spec in specs if spec.last <= samples]
    return tuple(sorted(ending, key=lambda spec: (spec.first, spec.device)))


def _placed(
    schedule: Schedule,
    name: str,
    number: int,
    draws: Float64Array,
    speed: Float64Array,
    slot: tuple[float, float, float],
) -> FaultSpec:
    begin_s, slot_s, period_s = slot
    kind = KINDS[name]
    length_s = min(kind.length_s * (0.75 + 0.5 * draws[0]), slot_s)
    starts = draws[8 : 8 + CANDIDATES] * (slot_s - length_s)
    slowest = [speed[int(start / GRID_S) : int((start + length_s) / GRID_S) + 2].min() for start in starts]
    first = round((begin_s + starts[int(np.argmax(slowest))]) / period_s)
    factor = 0.75 + 0.75 * draws[1]
    channels = NAMES if name == "silence" else (kind.channels[int(draws[2] * len(kind.channels))],)
    magnitude = kind.magnitude if name in ("drop_out", "silence") else kind.magnitude * schedule.strength * factor
    last = first + max(round(length_s / period_s), 1)
    return FaultSpec(number, name, channels, first, last, round(float(magnitude), 3))
