"""The pipeline of one partition with its place: input records and journal entries in, results out."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from stream_ad.assembly import build_pipeline, swap_model
from stream_ad.config import Settings
from stream_ad.core.batches import Alert, Arrays, Refused
from stream_ad.core.model import Model
from stream_ad.core.pipeline import StepResult
from stream_ad.core.unscored import UnscoredDevice
from stream_ad.errors import ContractError
from stream_ad.fronts.table import front
from stream_ad.io.local.records import partition_of
from stream_ad.io.spans import Place
from stream_ad.io.state.journal import CloseEntry, Entry, GrowthEntry, StartEntry, SwapEntry
from stream_ad.io.transport import RawBatch
from stream_ad.replaying.intake import Intake, intake_of
from stream_ad.replaying.lineage import Lineage

FindModel: TypeAlias = Callable[[str, str], Model]
"""Returns the model of a bundle's folder and digest; raises BundleError."""


@dataclass(frozen=True, slots=True)
class Stepped:
    """Results of some raw input, or of a journal entry.

    Attributes:
        result: verdicts, alerts, late and future readings.
        lineage: of the state that produced it.
        offset: the next input offset after it.
        refused: all refusals, including those by the decoder, one entry per record, by offset.
        unknown_devices: devices outside the stream's pattern, counted once per record.
        unknown_channels: channels not in the bundle, counted once per record.
        entry: the entry; None for input.
        intake: counts of the input and its unusable parts; None for an entry, or if already public.
    """

    result: StepResult
    lineage: Lineage
    offset: int
    refused: tuple[Refused, ...] = ()
    unknown_devices: int = 0
    unknown_channels: int = 0
    entry: Entry | None = None
    intake: Intake | None = None

    def since(self, public: Place) -> Stepped:
        """Drop what is already public: the effects of input and journal entries before a place."""
        if self.entry is not None:
            return self if self.entry.number >= public.entries else replace(self, result=NOTHING, entry=None)
        refused = tuple(letter for letter in self.refused if letter.offset >= public.offset)
        # Callers split the input at the public offset (`intake.pieces`), so a step is public completely or not at all.
        intake = self.intake if self.intake is not None and self.intake.offset >= public.offset else None
        return replace(self, result=self.result.since(public.offset), refused=refused, intake=intake)


NOTHING = StepResult((), (), ())


class PartitionReplay:
    """The pipeline of one partition, its offset, and the journal entries ahead.

    Attributes:
        offset: the next input offset to step.
        lineage: what else the state was made of.
        model: the model in force.
        rules: properties of the rows.
        has_values: a reading had a value for a channel of the bundle since this object was created.
    """

    def __init__(
        self,
        settings: Settings,
        offset: int,
        lineage: Lineage,
        find_model: FindModel,
        ahead: Iterable[Entry] = (),
        ended: tuple[Alert, ...] = (),
    ) -> None:
        """Start with empty state; `restore` loads a checkpoint's.

        Args:
            settings: the stream's settings.
            offset: the next input offset.
            lineage: of the initial state.
            find_model: returns the model in force, and those of swaps ahead.
            ahead: entries to apply on the way, in order, each at or after `offset`.
            ended: alerts to publish with the state reset among them; they end incidents that nobody continues.

        Raises:
            BundleError: the model in force is not available.
        """
        self.model = find_model(lineage.bundle, lineage.model_id)
        self.offset = offset
        self.lineage = lineage
        self.has_values = False
        self._settings = settings
        self._find_model = find_model
        self._ahead = deque(ahead)
        self._ended = ended
        self._front = front(settings)
        self.rules = self._front.rules(settings, self.model)
        self._decoder = self._front.decoder(settings, self.model)
        self._pipeline = build_pipeline(settings, self.model)

    @property
    def devices(self) -> int:
        """Number of devices with state."""
        return self._pipeline.devices

    @property
    def log_ns(self) -> int:
        """Log time of the partition, UTC nanoseconds; long ago before the first record."""
        return self._pipeline.log_ns

    @property
    def place(self) -> Place:
        """Place in input and journal."""
        return Place(self.offset, self.lineage.entries)

    def silence_ends_ns(self) -> int | None:
        """Return the earliest log time at which silence closes a window or evicts a device, None if there is none."""
        return self._pipeline.silence_ends_ns()

    def unscored(self, most: int) -> tuple[int, tuple[UnscoredDevice, ...]]:
        """Return the number of devices that send readings but have had no score for long, and some of them."""
        return self._pipeline.unscored(most)

    def step(self, raw: RawBatch) -> list[Stepped]:
        """Step over some input, and over the journal entries within or right after it.

        Raises:
            ContractError: the input does not start at or after `offset`.
            BundleError: the model of a swap is not available.
        """
        if len(raw) and raw.offset[0] < self.offset:
            raise ContractError(f"replay: expected offset {self.offset} or more, found {raw.offset[0]}")
        found = []
        while self._ahead and self._ahead[0].offset <= raw.next_offset:
            entry = self._ahead[0]
            if self.offset < entry.offset:
                first, raw = _split(raw, entry.offset)
                found.append(self._step(first))
            found.append(self.apply(self._ahead.popleft()))
        if self.offset < raw.next_offset:
            found.append(self._step(raw))
        return found

    def settle(self) -> list[Stepped]:
        """Apply the entries ahead that are at the current offset."""
        found = []
        while self._ahead and self._ahead[0].offset <= self.offset:
            found.append(self.apply(self._ahead.popleft()))
        return found

    def apply(self, entry: Entry) -> Stepped:
        """Apply an entry now.

        Args:
            entry: at the current offset, with the next number.

        Raises:
            ContractError: it has another offset or number.
            BundleError: the model of a swap is not available.
        """
        if entry.offset != self.offset:
            raise ContractError(f"replay: expected an entry at offset {self.offset}, found one at {entry.offset}")
        result = NOTHING
        lineage = replace(self.lineage, entries=entry.number + 1)
        if isinstance(entry, CloseEntry):
            result = self._pipeline.advance(entry.log_ns, _before(entry.offset))
        elif isinstance(entry, SwapEntry):
            self.model = self._find_model(entry.bundle, entry.model_id)
            result = swap_model(self._settings, self._pipeline, self.model, _before(entry.offset))
            lineage = replace(lineage, bundle=entry.bundle, model_id=entry.model_id, control=entry.control)
        elif isinstance(entry, GrowthEntry):
            lineage = replace(lineage, partitions=entry.partitions)
        elif entry.kind == "restart":
            result = StepResult((), self._ended, ())
            lineage = replace(lineage, generation=self.lineage.generation + 1)
            self._pipeline.forget_incidents()
            if entry.lost is not None:
                self._pipeline.mark_afresh()
        self.lineage = lineage
        return Stepped(result, lineage, self.offset, entry=entry)

    def note_commands(self, control: int) -> None:
        """Record that commands below this offset of the control topic need no action."""
        self.lineage = replace(self.lineage, control=max(control, self.lineage.control))

    def note_partitions(self, count: int) -> None:
        """Record the number of the readings topic's partitions, if it was unknown so far."""
        self.lineage = replace(self.lineage, partitions=count)

    def moved_devices(self, number: int, before: int, now: int) -> list[str]:
        """Return the devices with state whose key maps to another partition once some were added.

        Assumes Kafka's default partitioner; devices that it would not have put here are left out.

        Args:
            number: of this partition.
            before: previous number of partitions.
            now: new number of partitions.
        """
        ids = [device for device in self._pipeline.ids() if partition_of(device.encode(), before) == number]
        return sorted(device for device in ids if partition_of(device.encode(), now) != number)

    def snapshot(self) -> Arrays:
        """Return the state at `offset`."""
        return self._pipeline.snapshot()

    def restore(self, arrays: Arrays) -> None:
        """Restore the state at `offset`.

        Raises:
            ContractError: the arrays are not a snapshot of this pipeline.
        """
        self._pipeline.restore(arrays)

    def _step(self, raw: RawBatch) -> Stepped:
        decoded = self._decoder.decode(raw)
        result = self._pipeline.step(decoded.readings)
        self.offset = raw.next_offset
        self.has_values = self.has_values or decoded.readings.cells > 0
        refused = _one_a_record((*decoded.refused, *result.refused))
        unknown = decoded.unknown_devices, decoded.unknown_channels
        intake = intake_of(raw, self.log_ns, decoded, result) if len(raw) else None
        return Stepped(result, self.lineage, self.offset, refused, *unknown, intake=intake)


def _before(offset: int) -> int:
    """Return the offset of rows that an entry caused: that of the record before."""
    return max(offset - 1, 0)


def _split(raw: RawBatch, offset: int) -> tuple[RawBatch, RawBatch]:
    """Split input in two: the records before an offset, and the rest."""
    at = int(np.searchsorted(raw.offset, offset))
    cuts = ((slice(0, at), offset), (slice(at, None), raw.next_offset))
    first, second = (
        RawBatch(
            raw.partition,
            raw.offset[cut],
            raw.log_ns[cut],
            raw.keys[cut],
            raw.values[cut],
            raw.headers[cut],
            next_offset,
        )
        for cut, next_offset in cuts
    )
    return first, second


def _one_a_record(letters: tuple[Refused, ...]) -> tuple[Refused, ...]:
    """Join several refusals of a record into one that lists them all."""
    joined: dict[int, Refused] = {}
    for letter in letters:
        first = joined.get(letter.offset)
        joined[letter.offset] = (
            letter
            if first is None
            else Refused(
                letter.offset,
                first.reason,
                f"{first.detail}; {letter.reason}: {letter.detail}",
                first.rows + letter.rows,
                first.first_event_ns if first.first_event_ns is not None else letter.first_event_ns,
                first.device or letter.device,
            )
        )
    return tuple(joined[offset] for offset in sorted(joined))


def empty_lineage(entry: StartEntry, generation: int, configured: str) -> Lineage:
    """Return the lineage of the empty state of a start or state reset, before it is applied."""
    return Lineage(
        entries=entry.number,
        generation=generation,
        bundle=entry.bundle,
        model_id=entry.model_id,
        configured=configured,
        control=entry.control,
        partitions=entry.partitions,
    )
