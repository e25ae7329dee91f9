"""Where a partition's state comes from, and what a scorer commits beside the offset."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from stream_ad.errors import PositionError
from stream_ad.io.spans import Place

METADATA_VERSION = 1
METADATA_BYTES = 4_000
"""What transports take, with some to spare; counts for people are left out where they would exceed it."""
LOST_KEPT = 20
"""A broker takes 4,096 bytes with an offset."""


@dataclass(frozen=True, slots=True)
class Lineage:
    """What besides the input a state was made of.

    Attributes:
        entries: journal entries applied; the next one has this number.
        generation: how often state began again after the first start.
        bundle: folder of the model in force.
        model_id: its digest.
        configured: digest of the bundle that the settings name.
        control: offset of the control topic below which commands are taken note of.
        partitions: of the readings' topic, as far as the journal tells of them; 0 if it does not.
    """

    entries: int
    generation: int
    bundle: str
    model_id: str
    configured: str
    control: int
    partitions: int = 0

    def to_meta(self) -> dict[str, str | int]:
        """Return plain facts for a checkpoint."""
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
        """Read a checkpoint's facts.

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
    """What a scorer commits beside the offset.

    Attributes:
        checkpoint: name of the newest checkpoint at or below the offset, "" if there is none.
        topic_id: identity of the input topic.
        told: the place up to which score messages tell of input and journal; the next spans begin here.
        entries: journal entries that are public.
        generation: how often state began again.
        model_id: digest of the bundle in force.
        configured: digest of the bundle that the settings named.
        control: offset of the control topic below which commands are taken note of.
        lost: input offsets, the ends exclusive, that were deleted before they were scored and that no score message
            has told of yet; the newest `LOST_KEPT` stretches.
        intake: what of the newest input could not be used (`replaying.intake.Tally`), for people; empty where the
            position was written before 0.2.0.
        offset: what it was committed beside; -1 where a version before 0.2.0 wrote it.
    """

    checkpoint: str
    topic_id: str
    told: Place
    entries: int
    generation: int
    model_id: str
    configured: str
    control: int
    lost: tuple[tuple[int, int], ...] = ()
    intake: Mapping[str, Any] = field(default_factory=dict)
    offset: int = -1

    def to_text(self) -> str:
        """Return the commit's metadata, at most some 2,000 characters and those of `intake`, 4,000 in all."""
        told = {"span_end": self.told.offset, "span_entries": self.told.entries}
        facts: dict[str, Any] = {"v": METADATA_VERSION}
        for name in self.__slots__:
            facts |= {} if name == "intake" else told if name == "told" else {name: getattr(self, name)}
        text = json.dumps(facts, separators=(",", ":"))
        if not self.intake:
            return text
        whole = json.dumps(facts | {"intake": self.intake}, separators=(",", ":"))
        return whole if len(whole) <= METADATA_BYTES else text

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
            texts = {name: str(data[name]) for name in ("checkpoint", "topic_id", "model_id", "configured")}
            told = Place(int(data["span_end"]), int(data["span_entries"]))
            numbers = {name: int(data[name]) for name in ("entries", "generation", "control")}
            lost = tuple((int(start), int(stop)) for start, stop in data.get("lost", ()))
            intake = data.get("intake")
            counted = intake if isinstance(intake, dict) else {}
            offset = int(data.get("offset", -1))
            return cls(**texts, told=told, **numbers, lost=lost, intake=counted, offset=offset)  # type: ignore[arg-type]  # two kinds
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise PositionError(f"committed metadata: expected a scorer's, found {text[:80]!r} ({error})") from error
