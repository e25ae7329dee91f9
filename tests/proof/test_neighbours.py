"""The offsets of a stretch are those of its rows and their neighbours, wherever parts are cut."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_ad.proof.neighbours import Neighbours

START, END, MARGIN, STOP = 100, 200, 10, 1_000


def bounds(
    rows: list[tuple[int, int]], cut: int = 0, start: int | None = START, end: int | None = END
) -> tuple[int, int]:
    found = Neighbours(start, end, MARGIN)
    for part in (rows[:cut], rows[cut:]):
        offset, ends = (np.array([row[k] for row in part], np.int64) for k in (0, 1))
        found.add(offset, ends, offset[(ends > START) & (ends <= END)])
    return found.bounds(0, STOP)


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        ([50, 95, 150, 205, 300], (20, 41)),  # neighbours within the margin
        ([50, 80, 150, 250, 300], (20, 41)),  # none within the margin: the next ones
        ([50, 80, 250, 300], (20, 31)),  # no row of the stretch
        ([150], (0, STOP)),  # no neighbour at all
        ([80], (10, STOP)),
        ([250], (0, 11)),
        ([80, 150, 80, 250], (10, 41)),  # one whose clock is behind
    ],
)
def test_what_is_next_to_a_stretch_counts(ends: list[int], expected: tuple[int, int]) -> None:
    assert bounds([(10 * k, end) for k, end in enumerate(ends, start=1)]) == expected


def test_an_open_stretch_has_no_bound() -> None:
    rows = [(10, 50), (20, 150), (30, 250)]
    assert bounds(rows, start=None) == (0, 31)
    assert bounds(rows, end=None) == (10, STOP)


@settings(max_examples=100, deadline=None)
@given(ends=st.lists(st.integers(60, 240), min_size=1, max_size=20), share=st.floats(0, 1), lost=st.integers(0, 19))
def test_cuts_change_nothing_and_a_lost_row_in_order_lies_within(ends: list[int], share: float, lost: int) -> None:
    rows = [(3 * k, end) for k, end in enumerate(ends)]
    assert bounds(rows, round(share * len(rows))) == bounds(rows)
    rows = [(offset, end) for (offset, _), end in zip(rows, sorted(ends), strict=True)]
    offset, end = rows.pop(lost % len(rows))
    if START < end <= END:
        first, stop = bounds(rows)
        assert first <= offset < stop
