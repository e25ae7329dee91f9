"""A second front: one row per event, several per nanosecond. It shares no window with the built-in one.

Records are JSON `[[device, nanoseconds, [value, ...]], ...]`. An event becomes a row at once; the end of its row is the
nanosecond behind it. An event older than its device's newest is refused as late.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import orjson

from stream_ad.config import Settings
from stream_ad.core.batches import (
    Arrays,
    Float64Array,
    Int32Array,
    Int64Array,
    Keys,
    Reason,
    Refused,
    ScoreBatch,
)
from stream_ad.core.front import RowRules
from stream_ad.core.model import Model
from stream_ad.core.ring import NEVER
from stream_ad.core.rounds import rounds
from stream_ad.core.scoring import Scoring
from stream_ad.core.slot_state import SlotState, part_of
from stream_ad.core.unscored import UnscoredDevice
from stream_ad.fronts.table import FrontSpec
from stream_ad.io.transport import RawBatch
from stream_ad.io.wire.rows import Decoded

EVENT_RULES = RowRules(look_back_ns=0, row_ns=1, step_ns=1_000_000_000, ends_rise=False)


@dataclass(frozen=True, slots=True)
class Events:
    """Decoded events, in log order; a `core.front.Records`. Values are float64[n, c]."""

    ids: tuple[str, ...]
    device: Int32Array
    event_ns: Int64Array
    offset: Int64Array
    values: Float64Array
    record_offset: Int64Array
    record_log_ns: Int64Array

    @property
    def cells(self) -> int:
        """Number of values."""
        return self.values.size

    def cut(self, start: int, stop: int) -> Events:
        """Return records start..stop-1 and their events."""
        offsets = self.record_offset[start:stop]
        keep = (self.offset >= offsets[0]) & (self.offset <= offsets[-1])
        return replace(
            self,
            device=self.device[keep],
            event_ns=self.event_ns[keep],
            offset=self.offset[keep],
            values=self.values[keep],
            record_offset=offsets,
            record_log_ns=self.record_log_ns[start:stop],
        )


class EventDecoder:
    """Reads records of events."""

    def __init__(self, channels: int) -> None:
        self._channels = channels

    def decode(self, raw: RawBatch) -> Decoded[Events]:
        """Return the events, and the records that hold none."""
        slots: dict[str, int] = {}
        rows: list[tuple[int, int, int]] = []
        values: list[list[float]] = []
        refused = []
        for at, value in enumerate(raw.values):
            offset = int(raw.offset[at])
            try:
                events = [(str(d), int(t), [float(cell) for cell in cells]) for d, t, cells in orjson.loads(value)]
            except (ValueError, TypeError) as error:
                refused.append(Refused(offset, Reason.UNDECODABLE, f"expected a list of events, found: {error}"))
                continue
            for device, event_ns, cells in events:
                rows.append((slots.setdefault(device, len(slots)), event_ns, offset))
                values.append(cells)
        slot, times, offsets = np.array(rows, np.int64).reshape(len(rows), 3).T
        found = Events(
            ids=tuple(slots),
            device=slot.astype(np.int32),
            event_ns=times.copy(),
            offset=offsets.copy(),
            values=np.array(values, np.float64).reshape(len(rows), self._channels),
            record_offset=np.ascontiguousarray(raw.offset),
            record_log_ns=np.ascontiguousarray(raw.log_ns),
        )
        return Decoded(found, tuple(refused), 0, 0, 0)


class EventsFront:
    """Scores each event with a model of windows of one sample."""

    def __init__(self, model: Model) -> None:
        self._scoring = Scoring(model)
        self._log_ns = int(NEVER)
        seed = {"heard": np.array(NEVER, np.int64), "newest": np.array(NEVER, np.int64), "rows": np.array(0, np.int64)}
        self._state = SlotState(seed)

    @property
    def log_ns(self) -> int:
        """Log time of the partition."""
        return self._log_ns

    @property
    def model(self) -> Model:
        """The model in force."""
        return self._scoring.model

    def grow(self, slots: int) -> None:
        """Make room for slots 0..slots-1."""
        self._state.grow(slots)

    def reset(self, slots: Int32Array) -> None:
        """Put slots back to a new device's state."""
        self._state.reset(slots)

    def begin(self, slots: Int32Array, event_ns: Int64Array) -> None:
        """New devices need no note."""

    def add(self, slot: Int32Array, records: Events, ids: Sequence[str]) -> tuple[ScoreBatch, list[Refused]]:
        """Return a row for each event, and what was refused as late."""
        log = np.maximum(np.maximum.accumulate(records.record_log_ns), self._log_ns)
        self._log_ns = int(log[-1])
        sequence = np.full(len(slot), -1, np.int64)
        for rows in rounds(slot):
            own = slot[rows]
            rows = rows[records.event_ns[rows] >= self._state["newest"][own]]
            own = slot[rows]
            self._state["newest"][own] = records.event_ns[rows]
            self._state["heard"][own] = log[np.searchsorted(records.record_offset, records.offset[rows])]
            sequence[rows] = self._state["rows"][own]
            self._state["rows"][own] += 1
        kept = np.flatnonzero(sequence >= 0)
        keys = Keys(slot[kept], records.event_ns[kept] + 1, records.offset[kept], sequence[kept])
        return self._scored(keys, records.values[kept]), list(_late(records, sequence))

    def advance(self, log_ns: int, offset: int, ids: Sequence[str]) -> ScoreBatch:
        """Move log time on; no row waits for silence."""
        self._log_ns = max(self._log_ns, log_ns)
        return self._scored(Keys.none(), np.empty((0, len(self.model.channels))))

    def silence_ends_ns(self) -> int | None:
        """No row waits for silence."""
        return None

    def last_seen_ns(self) -> Int64Array:
        """Return log time of each slot's newest event."""
        return self._state["heard"]

    def final_ns(self, slots: Int32Array) -> Int64Array:
        """Return the event time before which no row of a slot can end any more."""
        final: Int64Array = self._state["newest"][slots] + 1
        return final

    def replace_model(self, model: Model) -> None:
        """Score with another model from here on."""
        self._scoring = Scoring(model)

    def unscored(self, most: int, ids: Sequence[str]) -> tuple[int, tuple[UnscoredDevice, ...]]:
        """Every event has a score."""
        return 0, ()

    def snapshot(self, slots: int) -> Arrays:
        """Return the state of all slots."""
        arrays = {f"slots.{name}": array for name, array in self._state.snapshot().items()}
        return arrays | {"log_ns": np.array([self._log_ns], np.int64)}

    def restore(self, arrays: Arrays) -> None:
        """Take back a snapshot."""
        self._state.restore(part_of(arrays, "slots."))
        self._log_ns = int(arrays["log_ns"][0])

    def _scored(self, keys: Keys, values: Float64Array) -> ScoreBatch:
        found = self._scoring.score_values(np.ascontiguousarray(values[:, None, :]))
        return ScoreBatch(
            keys=keys,
            quality=np.zeros(len(keys), np.uint32),
            coverage=np.ones(values.shape, np.float32),
            score=found.score,
            contribution=found.contribution,
            model_id=self.model.model_id,
        )


def _late(records: Events, sequence: Int64Array) -> Iterator[Refused]:
    late = np.flatnonzero(sequence < 0)
    for offset in np.unique(records.offset[late]).tolist():
        rows = late[records.offset[late] == offset]
        first = int(records.event_ns[rows[0]])
        yield Refused(offset, Reason.LATE, "older than the device's newest event", len(rows), first)


def _decoder(settings: Settings, model: Model) -> EventDecoder:
    return EventDecoder(len(model.channels))


def _build(settings: Settings, model: Model) -> EventsFront:
    return EventsFront(model)


def _rules(settings: Settings, model: Model) -> RowRules:
    return EVENT_RULES


def _differences(one: Model, other: Model) -> Sequence[str]:
    names = [[channel.name for channel in model.channels] for model in (one, other)]
    return () if names[0] == names[1] else (f"channels {names[1]}, not {names[0]}",)


EVENTS = FrontSpec("events", _decoder, _build, _rules, _differences)
