"""Run a model on a simulated fleet, in memory and in simulated time, and count what it detects."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import orjson

from simulators import producer
from simulators.scenarios import Scenario
from stream_ad import config
from stream_ad.config import Settings
from stream_ad.core.batches import Alert, AlertKind, AlertPhase
from stream_ad.core.model import Model, WindowShape
from stream_ad.io.transport import Partition, RawBatch
from stream_ad.replaying import Lineage, PartitionReplay

NS = 1_000_000_000
EPOCH_MS = 1_772_438_400_000
"""End of runs with start `ending-now`: a fixed time, so that trials are repeatable."""
POLL = 2_000


@dataclass(frozen=True, slots=True)
class Fault:
    """A labelled fault.

    Attributes:
        device: the device's id.
        kind: of the fault.
        channels: the channels it changes.
        start_ns, end_ns: its span in event time, the end exclusive.
        magnitude: in the unit of its kind.
    """

    device: str
    kind: str
    channels: tuple[str, ...]
    start_ns: int
    end_ns: int
    magnitude: float


@dataclass(frozen=True, slots=True)
class Incident:
    """An incident, assembled from its alerts as a subscriber does.

    Attributes:
        id: the alerts' id.
        device: the device's id.
        kind: kind of its first alert.
        opened_ns: end of the window that opened it, event time.
        resolved_ns: end of the window that ended it; None while it is open.
        peak: highest smoothed score, NaN if none was scored.
        limit: limit in force when it opened.
        channels: the channels behind it when it opened, largest share first.
        reason: the first alert's reason.
    """

    id: str
    device: str
    kind: AlertKind
    opened_ns: int
    resolved_ns: int | None
    peak: float
    limit: float
    channels: tuple[tuple[str, float], ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Match:
    """Faults matched with incidents.

    Attributes:
        faults: all of them, by start.
        incidents: all of them, by opening.
        found_by: per fault, the index of the first incident that opened in its time, else None.
        fault_of: per incident, the index of a fault that it overlaps, else None: a false alarm.
    """

    faults: tuple[Fault, ...]
    incidents: tuple[Incident, ...]
    found_by: tuple[int | None, ...]
    fault_of: tuple[int | None, ...]

    @property
    def found(self) -> int:
        """Number of faults found."""
        return sum(number is not None for number in self.found_by)

    @property
    def false_alarms(self) -> int:
        """Number of incidents that overlap no fault of their device."""
        return sum(number is None for number in self.fault_of)

    def delay_s(self, fault: int) -> float | None:
        """Return the event time from a fault's start to its incident, None if it was missed."""
        at = self.found_by[fault]
        return None if at is None else (self.incidents[at].opened_ns - self.faults[fault].start_ns) / NS

    @property
    def median_delay_s(self) -> float | None:
        """Median of the delays, None if nothing was found."""
        delays = [delay for delay in map(self.delay_s, range(len(self.faults))) if delay is not None]
        return median(delays) if delays else None


def incidents_of(alerts: Sequence[Alert]) -> tuple[Incident, ...]:
    """Group alerts into incidents, by opening time.

    Args:
        alerts: in the order in which they were published.
    """
    by_id: dict[str, list[Alert]] = {}
    for alert in alerts:
        by_id.setdefault(alert.id, []).append(alert)
    found = []
    for messages in by_id.values():
        first, last = messages[0], messages[-1]
        found.append(
            Incident(
                id=first.id,
                device=first.device,
                kind=first.kind,
                opened_ns=first.opened_end_ns,
                resolved_ns=last.end_ns if last.phase is AlertPhase.RESOLVED else None,
                peak=last.peak,
                limit=first.limit,
                channels=first.channels,
                reason=first.reason,
            )
        )
    return tuple(sorted(found, key=lambda incident: (incident.opened_ns, incident.device)))


def match(faults: Sequence[Fault], incidents: Sequence[Incident], grace_ns: int) -> Match:
    """Match faults with incidents of the same device.

    A fault is found by an incident that opens between its start and its end plus the grace time, both inclusive. An
    incident is a false alarm if it overlaps no such span: one that was open before a fault began finds nothing, but is
    no false alarm either.

    Args:
        faults: the truth.
        incidents: what was raised.
        grace_ns: how long after a fault's end its last samples can still count: a window, and the time after which
            an incident closes.
    """
    faults = sorted(faults, key=lambda fault: (fault.start_ns, fault.device))
    incidents = sorted(incidents, key=lambda incident: (incident.opened_ns, incident.device))
    found_by: list[int | None] = [None] * len(faults)
    fault_of: list[int | None] = [None] * len(incidents)
    for i, fault in enumerate(faults):
        last_ns = fault.end_ns + grace_ns
        for k, incident in enumerate(incidents):
            if incident.device != fault.device or incident.opened_ns > last_ns:
                continue
            if incident.opened_ns >= fault.start_ns and found_by[i] is None:
                found_by[i] = k
            if incident.resolved_ns is None or incident.resolved_ns >= fault.start_ns:
                fault_of[k] = i
    return Match(tuple(faults), tuple(incidents), tuple(found_by), tuple(fault_of))


def fault_of(label: bytes) -> Fault:
    """Parse a record of the truth topic."""
    value = orjson.loads(label)
    return Fault(
        device=value["device"],
        kind=value["fault"],
        channels=tuple(value["channels"]),
        start_ns=value["start"] * 1_000_000,
        end_ns=value["end"] * 1_000_000,
        magnitude=value["magnitude"],
    )


def faults_of(scenario: Scenario, start_ms: int) -> tuple[Fault, ...]:
    """Return the labelled faults of a run."""
    specs = scenario.fault_specs(scenario.signals())
    return tuple(fault_of(orjson.dumps(spec.truth(start_ms, scenario.period_ms))) for spec in specs)


@dataclass(frozen=True, slots=True)
class Trial:
    """Results of a run in memory.

    Attributes:
        match: faults against incidents.
        windows: number of judged windows.
    """

    match: Match
    windows: int

    def card(self) -> dict[str, Any]:
        """Return the figures for a training card, as JSON values."""
        kinds: dict[str, dict[str, int]] = {}
        for fault, incident in zip(self.match.faults, self.match.found_by, strict=True):
            kind = kinds.setdefault(fault.kind, {"injected": 0, "found": 0})
            kind["injected"] += 1
            kind["found"] += incident is not None
        return {
            "windows": self.windows,
            "faults": len(self.match.faults),
            "found": self.match.found,
            "false_alarms": self.match.false_alarms,
            "false_alarms_per_1000_windows": round(1e3 * self.match.false_alarms / max(self.windows, 1), 3),
            "median_delay_s": self.match.median_delay_s,
            "by_kind": dict(sorted(kinds.items())),
        }


def run(model: Model, scenario: Scenario, sections: Mapping[str, Any] | None = None) -> Trial:
    """Judge a scenario as a scorer would judge its readings in real time.

    Args:
        model: the model to run.
        scenario: the fleet and its faults.
        sections: stream settings that differ from the defaults, for example `threshold`.
    """
    settings = config.parse(
        {
            "stream": {"name": "trial", "bundle": "."},
            "transport": {"kind": "local", "path": "log.sqlite"},
            "store": {"scores": "scores", "checkpoints": "checkpoints"},
            **(sections or {}),
        }
    )
    start_ms = scenario.start_ms(EPOCH_MS, 0.0)
    lineage = Lineage(0, 0, "", model.model_id, model.model_id, 0)
    replay = PartitionReplay(settings, 0, lineage, lambda _bundle, _model_id: model)
    alerts: list[Alert] = []
    windows = 0
    for raw in _polls(scenario, start_ms):
        for stepped in replay.step(raw):
            alerts += stepped.result.alerts
            windows += stepped.result.rows
    faults = faults_of(scenario, start_ms)
    return Trial(match(faults, incidents_of(alerts), grace_ns(model.window, settings)), windows)


def grace_ns(window: WindowShape, settings: Settings) -> int:
    """Return how long after a fault's end an incident may still open because of it.

    For one window, the fault's samples are still visible; incidents stay open for the closing time.
    """
    return window.samples * window.period_ns + round(settings.incident.close_after_s * NS)


def _polls(scenario: Scenario, start_ms: int) -> Iterator[RawBatch]:
    """Yield readings as one partition, appended at their simulated sending time."""
    partition = Partition(scenario.readings_topic, 0)
    messages = (m for m in producer.simulate(scenario, start_ms) if m.topic == scenario.readings_topic)
    offset = 0
    while batch := list(itertools.islice(messages, POLL)):
        end = offset + len(batch)
        yield RawBatch(
            partition,
            np.arange(offset, end, dtype=np.int64),
            np.array([message.at_ms for message in batch], np.int64) * 1_000_000,
            [message.key for message in batch],
            [message.value for message in batch],
            [message.headers for message in batch],
            end,
        )
        offset = end
