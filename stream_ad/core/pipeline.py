"""The pipeline of one partition: a front turns records into rows, deciding turns rows into verdicts and alerts."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np

from stream_ad.core.batches import Alert, Arrays, Int32Array, Judged, Refused, ScoreBatch
from stream_ad.core.deciding import Deciding
from stream_ad.core.devices import DeviceIndex
from stream_ad.core.front import Front, Records
from stream_ad.core.model import Model
from stream_ad.core.quality import Quality
from stream_ad.core.ring import NEVER
from stream_ad.core.segments import runs
from stream_ad.core.thresholds.base import Threshold
from stream_ad.core.unscored import UnscoredDevice
from stream_ad.errors import ContractError

AFRESH_ROWS = 1_000
"""Number of a device's first rows after a loss of input with `Quality.AFRESH`: the calibration's weight when a device
starts."""
EVICTION_TICKS = 4
"""Eviction is checked when log time passes a multiple of the silence divided by this."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """Results of some input.

    Attributes:
        judged: verdict batches, in emission order.
        alerts: in the order of the rows that caused them.
        refused: readings refused as late or future, one entry per record and reason.
        readings: number of readings accepted or refused.
        evicted: number of devices evicted.
    """

    judged: tuple[Judged, ...]
    alerts: tuple[Alert, ...]
    refused: tuple[Refused, ...]
    readings: int = 0
    evicted: int = 0

    @property
    def rows(self) -> int:
        """Number of verdicts."""
        return sum(len(part) for part in self.judged)

    def since(self, offset: int) -> StepResult:
        """Drop the effects of input before `offset`, which are already public."""
        judged = []
        for part in self.judged:
            rows = np.flatnonzero(part.verdicts.keys.offset >= offset)
            if len(rows) == len(part):
                judged.append(part)
            elif len(rows):
                judged.append(part.take(rows))
        return StepResult(
            tuple(judged),
            tuple(alert for alert in self.alerts if alert.offset >= offset),
            tuple(letter for letter in self.refused if letter.offset >= offset),
            self.readings,
            self.evicted,
        )


class PartitionPipeline:
    """Scores and judges the records of one partition; holds all its state.

    Results depend only on the records, not on how they are split into steps.

    Args:
        front: turns records into rows; owned by this object from now on.
        deciding: judges rows; likewise.
        evict_after_ns: log time of silence after which a device is evicted.
    """

    def __init__(self, front: Front[Any], deciding: Deciding, evict_after_ns: int) -> None:
        self._devices = DeviceIndex()
        self._front = front
        self._deciding = deciding
        self._evict_after_ns = evict_after_ns
        self._tick_ns = max(evict_after_ns // EVICTION_TICKS, 1)
        self._ids: tuple[str, ...] | None = None
        self._is_afresh = False

    @property
    def devices(self) -> int:
        """Number of devices with state."""
        return len(self._devices)

    def ids(self) -> list[str]:
        """Return the ids of the devices with state."""
        return [
            device for device, used in zip(self._devices.table(), self._devices.used().tolist(), strict=True) if used
        ]

    @property
    def log_ns(self) -> int:
        """Log time of the partition, UTC nanoseconds; `ring.NEVER` before the first record."""
        return self._front.log_ns

    def step(self, records: Records) -> StepResult:
        """Process some input, in log order, starting where the last call ended.

        Args:
            records: the decoded records, all that were polled.
        """
        judged: list[Judged] = []
        alerts: list[Alert] = []
        refused: list[Refused] = []
        evicted = 0
        log = np.maximum(np.maximum.accumulate(records.record_log_ns), self.log_ns)
        ticks = np.flatnonzero(np.diff(log // self._tick_ns, prepend=self.log_ns // self._tick_ns))
        edges = sorted({0, *ticks.tolist(), len(log)})
        for start, stop in itertools.pairwise(edges):
            if start in ticks:
                evicted += self._evict(int(log[start]), int(records.record_offset[start]), judged, alerts)
            piece = records if len(edges) == 2 else records.cut(start, stop)
            rows, letters = self._front.add(self._slots(piece), piece, self._table())
            refused += letters
            self._judge(rows, judged, alerts)
        return StepResult(tuple(judged), tuple(alerts), tuple(refused), len(records.device), evicted)

    def silence_ends_ns(self) -> int | None:
        """Return the earliest log time at which silence completes a row or evicts a device, None if there is none."""
        last_ns = self._front.last_seen_ns()
        known = last_ns[last_ns != NEVER]
        if len(known) == 0:
            return None
        next_tick = (self.log_ns // self._tick_ns + 1) * self._tick_ns
        evicts = max(int(known.min()) + self._evict_after_ns, next_tick)
        closes = self._front.silence_ends_ns()
        return evicts if closes is None else min(evicts, closes)

    def advance(self, log_ns: int, offset: int) -> StepResult:
        """Advance log time between two records, as a record without readings would.

        Args:
            log_ns: log time, UTC nanoseconds; an earlier one changes nothing.
            offset: input offset of the resulting rows.
        """
        judged: list[Judged] = []
        alerts: list[Alert] = []
        evicted = 0
        if log_ns > self.log_ns != NEVER:
            if log_ns // self._tick_ns != self.log_ns // self._tick_ns:
                evicted = self._evict(log_ns, offset, judged, alerts)
            self._judge(self._front.advance(log_ns, offset, self._table()), judged, alerts)
        return StepResult(tuple(judged), tuple(alerts), (), 0, evicted)

    def swap(self, model: Model, threshold: Threshold, offset: int, reason: str) -> StepResult:
        """Score with another model from here on; open rows stay, open incidents end.

        Args:
            model: one that fits the front's state.
            threshold: new, seeded by the new model's calibration.
            offset: input offset of the alerts.
            reason: one line for people, in the alerts that end incidents.
        """
        slots = self._deciding.open_slots()
        ends = self._front.final_ns(slots)
        alerts = self._deciding.resolve(slots, ends, offset, self._table(), self._front.model.model_id, reason)
        self._front.replace_model(model)
        self._deciding.replace_judge(model.smoothing, threshold)
        return StepResult((), alerts, ())

    def unscored(self, most: int) -> tuple[int, tuple[UnscoredDevice, ...]]:
        """Return the number of devices that send readings but have had no score for long, and `most` of them."""
        return self._front.unscored(most, self._table())

    def forget_incidents(self) -> None:
        """Drop all incidents without alerts: they are not public, or ended otherwise."""
        self._deciding.forget_incidents()

    def mark_afresh(self) -> None:
        """Flag each device's first rows from here on: input before them was lost."""
        self._is_afresh = True

    def _slots(self, records: Records) -> Int32Array:
        """Return int32[n], the slot of each reading; new devices get slots in the order of their readings."""
        device = records.device
        if len(device) == 0:
            return device
        starts = runs(device)
        found, first = np.unique(device[starts], return_index=True)
        order = np.argsort(first)
        seen = found[order]
        slots, fresh = self._devices.slots([records.ids[k] for k in seen.tolist()])
        if len(fresh):
            self._ids = None
            self._front.grow(self._devices.capacity)
            self._deciding.grow(self._devices.capacity)
            is_fresh = np.isin(slots, fresh)
            self._front.begin(slots[is_fresh], records.event_ns[starts[first[order][is_fresh]]])
        table = np.zeros(len(records.ids), np.int32)
        table[seen] = slots
        return table[device]

    def _judge(self, scores: ScoreBatch, judged: list[Judged], alerts: list[Alert]) -> None:
        if len(scores) == 0:
            return
        if self._is_afresh:
            scores.quality[scores.keys.sequence < AFRESH_ROWS] |= np.uint32(Quality.AFRESH)
        verdicts, raised = self._deciding.decide(scores, self._table())
        judged.append(Judged.of(verdicts, self._table()))
        alerts += raised

    def _table(self) -> tuple[str, ...]:
        if self._ids is None:
            self._ids = self._devices.table()
        return self._ids

    def _evict(self, log_ns: int, offset: int, judged: list[Judged], alerts: list[Alert]) -> int:
        """Evict devices that were silent for long; their open rows and incidents end first."""
        last_ns = self._front.last_seen_ns()[: self._devices.capacity]
        # Devices whose readings were all refused as too far ahead hold a slot but no state.
        unseen = np.flatnonzero(self._devices.used() & (last_ns == NEVER)).astype(np.int32)
        if len(unseen):
            self._devices.release(unseen)
            self._ids = None
        slots = np.flatnonzero((last_ns != NEVER) & (last_ns + self._evict_after_ns <= log_ns)).astype(np.int32)
        if len(slots) == 0:
            return len(unseen)
        self._judge(self._front.advance(log_ns, offset, self._table()), judged, alerts)
        final_ns = self._front.final_ns(slots)
        alerts += self._deciding.resolve(slots, final_ns, offset, self._table(), self._front.model.model_id)
        self._front.reset(slots)
        self._deciding.reset(slots)
        self._devices.release(slots)
        self._ids = None
        return len(unseen) + len(slots)

    def snapshot(self) -> Arrays:
        """Return all state as named arrays; taking it changes nothing."""
        parts = {
            "devices": self._devices.snapshot(),
            "front": self._front.snapshot(self._devices.capacity),
            "deciding": self._deciding.snapshot(),
        }
        arrays = {f"{part}.{name}": array for part, named in parts.items() for name, array in named.items()}
        return arrays | {"pipeline.afresh": np.array([self._is_afresh])}

    def restore(self, arrays: Arrays) -> None:
        """Restore a snapshot of a pipeline with the same settings; results continue bit for bit.

        Raises:
            ContractError: an array is missing or has another shape.
        """
        parts: dict[str, Arrays] = {"devices": {}, "front": {}, "deciding": {}, "pipeline": {}}
        for name, array in arrays.items():
            part, _, rest = name.partition(".")
            if part not in parts:
                raise ContractError(f"snapshot: expected parts {sorted(parts)}, found {name}")
            parts[part][rest] = array
        try:
            self._devices.restore(parts["devices"])
            self._deciding.grow(self._devices.capacity)
            self._front.restore(parts["front"])
            self._deciding.restore(parts["deciding"])
            self._is_afresh = bool(parts["pipeline"]["afresh"][0])
        except (KeyError, ValueError, IndexError) as error:
            raise ContractError(f"snapshot: does not match this pipeline: {error}") from error
        self._ids = None
