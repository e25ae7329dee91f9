"""The content of a batch's records -> columns in log order: the second half of `io.wire.readings`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from operator import itemgetter
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import orjson

from stream_ad.core.batches import BoolArray, Float64Array, Int64Array, ReadingBatch, Refused
from stream_ad.core.front import Records
from stream_ad.core.sentinels import take_out
from stream_ad.io.cell_rule import LARGEST, are_numbers
from stream_ad.io.transport import RawBatch
from stream_ad.io.wire.json import Chunk, Problem, shown
from stream_ad.io.wire.times import grid_ns, milliseconds_ns

BLOCK = 64

Batch = TypeVar("Batch", bound=Records)


@dataclass(frozen=True, slots=True)
class BadCell:
    """One bad cell, for people.

    Attributes:
        device, channel: its device and channel.
        shown: its content, as one short ASCII line.
    """

    device: str
    channel: str
    shown: str


@dataclass(frozen=True, slots=True)
class Decoded(Generic[Batch]):
    """The content of a raw batch's records.

    Attributes:
        readings: the usable readings, in log order.
        refused: one entry per record refused wholly or in part, by offset.
        unknown_devices: devices outside the stream's pattern, counted once per record and skipped.
        unknown_channels: channels not in the bundle, counted once per record and skipped.
        bad_cells: number of bad cells (`io.cell_rule`), now NaN.
        bad_example: the first bad cell, None if there is none.
        strangers: readings with an unknown device or channel.
    """

    readings: Batch
    refused: tuple[Refused, ...]
    unknown_devices: int
    unknown_channels: int
    bad_cells: int
    bad_example: BadCell | None = None
    strangers: Strangers = field(default_factory=lambda: Strangers())


@dataclass(slots=True)
class Strangers:
    """Counts of readings that are skipped, wholly or in part, because of an unknown device or channel.

    Attributes:
        expected: ids or shell patterns of devices outside the stream that are not counted.
        of_devices: readings of devices outside the stream's pattern.
        with_channels: readings with a channel not in the bundle.
        device: id of the first such device, "" if there is none.
        channel: device and name of the first such channel, None if there is none.
    """

    expected: tuple[str, ...] = ()
    of_devices: int = 0
    with_channels: int = 0
    device: str = ""
    channel: tuple[str, str] | None = None

    def add_device(self, device: str, readings: int) -> None:
        """Count readings of a device outside the pattern."""
        if any(device == pattern or fnmatchcase(device, pattern) for pattern in self.expected):
            return
        self.of_devices += readings
        self.device = self.device or device

    def add_devices(self, devices: Iterable[str]) -> None:
        """Count one reading for each device outside the pattern."""
        for device, readings in Counter(devices).items():
            self.add_device(device, readings)

    def add_channel(self, device: str, channel: str, readings: int) -> None:
        """Count a device's readings with a channel not in the bundle; "" means none."""
        if not channel:
            return
        self.with_channels += readings
        self.channel = self.channel or (device, channel)


class Series(NamedTuple):
    """A JSON series with its numbers as float64 bytes: `columns` are c consecutive arrays of n."""

    record: int
    slot: int
    start_ns: int
    step_ms: float
    times: bytes | None
    columns: bytes


class Singles(NamedTuple):
    """Single readings, one per record, ascending; values float64[n, c]."""

    record: npt.NDArray[np.intp]
    slot: Int64Array
    event_ns: Int64Array
    values: Float64Array


@dataclass(slots=True)
class Gathered:
    """Collects the content of records during one call of `decode`; series by (samples, has times)."""

    slots: dict[str, int] = field(default_factory=dict)
    singles: list[Singles] = field(default_factory=list)
    series: dict[tuple[int, bool], list[Series]] = field(default_factory=dict)
    chunks: list[tuple[int, Chunk]] = field(default_factory=list)
    problems: list[tuple[int, Problem]] = field(default_factory=list)
    unknown_devices: int = 0
    unknown_channels: int = 0
    strangers: Strangers = field(default_factory=Strangers)

    def slot(self, device: str) -> int:
        """Return a device's number in this batch."""
        return self.slots.setdefault(device, len(self.slots))


def joined(blobs: Sequence[bytes]) -> Float64Array:
    """Return the numbers of all blobs as one read-only array."""
    return np.frombuffer(b"".join(blobs), np.float64)


class _Part(NamedTuple):
    """Readings of some records, `samples` each: one source of the batch's rows."""

    record: npt.NDArray[np.intp]
    samples: int
    slot: Int64Array
    event_ns: Int64Array
    values: Float64Array


def assemble(
    found: Gathered, raw: RawBatch, channels: Sequence[str], missing: Mapping[str, Sequence[float]]
) -> Decoded[ReadingBatch]:
    """Put all readings into log order.

    Args:
        found: the content of the records; no record occurs in two of its lists of readings.
        raw: the batch.
        channels: the columns.
        missing: by channel, values that count as missing.
    """
    width = len(channels)
    parts = list(_parts(found, width))
    counts = np.zeros(len(raw), np.int64)
    for part in parts:
        counts[part.record] = part.samples
    total = int(counts.sum())
    if len(parts) == 1:
        slot, event_ns, values = parts[0].slot, parts[0].event_ns, parts[0].values
    else:
        slot, event_ns = np.empty(total, np.int64), np.empty(total, np.int64)
        values = np.empty((total, width))
        starts = np.cumsum(counts) - counts
        for part in parts:
            rows = (starts[part.record][:, None] + np.arange(part.samples)).ravel()
            slot[rows], event_ns[rows], values[rows] = part.slot, part.event_ns, part.values
    ids = tuple(found.slots)
    if found.problems or found.chunks or (found.singles and found.series):
        ids, slot = _by_first_row(ids, slot)
    bad_rows: BoolArray | None = None
    example = None
    if missing:
        take_out(values, channels, missing)
    bad_cells = 0
    if not are_numbers(values):
        bad = (values > LARGEST) | (values < -LARGEST)
        bad_cells = int(np.count_nonzero(bad))
    if bad_cells:
        bad_rows = np.any(bad, axis=1)
        row = int(np.argmax(bad_rows))
        column = int(np.argmax(bad[row]))
        stops = np.cumsum(counts)
        record = int(np.searchsorted(stops, row, side="right"))
        shown_cell = _as_it_was(found, raw, record, row - int(stops[record] - counts[record]), channels[column])
        example = BadCell(ids[slot[row]], channels[column], shown_cell)
        values[bad] = np.nan
    readings = ReadingBatch(
        ids=ids,
        device=slot.astype(np.int32),
        event_ns=event_ns,
        offset=np.repeat(raw.offset, counts),
        values=values,
        record_offset=np.ascontiguousarray(raw.offset),
        record_log_ns=np.ascontiguousarray(raw.log_ns),
        is_bad=bad_rows,
    )
    refused = tuple(
        Refused(int(raw.offset[record]), problem.reason, problem.detail, problem.rows, problem.first_event_ns)
        for record, problem in sorted(found.problems, key=itemgetter(0))
    )
    return Decoded(
        readings,
        refused,
        found.unknown_devices,
        found.unknown_channels,
        bad_cells,
        example,
        found.strangers,
    )


def _as_it_was(found: Gathered, raw: RawBatch, record: int, sample: int, channel: str) -> str:
    """Return a bad cell's text: kept by the general path, decoded again for the fast ones."""
    for number, chunk in found.chunks:
        if number == record:
            return chunk.bad
    cell = orjson.loads(raw.values[record])["values"][channel]
    return shown(cell[sample] if isinstance(cell, list) and sample < len(cell) else cell)


def _parts(found: Gathered, width: int) -> Iterator[_Part]:
    if found.singles:
        record, slot, event_ns, values = map(np.concatenate, zip(*found.singles, strict=True))
        yield _Part(record, 1, slot, event_ns, values)
    for (samples, has_times), group in found.series.items():
        if group:
            yield _series_part(samples, has_times, group, width)
    for number, chunk in found.chunks:
        used = np.unique(chunk.device)
        slots = np.zeros(len(chunk.ids), np.int64)
        slots[used] = [found.slot(chunk.ids[code]) for code in used]
        yield _Part(
            np.array([number], np.intp),
            len(chunk.event_ns),
            slots[chunk.device],
            chunk.event_ns,
            chunk.values,
        )


def _series_part(samples: int, has_times: bool, group: Sequence[Series], width: int) -> _Part:
    if has_times:
        event_ns = milliseconds_ns(joined([series.times or b"" for series in group]))
    else:
        start_ns = np.array([series.start_ns for series in group], np.int64)
        step_ms = np.array([series.step_ms for series in group])
        event_ns = (start_ns[:, None] + grid_ns(samples, step_ms[:, None])).ravel()
    values = np.empty((len(group), samples, width))
    for start in range(0, len(group), BLOCK):  # transposed in blocks, within the processor's cache
        block = joined([series.columns for series in group[start : start + BLOCK]])
        values[start : start + BLOCK] = block.reshape(-1, width, samples).transpose(0, 2, 1)
    return _Part(
        np.array([series.record for series in group], np.intp),
        samples,
        np.repeat(np.array([series.slot for series in group], np.int64), samples),
        event_ns,
        values.reshape(-1, width),
    )


def _by_first_row(ids: Sequence[str], slot: Int64Array) -> tuple[tuple[str, ...], Int64Array]:
    """Renumber the devices in row order and drop those without rows."""
    first = np.full(len(ids), len(slot), np.int64)
    first[slot[::-1]] = np.arange(len(slot))[::-1]  # for equal indices the last write wins
    order = np.argsort(first, kind="stable")
    number = np.empty(len(ids), np.int64)
    number[order] = np.arange(len(ids))
    used = int(np.count_nonzero(first < len(slot)))
    return tuple(ids[place] for place in order[:used]), number[slot]
