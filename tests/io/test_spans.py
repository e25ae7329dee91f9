"""Places in input and journal, and the spans between them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_ad.errors import ContractError
from stream_ad.io.spans import Place, Span, Spans, read_spans, spans_text
from stream_ad.replaying import Marker

NUMBERS = st.integers(0, 9)


@given(offset=st.lists(NUMBERS, min_size=3, max_size=3), entries=st.lists(NUMBERS, min_size=3, max_size=3))
def test_spans_chain_from_place_to_place(offset: list[int], entries: list[int]) -> None:
    first, second, third = map(Place, sorted(offset), sorted(entries))
    spans, after = Spans.between(first, second), Spans.between(second, third)
    assert (spans.begin, spans.end) == (first, second)
    assert after.follow(spans)
    assert spans.is_empty == (first == second)
    for other in (Place(second.offset + 1, second.entries), Place(second.offset, second.entries + 1)):
        assert not Spans.between(other, Place(99, 99)).follow(spans)
    assert first <= second <= third


def test_spans_do_not_run_backwards() -> None:
    for end in (Place(4, 9), Place(9, 4)):
        with pytest.raises(ContractError, match="expected 0 <= start <= end"):
            Spans.between(Place(5, 5), end)


@given(ends=st.lists(st.tuples(NUMBERS, NUMBERS).map(sorted), max_size=4))
def test_spans_are_read_as_they_are_written(ends: list[list[int]]) -> None:
    spans = tuple(Span(*pair) for pair in ends)
    assert read_spans(spans_text(spans)) == spans


def test_a_commit_names_the_place_as_earlier_versions_do() -> None:
    marker = Marker("c", "t", Place(7, 2), 3, 1, "m", "n", 5, lost=((1, 2),), offset=9)
    text = (
        '{"v":1,"checkpoint":"c","topic_id":"t","span_end":7,"span_entries":2,"entries":3,"generation":1,'
        '"model_id":"m","configured":"n","control":5,"lost":[[1,2]],"offset":9}'
    )
    assert marker.to_text() == text
    assert Marker.from_text(text) == marker
