"""Counts of what could not be used: cut at the public offset and at minutes of log time, committed in little room."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_ad.core.unscored import Lack, UnscoredDevice
from stream_ad.io.spans import Place
from stream_ad.io.transport import Partition, RawBatch
from stream_ad.replaying import Marker
from stream_ad.replaying.intake import (
    CAUSES,
    MAX_BYTES,
    MINUTE_NS,
    MINUTES,
    NAMES,
    READINGS,
    Example,
    Intake,
    Tally,
    pieces,
    unjudged_in,
)
from stream_ad.service.intake_log import EVERY_S, IntakeLog

START_MINUTE = 29_000_000


def batch(minutes: list[int], first: int = 0) -> RawBatch:
    n = len(minutes)
    offset = first + 2 * np.arange(n, dtype=np.int64)
    log_ns = (START_MINUTE + np.array(minutes, np.int64)) * MINUTE_NS
    values = tuple(b"%d" % number for number in range(n))
    end = int(offset[-1]) + 5 if n else first
    return RawBatch(Partition("r", 0), offset, log_ns, (None,) * n, values, ((),) * n, end)


def counted(batches: list[RawBatch], public: int = 0) -> Tally:
    """Count a record each, as a scorer does."""
    tally, log_ns = Tally(), START_MINUTE * MINUTE_NS
    for raw in batches:
        for piece in pieces(raw, log_ns, public):
            log_ns = max(log_ns, int(piece.log_ns.max()))
            if int(piece.offset[-1]) >= public:
                tally.add(Intake(log_ns // MINUTE_NS, {READINGS: len(piece)}, {}, int(piece.offset[-1])))
    return tally


@given(
    steps=st.lists(st.sampled_from([0, 0, 0, 1, 2, 15, -1]), min_size=1, max_size=60),
    cuts=st.sets(st.integers(1, 59)),
    public=st.integers(0, 130),
)
def test_sums_do_not_depend_on_polls_and_count_what_is_not_public(
    steps: list[int], cuts: set[int], public: int
) -> None:
    minutes = np.maximum(np.cumsum(steps), 0).tolist()
    bounds = sorted({0, len(minutes), *(cut for cut in cuts if cut < len(minutes))})
    parts = [batch(minutes[a:b], 2 * a) for a, b in pairwise(bounds)]
    running = np.maximum.accumulate(minutes)
    wanted = sum(2 * row >= public and minute > running[-1] - MINUTES for row, minute in enumerate(running.tolist()))

    newest = START_MINUTE + int(running[-1])
    assert counted(parts, public).until(newest)[0].get(READINGS, 0) == wanted
    assert counted([batch(minutes)], public).until(newest)[0].get(READINGS, 0) == wanted


@given(minutes=st.lists(st.integers(0, 30), min_size=1, max_size=50), public=st.integers(0, 120))
def test_pieces_are_the_batch(minutes: list[int], public: int) -> None:
    raw = batch(sorted(minutes))
    parts = list(pieces(raw, 0, public))

    assert [value for part in parts for value in part.values] == list(raw.values)
    assert np.concatenate([part.offset for part in parts]).tolist() == raw.offset.tolist()
    assert parts[-1].next_offset == raw.next_offset
    assert len(parts) <= MINUTES + 2
    for before, after in pairwise(parts):
        assert before.offset[-1] < before.next_offset <= after.offset[0]


def test_an_empty_batch_stays_one() -> None:
    raw = batch([])
    assert list(pieces(raw, 0, 0)) == [raw]


counts = st.dictionaries(st.sampled_from(NAMES), st.integers(1, 10**12), max_size=len(NAMES))


@given(
    several=st.lists(st.tuples(st.integers(0, 12), counts), max_size=20),
    names=st.lists(st.text(max_size=300), min_size=1, max_size=4),
)
def test_what_is_committed_comes_back_and_fits(several: list[tuple[int, dict[str, int]]], names: list[str]) -> None:
    tally = Tally()
    for after, some in sorted(several, key=lambda pair: pair[0]):
        examples = {cause: Example(names[0][:60], names[-1][:120]) for cause in some if cause in CAUSES}
        tally.add(Intake(START_MINUTE + after, some, examples))
    devices = [UnscoredDevice(name, 0, 10**13, Lack.APART, name, 1.5) for name in names[:3]]
    plain = tally.to_json(7, devices)
    text = Marker("c" * 60, "t" * 40, Place(10**9, 5), 6, 0, "m" * 64, "m" * 64, 3, intake=plain).to_text()
    back = Marker.from_text(text).intake

    assert len(text.encode()) <= 4_000
    assert len(json.dumps(plain)) <= MAX_BYTES
    newest = tally.newest
    if newest is None:
        assert back == {}
        return
    again = Tally.from_json(back)
    assert again.newest == newest
    assert again.until(newest)[0] == tally.until(newest)[0]
    assert unjudged_in(back, 4)[0] == 7


@pytest.mark.parametrize("plain", [{}, {"at": "x"}, {"at": 3, "counts": {"0": {"99": 1}}, "examples": {}}, {"at": 3}])
def test_what_is_no_tally_is_empty(plain: dict[str, object]) -> None:
    assert Tally.from_json(plain).newest is None


def test_a_line_per_minute_and_none_where_all_is_used(caplog: pytest.LogCaptureFixture) -> None:
    lines = IntakeLog()
    with caplog.at_level("INFO", logger="stream_ad"):
        lines.add(Intake(1, {READINGS: 1_000}))
        lines.write(0.0)
        assert not caplog.records
        for second in range(0, 180, 5):
            lines.add(Intake(1, {READINGS: 1_000, "late": 1}, {"late": Example("p1", "then")}))
            lines.write(float(second))
    assert len(caplog.records) == 1 + int(175 // EVERY_S)
    assert {record.levelname for record in caplog.records} == {"INFO"}
    late = [record.fields["late"] for record in caplog.records]  # type: ignore[attr-defined]
    assert late == [1, 12, 12]
