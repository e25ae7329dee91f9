"""Scores to verdicts and alerts: per round smooth, take the limit, step the incident, learn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from stream_ad.core.alerts import KINDS, PHASES, ChannelShares, Facts, alert_id, channel_shares, reason_of
from stream_ad.core.batches import (
    Alert,
    AlertKind,
    Arrays,
    Float64Array,
    Int32Array,
    Int64Array,
    ScoreBatch,
    VerdictBatch,
)
from stream_ad.core.incidents import Event, IncidentRules, Incidents, Open, Step
from stream_ad.core.quality import SENSOR_FAULT, Quality
from stream_ad.core.rounds import rounds
from stream_ad.core.slot_state import SlotState, part_of
from stream_ad.core.thresholds.base import Threshold, log_scores
from stream_ad.errors import ConfigError, ContractError

DeviceIds = Callable[[int], str] | Sequence[str]
"""The text id of a slot; only used for rows that become alerts."""


@dataclass(frozen=True, slots=True)
class _Messages:
    """The rows of a round that become alerts: row numbers, parts of a step, the rows that opened the incidents."""

    rows: Int64Array
    step: Step
    opened: list[tuple[int, ...]]


class Deciding:
    """Judges score batches; all state is by slot.

    Per device and row: `level = (1 - smoothing) level + smoothing log(score)`, starting with the first score, and
    `smoothed = exp(level)`; an unscored row does not change the level. Then the limit, the incident, and what the
    threshold may learn (never an unscored row). Rows of different devices do not affect each other, so neither the
    order of devices nor the batch boundaries change a result.

    Args:
        stream: name of the stream, part of alert ids.
        channels: c names, in the order of contributions.
        smoothing: weight of the newest log score, 0 < a <= 1; 1 disables smoothing.
        threshold: provides the limits; owned by this object from now on.
        rules: when incidents open and end.
        ends_rise: False if two rows of a device may have the same `end_ns`: then offset and sequence of the row that
            opened an incident are part of its id.

    Raises:
        ConfigError: `smoothing` is out of range.
    """

    def __init__(
        self,
        stream: str,
        channels: Sequence[str],
        smoothing: float,
        threshold: Threshold,
        rules: IncidentRules,
        ends_rise: bool = True,
    ) -> None:
        self._check_smoothing(smoothing)
        self._stream = stream
        self._channels = tuple(channels)
        self._smoothing = smoothing
        self._threshold = threshold
        # If nothing is learned, no message may claim it, and the exit level must not change.
        self._rules = rules if threshold.learns else replace(rules, relearn_after_ns=0)
        self._incidents = Incidents(self._rules)
        state = {"level": np.array(np.nan), "opened_offset": np.array(-1, np.int64)}
        if not ends_rise:
            state["opened_sequence"] = np.array(-1, np.int64)
        self._ends_rise = ends_rise
        self._state = SlotState(state)

    @staticmethod
    def _check_smoothing(smoothing: float) -> None:
        if not 0 < smoothing <= 1:
            raise ConfigError(f"smoothing: expected 0 < a <= 1, found {smoothing}")

    def __len__(self) -> int:
        """Return the number of slots."""
        return len(self._state)

    def grow(self, slots: int) -> None:
        """Make room for slots 0..slots-1; never shrinks."""
        self._state.grow(slots)
        self._threshold.grow(slots)
        self._incidents.grow(slots)

    def reset(self, device: Int32Array) -> None:
        """Reset slots to a new device's state; call `resolve` first, or open incidents never end."""
        self._state.reset(device)
        self._threshold.reset(device)
        self._incidents.reset(device)

    def decide(self, scores: ScoreBatch, ids: DeviceIds) -> tuple[VerdictBatch, tuple[Alert, ...]]:
        """Judge a batch.

        Args:
            scores: n rows in emission order; every slot has been grown to.
            ids: slot -> device id.

        Returns:
            The verdicts in the rows' order, and the alerts in the order of the rows that caused them.

        Raises:
            ContractError: a slot is unknown, or the number of channels is wrong.
        """
        self._check(scores)
        n = len(scores)
        smoothed, limit = np.empty(n), np.empty(n)
        is_anomaly, incident = np.empty(n, np.bool_), np.empty(n, np.int64)
        is_fault = (scores.quality & SENSOR_FAULT) != 0
        messages: list[_Messages] = []
        for rows in rounds(scores.keys.device):
            device = scores.keys.device[rows]
            smoothed[rows] = value = self._smooth(device, scores.score[rows])
            limit[rows] = bound = self._threshold.limits(device)
            step = self._incidents.step(device, scores.keys.end_ns[rows], value, bound, is_fault[rows])
            is_anomaly[rows] = step.is_open
            incident[rows] = np.where(step.is_open, step.opened_ns, 0)
            self._learn(device, value, step)
            if (reported := step.event != Event.NONE).any():
                opens = step.event == Event.OPENED
                self._state["opened_offset"][device[opens]] = scores.keys.offset[rows[opens]]
                if not self._ends_rise:
                    self._state["opened_sequence"][device[opens]] = scores.keys.sequence[rows[opens]]
                messages.append(_Messages(rows[reported], step.take(reported), self._opened(device[reported])))
        verdicts = VerdictBatch(scores, smoothed, limit, is_anomaly, incident)
        return verdicts, self._alerts(verdicts, messages, ids)

    def resolve(
        self,
        device: Int32Array,
        end_ns: Int64Array | int,
        offset: Int64Array | int,
        ids: DeviceIds,
        model_id: str,
        reason: str = "device silent",
    ) -> tuple[Alert, ...]:
        """End the open incidents of evicted devices; the rest of their state is kept.

        Args:
            device: int32[k], each slot at most once.
            end_ns: event time of the end, one for all or int64[k].
            offset: input offset of the eviction, one for all or int64[k].
            ids: slot -> device id.
            model_id: digest of the bundle in service.
            reason: one line for people.

        Returns:
            A `resolved` alert for each device that had an open incident, in the order given.
        """
        ends = dict(zip(device.tolist(), np.broadcast_to(end_ns, device.shape).tolist(), strict=True))
        offsets = dict(zip(device.tolist(), np.broadcast_to(offset, device.shape).tolist(), strict=True))
        limit = dict(zip(device.tolist(), self._threshold.limits(device).tolist(), strict=True))
        found, step = self._incidents.resolve(device)
        openings = self._opened(found)
        alerts = []
        for at, slot in enumerate(found.tolist()):
            name = _name(ids, slot)
            kind = KINDS[Open(step.kind[at])]
            opened = int(step.opened_ns[at])
            alerts.append(
                Alert(
                    id=self._alert_id(name, kind, opened, openings[at]),
                    version=int(step.version[at]),
                    phase=PHASES[Event.RESOLVED],
                    kind=kind,
                    stream=self._stream,
                    device=name,
                    opened_end_ns=opened,
                    end_ns=ends[slot],
                    opened_offset=openings[at][0],
                    offset=offsets[slot],
                    score=float("nan"),
                    limit=limit[slot],
                    peak=float(step.peak[at]),
                    channels=(),
                    model_id=model_id,
                    reason=reason,
                )
            )
        return tuple(alerts)

    def open_slots(self) -> Int32Array:
        """Return int32[k], the slots with an open incident, ascending."""
        return self._incidents.open_slots()

    def forget_incidents(self) -> None:
        """Drop the incidents of all slots without alerts; levels and limits are kept."""
        self._incidents.reset(np.arange(len(self), dtype=np.int32))

    def replace_judge(self, smoothing: float, threshold: Threshold) -> None:
        """Continue with another model's smoothing and limits: scores of two models are not comparable.

        Levels and limits start as a new device's; call `resolve` for the open incidents first.

        Args:
            smoothing: as in the constructor.
            threshold: new, of the same kind; owned by this object from now on.
        """
        self._check_smoothing(smoothing)
        self._smoothing = smoothing
        threshold.grow(len(self))
        self._threshold = threshold
        every = np.arange(len(self), dtype=np.int32)
        self._state.reset(every)
        self._incidents.reset(every)

    def snapshot(self) -> Arrays:
        """Return the whole state as named arrays whose first axis is the slot."""
        arrays = self._state.snapshot()
        arrays.update({f"threshold.{name}": array for name, array in self._threshold.snapshot().items()})
        arrays.update({f"incident.{name}": array for name, array in self._incidents.snapshot().items()})
        return arrays

    def restore(self, arrays: Arrays) -> None:
        """Restore a snapshot; all later results are bit-for-bit the same.

        Raises:
            ContractError: the arrays are not a snapshot of this configuration.
        """
        sizes = {array.shape[:1] for array in arrays.values()}
        if len(sizes) > 1:
            raise ContractError(f"deciding: expected arrays of one length, found {sorted(sizes)}")
        self._threshold.restore(part_of(arrays, "threshold."))
        self._incidents.restore(part_of(arrays, "incident."))
        self._state.restore({name: array for name, array in arrays.items() if "." not in name})

    def _check(self, scores: ScoreBatch) -> None:
        device = scores.keys.device
        if len(device) and not 0 <= int(device.min()) <= int(device.max()) < len(self):
            raise ContractError(f"deciding: expected slots in 0..{len(self) - 1}, found {device.min()}..{device.max()}")
        if scores.coverage.shape[1] != len(self._channels):
            raise ContractError(f"deciding: expected {len(self._channels)} channels, found {scores.coverage.shape[1]}")

    def _smooth(self, device: Int32Array, score: Float64Array) -> Float64Array:
        """Update these slots' levels and return the smoothed scores, NaN if unscored."""
        logs = log_scores(score)
        level = self._state["level"][device]
        moved = np.where(np.isnan(level), logs, (1.0 - self._smoothing) * level + self._smoothing * logs)
        is_unscored = np.isnan(logs)
        self._state["level"][device] = np.where(is_unscored, level, moved)
        smoothed: Float64Array = np.exp(moved)
        smoothed[is_unscored] = np.nan
        return smoothed

    def _learn(self, device: Int32Array, smoothed: Float64Array, step: Step) -> None:
        is_scored = ~np.isnan(smoothed)
        if is_scored.all():
            self._threshold.learn(device, smoothed, step.phase)
        elif is_scored.any():
            self._threshold.learn(device[is_scored], smoothed[is_scored], step.phase[is_scored])

    def _alerts(self, verdicts: VerdictBatch, messages: Sequence[_Messages], ids: DeviceIds) -> tuple[Alert, ...]:
        made = [
            (row, self._alert(verdicts, row, part, at, ids))
            for part in messages
            for at, row in enumerate(part.rows.tolist())
        ]
        made.sort(key=lambda pair: pair[0])
        return tuple(alert for _, alert in made)

    def _alert(self, verdicts: VerdictBatch, row: int, part: _Messages, at: int, ids: DeviceIds) -> Alert:
        scores, keys, step = verdicts.scores, verdicts.keys, part.step
        event, kind = Event(step.event[at]), Open(step.kind[at])
        facts = Facts(
            event=event,
            kind=kind,
            score=float(verdicts.smoothed[row]),
            limit=float(verdicts.limit[row]),
            peak=float(step.peak[at]),
            opening_limit=float(step.opening_limit[at]),
            age_ns=int(keys.end_ns[row] - step.opened_ns[at]),
            judged_ns=int(step.judged_ns[at]),
            is_learned=bool(step.is_learned[at]),
            quality=Quality(int(scores.quality[row])),
            channels=self._shares(scores, row, kind),
        )
        name = _name(ids, int(keys.device[row]))
        opened = int(step.opened_ns[at])
        return Alert(
            id=self._alert_id(name, KINDS[kind], opened, part.opened[at]),
            version=int(step.version[at]),
            phase=PHASES[event],
            kind=AlertKind.REGIME if event is Event.REGIME else KINDS[kind],
            stream=self._stream,
            device=name,
            opened_end_ns=opened,
            end_ns=int(keys.end_ns[row]),
            opened_offset=part.opened[at][0],
            offset=int(keys.offset[row]),
            score=facts.score,
            limit=facts.limit,
            peak=facts.peak,
            channels=facts.channels,
            model_id=scores.model_id,
            reason=reason_of(facts, self._rules),
        )

    def _opened(self, slots: Int32Array) -> list[tuple[int, ...]]:
        """Return the offset of the row that opened each slot's incident, and its sequence if ends may repeat."""
        names = ("opened_offset",) if self._ends_rise else ("opened_offset", "opened_sequence")
        return list(zip(*(self._state[name][slots].tolist() for name in names), strict=True))

    def _alert_id(self, device: str, kind: AlertKind, opened_ns: int, opened: tuple[int, ...]) -> str:
        return alert_id(self._stream, device, kind, opened_ns, *(() if self._ends_rise else opened))

    def _shares(self, scores: ScoreBatch, row: int, kind: Open) -> ChannelShares:
        if kind is Open.SENSOR:
            faulty = 1 - scores.coverage[row] if scores.faulty is None else scores.faulty[row].astype(np.float32)
            if found := channel_shares(self._channels, faulty):
                return found
        if scores.contribution is None:
            return ()
        return channel_shares(self._channels, scores.contribution[row])


def _name(ids: DeviceIds, slot: int) -> str:
    return ids(slot) if callable(ids) else ids[slot]
