"""Places in input and journal, and the spans between them, which chain.

A partition's results depend on its input and its journal (a start, a bundle swap, a wall-clock close). So a place is a
pair, and the range between two places is a pair of spans. Score messages and parts carry theirs: each starts where the
previous one ended, so that a reader detects a gap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stream_ad.errors import ContractError


@dataclass(frozen=True, slots=True)
class Span:
    """Offsets (or numbers of journal entries) start <= offset < end; empty if both are equal.

    Raises:
        ContractError: it ends before it starts, or starts below 0.
    """

    start: int
    end: int

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.end:
            raise ContractError(f"span: expected 0 <= start <= end, found {self.start}, {self.end}")

    @property
    def is_empty(self) -> bool:
        """Whether it is empty."""
        return self.start == self.end

    def __str__(self) -> str:
        """Return its text in headers and messages."""
        return f"{self.start}-{self.end}"

    @classmethod
    def read(cls, text: str) -> Span:
        """Parse the output of `str`.

        Raises:
            ValueError, ContractError: invalid text.
        """
        start, _, end = text.partition("-")
        return cls(int(start), int(end))


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A place in a partition's input and journal; later places are greater.

    Attributes:
        offset: the next input offset.
        entries: number of journal entries applied, which is the number of the next one.
    """

    offset: int
    entries: int

    def __str__(self) -> str:
        """Return its text in messages."""
        return f"({self.offset}, {self.entries})"


@dataclass(frozen=True, slots=True)
class Spans:
    """The input and the journal between two places.

    Attributes:
        input: offsets; empty if there are only journal entries.
        journal: numbers of journal entries.
    """

    input: Span
    journal: Span = Span(0, 0)

    @classmethod
    def between(cls, begin: Place, end: Place) -> Spans:
        """Return the spans between two places.

        Raises:
            ContractError: `end` is before `begin` in input or journal.
        """
        return cls(Span(begin.offset, end.offset), Span(begin.entries, end.entries))

    @property
    def begin(self) -> Place:
        """The place where they start."""
        return Place(self.input.start, self.journal.start)

    @property
    def end(self) -> Place:
        """The place where they end and the next ones start."""
        return Place(self.input.end, self.journal.end)

    @property
    def is_empty(self) -> bool:
        """Whether there is neither a record nor an entry between."""
        return self.input.is_empty and self.journal.is_empty

    def follow(self, before: Spans) -> bool:
        """Return whether they start where others end."""
        return self.begin == before.end


def spans_text(spans: Sequence[Span]) -> str:
    """Return spans as text for headers and footers."""
    return ",".join(map(str, spans))


def read_spans(text: str) -> tuple[Span, ...]:
    """Parse the output of `spans_text`.

    Raises:
        ValueError, ContractError: invalid text.
    """
    return tuple(Span.read(one) for one in text.split(",") if one)
