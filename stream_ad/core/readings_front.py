"""The front for readings of sensors: windows on a grid, scored by one model."""

from __future__ import annotations

from collections.abc import Sequence

from stream_ad.core.batches import Arrays, Int32Array, Int64Array, ReadingBatch, Refused, ScoreBatch, WindowBatch
from stream_ad.core.front import RowRules
from stream_ad.core.model import Model
from stream_ad.core.scoring import Scoring
from stream_ad.core.slot_state import part_of
from stream_ad.core.unscored import HOUR_NS, Unscored, UnscoredDevice
from stream_ad.core.windowing import TimeRules, Windowing
from stream_ad.errors import ContractError


class ReadingsFront:
    """Windows and scores the readings of one partition; a `core.front.Front`."""

    def __init__(self, model: Model, rules: TimeRules) -> None:
        self._windowing = Windowing(model.window, model.channels, rules)
        self._scoring = Scoring(model)
        self._unscored = Unscored(model)

    @property
    def log_ns(self) -> int:
        """Log time of the partition; `ring.NEVER` before the first record."""
        return self._windowing.log_ns

    @property
    def model(self) -> Model:
        """The model in force."""
        return self._scoring.model

    def grow(self, slots: int) -> None:
        """Make room for slots 0..slots-1."""
        self._windowing.grow(slots)
        self._unscored.grow(slots)

    def reset(self, slots: Int32Array) -> None:
        """Return slots to a new device's state."""
        self._windowing.reset(slots)
        self._unscored.reset(slots)

    def begin(self, slots: Int32Array, event_ns: Int64Array) -> None:
        """Record the event time of the first reading of new devices."""
        self._unscored.add_new(slots, event_ns)

    def add(self, slot: Int32Array, records: ReadingBatch, ids: Sequence[str]) -> tuple[ScoreBatch, list[Refused]]:
        """Process readings; return the windows that close, scored, and refused readings (late or future)."""
        windows, letters = self._windowing.add(slot, records)
        return self._scored(windows, ids), letters

    def advance(self, log_ns: int, offset: int, ids: Sequence[str]) -> ScoreBatch:
        """Advance log time between two records; return the windows that silence closes, scored."""
        return self._scored(self._windowing.close_idle(log_ns, offset), ids)

    def silence_ends_ns(self) -> int | None:
        """Return the earliest log time at which silence closes a window, or None."""
        return self._windowing.silence_ends_ns()

    def last_seen_ns(self) -> Int64Array:
        """Return the log time of each slot's newest reading, or `ring.NEVER`."""
        return self._windowing.last_seen_ns()

    def final_ns(self, slots: Int32Array) -> Int64Array:
        """Return the event time before which nothing of a slot can change."""
        return self._windowing.final_ns(slots)

    def replace_model(self, model: Model) -> None:
        """Score with a model of the same windows (`model.grid_differences`) from now on; open windows stay."""
        self._scoring = Scoring(model)

    def unscored(self, most: int, ids: Sequence[str]) -> tuple[int, tuple[UnscoredDevice, ...]]:
        """Return the number of devices with readings in the last hour of log time but no score, and some of them.

        Args:
            most: maximum number to describe, longest without a score first.
            ids: the device id of each slot.
        """
        last_seen_ns = self._windowing.last_seen_ns()[: len(ids)]
        newest_ns = self._windowing.newest_ns()[: len(ids)]
        slots = self._unscored.due(newest_ns, last_seen_ns >= self.log_ns - HOUR_NS)
        shown = slots[:most].tolist()
        return len(slots), tuple(self._unscored.describe(slot, ids[slot], int(newest_ns[slot])) for slot in shown)

    def snapshot(self, slots: int) -> Arrays:
        """Return the state of slots 0..slots-1 as named arrays."""
        parts = {"windowing": self._windowing.snapshot(slots), "unscored": self._unscored.snapshot()}
        return {f"{part}.{name}": array for part, named in parts.items() for name, array in named.items()}

    def restore(self, arrays: Arrays) -> None:
        """Restore a snapshot.

        Raises:
            ContractError, KeyError, ValueError, IndexError: it does not fit.
        """
        windowing, unscored = part_of(arrays, "windowing."), part_of(arrays, "unscored.")
        if len(windowing) + len(unscored) < len(arrays):
            raise ContractError(f"snapshot: expected parts windowing and unscored, found {sorted(arrays)}")
        self._windowing.restore(windowing)
        self._unscored.restore(unscored)

    def _scored(self, windows: WindowBatch, ids: Sequence[str]) -> ScoreBatch:
        scores = self._scoring.score(windows, ids)
        self._unscored.take(windows, scores.quality)
        return scores


def row_rules(model: Model, rules: TimeRules) -> RowRules:
    """Return the rules of a model's windows: one may stay open for its length, the lateness and the idle timeout."""
    shape = model.window
    longest_ns = max(shape.samples, shape.stride) * shape.period_ns
    return RowRules(
        look_back_ns=rules.idle_close_ns + rules.lateness_ns + longest_ns,
        row_ns=shape.length_ns,
        step_ns=shape.stride * shape.period_ns,
    )
