"""Recordings: measurements in files, read into columns in time order; used by train, send and evaluate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stream_ad.core.batches import BoolArray, Float32Array, Float64Array, Int32Array, Int64Array, expect
from stream_ad.core.sentinels import sentinels_of, take_out
from stream_ad.errors import RecordingError
from stream_ad.io.cells import to_float
from stream_ad.io.recordings.blocks import REMARKS, Block
from stream_ad.io.recordings.choosing import Choice, choose_channels, label_notes, left_out_notes
from stream_ad.io.recordings.file_devices import FileDevice, check_apart, dated_notes, file_devices, following_notes
from stream_ad.io.recordings.labels import STATES, is_label, marks_faults, normalised, read_words, to_marks
from stream_ad.io.recordings.layouts import INFLUX_OWN, Layout, resolve, stated_columns
from stream_ad.io.recordings.number_columns import NumberColumns
from stream_ad.io.recordings.quality_columns import QualityColumn, quality_columns, quality_notes, without_bad
from stream_ad.io.recordings.tables import find_files, read_blocks
from stream_ad.io.recordings.times import spread as time_columns
from stream_ad.io.recordings.times.column import TimeColumn
from stream_ad.io.recordings.unstated import date_columns, is_text, refuse_mixed


@dataclass(frozen=True, slots=True)
class Recording:
    """Measurements of some devices, rows in order of time, rows with equal times in file order.

    Attributes:
        devices: names of the devices.
        device: int32[n], index into `devices`.
        event_ns: int64[n], event time, UTC nanoseconds, never decreasing.
        channels: c names, sorted.
        values: float64[n, c]; NaN if missing.
        labels: per label column float32[n]; 1 is anomalous, 0 is not, NaN unknown. Not channels.
        layout: the roles of the columns, the first file's if they differ.
        bad_cells: number of bad cells (`io.cell_rule`); NaN in `values`.
        bad: bool[n, c], which cells; None if there are none.
        time_basis: how the times were interpreted, for people.
        naive: the times had no zone.
        notes: notes on the reading, one line each.
        units: units that the recording states, by channel.
        left_out: columns that are not channels, with the reason.
    """

    devices: tuple[str, ...]
    device: Int32Array
    event_ns: Int64Array
    channels: tuple[str, ...]
    values: Float64Array
    labels: Mapping[str, Float32Array] = field(default_factory=dict)
    layout: Layout | None = None
    bad_cells: int = 0
    time_basis: str = ""
    naive: bool = False
    notes: tuple[str, ...] = ()
    units: Mapping[str, str] = field(default_factory=dict)
    bad: BoolArray | None = None
    left_out: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        expect("device", self.device, np.int32, (None,))
        expect("event_ns", self.event_ns, np.int64, self.device.shape)
        expect("values", self.values, np.float64, (len(self.device), len(self.channels)))
        for name, label in self.labels.items():
            expect(name, label, np.float32, self.device.shape)
        if self.bad is not None:
            expect("bad", self.bad, np.bool_, self.values.shape)

    def __len__(self) -> int:
        return len(self.device)

    @property
    def faults(self) -> BoolArray:
        """bool[n], a label marks the row as faulty."""
        marked = np.zeros(len(self), bool)
        for name, label in self.labels.items():
            if marks_faults(name):
                marked |= label == 1
        return marked


@dataclass(frozen=True, slots=True)
class Description:
    """Summary of a recording, for people and for `init`.

    Attributes:
        rows, devices: their numbers.
        channels: names.
        missing: per channel, share of rows without a value.
        labels: names of the label columns.
        period_ns: median time between two readings of a device, rounded if nearly round.
        irregular: share of steps that differ from the period by more than half of it.
        start_ns, end_ns: first and last event time.
        time_basis: how the times were interpreted.
    """

    rows: int
    devices: int
    channels: tuple[str, ...]
    missing: tuple[float, ...]
    labels: tuple[str, ...]
    period_ns: int
    irregular: float
    start_ns: int
    end_ns: int
    time_basis: str


class _Columns:
    """Columns that grow by blocks and may start or stop at any block; gaps are NaN."""

    def __init__(self) -> None:
        self.rows = 0
        self.parts: dict[str, list[Float64Array]] = {}

    def add(self, rows: int, columns: Mapping[str, Float64Array]) -> None:
        for name in columns:
            if name not in self.parts:
                self.parts[name] = [np.full(self.rows, np.nan)]
        for name, parts in self.parts.items():
            parts.append(columns[name] if name in columns else np.full(rows, np.nan))
        self.rows += rows

    def column(self, name: str) -> Float64Array:
        return np.concatenate(self.parts[name]) if self.parts[name] else np.zeros(0)


class _Names:
    """Texts numbered in order of appearance."""

    def __init__(self) -> None:
        self.number: dict[str, int] = {}

    def of(self, name: str) -> int:
        return self.number.setdefault(name, len(self.number))

    def encode(self, column: pa.Array, what: str, block: Block) -> Int32Array:
        """Return int32[n], the codes of a column of names."""
        column = column.cast(pa.string())
        column = pc.if_else(pc.equal(pc.utf8_trim_whitespace(column), ""), None, column)
        if column.null_count:
            row = int(np.argmax(column.is_null().to_numpy(False)))
            raise RecordingError(f"{block.where(row)}: expected a {what}, found none")
        coded = column.dictionary_encode()
        numbers = np.array([self.of(name) for name in coded.dictionary.to_pylist()], np.int32)
        return numbers[coded.indices.to_numpy(False)] if len(coded) else np.zeros(0, np.int32)


class _Reader:
    """Accumulates what is read from files."""

    def __init__(self, stated: Layout | None, times: TimeColumn, numbers: NumberColumns) -> None:
        self.stated = stated
        self.times = times
        self.numbers = numbers
        self.notes: list[str] = []
        self.layout: Layout | None = None
        self.devices = _Names()
        self.device: list[Int32Array] = []
        self.columns = _Columns()
        self.labels = _Columns()
        self.states = _Columns()  # columns of words that are labels if all words are known
        self.no_states: set[str] = set()
        self.quality: dict[str, QualityColumn] = {}
        self.texts: dict[str, QualityColumn] = {}  # columns of words that may name devices
        self.tags = _Names()
        self.tag: list[Int32Array] = []  # long only: the channel of each value
        self.value: list[Float64Array] = []
        self.remarks: Counter[str] = Counter()
        self.units: dict[str, str] = {}
        self.unnamed: set[str] = set()
        self.rows = 0
        self.by_file: list[tuple[FileDevice, Path, slice]] = []  # rows of files without a device column

    def read(self, path: Path, device: FileDevice) -> None:
        before = self.rows
        layout: Layout | None = None
        for block in read_blocks(path, stated_columns(self.stated)):
            self.remarks.update(block.remarks)
            self.units |= block.units
            self.unnamed.update(block.unnamed)
            if layout is None:
                times = [name for name, column in block.columns.items() if pa.types.is_temporal(column.type)]
                times = times or date_columns(block.columns)
                parts = time_columns.guess(block.columns)
                layout = resolve(tuple(block.columns), times, self.stated, str(path), parts)
                self.layout = self.layout or layout
                if layout.is_long != self.layout.is_long:
                    raise RecordingError(f"{path}: expected layout {self.layout.name}, as before, found {layout.name}")
            if len(block):
                self._add(block, layout, device.name)
        if layout is not None and not layout.device and self.rows > before:
            self.by_file.append((device, path, slice(before, self.rows)))

    def _add(self, block: Block, layout: Layout, device: str) -> None:
        missing = [name for name in (layout.time, *layout.clock, layout.device) if name and name not in block.columns]
        if missing:
            raise RecordingError(f"{block.where(0)}: column {missing[0]!r} is missing from here on")
        time = block.columns[layout.time]
        if layout.clock:
            time = time_columns.joined(block.columns, (layout.time, *layout.clock))
        self.times.add(time, block.where, str(block.path), layout.time)
        self.rows += len(block)
        if layout.device:
            self.device.append(self.devices.encode(block.columns[layout.device], "device", block))
        else:
            self.device.append(np.full(len(block), self.devices.of(device), np.int32))
        self._add_quality(block, layout)
        self.labels.add(len(block), {n: self._words(block, n)[0] for n in layout.labels if n in block.columns})
        if layout.is_long:
            self.tag.append(self.tags.encode(block.columns[layout.channel], "channel", block))
            values = self.numbers.take(layout.value, block.columns[layout.value], block.where, self.tag[-1])
            self.value.append(values)
            return
        names = layout.channels(tuple(block.columns))
        channels = {name: self.numbers.take(name, block.columns[name], block.where) for name in names}
        states = {n: self._words(block, n) for n in channels if normalised(n) in STATES}
        self.no_states.update(name for name, (_, are_known) in states.items() if not are_known)
        self.states.add(len(block), {name: values for name, (values, _) in states.items()})
        self.columns.add(len(block), channels)

    def _add_quality(self, block: Block, layout: Layout) -> None:
        used = {layout.time, *layout.clock, layout.device, layout.channel, layout.value}
        columns = [name for name in block.columns if name not in used]
        for found in quality_columns(columns, layout.quality):
            if not (layout.is_long and found.target):
                self.quality.setdefault(found.name, found)
        if not layout.device:
            for name in columns:
                if name not in INFLUX_OWN and is_text(block.columns[name]):
                    self.texts.setdefault(name, QualityColumn(name, "", False))
            for name, texts in self.texts.items():
                texts.add(self.rows - len(block), block.columns.get(name), len(block))
        for name, quality in self.quality.items():
            quality.add(self.rows - len(block), block.columns.get(name), len(block))

    def refuse_mixed(self, event_ns: Int64Array, device: Int32Array, origin: str) -> None:
        """Refuse rows of several devices in files without a device column."""
        found = {name: texts.all_codes(self.rows) for name, texts in self.texts.items()}
        others = {name: codes for name, codes in found.items() if codes is not None}
        if self.by_file and self.layout is not None:
            groups = [device, np.concatenate(self.tag)] if self.tag else [device]
            refuse_mixed(event_ns, groups, others, self.layout.name, origin)

    def bad_quality(self) -> dict[str, tuple[BoolArray, str, str]]:
        """Return by quality column the rows that are not good, the column that it judges, and a note."""
        found = {name: (one.target, one.bad(self.rows)) for name, one in self.quality.items()}
        return {name: (bad[0], target, bad[1]) for name, (target, bad) in found.items() if bad is not None}

    def _words(self, block: Block, name: str) -> tuple[Float64Array, bool]:
        """Return a label's words or numbers as numbers, and whether all are known words."""
        return read_words(block.columns[name], to_float(block.columns[name]))

    def marks(self) -> dict[str, Float32Array]:
        """Return the labels of the rows read."""
        states = [name for name in self.states.parts if name not in self.no_states]
        found = {name: self.labels.column(name) for name in self.labels.parts}
        found |= {name: self.states.column(name) for name in states}
        return {name: to_marks(values) for name, values in found.items()}

    def read_all(self, files: Sequence[Path], owners: Sequence[FileDevice]) -> None:
        """Read files and finish their columns; if `numbers.again` is set, they must be read again."""
        for file, owner in zip(files, owners, strict=True):
            try:
                self.read(file, owner)
            except (pa.ArrowException, UnicodeDecodeError) as error:  # raised late for text in damaged Parquet files
                raise RecordingError(f"{file}: cannot be read: {str(error)[:200]}") from error
        tags = list(self.tags.number)
        self.notes, units = self.numbers.finish(tags)
        for name, found in units.items():
            self.units |= {tags[group] if tags else name: unit for group, unit in found.items()}


def read(
    path: str | Path,
    layout: Layout | None = None,
    zone: str | None = None,
    device: str | None = None,
    channels: Sequence[str] | None = None,
    stream: str = "",
    time_format: str | None = None,
    start: str | None = None,
    decimal: str | None = None,
    units: Mapping[str, str] | None = None,
    keep: Sequence[str] = (),
    counters: bool = True,
    missing: Sequence[str] = (),
) -> Recording:
    """Read a recording.

    Accepts CSV (`,` `;` or tab), Parquet and JSONL, plain or (CSV, JSONL) gzipped, wide or long; SKAB and NAB are
    recognised by their headers. Duplicate times are kept. Memory grows with the result, not the text.

    Args:
        path: a file, a folder or a pattern.
        layout: roles of the columns; guessed if None.
        zone: the zone of naive times ("UTC", "Europe/Berlin", "+02:00").
        device: with a device column, the one device to keep; else the name of the only device. If None, each file
            without a device column is a device named after it; see `file_devices`.
        channels: only these, which must exist; if None, all numeric columns.
        stream: the device of files named only by date.
        time_format: a strptime pattern or a name (`times.FORMAT_NAMES`); if None, determined from the whole column.
        start: ISO 8601 start of elapsed times.
        decimal: "comma" or "point", for ambiguous numeric columns.
        units: channel or pattern -> unit: of cells with units after the numbers, those with others are bad.
        keep: names (or lists of them, as typed) that are channels even if they look like counters or row numbers.
        counters: exclude columns that only rise.
        missing: values that mean missing, as typed (`core.sentinels.sentinels_of`).

    Raises:
        RecordingError: with file and line if known.
    """
    files = find_files(path)
    named = [FileDevice(device, False)] * len(files) if device is not None else None
    owners = named or file_devices(files, Path(path).expanduser(), stream)
    reader = _Reader(layout, TimeColumn(zone, time_format, start), NumberColumns(decimal, frozenset(), units))
    reader.read_all(files, owners)
    while reader.numbers.again:
        kept_text = reader.numbers.keep | reader.numbers.again | set(reader.numbers.held)
        reader = _Reader(layout, TimeColumn(zone, time_format, start), NumberColumns(decimal, kept_text, units))
        reader.read_all(files, owners)
    if reader.layout is None or not reader.device:
        raise RecordingError(f"{path}: expected rows, found none")
    codes = np.concatenate(reader.device)
    clocks = codes
    if reader.tag:  # rows are in order within a tag, even if one tag follows another
        clocks = codes * len(reader.tags.number) + np.concatenate(reader.tag)
    times = reader.times.finish(clocks)
    event_ns = times.event_ns
    spans: list[tuple[str, Path, int, int]] = []
    if named is None:
        found = [(owner.name, file, event_ns[rows]) for owner, file, rows in reader.by_file]
        spans = [(name, file, int(span.min()), int(span.max())) for name, file, span in found]
        check_apart(spans)
    quality = reader.bad_quality()
    if named is None:
        reader.refuse_mixed(event_ns, codes, str(path))
    labels = {name: marks for name, marks in reader.marks().items() if name not in quality}
    if reader.layout.is_long:
        tags, tag = tuple(reader.tags.number), np.concatenate(reader.tag)
        rows = codes, event_ns, tag
        value = np.concatenate(reader.value)
        poor = {name: int(np.count_nonzero(bad & np.isfinite(value))) for name, (bad, _, _) in quality.items()}
        for bad, _, _ in quality.values():
            value[bad] = np.nan
        codes, event_ns, names, values = pivot(*rows, value, tags)
        # A row is marked if any of its values is.
        labels = {
            name: np.fmax.reduce(pivot(*rows, marks.astype(np.float64), tags)[3], axis=1)
            for name, marks in labels.items()
        }
        labels |= {name: to_marks(values[:, place]) for place, name in enumerate(names) if is_label(name)}
        labels = {name: marks.astype(np.float32) for name, marks in labels.items()}
    else:
        names = tuple(sorted(reader.columns.parts))
        values = _stack(reader.columns, names)
        poor = {name: without_bad(values, names, quality, name) for name in quality}
    taken_out = take_out(values, names, sentinels_of(missing, names))
    whole = Recording(
        devices=tuple(reader.devices.number),
        device=codes,
        event_ns=event_ns,
        channels=names,
        values=values,
        labels=labels,
        layout=reader.layout,
        time_basis=times.basis,
        naive=times.naive,
        units=reader.units,
    )
    choice = Choice(channels, keep, counters, frozenset(reader.unnamed), tuple(quality))
    kept, left_out = choose_channels(whole, choice, str(path))
    notes = [*left_out_notes(left_out, frozenset(reader.unnamed)), *label_notes(whole)]
    notes += quality_notes(quality, poor)
    notes += dated_notes([owner for owner, *_ in reader.by_file]) or following_notes(spans)
    notes += [REMARKS[name].format(n=f"{count:,}") for name, count in reader.remarks.items()]
    if reader.layout.clock:
        notes.insert(0, f"the time is read from the columns {', '.join((reader.layout.time, *reader.layout.clock))}")
    notes += [*times.notes, *reader.notes]
    if missing:
        notes.append(f"{taken_out:,} cells hold a value of --missing and count as missing")
    whole = replace(whole, left_out=left_out)
    return _finish(whole, kept, device if reader.layout.device else None, notes, str(path))


def describe(recording: Recording) -> Description:
    """Summarise a recording.

    Raises:
        RecordingError: no device has two different times.
    """
    order = np.lexsort((recording.event_ns, recording.device))
    device, event_ns = recording.device[order], recording.event_ns[order]
    steps = np.diff(event_ns)[device[1:] == device[:-1]]
    steps = steps[steps > 0]
    if not len(steps):
        raise RecordingError("expected a device with readings at two different times, found none")
    period = _round_period(int(np.median(steps)))
    return Description(
        rows=len(recording),
        devices=len(recording.devices),
        channels=recording.channels,
        missing=tuple(float(share) for share in np.isnan(recording.values).mean(axis=0)),
        labels=tuple(recording.labels),
        period_ns=period,
        irregular=float((np.abs(steps - period) > period / 2).mean()),
        start_ns=int(recording.event_ns.min()),
        end_ns=int(recording.event_ns.max()),
        time_basis=recording.time_basis,
    )


def pivot(
    device: Int32Array, event_ns: Int64Array, channel: Int32Array, value: Float64Array, names: Sequence[str]
) -> tuple[Int32Array, Int64Array, tuple[str, ...], Float64Array]:
    """Turn rows of one value into rows with one column per channel.

    The k-th value of a channel at one device and time goes to that time's k-th row, so that repeated times are kept.
    O(m log m).

    Args:
        device: int32[m].
        event_ns: int64[m].
        channel: int32[m], index into `names`.
        value: float64[m].
        names: c names.

    Returns:
        device int32[n], event_ns int64[n], the names sorted, values float64[n, c]; by device, then time.
    """
    rank_of_name = np.argsort(np.argsort(np.array(names))) if names else np.zeros(0, np.int64)
    order = np.lexsort((channel, event_ns, device))
    device, event_ns, channel, value = device[order], event_ns[order], channel[order], value[order]
    position = np.arange(len(order))
    new_time = np.ones(len(order), bool)
    new_time[1:] = (device[1:] != device[:-1]) | (event_ns[1:] != event_ns[:-1])
    new_cell = new_time.copy()
    new_cell[1:] |= channel[1:] != channel[:-1]
    repeat = position - np.maximum.accumulate(np.where(new_cell, position, 0))
    # Rows per time: as many as its most repeated channel has values.
    starts = np.flatnonzero(new_time)
    rows = np.maximum.reduceat(repeat, starts) + 1 if len(starts) else np.zeros(0, np.int64)
    first_row = np.cumsum(rows) - rows
    values = np.full((int(rows.sum()), len(names)), np.nan)
    values[first_row[np.cumsum(new_time) - 1] + repeat, rank_of_name[channel]] = value
    return np.repeat(device[starts], rows), np.repeat(event_ns[starts], rows), tuple(sorted(names)), values


def _stack(columns: _Columns, names: Sequence[str]) -> Float64Array:
    values = np.empty((columns.rows, len(names)))
    for number, name in enumerate(names):
        values[:, number] = columns.column(name)
        columns.parts[name] = []  # hold each column only once
    return values


def _finish(
    whole: Recording, channels: tuple[str, ...], device: str | None, notes: list[str], origin: str
) -> Recording:
    """Apply the user's choice, in order of time; bad cells, infinite until here, become NaN."""
    rows = np.arange(len(whole))
    devices, codes = whole.devices, whole.device
    if device is not None:
        if device not in devices:
            raise RecordingError(f"{origin}: no such device: {device!r}; found {', '.join(devices[:10])}")
        rows = rows[codes == devices.index(device)]
        devices, codes = (device,), np.zeros(len(codes), np.int32)
    by_device = rows[np.argsort(codes[rows], kind="stable")]
    same = codes[by_device][1:] == codes[by_device][:-1]
    behind = int(np.count_nonzero(same & (np.diff(whole.event_ns[by_device]) < 0)))
    if behind:
        notes.append(f"{behind:,} rows were older than the row before: sorted")
    rows = rows[np.argsort(whole.event_ns[rows], kind="stable")]
    columns = [whole.channels.index(name) for name in channels]
    values = np.ascontiguousarray(whole.values[rows][:, columns])
    repeated = _repeated(codes[rows], whole.event_ns[rows], values)
    if 100 * repeated > len(rows):
        notes.append(
            f"{repeated:,} of {len(rows):,} rows have values at a time that already has some, of which the first "
            "are used: export times with seconds or fractions"
        )
    bad = np.isinf(values)
    bad_cells = int(np.count_nonzero(bad))
    if bad_cells:
        notes.append(f"{bad_cells:,} cells are not finite numbers and count as missing")
        values[bad] = np.nan
    return Recording(
        devices=devices,
        device=codes[rows],
        event_ns=whole.event_ns[rows],
        channels=channels,
        values=values,
        labels={name: label[rows] for name, label in whole.labels.items()},
        layout=whole.layout,
        bad_cells=bad_cells,
        bad=bad if bad_cells else None,
        time_basis=whole.time_basis,
        naive=whole.naive,
        notes=tuple(notes),
        units={name: unit for name, unit in whole.units.items() if name in channels},
        left_out=whole.left_out,
    )


def _repeated(device: Int32Array, event_ns: Int64Array, values: Float64Array) -> int:
    """Return how many rows have a value where the previous row of the device and time has one; rows in time order."""
    order = np.argsort(device, kind="stable")
    same = (np.diff(device[order]) == 0) & (np.diff(event_ns[order]) == 0)
    later = np.flatnonzero(same) + 1
    there = [~np.isnan(values[order[rows]]) for rows in (later, later - 1)]
    return int(np.count_nonzero((there[0] & there[1]).any(axis=1)))


def _round_period(period_ns: int) -> int:
    """Round to the shortest number within a thousandth; 86,400 s is not changed."""
    for digits in range(1, 6):
        unit = int(10 ** max(0, len(str(period_ns)) - digits))
        rounded = round(period_ns / unit) * unit
        if abs(rounded - period_ns) <= period_ns / 1000:
            return rounded
    return period_ns
