"""The journal: everything that influenced a partition's results and did not come from its input.

One topic per stream, partitioned like the readings. An entry is published in the transaction that first publishes its
effect, so a partition's entries and input together reproduce its results without local state. A partition's entries are
numbered from 0. An entry takes effect between two records, before the one at its `offset`; several with the same offset
take effect in the order of their numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from stream_ad.errors import JournalError
from stream_ad.io.following import backwards, records
from stream_ad.io.transport import Partition, Record, Transport
from stream_ad.io.wire.encode import JSON_HEADERS, first_problem

KEEP_FOR_EVER = {"retention.ms": "-1"}
"""Settings of the topic: an entry is needed as long as any result after it is retained."""

Count = Annotated[int, Field(ge=0)]


DEVICES_NAMED = 100
"""Maximum number of moved devices named in an entry; all are counted."""
LOOK_BACK = 50
"""Number of offsets read first when searching for the newest entries."""


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    v: Literal[1] = 1
    number: Count
    """Numbers the partition's entries from 0."""
    offset: Count
    """Input offset before which it takes effect."""


class StartEntry(_Entry):
    """State is empty: an initial start, or a state reset.

    A reset (`restart`) reads input from `read_from`, publishes nothing from before `offset`, and starts without
    incidents.
    """

    kind: Literal["start", "restart"]
    read_from: Count
    """Input offset at which reading starts with empty state."""
    lost: tuple[int, int] | None = None
    """Input offsets that were deleted before they were scored, end exclusive."""
    why: str
    """One line for people."""
    fingerprint: str
    """Identifies what results depend on besides input and journal."""
    config: dict[str, Any]
    """The settings that change results."""
    bundle: str
    """The model's folder."""
    model_id: str
    """Its digest."""
    control: Count
    """Offset of the control topic below which commands have been processed."""
    topic_id: str = ""
    """Id of the readings topic; "" if written by a version before 0.2.0."""
    partitions: Count = 0
    """Number of the readings topic's partitions; 0 if written by a version before 0.2.0."""


class SwapEntry(_Entry):
    """Another bundle is in force from here on."""

    kind: Literal["swap"] = "swap"
    bundle: str
    """The model's folder."""
    model_id: str
    """Its digest."""
    configured: str
    """Digest of the bundle configured at that time."""
    control: Count
    """Offset after the command in the control topic."""


class CloseEntry(_Entry):
    """Log time advanced by wall clock while the partition was silent; closes what is then idle."""

    kind: Literal["close"] = "close"
    log_ns: int
    """New log time, UTC nanoseconds."""


class GrowthEntry(_Entry):
    """Partitions were added to the readings topic; results do not depend on this entry."""

    kind: Literal["growth"] = "growth"
    before: Count
    """Previous number of partitions."""
    partitions: Count
    """New number of partitions."""
    moved: Count
    """Devices with state here whose key now maps to another partition, where they start with empty state."""
    devices: tuple[str, ...]
    """The first `DEVICES_NAMED` of these, in order."""


Entry = StartEntry | SwapEntry | CloseEntry | GrowthEntry
_ENTRY: TypeAdapter[Entry] = TypeAdapter(Annotated[Entry, Field(discriminator="kind")])


def encode(entry: Entry, partition: int) -> Record:
    """Return an entry as a record.

    Args:
        entry: the entry.
        partition: number of the partition of the readings.
    """
    return Record(entry.model_dump_json().encode(), headers=JSON_HEADERS, partition=partition)


def decode(value: bytes) -> Entry:
    """Decode an entry.

    Raises:
        JournalError: not an entry of this format.
    """
    try:
        return _ENTRY.validate_json(value)
    except ValidationError as error:
        raise JournalError(f"journal entry: {first_problem(error)}") from error


def since(transport: Transport, partition: Partition, begin_ns: int) -> list[tuple[int, Entry]]:
    """Return a partition's entries since a log time, each with its append time; searches back from the end.

    Unreadable entries are skipped; use `read` to get all of them.

    Raises:
        TransportError: the log cannot be read.
    """
    found = []
    for record in backwards(transport, partition, *transport.bounds(partition), LOOK_BACK):
        if record.log_ns < begin_ns:
            break
        with suppress(JournalError):
            found.append((record.log_ns, decode(record.value)))
    return found[::-1]


def read(transport: Transport, partition: Partition, start: int = 0) -> Iterator[Entry]:
    """Yield a partition's entries in order.

    Args:
        transport: the log.
        partition: partition of the journal.
        start: journal offset from which to read.

    Raises:
        JournalError: an entry is malformed or does not follow the previous one.
        TransportError: the log cannot be read.
    """
    earliest, end = transport.bounds(partition)
    before: Entry | None = None
    for record in records(transport, partition, max(start, earliest), end):
        place = f"{partition.topic}[{partition.number}] offset {record.offset}"
        try:
            entry = decode(record.value)
        except JournalError as error:
            raise JournalError(f"{place}: {error}") from error
        if before is not None and (entry.number != before.number + 1 or entry.offset < before.offset):
            raise JournalError(
                f"{place}: expected entry {before.number + 1} at input offset {before.offset} or later, "
                f"found {entry.number} at {entry.offset}"
            )
        before = entry
        yield entry
