"""When incidents open and end: one state machine per device, stepped for all rows of a round at once."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from stream_ad.core.batches import Arrays, BoolArray, Columns, Float64Array, Int32Array, Int64Array, UInt8Array
from stream_ad.core.slot_state import SlotState
from stream_ad.core.thresholds.base import Phase
from stream_ad.errors import ConfigError


class Open(IntEnum):
    """Subject of a device's open incident."""

    NONE = 0
    PROCESS = 1
    SENSOR = 2


class Event(IntEnum):
    """Effect of a row on its device's incident."""

    NONE = 0
    OPENED = 1
    UPDATED = 2
    """The peak has grown by `update_factor` since the last message."""
    REGIME = 3
    """The incident was judged for `relearn_after_ns`: its level is learned from now on; it stays open."""
    RESOLVED = 4


@dataclass(frozen=True, slots=True)
class IncidentRules:
    """When incidents open and end.

    Attributes:
        open_after_windows: consecutive scored windows over the limit that open a process incident, >= 1.
        close_after_ns: event time below the exit level that ends an incident, >= 0.
        exit_ratio: the exit level is max(limit, this share of the incident's peak), 0 <= r < 1.
        update_factor: growth of the peak since the last message that triggers another, > 1.
        relearn_after_ns: judged event time after which an incident's rows are learned; 0: never.
        sensor_windows: consecutive windows with a sensor fault that open a sensor incident, >= 1.
        step_ns: maximum event time that one judged row stands for, > 0.

    Raises:
        ConfigError: a value is out of range.
    """

    open_after_windows: int = 1
    close_after_ns: int = 30_000_000_000
    exit_ratio: float = 0.5
    update_factor: float = 2.0
    relearn_after_ns: int = 0
    sensor_windows: int = 3
    step_ns: int = 1_000_000_000

    def __post_init__(self) -> None:
        if self.open_after_windows < 1 or self.sensor_windows < 1:
            raise ConfigError(f"incidents: expected at least one window, found {self}")
        if self.close_after_ns < 0 or self.relearn_after_ns < 0 or self.step_ns < 1:
            raise ConfigError(
                f"incidents: expected close_after_ns and relearn_after_ns >= 0 and step_ns > 0, found {self}"
            )
        if not 0 <= self.exit_ratio < 1 or not self.update_factor > 1:
            raise ConfigError(f"incidents: expected 0 <= exit_ratio < 1 and update_factor > 1, found {self}")


@dataclass(frozen=True, slots=True)
class Step(Columns):
    """Effects of a round, one row per device of the round.

    Attributes:
        is_open: bool[m], an incident is open after the row.
        opened_ns: int64[m], window end at which the row's incident opened, also on the row that
            ends it; 0 without one.
        kind: uint8[m], value of `Open` of that incident.
        event: uint8[m], values of `Event`.
        version: int64[m], number of the message for the event, from 0; undefined without an event.
        peak: float64[m], highest smoothed score of the incident; NaN without one, or if none was scored.
        opening_limit: float64[m], limit at the incident's opening, or of the one before if the score has not been
            below that since; NaN without one.
        judged_ns: int64[m], event time for which the incident was judged so far; 0 without one.
        is_learned: bool[m], the incident's level is learned.
        phase: uint8[m], `Phase` for the threshold.
    """

    is_open: BoolArray
    opened_ns: Int64Array
    kind: UInt8Array
    event: UInt8Array
    version: Int64Array
    peak: Float64Array
    opening_limit: Float64Array
    judged_ns: Int64Array
    is_learned: BoolArray
    phase: UInt8Array


NONE, PROCESS, SENSOR = (np.uint8(kind) for kind in Open)


@dataclass(frozen=True, slots=True)
class _Row(Columns):
    device: Int32Array
    end_ns: Int64Array
    smoothed: Float64Array
    limit: Float64Array
    is_fault: BoolArray
    is_settled: BoolArray


SEED: Arrays = {
    "kind": np.array(Open.NONE, np.uint8),
    "relearning": np.array(False),
    "opened_ns": np.array(0, np.int64),
    "trouble_ns": np.array(0, np.int64),
    "seen_ns": np.array(0, np.int64),
    "opening_limit": np.array(np.nan),
    "judged_ns": np.array(0, np.int64),
    "judged_end_ns": np.array(0, np.int64),
    "peak": np.array(np.nan),
    "told": np.array(np.nan),
    "version": np.array(0, np.int64),
    "over_run": np.array(0, np.int32),
    "fault_run": np.array(0, np.int32),
}


class Incidents(SlotState):
    """The incidents of all devices.

    A device has at most one incident at a time. A process incident opens after `open_after_windows` consecutive windows
    over the limit, a sensor incident after `sensor_windows` consecutive windows with a sensor fault; if both are due,
    the sensor incident opens. It ends at the first row that is `close_after_ns` of event time after the last troubled
    one. Troubled is, in a process incident, a score over max(limit, `exit_ratio` x peak), and in a sensor incident the
    fault. An unscored row without a fault is ignored: it changes no run and ends nothing, and the time up to it does
    not count towards the end.

    Rows of an incident are not learned, however long it lasts, unless `relearn_after_ns` is set: once the incident was
    judged for that long, they are learned like quiet ones. The limit then follows the trouble, so the exit level of a
    process incident becomes the limit at its opening. Each scored row counts as judged time for the time since the
    previous one, at most `step_ns`: neither silence nor unscored windows make an incident older.

    An incident may end far below its peak and over the limit at its opening. Later rows, even if they open another
    incident, are not learned until the score was below that limit once. Nor is the opening row of a sensor fault, which
    is not a false alarm of the limit.

    Args:
        rules: when incidents open and end.
    """

    def __init__(self, rules: IncidentRules) -> None:
        super().__init__(SEED)
        self._rules = rules

    def step(
        self, device: Int32Array, end_ns: Int64Array, smoothed: Float64Array, limit: Float64Array, is_fault: BoolArray
    ) -> Step:
        """Process one row of each given device.

        Args:
            device: int32[m], each slot at most once.
            end_ns: int64[m], window ends, event time.
            smoothed: float64[m], NaN where unscored.
            limit: float64[m], limits in force.
            is_fault: bool[m], a channel is stuck or missing.
        """
        rules = self._rules
        is_over = smoothed > limit
        is_unscored = np.isnan(smoothed)
        over_run = _run(self["over_run"][device], is_over, is_unscored)
        fault_run = _run(self["fault_run"][device], is_fault, is_unscored)
        self["over_run"][device] = over_run
        self["fault_run"][device] = fault_run

        was_open = self["kind"][device] != NONE
        opens_sensor = fault_run >= rules.sensor_windows
        is_due = is_fault & opens_sensor | is_over & (over_run >= rules.open_after_windows)
        is_settled = self._settle(device, smoothed, was_open)
        active = np.flatnonzero(was_open | is_due)
        step = _idle_step(len(device))
        step.phase[~is_settled] = Phase.IN_INCIDENT
        if len(active):
            row = _Row(device, end_ns, smoothed, limit, is_fault, is_settled).take(active)
            opens = np.where(was_open, NONE, np.where(is_fault & opens_sensor, SENSOR, PROCESS))[active]
            self._advance(row, opens, step, active)
        return step

    def open_slots(self) -> Int32Array:
        """Return int32[k], the slots with an open incident, ascending."""
        kind = self["kind"][: len(self)]
        return np.flatnonzero(kind != NONE).astype(np.int32)

    def resolve(self, device: Int32Array) -> tuple[Int32Array, Step]:
        """End the open incidents among these slots and forget them.

        Args:
            device: int32[k], each slot at most once.

        Returns:
            int32[m], the slots that had an incident, in the order given, and one row for each.
        """
        device = device[self["kind"][device] != NONE]
        step = Step(
            is_open=np.zeros(len(device), np.bool_),
            opened_ns=self["opened_ns"][device],
            kind=self["kind"][device],
            event=np.full(len(device), Event.RESOLVED, np.uint8),
            version=self["version"][device],
            peak=self["peak"][device],
            opening_limit=self["opening_limit"][device],
            judged_ns=self["judged_ns"][device],
            is_learned=self["relearning"][device],
            phase=np.full(len(device), Phase.QUIET, np.uint8),
        )
        self.reset(device)
        return device, step

    def _advance(self, row: _Row, opens: UInt8Array, step: Step, active: Int64Array) -> None:
        """Step the few rows whose device has an incident or opens one, and fill them into `step`.

        Args:
            row: the k rows.
            opens: uint8[k], the kind of incident that the row opens; NONE where one is open.
            step: receives the results.
            active: int64[k], the rows' places in `step`.
        """
        rules = self._rules
        is_new = opens != NONE
        kind = np.where(is_new, opens, self["kind"][row.device])
        opened_ns = np.where(is_new, row.end_ns, self["opened_ns"][row.device])
        peak = np.where(is_new, row.smoothed, np.fmax(self["peak"][row.device], row.smoothed))
        opening_limit = np.where(is_new & row.is_settled, row.limit, self["opening_limit"][row.device])
        judged_ns, judged_end_ns = self._age(row, is_new)
        was_learning = self["relearning"][row.device]
        is_due = ~is_new & (judged_ns >= rules.relearn_after_ns) & (rules.relearn_after_ns > 0)
        is_learning = was_learning | is_due
        exit_level = np.where(is_learning, opening_limit, np.fmax(row.limit, rules.exit_ratio * peak))
        trouble_ns, closes = self._judge(row, kind, is_new, exit_level)

        told = self["told"][row.device]
        # Until a sensor incident's first score there is no peak to compare with, and `told` is NaN.
        has_grown = ~is_new & (row.smoothed > row.limit) & ~(peak < rules.update_factor * told)
        event = np.select(
            [is_new, closes, is_learning & ~was_learning, has_grown],
            [np.uint8(Event.OPENED), np.uint8(Event.RESOLVED), np.uint8(Event.REGIME), np.uint8(Event.UPDATED)],
            np.uint8(Event.NONE),
        )
        is_told = event != Event.NONE
        version = self["version"][row.device]
        columns: Arrays = {
            "kind": kind,
            "relearning": is_learning,
            "opened_ns": opened_ns,
            "trouble_ns": trouble_ns,
            "seen_ns": row.end_ns,
            "judged_ns": judged_ns,
            "judged_end_ns": judged_end_ns,
            "peak": peak,
            "told": np.where(is_told, peak, told),
            "version": version + is_told,
        }
        for name, column in columns.items():
            self[name][row.device] = np.where(closes, SEED[name], column)
        self["opening_limit"][row.device] = opening_limit
        step.is_open[active] = ~closes
        step.opened_ns[active] = opened_ns
        step.kind[active] = kind
        step.event[active] = event
        step.version[active] = version
        step.peak[active] = peak
        step.opening_limit[active] = opening_limit
        step.judged_ns[active] = judged_ns
        step.is_learned[active] = is_learning
        is_quiet = closes & ~(row.smoothed > opening_limit)
        self["opening_limit"][row.device[is_quiet]] = np.nan
        step.phase[active] = np.select(
            [is_learning | is_quiet, is_new & (kind == PROCESS) & row.is_settled],
            [np.uint8(Phase.QUIET), np.uint8(Phase.OPENED)],
            np.uint8(Phase.IN_INCIDENT),
        )

    def _settle(self, device: Int32Array, smoothed: Float64Array, was_open: BoolArray) -> BoolArray:
        """Return bool[m]: the score has been below the limit at which the last incident opened, since it ended."""
        opening_limit = self["opening_limit"]
        is_settled = was_open | ~(opening_limit[device] < np.inf)
        if not is_settled.all():
            is_below = ~is_settled & (smoothed <= opening_limit[device])
            opening_limit[device[is_below]] = np.nan
            is_settled |= is_below
        return is_settled

    def _age(self, row: _Row, is_new: BoolArray) -> tuple[Int64Array, Int64Array]:
        """Return how long the incidents were judged, and the end of the last row that counted."""
        before = np.where(is_new, 0, self["judged_ns"][row.device])
        last_ns = np.where(is_new, row.end_ns, self["judged_end_ns"][row.device])
        is_scored = ~np.isnan(row.smoothed)
        gained = np.where(is_scored, np.minimum(row.end_ns - last_ns, self._rules.step_ns), 0)
        return before + gained, np.where(is_scored, row.end_ns, last_ns)

    def _judge(
        self, row: _Row, kind: UInt8Array, is_new: BoolArray, exit_level: Float64Array
    ) -> tuple[Int64Array, BoolArray]:
        """Return the time of the last trouble, and which incidents end at this row."""
        is_troubled = is_new | np.where(kind == SENSOR, row.is_fault, row.smoothed > exit_level)
        is_unknown = np.isnan(row.smoothed) & ~is_troubled
        before, seen = self["trouble_ns"][row.device], self["seen_ns"][row.device]
        # The quiet time does not advance over unknown rows.
        waited = before + np.where(is_unknown, row.end_ns - seen, 0)
        trouble_ns = np.where(is_troubled, row.end_ns, waited)
        is_quiet = ~is_troubled & ~is_unknown
        return trouble_ns, is_quiet & (row.end_ns - trouble_ns >= self._rules.close_after_ns)


def _idle_step(rows: int) -> Step:
    return Step(
        is_open=np.zeros(rows, np.bool_),
        opened_ns=np.zeros(rows, np.int64),
        kind=np.zeros(rows, np.uint8),
        event=np.zeros(rows, np.uint8),
        version=np.zeros(rows, np.int64),
        peak=np.full(rows, np.nan),
        opening_limit=np.full(rows, np.nan),
        judged_ns=np.zeros(rows, np.int64),
        is_learned=np.zeros(rows, np.bool_),
        phase=np.zeros(rows, np.uint8),
    )


def _run(run: Int32Array, is_hit: BoolArray, is_unknown: BoolArray) -> Int32Array:
    """Return the lengths of runs after a row: one longer, unchanged if unknown, else 0."""
    longer = np.minimum(run, np.int32(2**31 - 2)) + np.int32(1)
    return np.where(is_hit, longer, np.where(is_unknown, run, np.int32(0)))
