"""The state of a stream: lag, owners, model, checkpoints and parts of each partition. Read-only."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from stream_ad.config import Settings
from stream_ad.errors import PositionError, StorageError, TopicError
from stream_ad.inspection.facts import (
    Archiving,
    CheckpointFile,
    Growth,
    Lag,
    LostInput,
    PartFile,
    PartitionStatus,
    Scoring,
    Status,
)
from stream_ad.inspection.formatting import time_text
from stream_ad.inspection.intake import read_intake
from stream_ad.inspection.pages import RoleStatus, query
from stream_ad.io.following import Stored, backwards, newest
from stream_ad.io.score_log import log as score_log
from stream_ad.io.state import checkpoints, journal
from stream_ad.io.state.journal import Entry, GrowthEntry, StartEntry
from stream_ad.io.transport import Headers, Partition, Position, Transport
from stream_ad.io.wire import scores as score_messages
from stream_ad.replaying import Marker
from stream_ad.replaying.standing import RESTORE_HINT, position_fault
from stream_ad.role_table import ARCHIVER, RoleSpec, decider, deciding_group, roles

COUNTED = 200
"""Up to this many unread offsets, records are counted; beyond it, the number of offsets is reported."""
DAY_NS = 86_400_000_000_000
"""How long lost input is reported."""


def read_status(settings: Settings, transport: Transport) -> Status:
    """Read a stream's status, with a few short reads per partition.

    Raises:
        TopicError: the readings topic is missing.
        TransportError: the log does not answer.
    """
    return StatusReader(settings, transport).status()


def lag_of(transport: Transport, partition: Partition, start: int, end: int) -> Lag:
    """Return the lag of a reader at offset `start`, which must be retained, in a log that ends at `end`."""
    if start >= end:
        return Lag()
    first = newest_ns = None
    records = 0
    is_near = end - start <= COUNTED
    for raw in transport.read(partition, start, end):
        if not len(raw):
            continue
        first = int(raw.log_ns[0]) if first is None else first
        newest_ns = int(raw.log_ns[-1])
        records += len(raw)
        if not is_near:
            break
    if first is None or newest_ns is None:
        return Lag()  # only transaction markers
    if not is_near:
        records = end - start
        last = next(backwards(transport, partition, start, end), None)
        newest_ns = newest_ns if last is None else last.log_ns
    return Lag(records, max(0, newest_ns - first) / 1e9, max(0, time.time_ns() - first) / 1e9)


def model_of(marker: Marker | None, headers: Headers) -> str:
    """Return the model in force: from the commit, else from the newest scores, else ""."""
    named = "" if marker is None else marker.model_id
    return named or dict(headers).get(f"{score_messages.PREFIX}model", b"").decode(errors="replace")


class StatusReader:
    """Reads a stream's status once."""

    def __init__(self, settings: Settings, transport: Transport) -> None:
        self._settings = settings
        self._transport = transport
        stream = settings.stream
        self._count = transport.topic(stream.readings_topic).partitions
        self._scores_id, self._scores = _described(transport, stream.scores_topic)  # "": no scorer has ever run
        _, self._journals = _described(transport, stream.journal_topic)
        self._outputs = min(self._scores, self._journals) if self._scores_id else self._count
        self._owners = {spec.name: self._owners_of(spec) for spec in roles(settings)}
        self._scorers, self._archivers = self._owners[decider().name], self._owners[ARCHIVER.name]

    def status(self) -> Status:
        """Return the state of the stream."""
        now_ns = time.time_ns()
        roles_here = self._roles()
        parts = tuple(
            PartitionStatus(number, self._scoring(number, roles_here), self._archiving(number))
            for number in range(self._count)
        )
        intake = read_intake(self._settings, self._transport)
        return Status(self._settings.stream.name, now_ns, parts, roles_here, intake)

    def _owners_of(self, spec: RoleSpec) -> dict[int, str]:
        """Return the owner of each partition in a role's group; empty without a group or topic."""
        topic = spec.topic(self._settings)
        if not topic or not _described(self._transport, topic)[0]:
            return {}
        found = self._transport.owners(spec.consumer_group(self._settings), topic)
        return {partition.number: member for partition, member in found.items()}

    def _archives_here(self, member: str) -> bool:
        return member == ARCHIVER.member(self._settings)

    def _roles(self) -> tuple[RoleStatus, ...]:
        """Query the roles that should run here: those in the settings, unless only other hosts run this stream."""
        specs = roles(self._settings)
        queried = [
            (spec, query(self._settings, spec, index)) for spec in specs for index in sorted(self._numbers(spec))
        ]
        # The log does not show where a role without a group runs; it may be on another host.
        is_whole = all(self._numbers(spec) for spec in specs if spec.group)
        return tuple(one for spec, one in queried if spec.group or is_whole or one.state != "unreachable")

    def _numbers(self, spec: RoleSpec) -> set[int]:
        """Return the indexes of a role's processes that should run here."""
        prefix = spec.member(self._settings, 0).removesuffix("0")
        owners = self._owners[spec.name].values()
        numbers = {int(name.removeprefix(prefix)) for name in owners if _numbered(name, prefix)}
        return numbers | set(range(spec.count(self._settings))) if numbers or not owners else numbers

    # -- scoring ----------------------------------------------------------------------------------

    def _scoring(self, number: int, roles: Iterable[RoleStatus]) -> Scoring:
        stream = self._settings.stream
        partition = Partition(stream.readings_topic, number)
        earliest, end = self._transport.bounds(partition)
        position = self._transport.committed(deciding_group(self._settings), partition)
        marker = _marker(position)
        trouble = self._fault(partition, position)
        committed = None if position is None else position.offset
        if not trouble and committed is not None and not earliest <= committed <= end:
            trouble = f"committed offset {committed} is outside the retained range ({earliest} to {end})"
        start = earliest if committed is None else min(max(committed, earliest), end)
        last = self._newest_scores(number)
        entries = self._journalled(number)
        files = self._checkpoints(number)
        owner = self._scorers.get(number, "")
        return Scoring(
            owner=owner,
            committed=committed,
            earliest=earliest,
            lag=lag_of(self._transport, partition, start, end),
            model=model_of(marker, () if last is None else last.headers),
            is_catching_up=self._catching_up(number, owner, roles),
            last_result_age_s=None if last is None else max(0, time.time_ns() - last.log_ns) / 1e9,
            unsaved_s=self._unsaved_s(partition, start, files[0].offset) if files else None,
            oldest=files[-1] if files else None,
            newest=files[0] if files else None,
            trouble=trouble,
            lost=tuple(_lost_input(entries)),
            growths=tuple(_growths(entries)),
            has_outputs=number < self._outputs,
        )

    def _fault(self, partition: Partition, position: Position | None) -> str:
        """Return the fault of a position that no scorer committed, "" if one did."""
        fault = position_fault(self._settings, self._transport, partition, position)
        return fault and f"{fault}; {RESTORE_HINT}"

    def _journalled(self, number: int) -> list[tuple[int, Entry]]:
        """Return the journal entries of the last day, with their log times."""
        if number >= self._journals:
            return []
        place = Partition(self._settings.stream.journal_topic, number)
        return journal.since(self._transport, place, time.time_ns() - DAY_NS)

    def _catching_up(self, number: int, owner: str, roles: Iterable[RoleStatus]) -> bool | None:
        """Return whether a partition catches up, from its owner's page; None if the owner is not reachable here."""
        for role in roles:
            if owner == f"{self._settings.service.instance}-{role.name}" and str(number) in role.replaying:
                return role.replaying[str(number)]
        return None

    def _newest_scores(self, number: int) -> Stored | None:
        if number >= self._scores:
            return None
        scores = Partition(self._settings.stream.scores_topic, number)
        return newest(self._transport, scores)

    def _checkpoints(self, number: int) -> list[CheckpointFile]:
        """Return a partition's checkpoints, newest first."""
        folder = self._settings.store.checkpoints
        found = []
        for name in checkpoints.names(folder, self._settings.stream.name, number):
            try:
                found.append(CheckpointFile(name, _age_s(folder / name), int(name.split(".")[2])))
            except FileNotFoundError:  # pruned in the meantime
                continue
        return found

    def _unsaved_s(self, partition: Partition, committed: int, saved: int) -> float:
        """Return the log time between a checkpoint and the committed offset."""
        earliest, _ = self._transport.bounds(partition)
        return lag_of(self._transport, partition, max(saved, earliest), committed).seconds

    # -- archiving --------------------------------------------------------------------------------

    def _archiving(self, number: int) -> Archiving:
        owner = self._archivers.get(number, "")
        folder = self._settings.store.scores
        try:
            info = score_log.last_part(folder, number)
            last = None if info is None else _part_file(folder, info)
        except (StorageError, FileNotFoundError) as error:
            return Archiving(owner, Lag(), None, str(error))
        if number >= self._scores:
            return Archiving(owner, Lag(), last)
        scores = Partition(self._settings.stream.scores_topic, number)
        earliest, end = self._transport.bounds(scores)
        position = self._transport.committed(ARCHIVER.consumer_group(self._settings), scores)
        archived = 0 if position is None else position.offset
        trouble = ""
        if info is not None and info.topic_id != self._scores_id:
            trouble = f"the newest part belongs to an earlier topic named {scores.topic}"
        elif archived > (0 if last is None else last.end) and (last is not None or self._archives_here(owner)):
            there = "none" if last is None else str(last.end)
            trouble = f"archived up to {archived}, but the newest part ends at {there}: files were removed"
        elif archived > end:
            trouble = f"archived up to {archived}, but the scores topic ends at {end}"
        # Another host's folder is not visible here; then only its archiver's commits count.
        start = max(archived if last is None else last.end, earliest)
        return Archiving(owner, lag_of(self._transport, scores, start, end), last, trouble)


def _described(transport: Transport, topic: str) -> tuple[str, int]:
    """Return a topic's id and number of partitions; "" and 0 if it does not exist."""
    try:
        info = transport.topic(topic)
    except TopicError:
        return "", 0
    return info.topic_id, info.partitions


def _numbered(member: str, prefix: str) -> bool:
    return member.startswith(prefix) and member.removeprefix(prefix).isdecimal()


def _marker(position: Position | None) -> Marker | None:
    if position is None:
        return None
    try:
        return Marker.from_text(position.metadata)
    except PositionError:
        return None


def _lost_input(entries: Iterable[tuple[int, Entry]]) -> Iterator[LostInput]:
    for log_ns, entry in entries:
        if isinstance(entry, StartEntry) and entry.lost is not None:
            age_s = max(0, time.time_ns() - log_ns) / 1e9
            yield LostInput(*entry.lost, age_s, time_text(log_ns, seconds=False))


def _growths(entries: Iterable[tuple[int, Entry]]) -> Iterator[Growth]:
    for log_ns, entry in entries:
        if isinstance(entry, GrowthEntry):
            age_s = max(0, time.time_ns() - log_ns) / 1e9
            since = time_text(log_ns, seconds=False)
            yield Growth(entry.before, entry.partitions, entry.moved, entry.devices, age_s, since)


def _age_s(path: Path) -> float:
    return max(0.0, time.time() - path.stat().st_mtime)


def _part_file(folder: Path, info: score_log.PartInfo) -> PartFile:
    return PartFile(str(info.path.relative_to(folder)), _age_s(info.path), info.rows, info.span.end)
