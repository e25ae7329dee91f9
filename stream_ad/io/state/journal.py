"""The journal: what influenced a partition's results and did not come from its input.

One topic a stream, partitioned like the readings. An entry is published in the transaction that first publishes its
effect, so the entries of a partition and its input together give its results again: no memory of ours is needed.
Entries of a partition are numbered from 0. One takes effect between two records, before the one at its `offset`;
several of the same offset do so in the order of their numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from stream_ad.errors import JournalError
from stream_ad.io.transport import Partition, Record, Transport
from stream_ad.io.wire.encode import CONTENT_TYPE, JSON

KEEP_FOR_EVER = {"retention.ms": "-1"}
"""Settings of the topic: an entry is needed as long as anything was published after it."""

Count = Annotated[int, Field(ge=0)]


DEVICES_NAMED = 100
"""So many devices that moved are named in an entry; all are counted."""
LOOK_BACK = 50
"""So many offsets are read at first to find the newest entries."""


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    v: Literal[1] = 1
    number: Count
    """Counts the entries of the partition from 0."""
    offset: Count
    """Input offset before which it takes effect."""


class StartEntry(_Entry):
    """State begins empty: a first start, or a start over.

    A start over (`restart`) reads the input from `read_from`, publishes nothing of what lies before `offset`, and
    begins without incidents.
    """

    kind: Literal["start", "restart"]
    read_from: Count
    """Input offset at which the empty state begins to read."""
    lost: tuple[int, int] | None = None
    """Input offsets that were deleted before they were scored, the end exclusive."""
    why: str
    """One line for a person."""
    fingerprint: str
    """What results depend on besides input and journal."""
    config: dict[str, Any]
    """The settings that change results."""
    bundle: str
    """The model's folder."""
    model_id: str
    """Its digest."""
    control: Count
    """Offset of the control topic below which commands are taken note of."""
    topic_id: str = ""
    """Identity of the topic of the readings; "" where a version before 0.2.0 wrote it."""
    partitions: Count = 0
    """How many partitions that topic had; 0 where a version before 0.2.0 wrote it."""


class SwapEntry(_Entry):
    """Another bundle from here on."""

    kind: Literal["swap"] = "swap"
    bundle: str
    """The model's folder."""
    model_id: str
    """Its digest."""
    configured: str
    """Digest of the bundle that the settings named at that time."""
    control: Count
    """Offset behind the command in the control topic."""


class CloseEntry(_Entry):
    """Log time moved on by the clock while the whole partition was silent; what it makes idle closes."""

    kind: Literal["close"] = "close"
    log_ns: int
    """Log time from here on, UTC nanoseconds."""


class GrowthEntry(_Entry):
    """Partitions were added to the topic of the readings; results do not depend on it."""

    kind: Literal["growth"] = "growth"
    before: Count
    """Partitions until then."""
    partitions: Count
    """Partitions now."""
    moved: Count
    """Devices with state here whose key belongs to another partition now: they start anew there."""
    devices: tuple[str, ...]
    """The first `DEVICES_NAMED` of these, in order."""


Entry = StartEntry | SwapEntry | CloseEntry | GrowthEntry
_ENTRY: TypeAdapter[Entry] = TypeAdapter(Annotated[Entry, Field(discriminator="kind")])


def encode(entry: Entry, partition: int) -> Record:
    """Return an entry's record.

    Args:
        entry: what happened.
        partition: number of the partition of the readings.
    """
    return Record(entry.model_dump_json().encode(), headers=((CONTENT_TYPE, JSON.encode()),), partition=partition)


def decode(value: bytes) -> Entry:
    """Read an entry.

    Raises:
        JournalError: it is none of this format.
    """
    try:
        return _ENTRY.validate_json(value)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in problem["loc"]) or "body"
        raise JournalError(f"journal entry: {where}: {problem['msg']}") from error


def since(transport: Transport, partition: Partition, begin_ns: int) -> list[tuple[int, Entry]]:
    """Return the entries of a partition from a log time on, each with its append time; looks back from the end.

    Entries that cannot be read are left out: whoever needs all of them reads with `read`.

    Raises:
        TransportError: the log cannot be read.
    """
    earliest, end = transport.bounds(partition)
    span = LOOK_BACK
    while True:
        start = max(earliest, end - span)
        records = [
            (log_ns, value)
            for raw in transport.read(partition, start, end)
            for log_ns, value in zip(raw.log_ns.tolist(), raw.values, strict=True)
        ]
        if start == earliest or (records and records[0][0] < begin_ns):
            break
        span *= 8
    found = []
    for log_ns, value in records:
        with suppress(JournalError):
            if log_ns >= begin_ns:
                found.append((log_ns, decode(value)))
    return found


def read(transport: Transport, partition: Partition, start: int = 0) -> Iterator[Entry]:
    """Yield the entries of a partition in order.

    Args:
        transport: the log.
        partition: of the journal.
        start: offset in the journal's partition from which to read.

    Raises:
        JournalError: an entry is malformed, or does not follow on the one before.
        TransportError: the log cannot be read.
    """
    earliest, end = transport.bounds(partition)
    before: Entry | None = None
    for raw in transport.read(partition, max(start, earliest), end):
        for at, value in enumerate(raw.values):
            place = f"{partition.topic}[{partition.number}] offset {int(raw.offset[at])}"
            try:
                entry = decode(value)
            except JournalError as error:
                raise JournalError(f"{place}: {error}") from error
            if before is not None and (entry.number != before.number + 1 or entry.offset < before.offset):
                raise JournalError(
                    f"{place}: expected entry {before.number + 1} at input offset {before.offset} or later, "
                    f"found {entry.number} at {entry.offset}"
                )
            before = entry
            yield entry
