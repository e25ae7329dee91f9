"""Events of people and control systems about the pumps: starts, stops, inspections, complaints, repairs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

import numpy as np
import orjson

from simulators.faults import FaultSpec
from simulators.fleet import Mode, device_id
from simulators.randomness import Randomness, Stream
from simulators.signals import DAY_S, Signals

VISITS = (
    "Visual inspection done, no findings",
    "Bearings greased, coupling guard checked",
    "Suction strainer cleaned",
    "Shaft seal inspected, slight weeping, watch",
    "Oil level topped up",
)
COMPLAINTS: Mapping[str, str] = MappingProxyType(
    {
        "spike": "{channel} shows single values out of line",
        "level_shift": "{channel} reads differently than on the last round",
        "slow_drift": "{channel} seems to creep away",
        "stuck": "{channel} has not moved for a while",
        "drop_out": "{channel}: signal lost, wiring suspected",
        "noise_up": "{channel} is restless, loose terminal?",
        "noise_down": "{channel} looks unusually calm",
        "frequency_change": "Pump sounds different, rhythm of {channel} has changed",
        "broken_correlation": "{channel} does not fit the other readings",
        "oscillation": "{channel} is hunting up and down",
        "silence": "No data from this pump, gateway restarted",
    }
)
REPAIRED_SHARE = 0.6


class Severity(StrEnum):
    """Severity of an event."""

    INFO = "info"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class PumpEvent:
    """An event of one pump.

    Attributes:
        device: the pump's id.
        at_s: seconds since the scenario's start.
        code: machine-readable kind of event.
        severity: information or a warning.
        text: the same for people.
    """

    device: str
    at_s: float
    code: str
    severity: Severity
    text: str

    def at_ms(self, start_ms: int) -> int:
        """Return the event's time, epoch milliseconds."""
        return start_ms + round(self.at_s * 1e3)

    def encode(self, start_ms: int) -> bytes:
        """Return the event as published in the events topic, schema v1."""
        fields = {"code": self.code, "severity": self.severity.value, "text": self.text}
        return orjson.dumps({"device": self.device, "ts": self.at_ms(start_ms)} | fields)


def pump_events(
    signals: Signals, random: Randomness, duration_s: float, faults: tuple[FaultSpec, ...]
) -> tuple[PumpEvent, ...]:
    """Return a run's events by time, then device; a longer run only appends."""
    found = [*_operating(signals, duration_s), *_visits(signals, random, duration_s)]
    found += _about_faults(faults, random, signals.period_s)
    found.sort(key=lambda event: (event.at_s, event.device, event.code))
    return tuple(event for event in found if event.at_s < duration_s)


def _operating(signals: Signals, duration_s: float) -> Iterator[PumpEvent]:
    """Yield a start, stop or change of mode at the beginning of each ramp."""
    mode, begin = signals.operation.stays(-2, int(np.ceil(duration_s / signals.operation.stay_s)) + 1)
    changed = np.diff(mode, axis=1) != 0
    changed &= (begin[:, 1:] >= 0) & (begin[:, 1:] < duration_s)
    for row, slot in np.argwhere(changed):
        before, after = Mode(int(mode[row, slot])), Mode(int(mode[row, slot + 1]))
        if after is Mode.OFF:
            code, text = "pump.stopped", f"Stopped from {before.name.lower()} duty"
        elif before is Mode.OFF:
            code, text = "pump.started", f"Started, going to {after.name.lower()} duty"
        else:
            code, text = "mode.changed", f"Changed from {before.name.lower()} to {after.name.lower()} duty"
        device = device_id(int(signals.fleet.number[row]))
        yield PumpEvent(device, float(begin[row, slot + 1]), code, Severity.INFO, text)


def _visits(signals: Signals, random: Randomness, duration_s: float) -> Iterator[PumpEvent]:
    """Yield one maintenance visit per pump and day."""
    days = np.arange(int(duration_s // DAY_S) + 1, dtype=np.int64)
    place = random.uniform(Stream.VISITS, signals.fleet.number, 2 * days)
    choice = random.uniform(Stream.VISITS, signals.fleet.number, 2 * days + 1)
    for row, number in enumerate(signals.fleet.number.tolist()):
        for day in days.tolist():
            text = VISITS[int(choice[row, day] * len(VISITS))]
            yield PumpEvent(
                device_id(number), (day + float(place[row, day])) * DAY_S, "maintenance.visit", Severity.INFO, text
            )


def _about_faults(faults: tuple[FaultSpec, ...], random: Randomness, period_s: float) -> Iterator[PumpEvent]:
    """Yield a complaint in the first half of each fault and, for some, a repair at its end."""
    for spec in faults:
        draws = random.uniform(Stream.COMPLAINTS, np.array([spec.device]), np.arange(2) + 2 * spec.first)[0]
        device, channel = device_id(spec.device), spec.channels[0].replace("_", " ")
        noticed = (spec.first + (0.1 + 0.4 * float(draws[0])) * (spec.last - spec.first)) * period_s
        text = COMPLAINTS[spec.kind].format(channel=channel)
        yield PumpEvent(device, noticed, "operator.remark", Severity.WARNING, text[0].upper() + text[1:])
        if draws[1] < REPAIRED_SHARE:
            what = "Gateway replaced" if spec.kind == "silence" else f"Repaired at {channel}, back in order"
            yield PumpEvent(device, spec.last * period_s, "maintenance.repair", Severity.INFO, what)
