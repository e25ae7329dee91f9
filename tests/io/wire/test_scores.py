"""Score messages: what goes in comes out, split by bytes, with spans that chain."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_ad.core.batches import Judged, Keys, ScoreBatch, VerdictBatch
from stream_ad.errors import ContractError, RecordTooLargeError
from stream_ad.io.spans import Span, Spans
from stream_ad.io.transport import Partition
from stream_ad.io.wire import score_rows
from stream_ad.io.wire import scores as score_messages

CHANNELS = ("flow", "temp")
SOURCE = Partition("readings", 3)
WINDOW_NS = 4_000_000_000
IDS = [f"pump-{number}" for number in range(50)]


def verdicts(n: int, seed: int = 0, has_shares: bool = True) -> VerdictBatch:
    random = np.random.default_rng(seed)
    score = random.exponential(size=n)
    score[random.random(n) < 0.2] = np.nan
    keys = Keys(
        device=random.integers(0, 50, n).astype(np.int32),
        end_ns=1_700_000_000_000_000_000 + random.integers(0, 10**9, n) * 1_000,
        offset=np.sort(random.integers(0, 1_000, n)),
        sequence=random.integers(0, 99, n),
    )
    shares = random.random((n, 2)).astype(np.float32) if has_shares else None
    scores = ScoreBatch(
        keys=keys,
        quality=random.integers(0, 2**11, n).astype(np.uint32),
        coverage=random.random((n, 2)).astype(np.float32),
        score=score,
        contribution=shares,
        model_id="m" * 64,
    )
    is_open = random.random(n) < 0.5
    return VerdictBatch(scores, score * 0.5, np.full(n, 2.5), is_open, np.where(is_open, keys.end_ns, 0))


def rows_of(*batches: VerdictBatch) -> pa.Table:
    return score_rows.table([Judged.of(batch, IDS) for batch in batches], CHANNELS, WINDOW_NS, SOURCE.number)


def encode(batch: VerdictBatch, max_bytes: int = 900_000) -> list[score_messages.ScoreMessage]:
    records = score_messages.encode(rows_of(batch), Spans(Span(10, 20)), SOURCE, "cfg", max_bytes)
    assert all(len(record.value) <= max_bytes and record.partition == 3 for record in records)
    return [score_messages.decode(record.value, record.headers) for record in records]


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 300), seed=st.integers(0, 99), max_bytes=st.sampled_from([6_000, 20_000, 900_000]))
def test_rows_come_back_whole_and_in_order(n: int, seed: int, max_bytes: int) -> None:
    batch = verdicts(n, seed, has_shares=seed % 4 != 0)
    messages = encode(batch, max_bytes)
    rows = pa.concat_tables([message.table for message in messages]).to_pylist()

    assert len(rows) == n
    for i, row in enumerate(rows):
        scored = not np.isnan(batch.scores.score[i])
        assert row["device"] == IDS[batch.keys.device[i]]
        assert row["end"].timestamp() * 1e6 == pytest.approx(batch.keys.end_ns[i] // 1_000, abs=1)
        assert (row["end"] - row["start"]).total_seconds() == 4
        assert row["score"] == (batch.scores.score[i] if scored else None)
        assert row["smoothed"] == (batch.smoothed[i] if scored else None)
        assert row["limit"] == 2.5
        assert row["is_anomaly"] == batch.is_anomaly[i]
        assert row["incident"] == (row["end"] if batch.is_anomaly[i] else None)
        assert row["quality"] == batch.scores.quality[i]
        assert row["coverage"] == pytest.approx(batch.scores.coverage[i].mean())
        shares = batch.scores.contribution
        expected = None if shares is None or not scored else dict(zip(CHANNELS, shares[i].tolist(), strict=True))
        assert row["contribution"] == expected
        assert (row["model_id"], row["partition"]) == ("m" * 64, 3)
        assert (row["revision"], row["sequence"]) == (0, batch.keys.sequence[i])
        assert row["offset"] == batch.keys.offset[i]


def test_a_span_split_into_parts_is_carried_by_all() -> None:
    messages = encode(verdicts(1_000), max_bytes=30_000)
    assert len(messages) > 3
    assert [message.part for message in messages] == list(range(len(messages)))
    assert {message.parts for message in messages} == {len(messages)}
    assert {message.spans for message in messages} == {Spans(Span(10, 20))}
    assert messages[0].input == SOURCE
    assert (messages[0].model_id, messages[0].config_digest) == ("m" * 64, "cfg")


def test_no_rows_no_message() -> None:
    assert encode(verdicts(0)) == []


def test_the_same_rows_make_the_same_bytes() -> None:
    left, right = (score_messages.encode(rows_of(verdicts(99)), Spans(Span(0, 1)), SOURCE, "c") for _ in range(2))
    assert left == right


def test_a_row_larger_than_the_limit_is_told() -> None:
    with pytest.raises(RecordTooLargeError, match="for a row"):
        encode(verdicts(3), max_bytes=100)


def test_channels_must_fit() -> None:
    with pytest.raises(ContractError, match="expected 1 channels, found 2"):
        score_rows.table([Judged.of(verdicts(3), IDS)], ("flow",), WINDOW_NS, 3)
    with pytest.raises(ContractError, match="span"):
        Span(5, 4)


def test_journal_and_generation_travel_along() -> None:
    (record,) = score_messages.encode(rows_of(verdicts(3)), Spans(Span(7, 7), Span(2, 4)), SOURCE, "c", generation=1)
    message = score_messages.decode(record.value, record.headers)
    assert (message.spans, message.generation) == (Spans(Span(7, 7), Span(2, 4)), 1)


def test_rows_have_a_cause() -> None:
    with pytest.raises(ContractError, match="expected a span or a journal entry, found 7-7 and 4-4"):
        score_messages.encode(rows_of(verdicts(3)), Spans(Span(7, 7), Span(4, 4)), SOURCE, "c", generation=1)
    (record,) = score_messages.encode(rows_of(verdicts(3)), Spans(Span(0, 1)), SOURCE, "c")
    for name, content in (("stream-ad-span", b"1-1"), ("stream-ad-span", b"2-1"), ("stream-ad-generation", b"-1")):
        headers = tuple((key, content if key == name else value) for key, value in record.headers)
        with pytest.raises(ContractError, match="score message: expected"):
            score_messages.decode(record.value, headers)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_broken_messages_raise_one_error(data: st.DataObject) -> None:
    (record,) = score_messages.encode(rows_of(verdicts(3)), Spans(Span(0, 1)), SOURCE, "c")
    headers = list(record.headers)
    kind = data.draw(st.sampled_from(["header", "cut", "format"]))
    value = record.value
    if kind == "header":
        headers.pop(data.draw(st.integers(1, len(headers) - 1)))
    elif kind == "cut":
        value = value[: data.draw(st.integers(0, len(value) // 2))]
    else:
        headers[1] = ("stream-ad-format", b"2")
    with pytest.raises(ContractError, match="score message"):
        score_messages.decode(value, tuple(headers))
