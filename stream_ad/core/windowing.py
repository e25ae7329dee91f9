"""Event-time windows on a fixed grid, per device: watermark, lateness, gaps, idle close.

Time is counted in cells of the grid, whose origin is the Unix epoch. A reading goes to its nearest cell; some devices'
cells are half a period later (`core.phases`). Per device, `newest` is the latest cell seen and `floor` the first cell
that is not final: `floor = max(newest - lateness, end of the last idle close)`. A reading below the floor is late and
refused; a window closes when its end is at or below the floor. So the content of a closed window is final, whatever the
poll boundaries.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stream_ad.core.arrivals import Arrivals, records_of, refused
from stream_ad.core.batches import (
    Arrays,
    BoolArray,
    Float64Array,
    Int32Array,
    Int64Array,
    Keys,
    ReadingBatch,
    Reason,
    Refused,
    WindowBatch,
    expect,
)
from stream_ad.core.closing import Closing
from stream_ad.core.counters import rates
from stream_ad.core.holding import Holding
from stream_ad.core.model import Channel, Fill, WindowShape
from stream_ad.core.phases import Phases
from stream_ad.core.quality import Quality
from stream_ad.core.ring import CELL_FLAGS, NEVER, OUT_OF_ORDER, Ring, resized
from stream_ad.core.rounds import rounds
from stream_ad.core.segments import Segments, running_max


@dataclass(frozen=True, slots=True)
class TimeRules:
    """Limits of event time relative to log time.

    Attributes:
        lateness_ns: a reading older than its device's youngest by more cells than this is refused.
        idle_close_ns: log time of silence after which a device's open windows close.
        max_ahead_ns: a reading further ahead of log time is refused.
    """

    lateness_ns: int
    idle_close_ns: int
    max_ahead_ns: int


class Windowing:
    """Windows of all devices of a partition.

    Memory per slot: `cells * (8 * channels + 9)` bytes, where `cells` is the power of two that holds twice the window
    and the lateness.
    """

    def __init__(self, shape: WindowShape, channels: Sequence[Channel], rules: TimeRules) -> None:
        self._shape = shape
        self._rules = rules
        self._channels = len(channels)
        self._late = -(-rules.lateness_ns // shape.period_ns)
        self._reach = max(shape.samples, shape.stride)  # cells from which a window can take held values
        self._span = self._late + self._reach + 1
        self._log_ns = int(NEVER)
        self._newest: Int64Array = np.empty(0, np.int64)
        self._floor: Int64Array = np.empty(0, np.int64)
        self._last_seen_ns: Int64Array = np.empty(0, np.int64)
        self._sequence: Int64Array = np.empty(0, np.int64)
        self._phases = Phases(shape.period_ns)
        self._ring = Ring(self._span + max(shape.samples, 64), self._channels, math.gcd(shape.samples, shape.stride))
        hold = np.array([channel.fill is Fill.HOLD for channel in channels], np.bool_)
        age = np.array([channel.hold_max_age_ns // shape.period_ns for channel in channels], np.int64)
        self._holding = Holding(shape, hold, age) if hold.any() else None
        self._counters = np.flatnonzero([channel.counter for channel in channels])

    @property
    def log_ns(self) -> int:
        """Log time of the partition: the greatest append time seen."""
        return self._log_ns

    def last_seen_ns(self) -> Int64Array:
        """Return int64[slots], log time of each slot's last reading; NEVER without one."""
        return self._last_seen_ns

    def newest_ns(self) -> Int64Array:
        """Return int64[slots], event time of each slot's newest reading, to the grid's period; NEVER without one."""
        return np.where(self._newest == NEVER, NEVER, self._newest * self._shape.period_ns)

    def final_ns(self, slots: Int32Array) -> Int64Array:
        """Return int64[k], the event time before which nothing of a slot can change."""
        return self._floor[slots] * self._shape.period_ns

    def grow(self, slots: int) -> None:
        """Make room for slots 0..slots-1."""
        have = len(self._newest)
        if slots <= have:
            return
        room = max(slots, have + have // 2, 16)
        self._newest = resized(self._newest, room, NEVER)
        self._floor = resized(self._floor, room, NEVER)
        self._last_seen_ns = resized(self._last_seen_ns, room, NEVER)
        self._sequence = resized(self._sequence, room, 0)
        self._phases.grow(room)
        self._ring.grow(room)
        if self._holding is not None:
            self._holding.grow(room)

    def reset(self, slots: Int32Array) -> None:
        """Reset slots to an unknown device."""
        for state in (self._newest, self._floor, self._last_seen_ns):
            state[slots] = NEVER
        self._sequence[slots] = 0
        self._ring.reset(slots)
        if self._holding is not None:
            self._holding.reset(slots)

    def add(self, slot: Int32Array, batch: ReadingBatch) -> tuple[WindowBatch, list[Refused]]:
        """Process readings and return the windows that close.

        Args:
            slot: int32[n], the slot of each reading; `grow` was called.
            batch: n readings in log order, with all records of the poll.

        Returns:
            windows in the order (`offset`, slot, `end_ns`), and what was refused as late or future.
        """
        if len(batch.record_offset) == 0:
            return self._join([]), []
        log = np.maximum(np.maximum.accumulate(batch.record_log_ns), self._log_ns)
        self._log_ns = int(log[-1])
        record = records_of(batch)
        log_of = log[record]
        future = batch.event_ns > log_of + self._rules.max_ahead_ns
        letters = refused(np.flatnonzero(future), batch, Reason.FUTURE, log_of)
        parts: list[WindowBatch] = []
        if len(slot) > len(letters):
            rows = np.flatnonzero(~future) if letters else None
            work = Arrivals.of(slot, batch, record, rows, self._cells)
            if work is not None:
                parts, late = self._add_timely(work, log, batch.record_offset, batch.values)
                letters += refused(np.sort(late), batch, Reason.LATE, log_of)
        idle = self._close_idle(log, batch.record_offset)
        if idle is not None:
            parts.append(self._windows(idle))
        return self._join(parts), letters

    def _cells(self, segments: Segments, event_ns: Int64Array) -> Int64Array:
        return self._phases.cells(segments, event_ns, self._newest[segments.slot] == NEVER)

    def close_idle(self, log_ns: int, offset: int) -> WindowBatch:
        """Advance log time and close the windows that silence ends, as a record without readings would."""
        self._log_ns = max(self._log_ns, log_ns)
        idle = self._close_idle(np.array([self._log_ns], np.int64), np.array([offset], np.int64))
        return self._join([] if idle is None else [self._windows(idle)])

    def silence_ends_ns(self) -> int | None:
        """Return the earliest log time at which silence closes a window that is open now, or None."""
        stride = self._shape.stride
        is_open = (self._last_seen_ns != NEVER) & ((self._newest // stride + 1) * stride > self._floor)
        if not is_open.any():
            return None
        return int(self._last_seen_ns[is_open].min()) + self._rules.idle_close_ns

    def _add_timely(
        self, work: Arrivals, log: Int64Array, record_offset: Int64Array, values: Float64Array
    ) -> tuple[list[WindowBatch], Int64Array]:
        """Process readings that are not too far ahead; return windows and the late rows."""
        seg, cell = work.segments, work.cell
        before, after = running_max(cell, seg, self._newest[seg.slot])
        floor, flushes = self._floors(work, before, log, record_offset)
        late = cell < floor
        work.flags[cell < before] |= OUT_OF_ORDER
        raised = np.maximum(floor, after - self._late)
        closing = self._closings(work, before, floor, raised, flushes)
        parts = self._write_and_close(work, after, raised, ~late, values, closing)
        last = seg.stop - 1
        self._newest[seg.slot] = after[last]
        self._floor[seg.slot] = raised[last]
        self._last_seen_ns[seg.slot] = log[work.record[last]]
        return parts, work.row[late]

    def _floors(
        self, work: Arrivals, before: Int64Array, log: Int64Array, record_offset: Int64Array
    ) -> tuple[Int64Array, Closing | None]:
        """Return the floor for each reading, and the idle closes that precede readings."""
        seg, stride = work.segments, self._shape.stride
        floor = np.maximum(self._floor[seg.slot][work.number], before - self._late)
        before_first = self._last_seen_ns[seg.slot]
        known = before_first[before_first != NEVER]
        if log[-1] - min(log[0], known.min(initial=log[0])) < self._rules.idle_close_ns:
            return floor, None  # no device can have been silent long enough
        log_of_row = log[work.record]
        previous_ns = np.empty_like(log_of_row)
        previous_ns[1:] = log_of_row[:-1]
        previous_ns[seg.start] = before_first
        due = previous_ns + self._rules.idle_close_ns
        silent = np.flatnonzero((previous_ns != NEVER) & (log_of_row >= due))
        if len(silent) == 0:
            return floor, None
        end = (before[silent] // stride + 1) * stride
        lifted = np.full(len(work.cell), -1, np.int64)
        lifted[silent] = end
        lifted_before, lifted = running_max(lifted, seg, np.full(len(seg.slot), -1, np.int64))
        was = np.maximum(floor[silent], lifted_before[silent])
        at = np.searchsorted(log, due[silent], side="left")
        lowest = was // stride + 1
        slot = work.slot(silent)
        closing = Closing.between(slot, lowest, end // stride, stride, record_offset[at], idle=True)
        return np.maximum(floor, lifted), closing

    def _closings(
        self, work: Arrivals, before: Int64Array, floor: Int64Array, raised: Int64Array, flushes: Closing | None
    ) -> Closing:
        """Return all windows that the readings close, except those certainly without samples, in emission order."""
        stride = self._shape.stride
        top = raised // stride
        rows = np.flatnonzero((before != NEVER) & (top > floor // stride))
        lowest = floor[rows] // stride + 1
        highest = np.minimum(top[rows], (before[rows] + self._reach) // stride)
        slot = work.slot(rows)
        closing = Closing.between(slot, lowest, highest, stride, work.offset[rows], idle=False)
        # In emission order from here on, so that samples need not be moved again.
        return (closing if flushes is None else closing.and_also(flushes)).in_emission_order()

    def _write_and_close(
        self,
        work: Arrivals,
        after: Int64Array,
        raised: Int64Array,
        accepted: BoolArray,
        values: Float64Array,
        closing: Closing,
    ) -> list[WindowBatch]:
        """Write readings and gather windows, in as few passes as the ring allows.

        A pass takes, for each device, the readings that fit into the ring besides the cells that open windows still
        need, then gathers the windows that they close. A reading beyond the ring first closes the windows that it ends.
        """
        seg = work.segments
        number = work.number
        floor = self._floor[seg.slot]
        floor = np.where(floor == NEVER, raised[seg.start], floor)
        segment_of = np.zeros(len(self._newest), np.int64)
        segment_of[seg.slot] = np.arange(len(seg.slot))
        closing_segment = segment_of[closing.slot]
        parts: list[WindowBatch] = []
        done = np.zeros(len(seg.slot), np.int64)  # rows taken so far, by segment
        while True:
            limit = self._oldest(floor) + self._ring.cells
            fits = after < limit[number]
            taken = np.add.reduceat(fits, seg.start, dtype=np.int64)  # `after` rises: a prefix
            todo = fits & accepted
            if done.any():
                todo &= np.arange(len(after)) >= (seg.start + done)[number]
            if todo.all():
                self._ring.write(seg.slot[number], work.cell, work.flags, values.take(work.row, axis=0))
            else:
                rows = np.flatnonzero(todo)
                self._ring.write(
                    work.slot(rows), work.cell[rows], work.flags[rows], values.take(work.row[rows], axis=0)
                )
            done = taken
            ahead = np.minimum(seg.start + done, seg.stop - 1)
            complete = bool((done == seg.length).all())
            floor = np.maximum(floor, raised[ahead])
            ready = closing.end <= floor[closing_segment]
            if ready.any():
                all_ready = bool(ready.all())
                parts.append(self._windows(closing if all_ready else closing.take(ready)))
                closing, closing_segment = closing.take(~ready), closing_segment[~ready]
            if complete:
                return parts

    def _oldest(self, floor: Int64Array) -> Int64Array:
        """Return the first cell that an open window of a device with this floor can need."""
        stride = self._shape.stride
        return floor // stride * stride - max(self._shape.samples - stride, 0)

    def _close_idle(self, log: Int64Array, record_offset: Int64Array) -> Closing | None:
        """Close the windows that silence of devices ends within these records."""
        stride = self._shape.stride
        end = (self._newest // stride + 1) * stride
        due = self._last_seen_ns + self._rules.idle_close_ns
        slot = np.flatnonzero((self._last_seen_ns != NEVER) & (due <= log[-1]) & (end > self._floor))
        if len(slot) == 0:
            return None
        at = np.searchsorted(log, due[slot], side="left")
        lowest = self._floor[slot] // stride + 1
        self._floor[slot] = end[slot]
        return Closing.between(slot, lowest, end[slot] // stride, stride, record_offset[at], idle=True)

    def _windows(self, closing: Closing) -> WindowBatch:
        """Gather closed windows from the ring, except those without any sample."""
        reach = self._shape.samples if self._holding is None else self._reach
        values, flags, sparse = self._ring.gather(closing.slot, closing.end, reach)
        quality = np.zeros(len(closing.end), np.uint32)
        quality[closing.idle] |= np.uint32(Quality.IDLE_CLOSED)
        if flags is not None:
            bits = np.bitwise_or.reduce(flags[:, reach - self._shape.samples :], axis=1)
            for bit, name in CELL_FLAGS:
                quality[(bits & bit) != 0] |= np.uint32(name)
        coverage = np.ones((len(values), self._channels), np.float32)
        if sparse or self._holding is not None:
            sampled = ~np.isnan(values[:, reach - self._shape.samples :]).all(axis=(1, 2))
            if self._holding is not None:
                held = self._holding.fill(values, closing.slot, closing.end)
                values = np.ascontiguousarray(values[:, reach - self._shape.samples :])
                quality[held] |= np.uint32(Quality.HELD)
            empty = np.isnan(values)
            quality[empty.any(axis=(1, 2))] |= np.uint32(Quality.GAPS)
            coverage = np.ascontiguousarray(1.0 - empty.mean(axis=1, dtype=np.float32), np.float32)
            if not sampled.all():
                values, quality, coverage = values[sampled], quality[sampled], coverage[sampled]
                closing = closing.take(np.flatnonzero(sampled))
        if len(self._counters):
            values[:, :, self._counters] = rates(values[:, :, self._counters])
        n = len(values)
        keys = Keys(
            device=closing.slot.astype(np.int32),
            end_ns=closing.end * self._shape.period_ns,
            offset=np.ascontiguousarray(closing.offset),
            sequence=np.zeros(n, np.int64),
        )
        return WindowBatch(keys, values, coverage, quality)

    def _join(self, parts: list[WindowBatch]) -> WindowBatch:
        """Put windows into emission order and number them."""
        if not parts:
            return WindowBatch(
                Keys.none(),
                np.empty((0, self._shape.samples, self._channels), np.float64),
                np.empty((0, self._channels), np.float32),
                np.empty(0, np.uint32),
            )
        whole = WindowBatch.joined(parts)
        order = np.lexsort((whole.keys.end_ns, whole.keys.device, whole.keys.offset))
        if not (order[1:] > order[:-1]).all():
            whole = whole.take(order)
        for rows in rounds(whole.keys.device):
            slot = whole.keys.device[rows]
            whole.keys.sequence[rows] = self._sequence[slot]
            self._sequence[slot] += 1
        return whole

    def snapshot(self, slots: int) -> Arrays:
        """Return the state of slots 0..slots-1, only the cells that can still matter."""
        values, flags = self._ring.copy(self._first_live(slots), self._span)
        arrays: Arrays = {
            "log_ns": np.array([self._log_ns], np.int64),
            "newest": self._newest[:slots].copy(),
            "floor": self._floor[:slots].copy(),
            "heard": self._last_seen_ns[:slots].copy(),
            "sequence": self._sequence[:slots].copy(),
            "later_phase": self._phases.snapshot(slots),
            "cells": values,
            "cell_flags": flags,
        }
        if self._holding is not None:
            arrays.update(self._holding.snapshot(slots))
        return arrays

    def restore(self, arrays: Arrays) -> None:
        """Take back a snapshot."""
        slots = len(arrays["newest"])
        expect("cells", arrays["cells"], np.float64, (slots, self._span, self._channels))
        self.grow(slots)
        self.reset(np.arange(len(self._newest), dtype=np.int32))
        self._log_ns = int(arrays["log_ns"][0])
        self._newest[:slots] = arrays["newest"]
        self._floor[:slots] = arrays["floor"]
        self._last_seen_ns[:slots] = arrays["heard"]
        self._sequence[:slots] = arrays["sequence"]
        self._phases.restore(arrays["later_phase"])
        self._ring.paste(self._first_live(slots), arrays["cells"], arrays["cell_flags"])
        if self._holding is not None:
            self._holding.restore(arrays, slots)

    def _first_live(self, slots: int) -> Int64Array:
        """Return each slot's first cell that can still matter; any cell for an unknown device."""
        return np.where(self._newest[:slots] == NEVER, 0, self._oldest(self._floor[:slots]))
