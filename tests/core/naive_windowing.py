"""Windows by the book: one reading at a time, dictionaries, no numpy tricks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from stream_ad.core.model import Channel, Fill, WindowShape
from stream_ad.core.quality import Quality
from stream_ad.core.windowing import TimeRules


@dataclass(frozen=True)
class NaiveReading:
    device: int
    event_ns: int
    offset: int
    values: tuple[float, ...]
    bad: bool = False


@dataclass(frozen=True)
class NaiveWindow:
    device: int
    end_ns: int
    offset: int
    sequence: int
    values: tuple[tuple[float, ...], ...]
    coverage: tuple[float, ...]
    quality: int


@dataclass
class _Device:
    cells: dict[int, list[float]] = field(default_factory=dict)
    flags: dict[int, int] = field(default_factory=dict)
    newest: int = 0
    floor: int = 0
    heard: int = 0
    sequence: int = 0
    is_later: bool = False


class NaiveWindowing:
    def __init__(self, shape: WindowShape, channels: Sequence[Channel], rules: TimeRules) -> None:
        self.shape, self.channels, self.rules = shape, channels, rules
        self.late = math.ceil(rules.lateness_ns / shape.period_ns)
        self.devices: dict[int, _Device] = {}
        self.log_ns = -(2**62)
        self.windows: list[NaiveWindow] = []
        self.refused: list[tuple[int, str]] = []

    def record(self, offset: int, log_ns: int, readings: Sequence[NaiveReading]) -> None:
        self.log_ns = max(self.log_ns, log_ns)
        for device, state in sorted(self.devices.items()):
            if self.log_ns >= state.heard + self.rules.idle_close_ns:
                end = (state.newest // self.shape.stride + 1) * self.shape.stride
                self.close(device, state, max(end, state.floor), offset, Quality.IDLE_CLOSED)
        for reading in readings:
            self.reading(reading)

    def reading(self, reading: NaiveReading) -> None:
        if reading.event_ns > self.log_ns + self.rules.max_ahead_ns:
            self.refused.append((reading.offset, "future"))
            return
        period = self.shape.period_ns
        nearest = (reading.event_ns + period // 2) // period
        state = self.devices.get(reading.device)
        is_between = abs(reading.event_ns - nearest * period) > period / 4
        is_later = is_between if state is None else state.is_later
        cell = reading.event_ns // period if is_later else nearest
        if state is None:
            state = self.devices[reading.device] = _Device(newest=cell, floor=cell - self.late, is_later=is_later)
        state.heard = self.log_ns
        if cell < state.floor:
            self.refused.append((reading.offset, "late"))
            return
        flags = Quality.OUT_OF_ORDER if cell < state.newest else Quality(0)
        state.newest = max(state.newest, cell)
        self.close(reading.device, state, max(state.floor, state.newest - self.late), reading.offset, Quality(0))
        if reading.bad:
            flags |= Quality.BAD_VALUE
        old = state.cells.setdefault(cell, [math.nan] * len(self.channels))
        for c, value in enumerate(reading.values):
            if math.isnan(old[c]):
                old[c] = value
            elif not math.isnan(value):
                flags |= Quality.DUPLICATE
        state.flags[cell] = state.flags.get(cell, 0) | flags

    def close(self, device: int, state: _Device, floor: int, offset: int, flag: Quality) -> None:
        shape = self.shape
        youngest = max(state.cells, default=0)
        first = (state.floor // shape.stride + 1) * shape.stride
        for end in range(first, min(floor, youngest + shape.samples + 1) + 1, shape.stride):
            self.emit(device, state, end, offset, flag)
        state.floor = max(state.floor, floor)

    def emit(self, device: int, state: _Device, end: int, offset: int, flag: Quality) -> None:
        shape = self.shape
        cells = range(end - shape.samples, end)
        if all(math.isnan(v) for cell in cells for v in state.cells.get(cell, [math.nan])):
            return
        quality = int(flag)
        rows = []
        for cell in cells:
            quality |= state.flags.get(cell, 0)
            row = list(state.cells.get(cell, [math.nan] * len(self.channels)))
            for c, channel in enumerate(self.channels):
                if math.isnan(row[c]) and channel.fill is Fill.HOLD:
                    known = [k for k, v in state.cells.items() if k < cell and not math.isnan(v[c])]
                    if known and cell - max(known) <= channel.hold_max_age_ns // shape.period_ns:
                        row[c] = state.cells[max(known)][c]
                        quality |= Quality.HELD
            if any(math.isnan(v) for v in row):
                quality |= Quality.GAPS
            rows.append(tuple(row))
        coverage = tuple(sum(not math.isnan(row[c]) for row in rows) / shape.samples for c in range(len(self.channels)))
        self.windows.append(
            NaiveWindow(device, end * shape.period_ns, offset, state.sequence, tuple(rows), coverage, int(quality))
        )
        state.sequence += 1
