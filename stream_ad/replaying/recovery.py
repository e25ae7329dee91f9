"""Takes over a partition: a checkpoint or a state reset, the journal since then, and the offset to resume from.

The first of these that is possible:

1. Nothing is committed: state starts empty at the earliest record (`start`).
2. The committed input is no longer retained: state is reset at the earliest record, windows are flagged (`restart`).
3. The newest usable checkpoint, and the journal's entries since then: as if nothing had happened.
4. The last start in the journal, if it is near: the same, with more to read.
5. Input before the committed offset is reread to warm up (`restart`): `store.warm_up_records`, and more if rows may be
   open that began before. Rows are then complete, limits approximate. Also used if settings or the configured bundle
   have changed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from stream_ad.assembly import Models
from stream_ad.config import Settings
from stream_ad.core.batches import Alert
from stream_ad.core.model import Model
from stream_ad.errors import BundleError, CheckpointError, ContractError, JournalError, PositionError, StorageError
from stream_ad.fronts.table import front
from stream_ad.identity import deciding_config, fingerprint
from stream_ad.io.spans import Place
from stream_ad.io.state import checkpoints, journal
from stream_ad.io.state.journal import CloseEntry, Entry, StartEntry, SwapEntry
from stream_ad.io.transport import Partition, Position, Transport
from stream_ad.replaying.lineage import Lineage, Marker
from stream_ad.replaying.reconciling import endings, open_alerts
from stream_ad.replaying.replay import PartitionReplay, empty_lineage

NEAR = 2
"""A start within this many warm-up spans is reread from: exact, for twice the reading."""
LAST_RECORDS = 100
"""This many offsets before the committed one certainly contain one that is not a transaction marker."""
SETTLE_S = 10.0
"""Entries that were just committed may take a moment to become visible."""


@dataclass(frozen=True, slots=True)
class Recovery:
    """The result of taking over a partition.

    Attributes:
        replay: the pipeline at the offset to read from, with the journal entries ahead.
        public: the committed place: effects of the input and journal entries before it are public.
        covered: start of the next score message's spans.
        checkpoint: name of the checkpoint loaded, "" if none was usable.
        exact: the state is that of an undisturbed run; False after a state reset.
        passed_over: unusable checkpoints, with one reason each.
        why: one line for the log.
        lost: input that was deleted before it was scored and is not yet recorded in a score message.
    """

    replay: PartitionReplay
    public: Place
    covered: Place
    checkpoint: str
    exact: bool
    why: str
    passed_over: tuple[str, ...] = ()
    lost: tuple[tuple[int, int], ...] = ()


def recover(
    settings: Settings,
    models: Models,
    transport: Transport,
    partition: Partition,
    position: Position | None,
    beat: Callable[[], None] = lambda: None,
) -> Recovery:
    """Take over a partition.

    Args:
        settings: the stream's settings.
        models: the configured model, and those of swaps.
        transport: the log.
        partition: of the readings.
        position: the group's committed position.
        beat: called during long work.

    Raises:
        PositionError: the committed position is unusable: of another topic, or beyond the end.
        BundleError: the bundle in force is not available.
    """
    return _Recovering(settings, models, transport, partition, beat).run(position)


class _Recovering:
    """One take-over; see `recover`."""

    def __init__(
        self,
        settings: Settings,
        models: Models,
        transport: Transport,
        partition: Partition,
        beat: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._models = models
        self._transport = transport
        self._partition = partition
        self._beat = beat
        self._journal = Partition(settings.stream.journal_topic, partition.number)
        topic = transport.topic(partition.topic)
        self._topic_id, self._partitions = topic.topic_id, topic.partitions
        self._problems: list[str] = []

    def run(self, position: Position | None) -> Recovery:
        earliest, end = self._transport.bounds(self._partition)
        if position is None:
            nothing = Marker("", self._topic_id, Place(earliest, 0), 0, 0, "", "", 0)
            entry = self._start_entry("start", 0, earliest, earliest, "first start", self._choice(nothing, ()))
            return self._begun(entry, nothing, earliest, ())
        marker = Marker.from_text(position.metadata)
        self._check(position, marker, end)
        if position.offset < earliest:
            lost = (position.offset, earliest)
            why = f"input {lost[0]}..{lost[1] - 1} was deleted before it was scored: state is reset"
            choice = self._choice(marker, self._journalled(marker))
            entry = self._start_entry("restart", marker.entries, earliest, earliest, why, choice, lost)
            return self._begun(entry, marker, earliest, ())
        if not self._keeps_bundle(marker):
            configured = self._models.configured.model_id
            self._problems.append(
                f"stream.bundle is now {configured[:16]}, was {marker.configured[:16]}: expected fingerprint "
                f"{fingerprint(self._settings, configured)}"
            )
        elif (found := self._from_checkpoint(position, marker, earliest)) is not None:
            return found
        return self._start_over(position, marker, earliest)

    def _check(self, position: Position, marker: Marker, end: int) -> None:
        where = f"{self._partition.topic}[{self._partition.number}]"
        for topic_id in (position.topic_id, marker.topic_id):
            if topic_id and topic_id != self._topic_id:
                raise PositionError(
                    f"{where}: the committed position belongs to another topic of this name ({topic_id}, now "
                    f"{self._topic_id}): the topic was recreated; set another stream.name, or delete the group's "
                    "offsets, its scores topic and its journal to start from scratch"
                )
        if position.offset > end:
            raise PositionError(
                f"{where}: committed offset {position.offset} is beyond the end {end}: scored records have disappeared "
                "from the topic (recreated, or an unclean leader election); set another stream.name"
            )

    # -- from a checkpoint ------------------------------------------------------------------------

    def _from_checkpoint(self, position: Position, marker: Marker, earliest: int) -> Recovery | None:
        """Return the recovery from the newest usable checkpoint, or None."""
        for name in self._candidates(marker):
            try:
                found = self._load(name)
                if not earliest <= found.offset <= position.offset:
                    raise CheckpointError(f"{name}: its offset {found.offset} cannot be resumed from")
                lineage = self._lineage(name, found, marker)
                ahead = self._entries_since(name, found, lineage, marker)
                replay = PartitionReplay(self._settings, found.offset, lineage, self._models.get, ahead)
                replay.restore(found.arrays)
            except (CheckpointError, ContractError, JournalError, BundleError) as error:
                self._problems.append(str(error))
                continue
            return Recovery(
                replay=replay,
                public=Place(position.offset, marker.entries),
                covered=marker.covered,
                checkpoint=name,
                exact=True,
                why="; ".join(self._problems) or "checkpoint",
                passed_over=tuple(self._problems),
                lost=marker.lost,
            )
        return None

    def _candidates(self, marker: Marker) -> Iterator[str]:
        """Yield the committed checkpoint, then the other available ones, newest first; records an unreadable folder."""
        if marker.checkpoint:
            yield marker.checkpoint
        try:
            others = checkpoints.names(
                self._settings.store.checkpoints, self._settings.stream.name, self._partition.number
            )
        except StorageError as error:
            self._problems.append(str(error))
            return
        for name in others:
            if name != marker.checkpoint:
                yield name

    def _load(self, name: str) -> checkpoints.Checkpoint:
        found = checkpoints.load(self._settings.store.checkpoints, name)
        model_id = str(found.meta.get("model_id", ""))
        expected = {
            "topic": self._topic_id,
            "partition": self._partition.number,
            "fingerprint": fingerprint(self._settings, model_id),
        }
        actual = {"topic": found.topic_id, "partition": found.partition, "fingerprint": found.meta.get("fingerprint")}
        for key, value in expected.items():
            if actual[key] != value:
                raise CheckpointError(f"{name}: expected {key} {value}, found {actual[key]}")
        return found

    def _lineage(self, name: str, found: checkpoints.Checkpoint, marker: Marker) -> Lineage:
        try:
            lineage = Lineage.from_meta(found.meta)
            int(found.meta["journal_offset"])
        except (KeyError, ValueError) as error:
            raise CheckpointError(f"{name}: expected the metadata of a lineage, found: {error}") from error
        if lineage.generation != marker.generation or lineage.entries > marker.entries:
            raise CheckpointError(
                f"{name}: expected generation {marker.generation} and at most {marker.entries} journal entries, found "
                f"{lineage.generation} and {lineage.entries}"
            )
        return replace(lineage, configured=self._models.configured.model_id)

    def _entries_since(self, name: str, found: checkpoints.Checkpoint, lineage: Lineage, marker: Marker) -> list[Entry]:
        """Return the entries between a checkpoint and the committed position."""
        wanted = list(range(lineage.entries, marker.entries))
        entries = self._public_entries(marker, int(found.meta["journal_offset"])) if wanted else []
        ahead = [entry for entry in entries if entry.number >= lineage.entries]
        if [entry.number for entry in ahead] != wanted:
            raise CheckpointError(f"{name}: journal entries {wanted[0]}..{wanted[-1]} are incomplete")
        if ahead and ahead[0].offset < found.offset:
            raise CheckpointError(
                f"{name}: at offset {found.offset} it lacks entry {ahead[0].number} of offset {ahead[0].offset}: it "
                "was written before a commit that never landed"
            )
        return ahead

    def _public_entries(self, marker: Marker, start: int = 0) -> list[Entry]:
        """Return the public entries, waiting briefly for the newest of them to become visible."""
        deadline = time.monotonic() + SETTLE_S
        while True:
            entries = list(journal.read(self._transport, self._journal, start))
            if (entries and entries[-1].number + 1 >= marker.entries) or time.monotonic() > deadline:
                return [entry for entry in entries if entry.number < marker.entries]
            self._beat()
            time.sleep(0.05)

    # -- without one ------------------------------------------------------------------------------

    def _start_over(self, position: Position, marker: Marker, earliest: int) -> Recovery:
        """Reread from the last start if it is near, else warm up on some input."""
        entries = self._journalled(marker)
        warm_up = self._settings.store.warm_up_records
        begun = _last_start(entries)
        if (
            begun is not None
            and self._keeps_bundle(marker)
            and begun.fingerprint == fingerprint(self._settings, begun.model_id)
            and begun.read_from >= max(earliest, position.offset - NEAR * warm_up)
        ):
            return self._begun(begun, marker, position.offset, entries)
        choice = self._choice(marker, entries)
        start = self._warm_up_from(position.offset, earliest, self._models.get(*choice[:2]))
        why = f"no usable checkpoint ({'; '.join(self._problems) or 'none was written yet'}), rereading from {start}"
        entry = self._start_entry("restart", marker.entries, position.offset, start, why, choice)
        return self._begun(entry, marker, position.offset, entries)

    def _warm_up_from(self, offset: int, earliest: int, model: Model) -> int:
        """Return the offset to read from so that rows open at an offset are complete."""
        look_back_ns = front(self._settings).rules(self._settings, model).look_back_ns
        records = self._settings.store.warm_up_records
        newest = self._log_times(max(earliest, offset - LAST_RECORDS), offset)
        while (start := max(earliest, offset - records)) > earliest and newest:
            begin = next(iter(self._log_times(start, offset)), newest[-1])
            if newest[-1] - begin >= look_back_ns:
                break
            self._beat()
            records *= 2
        return start

    def _log_times(self, start: int, stop: int) -> list[int]:
        """Return the append times of the first records of a range, UTC nanoseconds; empty if it has none."""
        stretch = self._transport.read(self._partition, start, stop)
        return next((raw.log_ns.tolist() for raw in stretch if len(raw)), [])

    def _journalled(self, marker: Marker) -> list[Entry]:
        """Return all public entries of the journal; none, with a recorded reason, if it is unusable."""
        try:
            return self._public_entries(marker)
        except JournalError as error:
            self._problems.append(str(error))
            return []

    def _keeps_bundle(self, marker: Marker) -> bool:
        """Return whether the settings still name the same bundle as before, or the one in force."""
        return self._models.configured.model_id in (marker.configured, marker.model_id)

    def _choice(self, marker: Marker, entries: Sequence[Entry]) -> tuple[str, str, int]:
        """Return folder and digest of the bundle for a new state, and the control offset to follow."""
        configured = self._models.configured.model_id
        if not self._keeps_bundle(marker):
            control = self._transport.bounds(Partition(self._settings.stream.control_topic, 0))[1]
            return self._models.bundle, configured, control
        if marker.model_id == configured:
            return self._models.bundle, configured, marker.control
        return _bundle_of(marker.model_id, entries), marker.model_id, marker.control

    def _start_entry(
        self,
        kind: Literal["start", "restart"],
        number: int,
        offset: int,
        read_from: int,
        why: str,
        choice: tuple[str, str, int],
        lost: tuple[int, int] | None = None,
    ) -> StartEntry:
        folder, model_id, control = choice
        return StartEntry(
            kind=kind,
            number=number,
            offset=offset,
            read_from=read_from,
            lost=lost,
            why=why[:2_000],
            fingerprint=fingerprint(self._settings, model_id),
            config=deciding_config(self._settings),
            bundle=folder,
            model_id=model_id,
            control=control,
            topic_id=self._topic_id,
            partitions=self._partitions,
        )

    def _begun(self, entry: StartEntry, marker: Marker, public: int, entries: Sequence[Entry]) -> Recovery:
        """Return the recovery that starts with a journal entry, or with one that is to be published."""
        is_new = entry.number >= marker.entries
        ended: tuple[Alert, ...] = ()
        if is_new and entry.kind == "restart":
            found = open_alerts(self._settings, self._transport, self._partition, self._beat)
            ended = endings(found, entry.offset)
        closes = [
            one
            for one in entries
            if isinstance(one, CloseEntry) and one.number < entry.number and one.offset >= entry.read_from
        ]
        ahead = [*closes, entry, *(one for one in entries if one.number > entry.number)]
        generation = marker.generation - int(entry.kind == "restart" and not is_new)
        lineage = empty_lineage(entry, generation, self._models.configured.model_id)
        return Recovery(
            replay=PartitionReplay(self._settings, entry.read_from, lineage, self._models.get, ahead, ended),
            public=Place(public, marker.entries),
            covered=marker.covered,
            checkpoint="",
            exact=not is_new or entry.kind == "start",
            why=entry.why if is_new else f"reread from {entry.read_from}, where state started",
            passed_over=tuple(self._problems),
            lost=marker.lost,
        )


def _last_start(entries: Sequence[Entry]) -> StartEntry | None:
    return next((entry for entry in reversed(entries) if isinstance(entry, StartEntry)), None)


def _bundle_of(model_id: str, entries: Sequence[Entry]) -> str:
    """Return the folder of a bundle that a swap put in force."""
    for entry in reversed(entries):
        if isinstance(entry, SwapEntry | StartEntry) and entry.model_id == model_id:
            return entry.bundle
    raise BundleError(
        f"the bundle {model_id[:16]} is in force since a swap, but the journal has no entry with its folder: set "
        "stream.bundle to it"
    )
