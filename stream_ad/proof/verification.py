"""Proves from its files alone that a score log is complete: chains of parts, and of each device's windows.

Proven for each partition, from the first part to the last:

1. The parts' spans of the scores topic chain, and so do their spans of the input and of the journal; for a merged part,
   those of the parts merged into it. So no part is missing between the first and the last, and none is duplicated. The
   first part records that it was the first.
2. Each row belongs to its part: its partition, its model, and its `offset`, which is in the part's input span. A row
   caused by a journal entry has the offset before the one at which the entry takes effect; so if the journal span is
   not empty, the offset before the span's start is included. A part has as many rows as its footer states.
3. A device's windows are consecutive: `sequence` rises by one and `end` rises, or `sequence` restarts at 0 because the
   device's state was evicted; in a new generation it may start anywhere. If the part's ends may repeat (rows of
   events), `end` does not fall.

That no window is duplicated follows without a set of all windows: two rows of one window in one life of a device would
have the same `end`, and 3 excludes that within a life. In two lives they are results of different input offsets (by 2
and the chains of 1, none is read twice): the device was evicted, or the partition's state was reset, and then readings
of an already scored time arrived; or an already scored window closed again under the settings of the reset. Both are
counted and reported: returns within a generation, and windows judged again across generations.

Input that was deleted before it was scored is in the parts' input spans but has no rows. The parts record it; it is
reported and does not count as input.

The state is a few numbers per device, so memory does not grow with the rows.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np

from stream_ad.errors import PartMovedError, ScoreLogError, StorageError
from stream_ad.io.score_log import log as score_log
from stream_ad.io.score_log.parts import PartInfo, PartRange, follows, footer_of, is_part_path, joined, opened
from stream_ad.io.spans import Span
from stream_ad.proof.chains import COLUMNS, DeviceChains, Rows


@dataclass(frozen=True, slots=True)
class Gap:
    """The first place in a partition at which the proof fails.

    Attributes:
        partition: number, or None if the file belongs to none.
        file: relative to the score log's folder.
        what: what is wrong, in a few words.
        expected: what the proof requires.
        found: what was found.
        device: the row's device, or "".
    """

    partition: int | None
    file: str
    what: str
    expected: str
    found: str
    device: str = ""

    def __str__(self) -> str:
        """Return it as one line."""
        place = self.file if self.partition is None else f"partition {self.partition}: {self.file}"
        device = f", device {self.device}" if self.device else ""
        return f"{place}{device}: {self.what}: expected {self.expected}, found {self.found}"


@dataclass(slots=True)
class Chain:
    """The proof of one partition so far; fed with parts and their rows, oldest first.

    Attributes:
        partition: number.
        is_trimmed: older parts were deleted on purpose, so the first one need not be marked as first.
        first: the first part, None before it.
        last: the newest part.
        devices: state of each device.
        parts: number of files.
        linked: number of parts as linked, counting those in merged files.
        rows: number of rows.
        lost: input that was deleted before it was scored, according to the parts.
    """

    partition: int
    is_trimmed: bool = False
    first: PartInfo | None = None
    last: PartInfo | None = None
    devices: DeviceChains = field(default_factory=DeviceChains)
    parts: int = 0
    linked: int = 0
    rows: int = 0
    lost: list[Span] = field(default_factory=list)

    @property
    def is_from_start(self) -> bool:
        """Whether the first part is at the start of the stream's scores, so that each device must start at 0."""
        return self.first is not None and self.first.is_first and _is_start(self.first)

    @property
    def whole(self) -> PartRange | None:
        """The range covered by all parts, None before the first."""
        return None if self.first is None or self.last is None else joined(self.first, self.last, self.rows)

    def add(self, part: PartInfo, rows: Rows) -> Gap | None:
        """Add the next part; return what breaks the chain, after which nothing may be added."""
        gap = self._link(part) or self._holds(part) or self._belong(part, rows) or self._follow(part, rows)
        if gap is None:
            self.first = self.first or part
            self.last = part
            self.parts += 1
            self.linked += len(part.ranges())
            self.rows += part.rows
            self.lost += part.lost
        return gap

    def gap(self, part: PartInfo, what: str, expected: object, found: object, device: str = "") -> Gap:
        """Return a gap at a part."""
        return Gap(self.partition, _name(part.path), what, str(expected), str(found), device)

    def _link(self, part: PartInfo) -> Gap | None:
        """Compare a part's footer with the previous one's."""
        before = self.last
        if before is None:
            if part.is_first or self.is_trimmed:
                return None
            return self.gap(part, "the first file", "one written when there was no other", "one written after others")
        for what, expected, found in (
            ("scores offsets", before.span.end, part.span.start),
            ("input offsets", before.spans.input.end, part.spans.input.start),
            ("journal entries", before.spans.journal.end, part.spans.journal.start),
        ):
            if expected != found:
                kind = "a gap in" if found > expected else "an overlap of"
                return self.gap(part, f"{kind} the {what}", f"a start at {expected}", found)
        if part.is_first:
            return self.gap(part, "the files start again", "one first file", "a second")
        if part.topic_id != before.topic_id:
            return self.gap(part, "the scores topic", before.topic_id, part.topic_id)
        if part.generation < before.generation:
            return self.gap(part, "the generation", f"at least {before.generation}", part.generation)
        return None

    def _holds(self, part: PartInfo) -> Gap | None:
        """Check the chain of the parts merged into one."""
        held = part.ranges()
        whole = joined(held[0], held[-1], sum(one.rows for one in held))
        if whole != PartRange(part.span, part.spans, part.rows):
            return self.gap(part, "the parts merged into it", "those of its whole span and rows", whole)
        for before, one in pairwise(held):
            if not follows(one, before):
                return self.gap(part, "the parts merged into it", "spans that chain", f"{before}, then {one}")
        return None

    def _belong(self, part: PartInfo, rows: Rows) -> Gap | None:
        """Check that rows belong to this part."""
        if len(rows.end) != part.rows:
            return self.gap(part, "the number of rows", part.rows, len(rows.end))
        lowest = part.spans.input.start - (0 if part.spans.journal.is_empty else 1)
        allowed = f"{lowest} to {part.spans.input.end - 1}"
        for what, values, bad, expected in (
            ("the partition of a row", rows.partition, rows.partition != self.partition, str(self.partition)),
            ("the revision of a row", rows.revision, rows.revision != 0, "0"),
            (
                "the input offset of a row",
                rows.offset,
                (rows.offset < lowest) | (rows.offset >= part.spans.input.end),
                allowed,
            ),
        ):
            at = np.flatnonzero(bad)
            if len(at):
                return self.gap(part, what, expected, int(values[at[0]]), rows.ids[rows.device[at[0]]])
        known = frozenset(part.extra.get("model_ids", "").split(",")) - {""}
        if known and rows.models != known:
            return self.gap(part, "the models of the rows", ", ".join(sorted(known)), ", ".join(sorted(rows.models)))
        return None

    def _follow(self, part: PartInfo, rows: Rows) -> Gap | None:
        """Check each device's windows."""
        is_whole = part.generation == 0 and _is_start(self.first or part)
        fault = self.devices.add(rows, part.generation, is_whole, part.ends_rise)
        return None if fault is None else self.gap(part, fault.what, fault.expected, fault.found, fault.device)


def _is_start(first: PartInfo) -> bool:
    journal, span = first.spans.journal, first.spans.input
    return first.generation == 0 and journal.start == 0 and (not journal.is_empty or span.start == 0)


def _name(path: Path) -> str:
    return path.relative_to(path.parent.parent.parent).as_posix()


# -- a folder ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of a verification."""

    parts: int
    of_parts: int
    rows: int


@dataclass(frozen=True, slots=True)
class Proof:
    """Result of verifying a folder.

    Attributes:
        chains: by partition, as far as each is proven.
        gaps: the first of each partition, and files that are not parts.
        seconds: duration.
    """

    chains: tuple[Chain, ...]
    gaps: tuple[Gap, ...]
    seconds: float


def verify(folder: Path, on_progress: Callable[[Progress], None] = lambda _: None, is_trimmed: bool = False) -> Proof:
    """Prove from its files alone that a score log is complete; compactions may run meanwhile.

    Holds one part's keys at a time: about 100 bytes per row.

    Args:
        folder: the score log's folder.
        on_progress: called after each part.
        is_trimmed: older parts were deleted on purpose: start with the oldest remaining one.

    Raises:
        ScoreLogError: there are no parts.
        StorageError: the folder cannot be read.
    """
    begun = time.monotonic()
    folder = folder.resolve()
    chains, gaps = score_log.unmoved(lambda: _verified(folder, on_progress, is_trimmed))
    return Proof(tuple(chains), tuple(gaps), time.monotonic() - begun)


def _verified(folder: Path, on_progress: Callable[[Progress], None], is_trimmed: bool) -> tuple[list[Chain], list[Gap]]:
    found = score_log.listed(folder)
    if not found:
        raise ScoreLogError(f"{folder}: expected parts, found none")
    chains: dict[int, Chain] = {}
    broken: dict[int, Gap] = {}
    rows = 0
    for count, (number, _, path) in enumerate(found, start=1):
        chain = chains.setdefault(number, Chain(number, is_trimmed))
        if number in broken:
            continue
        gap = _add(chain, path)
        if gap is not None:
            broken[number] = gap
        elif chain.last is not None:
            rows += chain.last.rows
        on_progress(Progress(count, len(found), rows))
    gaps = [broken[number] for number in sorted(broken)]
    gaps += [
        Gap(None, path.relative_to(folder).as_posix(), "not a part", "only parts", "a file that readers would include")
        for path in strangers(folder)
    ]
    return list(chains.values()), gaps


def _add(chain: Chain, path: Path) -> Gap | None:
    try:
        with opened(path) as file:
            part = footer_of(path, file)
            rows = Rows.of(file.read(columns=list(COLUMNS)))
    except PartMovedError:
        raise
    except (StorageError, KeyError, ValueError) as error:
        text = str(error).removeprefix(f"{path}: ")
        return Gap(chain.partition, _name(path), "cannot be read as a part", "an intact file", text)
    return chain.add(part, rows)


def strangers(folder: Path) -> Iterator[Path]:
    """Yield `.parquet` paths below a folder that are not placed and named like a part, links included."""
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place) / name
            if name.endswith(".parquet") and not is_part_path(path.relative_to(folder)):
                yield path
