"""Whether the position that a scorer's group stands at is one that a scorer committed, and what it should be.

Everything that a position tells is in the log: the scores topic's last message names the spans it comes from, the
journal's entries are numbered, and letters and alerts name the input that caused them. So a position that was deleted
or moved by hand can be told from a true one, and made again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from stream_ad.config import Settings
from stream_ad.errors import ContractError, JournalError, OffsetsError, PositionError, StorageError, TopicError
from stream_ad.io.newest import newest_record
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

VERB = "`stream-ad reposition` puts them back, from the last span of the scores topic, while no scorer runs"
TRIES = 3
"""A scorer may commit between two reads."""
SLACK_NS = 60_000_000_000
"""Append times of two brokers may differ by less."""


def expect_position(settings: Settings, transport: Transport, partition: Partition, position: Position | None) -> None:
    """See that a scorer can go on from a position.

    Args:
        settings: of the stream.
        transport: the log.
        partition: of the readings.
        position: what the group committed for it.

    Raises:
        OffsetsError: it was deleted, or moved by somebody else than a scorer.
    """
    if fault := position_fault(settings, transport, partition, position):
        raise OffsetsError(f"{partition.topic}[{partition.number}]: {fault}; {VERB}")


def position_fault(settings: Settings, transport: Transport, partition: Partition, position: Position | None) -> str:
    """Return what is wrong with the position of a scorer's group, "" where a scorer committed it, or never any."""
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
            f"nothing is committed, although {topic} has records (the offsets of {deciding_group(settings)} were "
            "deleted, or have expired: do the broker's offsets.retention.minutes outlast a pause of the stream? Or "
            f"{partition.topic} was made anew): starting over would repeat rows"
        )
    moved = f"the offsets of group {deciding_group(settings)} were moved by hand: {position.offset} is committed, and "
    try:
        marker = Marker.from_text(position.metadata)
    except PositionError as error:
        return f"{moved}not by a scorer ({error})"
    if marker.topic_id and position.topic_id and marker.topic_id != position.topic_id:
        return ""  # recovery tells
    if marker.offset >= 0 and marker.offset != position.offset:
        return f"{moved}a scorer committed {marker.offset}"
    newest = newest_place(settings, transport, partition)
    if newest is not None and newest > marker.told:
        return (
            f"{moved}its metadata tells of scores up to input {marker.told.offset} and journal entry "
            f"{marker.told.entries}, the scores topic reaches {newest.offset} and {newest.entries}"
        )
    return ""


def published_in(settings: Settings, transport: Transport, number: int) -> str:
    """Return the topic in which something was published for a partition, "" where nothing ever was.

    The journal's first entry is of the first commit, and stays for ever; scores may outlive it where somebody
    deleted it. The end of a topic also moves by transactions that were aborted.
    """
    for topic in (settings.stream.journal_topic, settings.stream.scores_topic):
        if number >= partitions_of(transport, topic):
            continue
        place = Partition(topic, number)
        if any(len(raw) for raw in transport.read(place, *transport.bounds(place))):
            return topic
    return ""


def partitions_of(transport: Transport, topic: str) -> int:
    """Return the number of a topic's partitions, 0 where there is no such topic."""
    try:
        return transport.topic(topic).partitions
    except TopicError:
        return 0


def newest_place(settings: Settings, transport: Transport, partition: Partition) -> Place | None:
    """Return the place up to which the scores topic tells of a partition; None without any."""
    topic = settings.stream.scores_topic
    if partition.number >= partitions_of(transport, topic):
        return None
    scores = Partition(topic, partition.number)
    found = newest_record(transport, scores, *transport.bounds(scores))
    if found is None:
        return None
    try:
        source, spans = score_messages.spans_of(found[1])
    except ContractError:  # somebody else's
        return None
    return spans.end if source == partition else None


# -- what it should be ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a partition of a scorer's group should stand.

    Attributes:
        partition: of the readings.
        found: what is committed, None for nothing.
        fault: what is wrong with it, "" for nothing.
        offset: the next input offset that was scored and published for sure.
        marker: what belongs beside it; None where nothing was ever published, and nothing is to be committed.
        refused: why it cannot be restored, "" if it can.
    """

    partition: Partition
    found: Position | None
    fault: str = ""
    offset: int = 0
    marker: Marker | None = None
    refused: str = ""


class Restoring:
    """Makes the positions of a scorer's group again from what it has published.

    A commit publishes rows, letters, alerts and entries together with the position. So the position stood at or behind
    the end of the last score message's span, and behind the input of each letter and alert and the last entry. What a
    scorer had committed beyond that gave nothing that is public: it is read once more.

    Args:
        settings: of the stream.
        transport: the log.
    """

    def __init__(self, settings: Settings, transport: Transport) -> None:
        self._settings = settings
        self._transport = transport
        self._readings = transport.topic(settings.stream.readings_topic)

    def standings(self) -> list[Standing]:
        """Return where each partition should stand.

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
        """Return a standing with what is to be committed.

        Raises:
            PositionError, JournalError: that cannot be told.
        """
        partition = standing.partition
        stream = self._settings.stream
        entries: Sequence[Entry] = ()
        if partition.number < partitions_of(self._transport, stream.journal_topic):
            entries = tuple(journal.read(self._transport, Partition(stream.journal_topic, partition.number)))
        told = self._told(partition)
        if not entries and told is None:
            return standing
        if not entries or entries[0].number != 0:
            raise PositionError("the journal's first entries are gone")
        self._expect_same_topic(partition, entries)
        place, since_ns = told or (Place(entries[0].offset, 0), 0)
        if entries[-1].number + 1 < place.entries:
            raise PositionError(f"the scores tell of {place.entries} journal entries, the journal has {len(entries)}")
        offset = max(
            place.offset, entries[-1].offset, self._letters(partition, since_ns), self._alerts(partition, since_ns)
        )
        end = self._transport.bounds(partition)[1]
        if offset > end:
            raise PositionError(
                f"scored up to {offset}, and the topic ends at {end}: it is another, or records are gone"
            )
        return Standing(partition, standing.found, standing.fault, offset, self._marker(entries, offset, place))

    def _told(self, partition: Partition) -> tuple[Place, int] | None:
        """Return the place up to which scores tell, and a log time not after that; None without scores.

        Raises:
            PositionError: parts cannot be read.
        """
        stream, found = self._settings.stream, []
        place = newest_place(self._settings, self._transport, partition)
        scores = Partition(stream.scores_topic, partition.number)
        there = partition.number < partitions_of(self._transport, scores.topic)
        if place is not None:
            newest = newest_record(self._transport, scores, *self._transport.bounds(scores))
            found.append((place, newest[0] - SLACK_NS if newest is not None else 0))
        try:
            part = score_log.last_part(self._settings.store.scores, partition.number)
        except StorageError as error:
            raise PositionError(f"the score log cannot be read: {error}") from error
        if part is not None and there and part.topic_id == self._transport.topic(scores.topic).topic_id:
            found.append((part.spans.end, part.first_log_ns - SLACK_NS))
        if not found and there and self._transport.bounds(scores)[0] > 0:
            raise PositionError(f"the scores were deleted from {scores.topic}, and there are no files of them here")
        return max(found, default=None)

    def _expect_same_topic(self, partition: Partition, entries: Sequence[Entry]) -> None:
        """See that the readings are those that were scored.

        Raises:
            PositionError: they are not.
        """
        ids = [entry.topic_id for entry in entries if isinstance(entry, StartEntry) and entry.topic_id][-1:]
        store, stream = self._settings.store, self._settings.stream
        try:
            for name in checkpoints.names(store.checkpoints, stream.name, partition.number)[:1]:
                ids.append(checkpoints.load(store.checkpoints, name).topic_id)
        except StorageError:
            pass  # a damaged one tells nothing
        if others := set(ids) - {self._readings.topic_id}:
            raise PositionError(
                f"the topic was made anew since it was scored ({', '.join(sorted(others))}, now "
                f"{self._readings.topic_id}): give the stream another name"
            )

    def _letters(self, partition: Partition, since_ns: int) -> int:
        """Return the input offset behind the last dead letter since a log time, 0 without any."""
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
        """Return the input offset behind the last alert since a log time, 0 without any."""
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

    def _marker(self, entries: Sequence[Entry], offset: int, told: Place) -> Marker:
        model_id = configured = ""
        generation = control = 0
        for entry in entries:
            if isinstance(entry, StartEntry):
                generation += entry.kind == "restart"
                if entry.model_id != model_id:  # else it goes on with what a swap brought
                    configured = entry.model_id
                model_id, control = entry.model_id, max(control, entry.control)
            elif isinstance(entry, SwapEntry):
                model_id, configured, control = entry.model_id, entry.configured, entry.control
        lost = [
            entry.lost
            for entry in entries
            if isinstance(entry, StartEntry) and entry.lost is not None and entry.number >= told.entries
        ]
        return Marker(
            checkpoint="",
            topic_id=self._readings.topic_id,
            told=told,
            entries=entries[-1].number + 1,
            generation=generation,
            model_id=model_id,
            configured=configured,
            control=control,
            lost=tuple(lost[-LOST_KEPT:]),
            offset=offset,
        )
