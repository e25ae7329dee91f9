"""The pipe of one partition with the place it stands at: input records and journal entries in, results out."""

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
"""The model of a bundle's folder and digest; raises BundleError."""


@dataclass(frozen=True, slots=True)
class Stepped:
    """What a stretch of raw input, or an entry of the journal, gave.

    Attributes:
        result: verdicts, alerts, late and future readings.
        lineage: of the state that gave it.
        offset: the next input offset behind it.
        refused: all refusals, also of decoding, one entry a record, by offset.
        unknown_devices: devices outside the stream's pattern, counted once a record.
        unknown_channels: channels that the bundle does not have, counted once a record.
        entry: the entry; None for input.
        intake: what the input held and what of it could not be used; None for an entry, or what is public.
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
        """Drop what is public already: what the input and the journal's entries before a place caused."""
        if self.entry is not None:
            return self if self.entry.number >= public.entries else replace(self, result=NOTHING, entry=None)
        refused = tuple(letter for letter in self.refused if letter.offset >= public.offset)
        # Whoever counts cuts the input at the public offset (`intake.pieces`): a step is public wholly or not at all.
        intake = self.intake if self.intake is not None and self.intake.offset >= public.offset else None
        return replace(self, result=self.result.since(public.offset), refused=refused, intake=intake)


NOTHING = StepResult((), (), ())


class PartitionReplay:
    """The pipe of one partition, the offset it stands at, and the journal's entries that lie ahead.

    Attributes:
        offset: the next input offset to be stepped.
        lineage: what else the state was made of.
        model: the model in force.
        rules: what holds of the rows.
        has_values: a reading had a value of a channel that the bundle knows, since this object was made.
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
        """Begin with empty state; `restore` puts in a checkpoint's.

        Args:
            settings: of the stream.
            offset: the next input offset.
            lineage: of the state to begin with.
            find_model: gives the model in force, and those of swaps ahead.
            ahead: entries to be applied on the way, in order, each at or after `offset`.
            ended: alerts that the start over among them publishes: they end incidents that nobody continues.

        Raises:
            BundleError: the model in force is not to be had.
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
        """Where it stands in input and journal."""
        return Place(self.offset, self.lineage.entries)

    def silence_ends_ns(self) -> int | None:
        """Return the earliest log time at which silence closes a window or drops a device, None without either."""
        return self._pipeline.silence_ends_ns()

    def unscored(self, most: int) -> tuple[int, tuple[UnscoredDevice, ...]]:
        """Return how many devices send readings and have had no score for long, and some; see `core.unscored`."""
        return self._pipeline.unscored(most)

    def step(self, raw: RawBatch) -> list[Stepped]:
        """Step over a stretch of input, and over the journal's entries that lie within or right behind it.

        Raises:
            ContractError: the stretch does not begin at or after `offset`.
            BundleError: the model of a swap is not to be had.
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
        """Apply the entries that lie ahead at the offset where the pipe stands."""
        found = []
        while self._ahead and self._ahead[0].offset <= self.offset:
            found.append(self.apply(self._ahead.popleft()))
        return found

    def apply(self, entry: Entry) -> Stepped:
        """Let an entry take effect now.

        Args:
            entry: at this offset, with the next number.

        Raises:
            ContractError: it belongs elsewhere.
            BundleError: the model of a swap is not to be had.
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
        """Take note that commands below this offset of the control topic need nothing done."""
        self.lineage = replace(self.lineage, control=max(control, self.lineage.control))

    def note_partitions(self, count: int) -> None:
        """Take note of how many partitions the readings' topic has, where nothing says how many it had."""
        self.lineage = replace(self.lineage, partitions=count)

    def moved_devices(self, number: int, before: int, now: int) -> list[str]:
        """Return the devices with state whose key belongs to another partition once some were added.

        Kafka's usual choice of a partition by key is assumed; a device that it would not have put here is left out.

        Args:
            number: of this partition.
            before: partitions until then.
            now: partitions from then on.
        """
        ids = [device for device in self._pipeline.ids() if partition_of(device.encode(), before) == number]
        return sorted(device for device in ids if partition_of(device.encode(), now) != number)

    def snapshot(self) -> Arrays:
        """Return the state at `offset`."""
        return self._pipeline.snapshot()

    def restore(self, arrays: Arrays) -> None:
        """Take back the state at `offset`.

        Raises:
            ContractError: the arrays are not a snapshot of this pipe.
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
    """Return the offset that rows of an entry bear: that of the record before."""
    return max(offset - 1, 0)


def _split(raw: RawBatch, offset: int) -> tuple[RawBatch, RawBatch]:
    """Cut a stretch in two: the records before an offset, and those from it on."""
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
    """Join several refusals of a record into one that names them all."""
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
    """Return the lineage of the empty state with which a start or start over begins, before it is applied."""
    return Lineage(
        entries=entry.number,
        generation=generation,
        bundle=entry.bundle,
        model_id=entry.model_id,
        configured=configured,
        control=entry.control,
        partitions=entry.partitions,
    )
