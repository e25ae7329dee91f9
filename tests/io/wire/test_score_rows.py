"""Rows of a table: the same from whatever batches they come."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_ad.core.batches import Int64Array, Judged, Keys, ScoreBatch, VerdictBatch
from stream_ad.io.spans import Span, Spans
from stream_ad.io.transport import Partition
from stream_ad.io.wire import contributions, score_rows
from stream_ad.io.wire import scores as score_messages

CHANNELS = ("flow", "temp")
WINDOW_NS = 4_000_000_000
MESSAGE_BYTES = 2**30


def verdicts(device: Int64Array, first: int, has_shares: bool = True) -> VerdictBatch:
    """Return rows of some slots, their numbers counted on from `first`."""
    n = len(device)
    random = np.random.default_rng(first)
    number = np.arange(first, first + n)
    score = random.exponential(size=n)
    score[random.random(n) < 0.2] = np.nan
    shares = random.random((n, 2)).astype(np.float32)
    shares[random.random((n, 2)) < 0.2] = np.nan
    keys = Keys(device.astype(np.int32), 1_700_000_000_000_000_000 + number * 1_000, number, number)
    scores = ScoreBatch(
        keys, number.astype(np.uint32), np.ones((n, 2), np.float32), score, shares if has_shares else None, "m" * 64
    )
    return VerdictBatch(scores, score / 2, np.full(n, 2.5), number % 2 == 0, np.where(number % 2, 0, keys.end_ns))


def table(*judged: Judged) -> pa.Table:
    return score_rows.table(judged, CHANNELS, WINDOW_NS, 3)


@st.composite
def batches(draw: st.DrawFn) -> list[Judged]:
    """Draw batches of one to nine slots that change hands from batch to batch."""
    found, first = [], 0
    for _ in range(draw(st.integers(1, 5))):
        names = draw(st.permutations([f"pump-{k}" for k in range(9)]))
        slots = np.array(draw(st.lists(st.integers(0, 8), min_size=1, max_size=12)))
        found.append(Judged.of(verdicts(slots, first), names))
        first += len(slots)
    return found


@settings(max_examples=60, deadline=None)
@given(judged=batches())
def test_a_table_of_several_batches_is_the_tables_of_each_one_after_another(judged: list[Judged]) -> None:
    whole, parts = table(*judged), [table(part) for part in judged]
    assert score_rows.without_dictionaries(whole).equals(
        pa.concat_tables([score_rows.without_dictionaries(part) for part in parts])
    )
    names = [part.ids[code] for part in judged for code in part.device]
    assert whole["device"].to_pylist() == names
    by_batch = [device for part in judged for device in part.ids]
    assert whole["device"].chunk(0).dictionary.to_pylist() == list(dict.fromkeys(by_batch))
    assert all(column.num_chunks == 1 for column in whole.columns)


@settings(max_examples=60, deadline=None)
@given(judged=batches(), max_bytes=st.sampled_from([6_000, MESSAGE_BYTES]))
def test_messages_bring_a_table_as_it_is(judged: list[Judged], max_bytes: int) -> None:
    rows = table(*judged)
    sent = score_messages.encode(rows, Spans(Span(0, 1)), Partition("readings", 3), "c", max_bytes)
    read = pa.concat_tables([score_messages.decode(one.value, one.headers).table for one in sent])
    assert read.schema == rows.schema
    assert score_rows.as_archived(read).equals(score_rows.as_archived(rows))


@settings(max_examples=60, deadline=None)
@given(judged=batches(), data=st.data())
def test_rows_taken_from_a_batch_bring_their_own_devices_only(judged: list[Judged], data: st.DataObject) -> None:
    part = judged[0]
    rows = np.array(data.draw(st.lists(st.integers(0, len(part) - 1), min_size=1, unique=True).map(sorted)))
    taken = part.take(rows)
    assert len(taken) == len(rows)
    assert [taken.ids[code] for code in taken.device] == [part.ids[code] for code in part.device[rows]]
    assert taken.ids == tuple(device for k, device in enumerate(part.ids) if k in part.device[rows])
    assert score_rows.without_dictionaries(table(taken)).equals(score_rows.without_dictionaries(table(part)).take(rows))


def test_where_a_batch_has_no_contributions_no_row_has() -> None:
    slots = np.arange(4)
    rows = table(
        Judged.of(verdicts(slots, 0), "abcd"),
        Judged.of(verdicts(slots, 4, has_shares=False), "abcd"),
    )
    assert rows["contribution"].null_count == 8
    assert contributions.as_map(rows)["contribution"].null_count == 8


def test_a_table_without_rows_has_all_columns() -> None:
    assert table().schema == table(Judged.of(verdicts(np.arange(3), 0), "abc")).schema
    assert table().num_rows == 0
    assert score_messages.encode(table(), Spans(Span(0, 1)), Partition("readings", 3), "c") == []
