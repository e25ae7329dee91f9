"""Recomputes a range of a partition from the log alone, for comparison by audits and proofs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stream_ad.assembly import Models
from stream_ad.config import Settings
from stream_ad.core.model import Model
from stream_ad.errors import CheckpointError, ContractError, PositionError, StorageError
from stream_ad.identity import config_digest, fingerprint, with_config
from stream_ad.io.spans import Place
from stream_ad.io.state import checkpoints, journal
from stream_ad.io.state.journal import CloseEntry, Entry, StartEntry
from stream_ad.io.transport import Partition, RawBatch, Transport
from stream_ad.replaying.lineage import Lineage
from stream_ad.replaying.replay import PartitionReplay, Stepped, empty_lineage


@dataclass(frozen=True, slots=True)
class Recomputed:
    """Recomputed results of some input or of a journal entry.

    Attributes:
        stepped: the results that were due to be published.
        model: the model in force after it.
        config_digest: digest of the settings in force.
        fingerprint: of the code, libraries and settings with which the results were published.
        raw: the records; None for an entry.
    """

    stepped: Stepped
    model: Model
    config_digest: str
    fingerprint: str
    raw: RawBatch | None


@dataclass(frozen=True, slots=True)
class _Origin:
    """Where a recomputation starts: at a start in the journal, or at a checkpoint after it."""

    begun: StartEntry
    checkpoint: checkpoints.Checkpoint | None

    @property
    def offset(self) -> int:
        return self.begun.offset if self.checkpoint is None else self.checkpoint.offset


class Recomputing:
    """One partition's input and journal, reread.

    Args:
        settings: the stream's current settings; a start in the journal brings those of its time.
        models: loads bundles.
        transport: the log.
        partition: of the readings.
        entries: number of journal entries to use, according to the committed position.
        bundles: new folders of bundles that were moved, by digest.

    Raises:
        JournalError: the journal is damaged.
    """

    def __init__(
        self,
        settings: Settings,
        models: Models,
        transport: Transport,
        partition: Partition,
        entries: int,
        bundles: Mapping[str, str] | None = None,
    ) -> None:
        self.partition = partition
        self._settings = settings
        self._models = models
        self._transport = transport
        self._bundles = dict(bundles or {})
        place = Partition(settings.stream.journal_topic, partition.number)
        self.entries: tuple[Entry, ...] = tuple(
            entry for entry in journal.read(transport, place) if entry.number < entries
        )

    def run(self, start: int, stop: int, use_checkpoints: bool = True) -> Iterator[Recomputed]:
        """Yield the results of the input from `start` or before up to `stop`, in order.

        Starts at the nearest checkpoint or start at or below `start`; results before `start` are yielded too.

        Args:
            start: input offset.
            stop: input offset, exclusive: what the group has committed.
            use_checkpoints: False to begin at a start in the journal.

        Raises:
            PositionError: there is no place to start from: earlier input is no longer retained.
            BundleError: a bundle that was in force is not available.
        """
        origin = self._origin(start, use_checkpoints)
        later = [
            entry
            for entry in self.entries
            if isinstance(entry, StartEntry) and entry.number > origin.begun.number and entry.offset <= stop
        ]
        ends = [(entry.offset, entry.number) for entry in later] + [(stop, len(self.entries) + stop + 1)]
        for begun, end in zip([origin.begun, *later], ends, strict=True):
            found = origin.checkpoint if begun is origin.begun else None
            yield from self._generation(begun, found, *end)

    def first_offset(self, start: int) -> int:
        """Return the input offset at which `run` would start.

        Raises:
            PositionError: there is no place to start from.
        """
        return self._origin(start, True).offset

    def checkpoint_offsets(self) -> list[int]:
        """Return the input offsets of the available checkpoints, ascending."""
        store, stream = self._settings.store, self._settings.stream
        try:
            names = checkpoints.names(store.checkpoints, stream.name, self.partition.number)
        except StorageError:
            return []
        return sorted(checkpoints.offset_of(name) for name in names)

    # -- where to start ---------------------------------------------------------------------------

    def _origin(self, start: int, use_checkpoints: bool) -> _Origin:
        earliest, _ = self._transport.bounds(self.partition)
        begun = [entry for entry in self.entries if isinstance(entry, StartEntry) and entry.offset <= start]
        where = f"{self.partition.topic}[{self.partition.number}]"
        if not begun:
            raise PositionError(f"{where}: nothing was scored before offset {start}, or the journal is incomplete")
        origin = _Origin(begun[-1], self._checkpoint(begun[-1], earliest, start) if use_checkpoints else None)
        if origin.checkpoint is None and begun[-1].read_from < earliest:
            raise PositionError(
                f"{where}: offset {start} cannot be recomputed: input is retained from {earliest} on, state started "
                f"at {begun[-1].read_from}, and there is no checkpoint in between"
            )
        return origin

    def _checkpoint(self, begun: StartEntry, earliest: int, start: int) -> checkpoints.Checkpoint | None:
        """Return the newest usable checkpoint at or below an offset."""
        settings = with_config(self._settings, begun.config)
        store, stream = settings.store, settings.stream
        generation = self._generation_of(begun)
        try:
            names = checkpoints.names(store.checkpoints, stream.name, self.partition.number)
        except StorageError:
            return None
        for name in names:
            if not max(earliest, begun.offset) <= checkpoints.offset_of(name) <= start:
                continue
            try:
                found = checkpoints.load(store.checkpoints, name)
                lineage = Lineage.from_meta(found.meta)
            except (CheckpointError, KeyError, ValueError):
                continue
            is_same = found.meta.get("fingerprint") == fingerprint(settings, lineage.model_id)
            # One written before a commit that never landed may lack an entry whose offset is below its own.
            lacks = any(entry.number >= lineage.entries and entry.offset < found.offset for entry in self.entries)
            if is_same and lineage.generation == generation and not lacks:
                return found
        return None

    def _generation_of(self, begun: StartEntry) -> int:
        return sum(
            isinstance(entry, StartEntry) and entry.kind == "restart" and entry.number <= begun.number
            for entry in self.entries
        )

    # -- one life of a state ------------------------------------------------------------------------

    def _generation(
        self, begun: StartEntry, found: checkpoints.Checkpoint | None, stop: int, before: int
    ) -> Iterator[Recomputed]:
        """Yield the results of one state: from its start, or a checkpoint, up to the next start.

        Args:
            begun: the start.
            found: a checkpoint after it.
            stop: input offset, exclusive.
            before: number of the next start.
        """
        settings = with_config(self._settings, begun.config)
        digest = config_digest(settings)
        replay, public = self._begin(settings, begun, found, before)
        for raw, stepped in self._steps(replay, stop):
            kept = stepped.since(public)
            model = self._find(kept.lineage.bundle, kept.lineage.model_id)
            yield Recomputed(kept, model, digest, begun.fingerprint, None if stepped.entry else raw)

    def _begin(
        self, settings: Settings, begun: StartEntry, found: checkpoints.Checkpoint | None, before: int
    ) -> tuple[PartitionReplay, Place]:
        """Return a pipeline, and the place from which its results were published."""
        if found is not None:
            lineage = Lineage.from_meta(found.meta)
            ahead = [entry for entry in self.entries if lineage.entries <= entry.number < before]
            replay = PartitionReplay(settings, found.offset, lineage, self._find, ahead)
            try:
                replay.restore(found.arrays)
            except ContractError as error:
                raise CheckpointError(f"{self.partition}: a checkpoint does not match the settings: {error}") from error
            return replay, Place(found.offset, lineage.entries)
        generation = self._generation_of(begun) - (begun.kind == "restart")
        lineage = empty_lineage(begun, generation, begun.model_id)
        return (
            PartitionReplay(settings, begun.read_from, lineage, self._find, self._ahead(begun, before)),
            Place(begun.offset, begun.number),
        )

    def _ahead(self, begun: StartEntry, before: int) -> Sequence[Entry]:
        closes = [
            entry
            for entry in self.entries
            if isinstance(entry, CloseEntry) and entry.number < begun.number and entry.offset >= begun.read_from
        ]
        return [*closes, *(entry for entry in self.entries if begun.number <= entry.number < before)]

    def _steps(self, replay: PartitionReplay, stop: int) -> Iterator[tuple[RawBatch | None, Stepped]]:
        for stepped in replay.settle():
            yield None, stepped
        for raw in self._transport.read(self.partition, replay.offset, stop) if replay.offset < stop else ():
            for stepped in replay.step(raw):
                yield raw, stepped
        # Control records at the end are not in a batch: entries may follow them.
        nothing = np.empty(0, np.int64)
        for stepped in replay.step(RawBatch(self.partition, nothing, nothing, (), (), (), max(stop, replay.offset))):
            yield None, stepped

    def _find(self, bundle: str, model_id: str) -> Model:
        return self._models.get(self._bundles.get(model_id, bundle), model_id)
