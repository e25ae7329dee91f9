"""Checks that each device's windows are consecutive: `sequence` and `end` rise together within each life.

A life is the time between two losses of a device's state, by eviction after a long silence or by a reset of the whole
partition's state (a new generation).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

from stream_ad.core.batches import BoolArray, Int64Array

COLUMNS = ("device", "end", "revision", "sequence", "partition", "offset", "model_id")
_UNSEEN = -1
_NEVER = np.iinfo(np.int64).min


@dataclass(frozen=True, slots=True)
class Rows:
    """The columns of a part's rows that the proof uses; n rows in file order.

    Attributes:
        ids: the devices that occur.
        device: int64[n], index into `ids`.
        end: int64[n], end of the window, microseconds.
        revision: int64[n].
        sequence: int64[n].
        partition: int64[n].
        offset: int64[n].
        models: the models that occur.
    """

    ids: Sequence[str]
    device: Int64Array
    end: Int64Array
    revision: Int64Array
    sequence: Int64Array
    partition: Int64Array
    offset: Int64Array
    models: frozenset[str]

    @classmethod
    def of(cls, table: pa.Table) -> Rows:
        """Extract the columns from a table of scores.

        Raises:
            KeyError: a column is missing.
            ValueError: a cell is empty.
            pyarrow.ArrowException: a column has another type.
        """
        if any(table[name].null_count for name in COLUMNS):
            raise ValueError("rows without a key")
        device = table["device"].combine_chunks().dictionary_encode()
        if isinstance(device, pa.ChunkedArray):
            device = device.combine_chunks()

        def numbers(name: str) -> Int64Array:
            return np.asarray(table[name].cast(pa.int64()).to_numpy(zero_copy_only=False), np.int64)

        end = table["end"].cast(pa.timestamp("us", "UTC")).cast(pa.int64())
        return cls(
            ids=device.dictionary.to_pylist(),
            device=np.asarray(device.indices.to_numpy(zero_copy_only=False), np.int64),
            end=np.asarray(end.to_numpy(zero_copy_only=False), np.int64),
            revision=numbers("revision"),
            sequence=numbers("sequence"),
            partition=numbers("partition"),
            offset=numbers("offset"),
            models=frozenset(table["model_id"].unique().to_pylist()),
        )


@dataclass(frozen=True, slots=True)
class Fault:
    """The first row that does not follow its device's previous row."""

    device: str
    what: str
    expected: str
    found: str


class DeviceChains:
    """The state of each device of a partition: six numbers per device, updated part by part.

    Attributes:
        ids: by slot.
        sequence: int64[slots], of the newest row; -1 before the first.
        end: int64[slots], of the newest row, microseconds.
        latest: int64[slots], the latest end of all rows.
        offset: int64[slots], of the newest row.
        generation: int64[slots], of the newest row; -1 before the first.
        earlier: int64[slots], the latest end of all rows of earlier generations.
        lives: number of times a sequence restarted.
        returns: number of restarts within a generation with a window that does not end after all earlier ones of the
            device.
        returned: the first such device, or "".
        again: number of rows whose window does not end after all of the device's rows of earlier generations.
        judged_again: the first such device, or "".
    """

    def __init__(self) -> None:
        self.ids: list[str] = []
        self._slot: dict[str, int] = {}
        self.sequence = np.empty(0, np.int64)
        self.end = np.empty(0, np.int64)
        self.latest = np.empty(0, np.int64)
        self.offset = np.empty(0, np.int64)
        self.generation = np.empty(0, np.int64)
        self.earlier = np.empty(0, np.int64)
        self.lives = self.returns = self.again = 0
        self.returned = self.judged_again = ""

    def slots(self, ids: Sequence[str]) -> Int64Array:
        """Return the slot of each id, adding new ones."""
        for device in ids:
            if device not in self._slot:
                self._slot[device] = len(self.ids)
                self.ids.append(device)
        missing = len(self.ids) - len(self.sequence)
        if missing > 0:
            room = max(missing, len(self.sequence) // 2)
            self.sequence = np.append(self.sequence, np.full(room, _UNSEEN))
            self.generation = np.append(self.generation, np.full(room, _UNSEEN))
            self.end = np.append(self.end, np.full(room, _NEVER))
            self.latest = np.append(self.latest, np.full(room, _NEVER))
            self.earlier = np.append(self.earlier, np.full(room, _NEVER))
            self.offset = np.append(self.offset, np.full(room, _NEVER))
        return np.fromiter((self._slot[device] for device in ids), np.int64, len(ids))

    def add(self, rows: Rows, generation: int, is_whole: bool, ends_rise: bool = True) -> Fault | None:
        """Check that rows follow the previous ones, and update each device's state.

        Args:
            rows: of the next part.
            generation: of that part.
            is_whole: all rows of this generation have been added, from its first.
            ends_rise: False if the rows of a device may share an end.
        """
        if len(rows.end) == 0:
            return None
        slot = self.slots(rows.ids)[rows.device]
        # Within a device, offset and end give the order in which windows closed.
        order = np.lexsort((rows.sequence, rows.end, rows.offset, slot))
        found = _InOrder(slot[order], rows.offset[order], rows.end[order], rows.sequence[order])
        steps = self._steps(found, generation, is_whole, ends_rise)
        if not steps.sound.all():
            found = self._by_life(found, np.unique(found.slot[~steps.sound]))
            steps = self._steps(found, generation, is_whole, ends_rise)
        if not steps.sound.all():
            return self._fault(found, steps, int(np.flatnonzero(~steps.sound)[0]))
        self._advance(found, steps, generation, ends_rise)
        return None

    def _steps(self, found: _InOrder, generation: int, is_whole: bool, ends_rise: bool) -> _Steps:
        """Compare each row with its device's previous row, in this part or an earlier one."""
        slot, heads = found.slot, found.heads
        own = slot[heads]
        before, end_before, offset_before = (_shifted(v) for v in (found.sequence, found.end, found.offset))
        before[heads], end_before[heads], offset_before[heads] = self.sequence[own], self.end[own], self.offset[own]
        latest = end_before.copy()
        latest[heads] = self.latest[own]
        is_other = np.zeros(len(slot), np.bool_)
        is_other[heads] = self.generation[own] != generation
        may_start = is_other & (not is_whole)
        continued = (found.sequence == before + 1) & _is_after(found.end, end_before, ends_rise)
        another = (found.offset != offset_before) | (found.end != end_before)  # otherwise it is the same row
        if not ends_rise:
            another |= found.sequence != before
        begun = ~continued & another & ((found.sequence == 0) | may_start)
        return _Steps(
            sound=continued | begun,
            renewed=begun & (before != _UNSEEN),
            returned=begun & ~_is_after(found.end, latest, ends_rise) & ~is_other,
            before=before,
            end_before=end_before,
        )

    def _by_life(self, found: _InOrder, doubtful: Int64Array) -> _InOrder:
        """Reorder rows of some devices: within one offset, those of the older life first.

        One record can end a life by the log time that it brings and close windows of the next life, which may be of an
        earlier time. The two are distinguished by their numbers, as long as one record does not close more windows of
        the new life than the old one had.
        """
        order = np.arange(len(found.slot))
        edges = np.append(found.heads, len(found.slot))
        for slot in doubtful.tolist():
            k = int(np.searchsorted(found.slot[found.heads], slot))
            expected = int(self.sequence[slot]) + 1
            own = order[edges[k] : edges[k + 1]]
            cuts = np.flatnonzero(np.diff(found.offset[own])) + 1
            pieces = []
            for piece in np.split(own, cuts):
                number = found.sequence[piece]
                pieces.append(piece[np.lexsort((number, number < expected))])
                expected = int(found.sequence[pieces[-1][-1]]) + 1
            order[edges[k] : edges[k + 1]] = np.concatenate(pieces)
        return _InOrder(found.slot, found.offset[order], found.end[order], found.sequence[order])

    def _fault(self, found: _InOrder, steps: _Steps, at: int) -> Fault:
        number, before, device = int(found.sequence[at]), int(steps.before[at]), self.ids[int(found.slot[at])]
        if number == before + 1 or number == 0:
            expected = f"an end after {_time(int(steps.end_before[at]))}"
            return Fault(device, "a window twice", expected, _time(int(found.end[at])))
        what = "a window is missing" if number > before + 1 else "a window twice"
        expected = f"sequence {before + 1}" + (" or 0" if before != _UNSEEN else "")
        return Fault(device, what, expected, f"{number} at input offset {found.offset[at]}")

    def _advance(self, found: _InOrder, steps: _Steps, generation: int, ends_rise: bool) -> None:
        heads = found.heads
        own, tails = found.slot[heads], np.append(heads[1:], len(found.slot)) - 1
        began = own[self.generation[own] != generation]
        self.earlier[began] = self.latest[began]
        again = np.flatnonzero(~_is_after(found.end, self.earlier[found.slot], ends_rise))
        self.again += len(again)
        if len(again) and not self.judged_again:
            self.judged_again = self.ids[int(found.slot[again[0]])]
        self.sequence[own], self.end[own] = found.sequence[tails], found.end[tails]
        self.offset[own], self.generation[own] = found.offset[tails], generation
        self.latest[own] = np.maximum(self.latest[own], np.maximum.reduceat(found.end, heads))
        self.lives += int(steps.renewed.sum())
        returned = np.flatnonzero(steps.returned)
        self.returns += len(returned)
        if len(returned) and not self.returned:
            self.returned = self.ids[int(found.slot[returned[0]])]


@dataclass(frozen=True, slots=True)
class _InOrder:
    """Rows by device, and within a device in the order in which its windows closed; int64[n] each."""

    slot: Int64Array
    offset: Int64Array
    end: Int64Array
    sequence: Int64Array

    @property
    def heads(self) -> Int64Array:
        """The first row of each device."""
        return np.flatnonzero(np.diff(self.slot, prepend=-1))


@dataclass(frozen=True, slots=True)
class _Steps:
    """How each row follows the previous one."""

    sound: BoolArray
    renewed: BoolArray
    returned: BoolArray
    before: Int64Array
    end_before: Int64Array


def _is_after(end: Int64Array, before: Int64Array, ends_rise: bool) -> BoolArray:
    """Return whether an end may follow on another one."""
    return end > before if ends_rise else end >= before


def _shifted(values: Int64Array) -> Int64Array:
    shifted = np.empty_like(values)
    shifted[1:] = values[:-1]
    return shifted


def _time(us: int) -> str:
    return datetime.fromtimestamp(us // 1_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{us % 1_000_000:06d}Z"
