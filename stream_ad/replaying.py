"""Checkpoint + input span -> step results: one way for live work and recovery.

State is a cache of the log. To own a partition is to load a checkpoint, read on from its offset,
and drop what the input before the committed offset caused, because it is public already.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from stream_ad.assembly import build_decoder, build_pipeline, fingerprint
from stream_ad.config import Settings
from stream_ad.core.batches import Arrays, Refused
from stream_ad.core.model import Model
from stream_ad.core.pipeline import StepResult
from stream_ad.errors import CheckpointError, ContractError, PositionError, StorageError
from stream_ad.io import checkpoints
from stream_ad.io.transport import Partition, Position, RawBatch, Transport

METADATA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Marker:
    """What a scorer commits beside the offset.

    Attributes:
        checkpoint: name of the newest checkpoint at or below the offset, "" if there is none.
        span_end: input offset up to which score messages tell of the input; the next span starts here.
    """

    checkpoint: str
    span_end: int

    def to_text(self) -> str:
        """Return the commit's metadata."""
        return json.dumps({"v": METADATA_VERSION, "checkpoint": self.checkpoint, "span_end": self.span_end})

    @classmethod
    def from_text(cls, text: str) -> Marker:
        """Read the commit's metadata.

        Raises:
            PositionError: it was not written by a scorer of this version.
        """
        try:
            data: dict[str, Any] = json.loads(text)
            if data["v"] != METADATA_VERSION:
                raise ValueError(f"version {data['v']}")
            return cls(str(data["checkpoint"]), int(data["span_end"]))
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise PositionError(f"committed metadata: expected a scorer's, found {text[:80]!r} ({error})") from error


@dataclass(frozen=True, slots=True)
class Stepped:
    """What a stretch of raw input gave.

    Attributes:
        result: verdicts, alerts, late and future readings.
        refused: all refusals, also of decoding, one entry a record, by offset.
        unknown_devices: devices outside the stream's pattern, counted once a record.
        unknown_channels: channels that the bundle does not have, counted once a record.
    """

    result: StepResult
    refused: tuple[Refused, ...]
    unknown_devices: int
    unknown_channels: int


class PartitionReplay:
    """The pipe of one partition with the offset it stands at.

    Attributes:
        offset: the next input offset to be stepped.
        has_values: a reading had a value of a channel that the bundle knows, since this object was made.
    """

    def __init__(self, settings: Settings, model: Model, offset: int) -> None:
        self._decoder = build_decoder(settings, model)
        self._pipeline = build_pipeline(settings, model)
        self.offset = offset
        self.has_values = False

    @property
    def devices(self) -> int:
        """Number of devices with state."""
        return self._pipeline.devices

    @property
    def log_ns(self) -> int:
        """Log time of the partition, UTC nanoseconds; long ago before the first record."""
        return self._pipeline.log_ns

    def step(self, raw: RawBatch) -> Stepped:
        """Step over a stretch of input.

        Raises:
            ContractError: the stretch does not begin at or after `offset`.
        """
        if len(raw) and raw.offset[0] < self.offset:
            raise ContractError(f"replay: expected offset {self.offset} or more, found {raw.offset[0]}")
        decoded = self._decoder.decode(raw)
        result = self._pipeline.step(decoded.readings, decoded.bad_value_rows)
        self.offset = raw.next_offset
        self.has_values = self.has_values or bool(np.isfinite(decoded.readings.values).any())
        refused = _one_a_record((*decoded.refused, *result.refused))
        return Stepped(result, refused, decoded.unknown_devices, decoded.unknown_channels)

    def snapshot(self) -> Arrays:
        """Return the state at `offset`."""
        return self._pipeline.snapshot()

    def restore(self, arrays: Arrays) -> None:
        """Take back the state at `offset`.

        Raises:
            ContractError: the arrays are not a snapshot of this pipe.
        """
        self._pipeline.restore(arrays)


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
            )
        )
    return tuple(joined[offset] for offset in sorted(joined))


@dataclass(frozen=True, slots=True)
class Recovery:
    """How a partition was taken over.

    Attributes:
        replay: the pipe, standing at the offset to read from.
        public: the committed offset: what the input before it caused is public already.
        span_end: where the next score message's span starts.
        checkpoint: name of the checkpoint loaded, "" if none was usable.
        exact: the state is that of an undisturbed run; False after a warm-up span.
        passed_over: checkpoints that could not be used, a reason each.
        why: one line for the log.
    """

    replay: PartitionReplay
    public: int
    span_end: int
    checkpoint: str
    exact: bool
    why: str
    passed_over: tuple[str, ...] = ()


def recover(
    settings: Settings, model: Model, transport: Transport, partition: Partition, position: Position | None
) -> Recovery:
    """Take over a partition: the newest usable checkpoint, else a warm-up span before the committed offset.

    Raises:
        PositionError: the committed position is not one to go on from (another topic, input no longer retained).
    """
    earliest, end = transport.bounds(partition)
    if position is None:
        return Recovery(PartitionReplay(settings, model, earliest), earliest, earliest, "", True, "first start")
    topic = transport.topic(partition.topic)
    if position.topic_id and position.topic_id != topic.topic_id:
        raise PositionError(
            f"{partition.topic}[{partition.number}]: the committed position is of another topic of this name "
            f"({position.topic_id}, now {topic.topic_id}): delete the group's offsets to start afresh"
        )
    if not earliest <= position.offset <= end:
        raise PositionError(
            f"{partition.topic}[{partition.number}]: committed offset {position.offset} is outside of what is "
            f"retained ({earliest}..{end}): input was lost before it was scored"
        )
    marker = Marker.from_text(position.metadata)
    wanted = fingerprint(settings, model)
    problems: list[str] = []
    for name in _candidates(settings, partition, marker, problems):
        replay = PartitionReplay(settings, model, earliest)
        try:
            found = _load(settings, partition, name, topic.topic_id, wanted)
            if not earliest <= found.offset <= position.offset:
                raise CheckpointError(f"{name}: its offset {found.offset} cannot be read on from")
            replay.restore(found.arrays)
        except (CheckpointError, ContractError) as error:
            problems.append(str(error))
            continue
        replay.offset = found.offset
        why = "; ".join(problems) or "checkpoint"
        return Recovery(replay, position.offset, marker.span_end, name, True, why, tuple(problems))
    start = max(earliest, position.offset - settings.store.warm_up_records)
    why = f"no usable checkpoint ({'; '.join(problems) or 'none was written yet'}), reading again from {start}"
    exact = start == 0
    replay = PartitionReplay(settings, model, start)
    return Recovery(replay, position.offset, marker.span_end, "", exact, why, tuple(problems))


def _candidates(settings: Settings, partition: Partition, marker: Marker, problems: list[str]) -> Iterator[str]:
    """Yield the committed checkpoint, then the others that are there, newest first; note a folder that fails."""
    if marker.checkpoint:
        yield marker.checkpoint
    try:
        others = checkpoints.names(settings.store.checkpoints, settings.stream.name, partition.number)
    except StorageError as error:
        problems.append(str(error))
        return
    for name in others:
        if name != marker.checkpoint:
            yield name


def _load(settings: Settings, partition: Partition, name: str, topic_id: str, wanted: str) -> checkpoints.Checkpoint:
    found = checkpoints.load(settings.store.checkpoints, name)
    expected = {"topic": topic_id, "partition": partition.number, "fingerprint": wanted}
    actual = {"topic": found.topic_id, "partition": found.partition, "fingerprint": found.meta.get("fingerprint")}
    for key, value in expected.items():
        if actual[key] != value:
            raise CheckpointError(f"{name}: expected {key} {value}, found {actual[key]}")
    return found


def replay_span(replay: PartitionReplay, transport: Transport, partition: Partition, stop: int) -> Iterator[Stepped]:
    """Step over the input from where the pipe stands up to `stop`, as a scorer would have."""
    for raw in transport.read(partition, replay.offset, stop):
        yield replay.step(raw)
