"""Recording -> windows, with the live pipeline's windowing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stream_ad.core.batches import (
    BoolArray,
    Columns,
    Float32Array,
    Float64Array,
    Int32Array,
    Int64Array,
    ReadingBatch,
    WindowBatch,
)
from stream_ad.core.model import Channel, WindowShape
from stream_ad.core.windowing import TimeRules, Windowing
from stream_ad.errors import RecordingError
from stream_ad.io.recordings.recordings import Recording

BATCH_ROWS = 262_144
FOREVER_NS = 2**60
MIN_CALIBRATION = 50
"""Minimum number of windows for a fit and its calibration."""
MAX_TRAINING_BYTES = 2 << 30


@dataclass(frozen=True, slots=True)
class Windows(Columns):
    """Windows of a recording, in order of their end.

    Attributes:
        values: float64[n, t, c], raw, NaN where a sample is missing.
        device: int32[n], index into the recording's devices.
        end_ns: int64[n], exclusive end, event time.
        coverage: float32[n, c].
    """

    values: Float64Array
    device: Int32Array
    end_ns: Int64Array
    coverage: Float32Array

    def __len__(self) -> int:
        return len(self.values)


def cut_windows(recording: Recording, channels: Sequence[Channel], shape: WindowShape, every: int = 1) -> Windows:
    """Cut a recording into windows on the live grid, except those that contain a row marked as a fault.

    Args:
        recording: rows in order of time, with all of `channels`.
        channels: the model's channels, sorted by name.
        shape: the grid.
        every: keep every n-th window of each device, in order of time.

    Raises:
        RecordingError: a channel is missing.
    """
    at = []
    for channel in channels:
        if channel.name not in recording.channels:
            raise RecordingError(f"recording: expected a channel {channel.name!r}, found {list(recording.channels)}")
        at.append(recording.channels.index(channel.name))
    windowing = Windowing(shape, channels, TimeRules(0, FOREVER_NS, FOREVER_NS))
    windowing.grow(len(recording.devices))
    found = []
    for start in range(0, len(recording), BATCH_ROWS):
        rows = slice(start, start + BATCH_ROWS)
        event = recording.event_ns[rows]
        batch = ReadingBatch(
            ids=recording.devices,
            device=recording.device[rows],
            event_ns=event,
            offset=np.full(len(event), start, np.int64),
            values=np.ascontiguousarray(recording.values[rows][:, at]),
            record_offset=np.array([start], np.int64),
            record_log_ns=event[:1],
        )
        found.append(_some(windowing.add(batch.device, batch)[0], every))
    found.append(_some(windowing.close_idle(int(recording.event_ns[-1]) + FOREVER_NS, len(recording)), every))
    whole = WindowBatch.joined(found)
    joined = Windows(whole.values, whole.keys.device, whole.keys.end_ns, whole.coverage)
    joined = joined.take(np.lexsort((joined.device, joined.end_ns)))
    faults = recording.faults
    if faults.any():
        touched = touches(joined, shape, recording.device[faults], recording.event_ns[faults])
        joined = joined.take(np.flatnonzero(~touched))
    return joined


def usable(windows: Windows, min_coverage: float) -> Windows:
    """Keep windows with enough samples in every channel, evenly thinned to fit into memory."""
    windows = windows.take(np.flatnonzero((windows.coverage >= min_coverage).all(axis=1)))
    most = max(MAX_TRAINING_BYTES // max(windows.values[:1].nbytes, 1), MIN_CALIBRATION)
    if len(windows) > most:
        windows = windows.take(np.linspace(0, len(windows) - 1, most).astype(np.int64))
    return windows


def blocks(windows: Windows, shape: WindowShape, folds: int) -> list[tuple[Int64Array, Int64Array]]:
    """Return the rows inside each contiguous block of time, and those outside that share no sample with it.

    Empty if a block would leave fewer than half of `MIN_CALIBRATION` windows outside.
    """
    found = []
    length_ns = shape.samples * shape.period_ns
    for inside in np.array_split(np.arange(len(windows)), folds):
        if not len(inside):
            return []
        first, last = windows.end_ns[inside[0]], windows.end_ns[inside[-1]]
        apart = (windows.end_ns <= first - length_ns) | (windows.end_ns >= last + length_ns)
        outside = np.flatnonzero(apart)
        if len(outside) < MIN_CALIBRATION // 2:
            return []
        found.append((inside, outside))
    return found


def independent(windows: Windows, shape: WindowShape) -> int:
    """Return the approximate number of windows without common samples."""
    return max(len(windows) * min(shape.stride, shape.samples) // shape.samples, 1)


def _some(windows: WindowBatch, every: int) -> WindowBatch:
    return windows if every == 1 else windows.take(np.flatnonzero(windows.keys.sequence % every == 0))


def touches(windows: Windows, shape: WindowShape, device: Int32Array, event_ns: Int64Array) -> BoolArray:
    """Return whether each window contains a moment of its device, within half a period.

    Args:
        windows: n windows.
        shape: their grid.
        device: int32[m], device of each moment.
        event_ns: int64[m], ascending.

    Returns:
        bool[n].
    """
    found = np.zeros(len(windows), bool)
    for one in np.unique(device):
        moments = event_ns[device == one] + shape.period_ns // 2
        rows = np.flatnonzero(windows.device == one)
        end = windows.end_ns[rows]
        start = end - shape.samples * shape.period_ns
        found[rows] = np.searchsorted(moments, end, "left") > np.searchsorted(moments, start, "left")
    return found
