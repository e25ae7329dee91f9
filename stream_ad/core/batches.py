"""The batches that flow through the pipeline: columns with dtype and shape, checked on construction.

A stage adds columns and shares the rest by reference. Rows of a window batch are in emission order: (`offset`,
`device`, `end_ns`). Missing is NaN; unscored is a NaN score plus a quality flag.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, Self, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from stream_ad.errors import ContractError

Float32Array: TypeAlias = npt.NDArray[np.float32]
Float64Array: TypeAlias = npt.NDArray[np.float64]
Int32Array: TypeAlias = npt.NDArray[np.int32]
Int64Array: TypeAlias = npt.NDArray[np.int64]
UInt8Array: TypeAlias = npt.NDArray[np.uint8]
UInt16Array: TypeAlias = npt.NDArray[np.uint16]
UInt32Array: TypeAlias = npt.NDArray[np.uint32]
BoolArray: TypeAlias = npt.NDArray[np.bool_]
Arrays: TypeAlias = dict[str, npt.NDArray[Any]]


def expect(name: str, array: npt.NDArray[Any], dtype: npt.DTypeLike, shape: Sequence[int | None]) -> None:
    """Check dtype, shape and C-contiguity of an array.

    Args:
        name: the array's name in the error.
        array: the array to check.
        dtype: the exact dtype.
        shape: a size per axis; None accepts any size.

    Raises:
        ContractError: states what was expected and what was found.
    """
    if not isinstance(array, np.ndarray) or array.dtype != np.dtype(dtype):
        found = getattr(array, "dtype", type(array).__name__)
        raise ContractError(f"{name}: expected dtype {np.dtype(dtype)}, found {found}")
    if array.ndim != len(shape) or any(
        want is not None and want != got for want, got in zip(shape, array.shape, strict=True)
    ):
        raise ContractError(f"{name}: expected shape {tuple(shape)}, found {array.shape}")
    if not array.flags.c_contiguous:
        raise ContractError(f"{name}: expected a C-contiguous array")


class Columns:
    """Arrays with one row each, and values that all rows share; subclasses are dataclasses."""

    __slots__ = ()

    def take(self, rows: BoolArray | Int64Array) -> Self:
        """Return these rows only."""
        return type(self)(**{name: _taken(value, rows) for name, value in _columns(self).items()})

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Return the rows of one or more parts, one part after the other; shared values are the first part's."""
        if len(parts) == 1:
            return parts[0]
        columns = [_columns(part) for part in parts]
        return cls(**{name: _stacked([one[name] for one in columns]) for name in columns[0]})


def _columns(part: Columns) -> dict[str, Any]:
    return {field.name: getattr(part, field.name) for field in fields(cast("Any", part))}


def _taken(value: Any, rows: BoolArray | Int64Array) -> Any:
    if isinstance(value, Columns):
        return value.take(rows)
    return value[rows] if isinstance(value, np.ndarray) else value


def _stacked(values: Sequence[Any]) -> Any:
    if isinstance(values[0], Columns):
        return type(values[0]).joined(values)
    return np.concatenate(values) if isinstance(values[0], np.ndarray) else values[0]


class Reason(StrEnum):
    """Why a record or some of its readings were refused; used in dead letters and metrics."""

    UNDECODABLE = "undecodable"
    """The bytes are not the declared format, or empty."""
    MISSING_FIELD = "missing_field"
    WRONG_TYPE = "wrong_type"
    BAD_TIME = "bad_time"
    """A naive, absurd or unreadable time."""
    TOO_LARGE = "too_large"
    LATE = "late"
    """Older than the device's watermark."""
    FUTURE = "future"
    """Further ahead of log time than `max_ahead_s` allows."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A record that was refused, wholly or in part; becomes one dead letter.

    Attributes:
        offset: input offset of the record.
        reason: the record's first reason.
        detail: one line for people: what was expected, what was found.
        rows: number of readings refused; 0 if the record could not be decoded at all.
        first_event_ns: event time of the first refused reading, or None.
        device: id of the first refused reading's device, "" if unknown.
    """

    offset: int
    reason: Reason
    detail: str
    rows: int = 0
    first_event_ns: int | None = None
    device: str = ""


@dataclass(frozen=True, slots=True)
class ReadingBatch:
    """Decoded readings of one partition, in log order; the only type with one row per reading.

    Rows of one record are adjacent; `offset` and `record_offset` never decrease. `record_offset` and `record_log_ns`
    list every record polled, including those without a usable reading, because each of them advances log time.

    Attributes:
        ids: text of the batch's devices.
        device: int32[n], index into `ids`.
        event_ns: int64[n], event time, UTC nanoseconds.
        offset: int64[n], input offset of the reading's record.
        values: float64[n, c], one column per channel of the bundle; NaN is missing.
        record_offset: int64[r], offsets of all records of the batch, ascending.
        record_log_ns: int64[r], their append times, UTC nanoseconds.
        is_bad: bool[n], True if a reading had a value that is not a finite number, now NaN; None if no reading had one.
    """

    ids: tuple[str, ...]
    device: Int32Array
    event_ns: Int64Array
    offset: Int64Array
    values: Float64Array
    record_offset: Int64Array
    record_log_ns: Int64Array
    is_bad: BoolArray | None = None

    def __post_init__(self) -> None:
        expect("device", self.device, np.int32, (None,))
        expect("event_ns", self.event_ns, np.int64, self.device.shape)
        expect("offset", self.offset, np.int64, self.device.shape)
        expect("values", self.values, np.float64, (*self.device.shape, None))
        expect("record_offset", self.record_offset, np.int64, (None,))
        expect("record_log_ns", self.record_log_ns, np.int64, self.record_offset.shape)
        if self.is_bad is not None:
            expect("is_bad", self.is_bad, np.bool_, self.device.shape)

    @property
    def cells(self) -> int:
        """Number of values that are not missing."""
        return self.values.size - int(np.count_nonzero(np.isnan(self.values)))

    def cut(self, start: int, stop: int) -> ReadingBatch:
        """Return records start..stop-1, counted from 0, at least one, with their readings."""
        offsets = self.record_offset
        lowest = np.searchsorted(self.offset, offsets[start], side="left")
        highest = np.searchsorted(self.offset, offsets[stop - 1], side="right")
        rows = slice(int(lowest), int(highest))
        return ReadingBatch(
            ids=self.ids,
            device=self.device[rows],
            event_ns=self.event_ns[rows],
            offset=self.offset[rows],
            values=self.values[rows],
            record_offset=offsets[start:stop],
            record_log_ns=self.record_log_ns[start:stop],
            is_bad=None if self.is_bad is None else self.is_bad[rows],
        )


@dataclass(frozen=True, slots=True)
class Keys(Columns):
    """Device and time, one row per window; all later batches share this object.

    Attributes:
        device: int32[n], slot in the partition's device index.
        end_ns: int64[n], exclusive end of the window, event time, UTC nanoseconds.
        offset: int64[n], offset of the input record that closed the window.
        sequence: int64[n], the device's windows counted from 0, which reveals gaps.
    """

    device: Int32Array
    end_ns: Int64Array
    offset: Int64Array
    sequence: Int64Array

    def __post_init__(self) -> None:
        expect("device", self.device, np.int32, (None,))
        expect("end_ns", self.end_ns, np.int64, self.device.shape)
        expect("offset", self.offset, np.int64, self.device.shape)
        expect("sequence", self.sequence, np.int64, self.device.shape)

    def __len__(self) -> int:
        return len(self.device)

    @classmethod
    def none(cls) -> Keys:
        """Return no rows."""
        number = np.empty(0, np.int64)
        return cls(np.empty(0, np.int32), number, number, number)


@dataclass(frozen=True, slots=True)
class WindowBatch(Columns):
    """Closed windows on the grid.

    Attributes:
        keys: n rows.
        values: float64[n, t, c], raw; NaN where no sample is (after the channel's fill rule).
        coverage: float32[n, c], share of cells with a value after the fill rule, 0..1.
        quality: uint32[n], flags of `core.quality.Quality`.
    """

    keys: Keys
    values: Float64Array
    coverage: Float32Array
    quality: UInt32Array

    def __post_init__(self) -> None:
        n = len(self.keys)
        expect("values", self.values, np.float64, (n, None, None))
        expect("coverage", self.coverage, np.float32, (n, self.values.shape[2]))
        expect("quality", self.quality, np.uint32, (n,))

    def __len__(self) -> int:
        return len(self.keys)


@dataclass(frozen=True, slots=True)
class ScoreBatch(Columns):
    """Scored windows, without their samples.

    Attributes:
        keys: n rows.
        quality: uint32[n], flags.
        coverage: float32[n, c].
        score: float64[n], >= 0, higher is more anomalous; NaN where unscorable.
        contribution: float32[n, c], each channel's part of the score, NaN if the channel is missing in the window and
            in rows without a score; or None.
        model_id: digest of the bundle that scored the batch.
        faulty: bool[n, c], the channels that are stuck or missing, or None if unknown.
    """

    keys: Keys
    quality: UInt32Array
    coverage: Float32Array
    score: Float64Array
    contribution: Float32Array | None
    model_id: str
    faulty: BoolArray | None = None

    def __post_init__(self) -> None:
        n = len(self.keys)
        expect("quality", self.quality, np.uint32, (n,))
        expect("coverage", self.coverage, np.float32, (n, None))
        expect("score", self.score, np.float64, (n,))
        if self.contribution is not None:
            expect("contribution", self.contribution, np.float32, self.coverage.shape)
        if self.faulty is not None:
            expect("faulty", self.faulty, np.bool_, self.coverage.shape)

    def __len__(self) -> int:
        return len(self.keys)


@dataclass(frozen=True, slots=True)
class VerdictBatch(Columns):
    """Judged windows, as stored in the score log.

    Attributes:
        scores: n rows.
        smoothed: float64[n], the score after the exponential moving average; what is compared
            with the limit. NaN where unscored.
        limit: float64[n], limit in force when the window was judged, in units of the score.
        is_anomaly: bool[n], the incident's state after this window, not `smoothed > limit`.
        incident: int64[n], `end_ns` of the window that opened the device's incident; 0 outside.
    """

    scores: ScoreBatch
    smoothed: Float64Array
    limit: Float64Array
    is_anomaly: BoolArray
    incident: Int64Array

    def __post_init__(self) -> None:
        n = len(self.scores)
        expect("smoothed", self.smoothed, np.float64, (n,))
        expect("limit", self.limit, np.float64, (n,))
        expect("is_anomaly", self.is_anomaly, np.bool_, (n,))
        expect("incident", self.incident, np.int64, (n,))

    @property
    def keys(self) -> Keys:
        """The rows' keys."""
        return self.scores.keys

    def __len__(self) -> int:
        return len(self.scores)


@dataclass(frozen=True, slots=True)
class Judged:
    """Verdicts with the ids of their own devices, since slots are reused.

    Attributes:
        ids: the devices that occur, each once.
        device: int32[n], index into `ids`.
        verdicts: n rows in emission order.
    """

    ids: tuple[str, ...]
    device: Int32Array
    verdicts: VerdictBatch

    def __post_init__(self) -> None:
        expect("device", self.device, np.int32, (len(self.verdicts),))

    def __len__(self) -> int:
        return len(self.verdicts)

    @classmethod
    def of(cls, verdicts: VerdictBatch, table: Sequence[str]) -> Judged:
        """Take the ids of the devices that occur from a table, in slot order.

        Args:
            verdicts: n rows in emission order.
            table: id of each slot at that moment.
        """
        slots, codes = np.unique(verdicts.keys.device, return_inverse=True)
        return cls(tuple(table[slot] for slot in slots.tolist()), codes.astype(np.int32), verdicts)

    def take(self, rows: Int64Array) -> Judged:
        """Return the given rows, in the given order, with the ids that occur in them."""
        used, codes = np.unique(self.device[rows], return_inverse=True)
        return Judged(tuple(self.ids[code] for code in used.tolist()), codes.astype(np.int32), self.verdicts.take(rows))


class AlertKind(StrEnum):
    """The subject of an incident."""

    PROCESS = "process"
    """The measured process behaves unlike the training data."""
    SENSOR = "sensor"
    """A sensor is stuck or reports no data while others do."""
    SILENCE = "silence"
    """The device sends nothing."""
    REGIME = "regime"
    """The incident has lasted until its level is learned, if that is enabled; it stays open."""


class AlertPhase(StrEnum):
    """What happened to the incident."""

    OPENED = "opened"
    UPDATED = "updated"
    RESOLVED = "resolved"


@dataclass(frozen=True, slots=True)
class Alert:
    """A message that an incident opened, changed or ended.

    Attributes:
        id: digest of stream, device, kind and `opened_end_ns`; stable across restarts.
        version: numbers the messages of one incident from 0.
        phase: opened, updated or resolved.
        kind: subject of the incident.
        stream: name of the stream.
        device: the device's id.
        opened_end_ns: end of the window that opened the incident, event time.
        end_ns: end of the window that caused this message, event time.
        opened_offset: input offset that closed the window that opened the incident.
        offset: input offset that closed the window that caused this message.
        score: smoothed score of that window; NaN if unscored.
        limit: limit in force.
        peak: highest smoothed score of the incident so far.
        channels: the contributing channels with their shares (0..1), largest first.
        model_id: digest of the bundle.
        reason: one line for people.
    """

    id: str
    version: int
    phase: AlertPhase
    kind: AlertKind
    stream: str
    device: str
    opened_end_ns: int
    end_ns: int
    opened_offset: int
    offset: int
    score: float
    limit: float
    peak: float
    channels: tuple[tuple[str, float], ...]
    model_id: str
    reason: str
