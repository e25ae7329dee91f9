"""Scenarios: a fleet, its time, its faults and how it is sent. One TOML file each, beside this file."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, ValidationError

from simulators.faults import KINDS, NAMES, FaultSpec, Schedule, check, draw_faults
from simulators.fleet import RAMP_S, device_id
from simulators.randomness import Randomness
from simulators.signals import Signals
from stream_ad.config import Section, Topic
from stream_ad.errors import ConfigError

FOLDER = Path(__file__).parent / "scenarios"
ENDING_NOW = "ending-now"
NOW = "now"


class FaultSettings(Section):
    """`[[faults]]`: one fault."""

    device: Annotated[str, Field(pattern=r"^pump-\d{4,9}$")]
    kind: str
    channels: tuple[str, ...] = ()
    """Default: the first channel that the kind affects."""
    start_s: NonNegativeFloat
    duration_s: PositiveFloat | None = None
    magnitude: NonNegativeFloat | None = None

    def spec(self, period_ms: int) -> FaultSpec:
        """Return the fault in samples.

        Raises:
            ConfigError: the fault is invalid.
        """
        kind = KINDS.get(self.kind)
        if kind is None:
            raise ConfigError(f"faults: {self.kind!r}: expected one of {', '.join(KINDS)}")
        number = int(self.device.removeprefix("pump-")) - 1
        if number < 0:
            raise ConfigError(f"faults: {self.device}: expected a pump from {device_id(0)} on")
        first = round(self.start_s * 1e3 / period_ms)
        length = round((self.duration_s or kind.length_s) * 1e3 / period_ms)
        channels = self.channels or (NAMES if self.kind == "silence" else kind.channels[:1])
        magnitude = kind.magnitude if self.magnitude is None else self.magnitude
        spec = FaultSpec(number, self.kind, channels, first, first + length, magnitude)
        check(spec)
        return spec


class RandomFaults(Section):
    """`[random_faults]`: faults distributed randomly over the fleet."""

    per_device_hour: Annotated[float, Field(ge=0, le=3)] = 0.0
    """0: none."""
    first_s: NonNegativeFloat = 600.0
    """No fault starts before: thresholds settle first."""
    kinds: tuple[str, ...] = tuple(KINDS)
    strength: PositiveFloat = 1.0
    """Factor on every kind's default magnitude."""


class Scenario(Section):
    """A simulation and how it is sent."""

    name: str = ""
    title: str = ""
    devices: PositiveInt = 40
    period_ms: PositiveInt = 1_000
    samples: PositiveInt = 16
    """Samples per message, for `series` and `arrow`."""
    duration_s: PositiveFloat = 3_600.0
    """Event time."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 7
    start: str = ENDING_NOW
    """Event time of the first sample: RFC 3339 with an offset, `now`, or `ending-now`: at any speed, no reading is in
    the future, and the last sample's time is when it is sent."""
    clock_h: Annotated[float, Field(ge=0, lt=24)] = 8.0
    """Time of day on site at the first sample, independent of `start`, so that values do not depend on that."""
    stay_s: Annotated[float, Field(ge=4 * RAMP_S)] = 1_200.0
    """Mean time in one operating mode, seconds."""
    format: Literal["series", "single", "arrow"] = "series"
    events: bool = True
    speed: PositiveFloat | Literal["max"] = 1.0
    """Ratio of event time to wall time."""
    readings_topic: Topic = "sensor.readings.v1"
    events_topic: Topic = "sensor.events.v1"
    truth_topic: Topic = "sensor.truth.v1"
    partitions: PositiveInt = 4
    faults: tuple[FaultSettings, ...] = ()
    random_faults: RandomFaults = RandomFaults()

    @property
    def samples_in_all(self) -> int:
        """Samples per pump and channel over the run."""
        return max(int(self.duration_s * 1e3 // self.period_ms), 1)

    @property
    def message_samples(self) -> int:
        """Samples per message."""
        return 1 if self.format == "single" else self.samples

    def changed(self, **values: Any) -> Scenario:
        """Return a copy with other values; those that are None are kept.

        Raises:
            ConfigError: a value is out of range.
        """
        kept = {key: value for key, value in values.items() if value is not None}
        return parse(self.model_dump() | kept, self.name)

    def signals(self) -> Signals:
        """Return the healthy signals of the whole fleet."""
        numbers = np.arange(self.devices, dtype=np.int64)
        return Signals(Randomness(self.seed), numbers, self.period_ms, self.stay_s, self.clock_h)

    def fault_specs(self, signals: Signals) -> tuple[FaultSpec, ...]:
        """Return the faults within this fleet and duration, by first sample.

        Faults of pumps beyond the fleet, or that would end after the run, are left out, so that a scenario can be
        shortened.

        Raises:
            ConfigError: an invalid fault.
        """
        stated = [fault.spec(self.period_ms) for fault in self.faults]
        inside = [spec for spec in stated if spec.device < self.devices and spec.last <= self.samples_in_all]
        drawn = self.random_faults
        if drawn.per_device_hour > 0:
            schedule = Schedule(drawn.per_device_hour, drawn.first_s, drawn.kinds, drawn.strength)
            inside += draw_faults(schedule, signals, Randomness(self.seed), self.samples_in_all)
        for spec in inside:
            check(spec)
        return tuple(sorted(inside, key=lambda spec: (spec.first, spec.device, spec.kind)))

    def start_ms(self, now_ms: int, sending_s: float | None = None) -> int:
        """Return the event time of the first sample, epoch milliseconds, on the grid of the period.

        Args:
            now_ms: wall time at which sending starts.
            sending_s: duration of sending; by default according to `speed`.

        Raises:
            ConfigError: not a time, a time without offset, or a start that puts readings in the future.
        """
        if sending_s is None:
            sending_s = 0.0 if self.speed == "max" else self.duration_s / self.speed
        if self.start == NOW and sending_s < self.duration_s * (1 - 1e-9):
            raise ConfigError(
                f"start: {NOW!r} needs speed 1: faster readings would be in the future; use {ENDING_NOW!r}"
            )
        if self.start == NOW:
            begin = float(now_ms)
        elif self.start == ENDING_NOW:
            begin = now_ms + 1e3 * min(sending_s - self.duration_s, 0.0)
        else:
            begin = _instant_ms(self.start)
        return int(begin // self.period_ms) * self.period_ms


def _instant_ms(text: str) -> float:
    try:
        instant = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(f"start: expected {NOW!r}, {ENDING_NOW!r} or an RFC 3339 time, found {text!r}") from error
    if instant.tzinfo is None:
        raise ConfigError(f"start: expected a time with an offset such as +00:00, found {text!r}")
    return instant.timestamp() * 1e3


def names() -> tuple[str, ...]:
    """Return the names of the built-in scenarios."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.toml")))


def load(name: str) -> Scenario:
    """Read a scenario.

    Args:
        name: one of `names()`, or the path of a TOML file.

    Raises:
        ConfigError: it does not exist, or has an unknown key or a value out of range.
    """
    path = FOLDER / f"{name}.toml" if name in names() else Path(name)
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        known = ", ".join(names())
        raise ConfigError(f"scenario {name!r}: expected one of {known}, or a TOML file: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error
    return parse({"name": path.stem} | data, str(path))


def parse(data: Mapping[str, Any], origin: str) -> Scenario:
    """Parse a scenario from TOML values.

    Raises:
        ConfigError: one line for each wrong key, with its path.
    """
    try:
        scenario = Scenario.model_validate(data)
    except ValidationError as error:
        lines = []
        for problem in error.errors(include_url=False):
            where = ".".join(str(part) for part in problem["loc"])
            what = "unknown key" if problem["type"] == "extra_forbidden" else problem["msg"]
            lines.append(f"{origin}: {where}: {what}")
        raise ConfigError("\n".join(lines)) from error
    for fault in scenario.faults:
        fault.spec(scenario.period_ms)
    unknown = [kind for kind in scenario.random_faults.kinds if kind not in KINDS]
    if unknown or not scenario.random_faults.kinds:
        raise ConfigError(f"{origin}: random_faults.kinds: expected some of {', '.join(KINDS)}, found {unknown}")
    return scenario
