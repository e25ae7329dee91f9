"""Checks that a scorer's group has a position that a scorer committed, and computes what it should be.

Everything in a position can be derived from the log: the last score message names its spans, journal entries are
numbered, and letters and alerts name the input that caused them. So a position that was deleted or changed by hand can
be detected and restored.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from stream_ad.config import Settings
from stream_ad.errors import ContractError, JournalError, OffsetsError, PositionError, StorageError, TopicError
from stream_ad.io.following import newest
from stream_ad.io.score_log import log as score_log
from stream_ad.io.spans import Place
from stream_ad.io.state import checkpoints, journal
from stream_ad.io.state.journal import Entry, StartEntry, SwapEntry
from stream_ad.io.transport import Partition, Position, RawBatch, Transport
from stream_ad.io.wire import alerts as alert_messages
from stream_ad.io.wire import dead_letters
from stream_ad.io.wire import scores as score_messages
from stream_ad.replaying.lineage import LOST_KEPT, Marker
from stream_ad.role_table import deciding_group

RESTORE_HINT = (
    "`stream-ad reposition` restores them from the last span of the scores topic; stop the stream's scorers first"
)
TRIES = 3
"""A scorer may commit between two reads."""
SLACK_NS = 60_000_000_000
"""Maximum difference between the append times of two brokers."""


def expect_position(settings: Settings, transport: Transport, partition: Partition, position: Position | None) -> None:
    """Check that a scorer can resume from a position.

    Args:
        settings: the stream's settings.
        transport: the log.
        partition: of the readings.
        position: the group's committed position.

    Raises:
        OffsetsError: it was deleted, or changed by something other than a scorer.
    """
    if fault := position_fault(settings, transport, partition, position):
        raise OffsetsError(f"{partition.topic}[{partition.number}]: {fault}; {RESTORE_HINT}")


def position_fault(settings: Settings, transport: Transport, partition: Partition, position: Position | None) -> str:
    """Return what is wrong with the position of a scorer's group, "" if a scorer committed it, or nothing ever was."""
    for _ in range(TRIES):
        fault = _fault(settings, transport, partition, position)
        again = transport.committed(deciding_group(settings), partition) if fault else position
        if again == position:
            return fault
        position = again
    return ""


def _fault(settings: Settings, transport: Transport, partition: Partition, position: Position | None) -> str:
    if position is None:
        topic = published_in(settings, transport, partition.number)
        if not topic:
            return ""
        return (
            f"nothing is committed, although {topic} has records: the offsets of {deciding_group(settings)} were "
            "deleted or have expired (the broker's offsets.retention.minutes must exceed any pause of the stream), or "
            f"{partition.topic} was recreated; starting over would repeat rows"
        )
    moved = (
        f"the offsets of group {deciding_group(settings)} were changed by hand: {position.offset} is committed, but "
    )
    try:
        marker = Marker.from_text(position.metadata)
    except PositionError as error:
        return f"{moved}not by a scorer ({error})"
    if marker.topic_id and position.topic_id and marker.topic_id != position.topic_id:
        return ""  # reported by recovery
    if marker.offset >= 0 and marker.offset != position.offset:
        return f"{moved}a scorer committed {marker.offset}"
    newest = newest_place(settings, transport, partition)
    if newest is not None and newest > marker.covered:
        return (
            f"{moved}its metadata covers scores up to input {marker.covered.offset} and journal entry "
            f"{marker.covered.entries}, while the scores topic reaches {newest.offset} and {newest.entries}"
        )
    return ""


def published_in(settings: Settings, transport: Transport, number: int) -> str:
    """Return the topic in which something was published for a partition, "" if nothing ever was.

    The journal's first entry belongs to the first commit and is kept forever; scores may outlive it if somebody deleted
    it. The end of a topic also moves with aborted transactions.
    """
    for topic in (settings.stream.journal_topic, settings.stream.scores_topic):
        if number >= partitions_of(transport, topic):
            continue
        place = Partition(topic, number)
        if any(len(raw) for raw in transport.read(place, *transport.bounds(place))):
            return topic
    return ""


def partitions_of(transport: Transport, topic: str) -> int:
    """Return the number of a topic's partitions, 0 if the topic does not exist."""
    try:
        return transport.topic(topic).partitions
    except TopicError:
        return 0


def newest_place(settings: Settings, transport: Transport, partition: Partition) -> Place | None:
    """Return the place up to which the scores topic covers a partition; None without scores."""
    topic = settings.stream.scores_topic
    if partition.number >= partitions_of(transport, topic):
        return None
    scores = Partition(topic, partition.number)
    found = newest(transport, scores)
    if found is None:
        return None
    try:
        source, spans = score_messages.spans_of(found.headers)
    except ContractError:  # written by another program
        return None
    return spans.end if source == partition else None


# -- the correct position -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Standing:
    """Current and correct position of a partition of a scorer's group.

    Attributes:
        partition: of the readings.
        found: the committed position, None if nothing is committed.
        fault: what is wrong with it, "" if nothing.
        offset: the next input offset after everything that was certainly scored and published.
        marker: the metadata; None if nothing was ever published and nothing is to be committed.
        refused: why it cannot be restored, "" if it can.
    """

    partition: Partition
    found: Position | None
    fault: str = ""
    offset: int = 0
    marker: Marker | None = None
    refused: str = ""


class Restoring:
    """Derives the positions of a scorer's group from what it has published.

    A commit publishes rows, letters, alerts and entries together with the position. So the position was at or after the
    end of the last score message's span, the input of each letter and alert, and the last entry. Anything committed
    beyond that produced nothing public, and is reread.

    Args:
        settings: the stream's settings.
        transport: the log.
    """

    def __init__(self, settings: Settings, transport: Transport) -> None:
        self._settings = settings
        self._transport = transport
        self._readings = transport.topic(settings.stream.readings_topic)

    def standings(self) -> list[Standing]:
        """Return the standing of each partition.

        Raises:
            TransportError: the log does not answer.
        """
        found = []
        for number in range(self._readings.partitions):
            partition = Partition(self._readings.name, number)
            position = self._transport.committed(deciding_group(self._settings), partition)
            fault = position_fault(self._settings, self._transport, partition, position)
            standing = Standing(partition, position, fault)
            if fault:
                try:
                    standing = self._restored(standing)
                except (PositionError, JournalError) as error:
                    standing = replace(standing, refused=str(error))
            found.append(standing)
        return found

    def _restored(self, standing: Standing) -> Standing:
        """Return a standing with the position to commit.

        Raises:
            PositionError, JournalError: it cannot be determined.
        """
        partition = standing.partition
        stream = self._settings.stream
        entries: Sequence[Entry] = ()
        if partition.number < partitions_of(self._transport, stream.journal_topic):
            entries = tuple(journal.read(self._transport, Partition(stream.journal_topic, partition.number)))
        covered = self._covered(partition)
        if not entries and covered is None:
            return standing
        if not entries or entries[0].number != 0:
            raise PositionError("the journal's first entries have disappeared")
        self._expect_same_topic(partition, entries)
        place, since_ns = covered or (Place(entries[0].offset, 0), 0)
        if entries[-1].number + 1 < place.entries:
            raise PositionError(f"the scores cover {place.entries} journal entries, but the journal has {len(entries)}")
        offset = max(
            place.offset, entries[-1].offset, self._letters(partition, since_ns), self._alerts(partition, since_ns)
        )
        end = self._transport.bounds(partition)[1]
        if offset > end:
            raise PositionError(
                f"scored up to {offset}, but the topic ends at {end}: it was recreated, or records have disappeared"
            )
        return Standing(partition, standing.found, standing.fault, offset, self._marker(entries, offset, place))

    def _covered(self, partition: Partition) -> tuple[Place, int] | None:
        """Return the place up to which scores reach, and a log time not after that; None without scores.

        Raises:
            PositionError: parts cannot be read.
        """
        stream, found = self._settings.stream, []
        place = newest_place(self._settings, self._transport, partition)
        scores = Partition(stream.scores_topic, partition.number)
        there = partition.number < partitions_of(self._transport, scores.topic)
        if place is not None:
            last = newest(self._transport, scores)
            found.append((place, last.log_ns - SLACK_NS if last is not None else 0))
        try:
            part = score_log.last_part(self._settings.store.scores, partition.number)
        except StorageError as error:
            raise PositionError(f"the score log cannot be read: {error}") from error
        if part is not None and there and part.topic_id == self._transport.topic(scores.topic).topic_id:
            found.append((part.spans.end, part.first_log_ns - SLACK_NS))
        if not found and there and self._transport.bounds(scores)[0] > 0:
            raise PositionError(f"the scores were deleted from {scores.topic}, and this host has no files of them")
        return max(found, default=None)

    def _expect_same_topic(self, partition: Partition, entries: Sequence[Entry]) -> None:
        """Check that the readings topic is the one that was scored.

        Raises:
            PositionError: it is not.
        """
        ids = [entry.topic_id for entry in entries if isinstance(entry, StartEntry) and entry.topic_id][-1:]
        store, stream = self._settings.store, self._settings.stream
        try:
            for name in checkpoints.names(store.checkpoints, stream.name, partition.number)[:1]:
                ids.append(checkpoints.load(store.checkpoints, name).topic_id)
        except StorageError:
            pass  # a damaged checkpoint has no information
        if others := set(ids) - {self._readings.topic_id}:
            raise PositionError(
                f"the topic was recreated since it was scored ({', '.join(sorted(others))}, now "
                f"{self._readings.topic_id}): set another stream.name"
            )

    def _letters(self, partition: Partition, since_ns: int) -> int:
        """Return the input offset after the last dead letter since a log time, 0 without any."""
        last = 0
        for raw in self._records(self._settings.stream.dead_letters_topic):
            for at, value in enumerate(raw.values):
                if raw.log_ns[at] < since_ns:
                    continue
                try:
                    letter = dead_letters.decode(value, raw.headers[at])
                except ContractError:
                    continue
                if letter.source == partition:
                    last = max(last, letter.refused.offset + 1)
        return last

    def _alerts(self, partition: Partition, since_ns: int) -> int:
        """Return the input offset after the last alert since a log time, 0 without any."""
        last = 0
        for raw in self._records(self._settings.stream.alerts_topic):
            for at, value in enumerate(raw.values):
                if raw.log_ns[at] < since_ns:
                    continue
                try:
                    message = alert_messages.decode(value)
                except ContractError:
                    continue
                of = message.stream, message.input.topic, message.input.partition
                if of == (self._settings.stream.name, partition.topic, partition.number):
                    last = max(last, message.input.offset + 1)
        return last

    def _records(self, topic: str) -> Iterator[RawBatch]:
        for number in range(partitions_of(self._transport, topic)):
            place = Partition(topic, number)
            yield from self._transport.read(place, *self._transport.bounds(place))

    def _marker(self, entries: Sequence[Entry], offset: int, covered: Place) -> Marker:
        model_id = configured = ""
        generation = control = 0
        for entry in entries:
            if isinstance(entry, StartEntry):
                generation += entry.kind == "restart"
                if entry.model_id != model_id:  # otherwise a swapped bundle stays in force
                    configured = entry.model_id
                model_id, control = entry.model_id, max(control, entry.control)
            elif isinstance(entry, SwapEntry):
                model_id, configured, control = entry.model_id, entry.configured, entry.control
        lost = [
            entry.lost
            for entry in entries
            if isinstance(entry, StartEntry) and entry.lost is not None and entry.number >= covered.entries
        ]
        return Marker(
            checkpoint="",
            topic_id=self._readings.topic_id,
            covered=covered,
            entries=entries[-1].number + 1,
            generation=generation,
            model_id=model_id,
            configured=configured,
            control=control,
            lost=tuple(lost[-LOST_KEPT:]),
            offset=offset,
        )
