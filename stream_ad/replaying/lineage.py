"""The origin of a partition's state, and the metadata that a scorer commits with the offset."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from stream_ad.errors import PositionError
from stream_ad.io.spans import Place

METADATA_VERSION = 1
METADATA_BYTES = 4_000
"""Limit of transports, with some margin; counts for people are omitted if they would exceed it."""
LOST_KEPT = 20
"""Keeps the metadata within a broker's limit of 4,096 bytes."""


@dataclass(frozen=True, slots=True)
class Lineage:
    """What a state was made of besides the input.

    Attributes:
        entries: number of journal entries applied, which is the number of the next one.
        generation: number of state resets after the initial start.
        bundle: folder of the model in force.
        model_id: its digest.
        configured: digest of the configured bundle.
        control: offset of the control topic below which commands have been processed.
        partitions: number of the readings topic's partitions according to the journal; 0 if unknown.
    """

    entries: int
    generation: int
    bundle: str
    model_id: str
    configured: str
    control: int
    partitions: int = 0

    def to_meta(self) -> dict[str, str | int]:
        """Return the lineage as metadata of a checkpoint."""
        return {
            "entries": self.entries,
            "generation": self.generation,
            "bundle": self.bundle,
            "model_id": self.model_id,
            "configured": self.configured,
            "control": self.control,
            "partitions": self.partitions,
        }

    @classmethod
    def from_meta(cls, meta: Mapping[str, str | int]) -> Lineage:
        """Read a checkpoint's metadata.

        Raises:
            KeyError, ValueError: they are not those of a lineage.
        """
        return cls(
            entries=int(meta["entries"]),
            generation=int(meta["generation"]),
            bundle=str(meta["bundle"]),
            model_id=str(meta["model_id"]),
            configured=str(meta["configured"]),
            control=int(meta["control"]),
            partitions=int(meta.get("partitions", 0)),
        )


@dataclass(frozen=True, slots=True)
class Marker:
    """Metadata that a scorer commits with the offset.

    Attributes:
        checkpoint: name of the newest checkpoint at or below the offset, "" if there is none.
        topic_id: id of the input topic.
        covered: the place up to which score messages cover input and journal; the next spans start here.
        entries: number of public journal entries.
        generation: number of state resets.
        model_id: digest of the bundle in force.
        configured: digest of the bundle configured at that time.
        control: offset of the control topic below which commands have been processed.
        lost: input offsets, ends exclusive, that were deleted before they were scored and are not yet recorded in a
            score message; the newest `LOST_KEPT` ranges.
        intake: counts of recent unusable input (`replaying.intake.Tally`), for people; empty if the position was
            written before 0.2.0.
        offset: the offset that it was committed with; -1 if written before 0.2.0.
    """

    checkpoint: str
    topic_id: str
    covered: Place
    entries: int
    generation: int
    model_id: str
    configured: str
    control: int
    lost: tuple[tuple[int, int], ...] = ()
    intake: Mapping[str, Any] = field(default_factory=dict)
    offset: int = -1

    def to_text(self) -> str:
        """Return the commit's metadata, at most about 2,000 characters plus those of `intake`, 4,000 in total."""
        covered = {"span_end": self.covered.offset, "span_entries": self.covered.entries}
        facts: dict[str, Any] = {"v": METADATA_VERSION}
        for name in self.__slots__:
            facts |= {} if name == "intake" else covered if name == "covered" else {name: getattr(self, name)}
        text = json.dumps(facts, separators=(",", ":"))
        if not self.intake:
            return text
        whole = json.dumps(facts | {"intake": self.intake}, separators=(",", ":"))
        return whole if len(whole) <= METADATA_BYTES else text

    @classmethod
    def from_text(cls, text: str) -> Marker:
        """Parse the commit's metadata.

        Raises:
            PositionError: not written by a scorer of this version.
        """
        try:
            data: dict[str, Any] = json.loads(text)
            if data["v"] != METADATA_VERSION:
                raise ValueError(f"version {data['v']}")
            texts = {name: str(data[name]) for name in ("checkpoint", "topic_id", "model_id", "configured")}
            covered = Place(int(data["span_end"]), int(data["span_entries"]))
            numbers = {name: int(data[name]) for name in ("entries", "generation", "control")}
            lost = tuple((int(start), int(stop)) for start, stop in data.get("lost", ()))
            intake = data.get("intake")
            counted = intake if isinstance(intake, dict) else {}
            offset = int(data.get("offset", -1))
            return cls(**texts, covered=covered, **numbers, lost=lost, intake=counted, offset=offset)  # type: ignore[arg-type]  # two kinds
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise PositionError(f"committed metadata: expected a scorer's, found {text[:80]!r} ({error})") from error
