"""What results come from, as numbers: places in input and journal, and the spans between them, which chain.

What a partition's results depend on is its input and its journal (a start, another bundle, a close by the wall
clock). So a place in both is a pair, and what lies between two places is a pair of spans. Score messages and parts
name theirs: each begins at the place where the one before it ended, so that a reader sees a hole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stream_ad.errors import ContractError


@dataclass(frozen=True, slots=True)
class Span:
    """Offsets (or numbers of journal entries) start <= offset < end; none where both are equal.

    Raises:
        ContractError: it ends before it starts, or begins below 0.
    """

    start: int
    end: int

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.end:
            raise ContractError(f"span: expected 0 <= start <= end, found {self.start}, {self.end}")

    @property
    def is_empty(self) -> bool:
        """Whether it holds none."""
        return self.start == self.end

    def __str__(self) -> str:
        """Return it as headers and messages name it."""
        return f"{self.start}-{self.end}"

    @classmethod
    def read(cls, text: str) -> Span:
        """Read what `str` returned.

        Raises:
            ValueError, ContractError: it is something else.
        """
        start, _, end = text.partition("-")
        return cls(int(start), int(end))


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A place in what a partition's results depend on; later places are greater.

    Attributes:
        offset: the next input offset.
        entries: how many entries of the journal were applied; the next one has this number.
    """

    offset: int
    entries: int

    def __str__(self) -> str:
        """Return it as messages name it."""
        return f"({self.offset}, {self.entries})"


@dataclass(frozen=True, slots=True)
class Spans:
    """The input and the journal between two places.

    Attributes:
        input: offsets; empty where journal entries alone lie between.
        journal: numbers of entries.
    """

    input: Span
    journal: Span = Span(0, 0)

    @classmethod
    def between(cls, begin: Place, end: Place) -> Spans:
        """Return what lies between two places.

        Raises:
            ContractError: `end` is before `begin` in input or journal.
        """
        return cls(Span(begin.offset, end.offset), Span(begin.entries, end.entries))

    @property
    def begin(self) -> Place:
        """The place where they begin."""
        return Place(self.input.start, self.journal.start)

    @property
    def end(self) -> Place:
        """The place where they end: the next ones begin here."""
        return Place(self.input.end, self.journal.end)

    @property
    def is_empty(self) -> bool:
        """Whether nothing lies between: no record and no entry."""
        return self.input.is_empty and self.journal.is_empty

    def follow(self, before: Spans) -> bool:
        """Return whether they begin where others end."""
        return self.begin == before.end


def spans_text(spans: Sequence[Span]) -> str:
    """Return spans as headers and footers name them."""
    return ",".join(map(str, spans))


def read_spans(text: str) -> tuple[Span, ...]:
    """Read what `spans_text` returned.

    Raises:
        ValueError, ContractError: it is something else.
    """
    return tuple(Span.read(one) for one in text.split(",") if one)
