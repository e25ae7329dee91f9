"""Readings on the wire: every record becomes readings, a refusal, or is skipped."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stream_ad.core.batches import Reason
from stream_ad.errors import ContractError
from stream_ad.io.cell_rule import LARGEST
from stream_ad.io.transport import Headers, Partition, RawBatch
from stream_ad.io.wire.encode import (
    ARROW_HEADERS,
    JSON_HEADERS,
    encode_arrow,
    encode_reading,
    encode_series,
    encode_series_at,
)
from stream_ad.io.wire.json import Unreadable, decode_document
from stream_ad.io.wire.readings import Decoded, Decoder, content_type
from stream_ad.io.wire.times import MAX_NS, MIN_NS, time_ns

CHANNELS = ("flow", "speed", "temp")
T0 = 1_700_000_000_000


def raw(values: Sequence[bytes], headers: Sequence[Headers] | None = None, first: int = 100) -> RawBatch:
    n = len(values)
    return RawBatch(
        partition=Partition("readings", 0),
        offset=np.arange(first, first + n, dtype=np.int64) * 3,
        log_ns=np.arange(first, first + n, dtype=np.int64) * 1_000_000,
        keys=[None] * n,
        values=list(values),
        headers=[()] * n if headers is None else headers,
        next_offset=(first + n) * 3,
    )


def decode(*values: bytes, headers: Headers = (), devices: str = "*", max_bytes: int = 100_000) -> Decoded[Any]:
    return Decoder(CHANNELS, devices, max_bytes).decode(raw(values, [headers] * len(values)))


def rows(decoded: Decoded[Any]) -> list[tuple[Any, ...]]:
    """Readings as plain tuples: device, event time, log time, offset, values (None for NaN), bad."""
    r = decoded.readings
    bad = np.zeros(len(r.device), bool) if r.is_bad is None else r.is_bad
    log_ns = dict(zip(r.record_offset.tolist(), r.record_log_ns.tolist(), strict=True))
    return [
        (r.ids[d], e, log_ns[o], o, tuple(None if math.isnan(v) else v for v in values), b)
        for d, e, o, values, b in zip(
            r.device.tolist(),
            r.event_ns.tolist(),
            r.offset.tolist(),
            r.values.tolist(),
            bad.tolist(),
            strict=True,
        )
    ]


def series(ts: Any = None, **columns: Any) -> bytes:
    return json.dumps({"device": "p1", "ts": ts or {"start": T0, "step_ms": 100}, "values": columns}).encode()


def only_refusal(decoded: Decoded[Any]) -> tuple[Reason, str, int, int | None]:
    (refused,) = decoded.refused
    assert refused.offset == 300
    assert "\n" not in refused.detail
    assert len(refused.detail) < 400
    return refused.reason, refused.detail, refused.rows, refused.first_event_ns


def test_a_single_reading() -> None:
    found = decode(encode_reading("p1", T0, {"temp": 1.5, "flow": 2, "speed": None}))

    assert rows(found) == [("p1", T0 * 1_000_000, 100_000_000, 300, (2.0, None, 1.5), False)]
    assert (found.refused, found.unknown_devices, found.unknown_channels, found.bad_cells) == ((), 0, 0, 0)


def test_a_series_on_a_grid_of_fractional_steps() -> None:
    found = decode(encode_series("p1", T0, 0.1, {c: np.arange(4.0) for c in CHANNELS}))

    assert [row[1] - T0 * 1_000_000 for row in rows(found)] == [0, 100_000, 200_000, 300_000]
    assert found.readings.values.tolist() == [[float(i)] * 3 for i in range(4)]


def test_a_series_with_times_may_mix_milliseconds_and_text_and_keeps_its_order() -> None:
    ts: list[Any] = [T0 + 2, "2023-11-14T22:13:20.000000001Z", "2023-11-14T23:13:20+01:00", T0 + 0.5]
    found = decode(encode_series_at("p1", ts, {"flow": [1, 2, 3, 4], "temp": [None, 5.0, 6.0, 7.0]}))

    assert [row[1] - T0 * 1_000_000 for row in rows(found)] == [2_000_000, 1, 0, 500_000]
    assert [row[4] for row in rows(found)] == [(1, None, None), (2, None, 5), (3, None, 6), (4, None, 7)]


def test_numeric_times_of_a_series_keep_the_short_way() -> None:
    ts = [T0, T0 + 1, T0 + 0.25]
    found = decode(encode_series_at("p1", ts, {c: [1.0, 2.0, 3.0] for c in CHANNELS}))

    assert [row[1] - T0 * 1_000_000 for row in rows(found)] == [0, 1_000_000, 250_000]


def test_ids_come_in_the_order_of_the_rows_and_every_record_is_listed() -> None:
    one, two = encode_reading("b", T0, {"flow": 1.0}), encode_reading("a", T0, {"flow": 1.0})
    found = decode(b"", b'{"device":"c","ts":0,"values":{}}', one, series(flow=[1, None]), two, one)

    assert found.readings.ids == ("b", "p1", "a")
    assert found.readings.device.tolist() == [0, 1, 1, 2, 0]
    assert found.readings.record_offset.tolist() == [300, 303, 306, 309, 312, 315]
    assert found.readings.record_log_ns.tolist() == [n * 1_000_000 for n in range(100, 106)]
    assert [r.offset for r in found.refused] == [300, 303]


def test_an_empty_batch() -> None:
    found = decode()
    assert found.readings.values.shape == (0, 3)
    assert found.refused == ()


def test_unknown_devices_channels_and_fields_are_skipped_and_counted() -> None:
    found = decode(
        encode_reading("p1", T0, {"flow": 1.0, "humidity": 2.0, "speed": 2.0}),
        encode_reading("motor", T0, {"flow": 1.0}),
        encode_series("motor", T0, 1.0, {"flow": [1.0]}),
        encode_series("p1", T0 + 1, 1.0, {"flow": [3.0], "humidity": [4.0], "noise": [None]}),
        b'{"device":"p1","ts":%d,"site":[[1]],"values":{"flow":[5.0]},"a":{"b":null}}' % T0,
        devices="p*",
    )
    assert (found.unknown_devices, found.unknown_channels) == (2, 3)
    assert [row[4][0] for row in rows(found)] == [1.0, 3.0, None]  # an array is no value for one time
    assert (found.strangers.device, (found.strangers.channel or ("", ""))[1]) == ("motor", "humidity")
    assert found.refused == ()


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e39", "1e999", "9" * 400])
def test_values_that_are_no_finite_numbers_are_bad_and_nothing_else(text: str) -> None:
    single = b'{"device":"p1","ts":%d,"values":{"flow":%s,"speed":1,"temp":null}}' % (T0, text.encode())
    window = b'{"device":"p1","ts":[%d,%d],"values":{"flow":[2,%s]}}' % (T0, T0 + 1, text.encode())
    for found, bad in ((decode(single), [True]), (decode(window), [False, True])):
        assert found.refused == ()
        assert found.bad_cells == 1
        assert [row[5] for row in rows(found)] == bad
        assert rows(found)[-1][4][0] is None


def test_null_is_missing_not_bad() -> None:
    found = decode(encode_series("p1", T0, 1.0, {"flow": [1.0, None], "temp": np.array([np.nan, np.inf])}))
    assert found.readings.is_bad is None
    assert [row[4] for row in rows(found)] == [(1.0, None, None), (None, None, None)]


def test_a_null_channel_of_a_series_is_missing() -> None:
    assert [row[4] for row in rows(decode(series(flow=[1.0, 2.0], temp=None)))] == [(1, None, None), (2, None, None)]


REFUSALS = [
    (b"", Reason.UNDECODABLE, "payload"),
    (b"\xff\xfe", Reason.UNDECODABLE, "JSON"),
    (b"{", Reason.UNDECODABLE, "JSON"),
    (b"\xef\xbb\xbf" + series(flow=[1]), Reason.UNDECODABLE, "JSON"),
    (b"[" * 100_000, Reason.UNDECODABLE, "JSON"),
    (b'{"device":"\\ud800","ts":1700000000000,"values":{"flow":NaN}}', Reason.UNDECODABLE, "device"),
    (b"x" * 100_001, Reason.TOO_LARGE, "100000 bytes"),
    (b"[1]", Reason.WRONG_TYPE, "expected an object, found an array"),
    (b"{}", Reason.MISSING_FIELD, "device"),
    (b'{"device":"p1","values":{}}', Reason.MISSING_FIELD, "ts"),
    (b'{"device":"p1","ts":1}', Reason.MISSING_FIELD, "values"),
    (b'{"device":7,"ts":1700000000000,"values":{}}', Reason.WRONG_TYPE, "device"),
    (b'{"device":[7],"ts":1700000000000,"values":{}}', Reason.WRONG_TYPE, "device"),
    (b'{"device":"","ts":1700000000000,"values":{}}', Reason.WRONG_TYPE, "device"),
    (b'{"device":"p1","ts":1700000000000,"values":[1]}', Reason.WRONG_TYPE, "values"),
    (b'{"device":"p1","ts":1700000000000,"values":"flow"}', Reason.WRONG_TYPE, "values"),
    (b'{"device":"p1","ts":[1700000000000],"values":3}', Reason.WRONG_TYPE, "values"),
    (series(flow=[1, 2], temp=[1]), Reason.WRONG_TYPE, "expected 2 samples, found 1"),
    (series([T0], flow=[1, 2]), Reason.WRONG_TYPE, "expected 1 samples, found 2"),
    (series(flow=1), Reason.WRONG_TYPE, "expected an array, found 1"),
    (series({"start": T0}, flow=[1]), Reason.MISSING_FIELD, "step_ms"),
    (series({"start": 5, "step_ms": 1}, flow=[1]), Reason.BAD_TIME, "ts.start"),
    (series({"start": T0, "step_ms": 0}, flow=[1]), Reason.BAD_TIME, "step_ms"),
    (series({"start": T0, "step_ms": True}, flow=[1]), Reason.BAD_TIME, "step_ms"),
    (series({"start": T0, "step_ms": 1e300}, flow=[1, 2]), Reason.BAD_TIME, "step_ms"),
    (series({"start": T0, "step_ms": 2**70}, flow=[1, 2]), Reason.BAD_TIME, "step_ms"),
]


@pytest.mark.parametrize(("value", "reason", "detail"), REFUSALS)
def test_records_with_a_wrong_structure_are_refused_wholly(value: bytes, reason: Reason, detail: str) -> None:
    found = decode(value)
    assert rows(found) == []
    assert only_refusal(found)[0] is reason
    assert detail in only_refusal(found)[1]


@pytest.mark.parametrize(
    ("value", "means"),
    [
        *(
            ('"1.5"', 1.5),
            ("true", 1.0),
            ('" -3e2 "', -300.0),
            ('"False"', 0.0),
            ("+5", 5.0),
            (".5", 0.5),
            ("007", 7.0),
        ),
        *((text, None) for text in ("{}", "[]", "[[1]]", '"Bad Input"', '"nan"', '"1e999"', '"0x1F"', '"1_000"')),
        *((text, None) for text in ("nan", "-nan", "-nan(ind)", "NaN", "-Infinity", "inf", "1.#QNAN", "None", "1e999")),
    ],
)
def test_a_cell_is_a_number_or_costs_itself_only(value: str, means: float | None) -> None:
    single = b'{"device":"p1","ts":%d,"values":{"flow":%s,"speed":1,"x":1}}' % (T0, value.encode())
    window = b'{"device":"p1","ts":[%d,%d],"values":{"flow":[2,%s],"speed":[1,2]}}' % (T0, T0 + 1, value.encode())

    for found, flows in ((decode(single), [means]), (decode(window), [2.0, means])):
        assert found.refused == ()
        assert [row[4][0] for row in rows(found)] == flows
        assert [row[4][1] for row in rows(found)] == [1.0, 2.0][: len(flows)]
        assert [row[5] for row in rows(found)] == [flow is None for flow in flows]
        assert found.bad_cells == flows.count(None)
        if means is None:
            assert found.bad_example is not None
            assert (found.bad_example.device, found.bad_example.channel) == ("p1", "flow")


@pytest.mark.parametrize(
    ("cell", "shown"),
    [('"Bad Input"', "'Bad Input'"), ("1e39", "1e+39"), ("[1]", "an array"), ("nan", "'nan'"), ("1e999", "'1e999'")],
)
def test_the_first_bad_cell_is_shown_as_it_was(cell: str, shown: str) -> None:
    good = encode_reading("p1", T0, {"flow": 1.0})
    single = b'{"device":"p1","ts":%d,"values":{"flow":1,"temp":%s}}' % (T0, cell.encode())
    window = b'{"device":"p1","ts":[5,%d],"values":{"flow":[1,2],"temp":[1,%s]}}' % (T0 + 1, cell.encode())

    for value in (single, window):
        example = decode(good, value, value).bad_example
        assert example is not None
        assert (example.device, example.channel, example.shown) == ("p1", "temp", shown)


def test_in_a_series_a_column_that_is_no_array_is_bad_throughout() -> None:
    found = decode(series(flow=[1, 2], temp="Bad Input"), series([T0, T0 + 1], flow=[1, 2], temp=[3]))

    assert found.refused == ()
    assert [row[4] for row in rows(found)] == [(1, None, None), (2, None, None)] * 2
    assert found.bad_cells == 4


@pytest.mark.parametrize("ts", ["2026-01-01T00:00:00", "now", None, True, 5, -1, 1e30, 10**25, "1700000000000", ""])
def test_a_bad_time_costs_its_reading_only(ts: object) -> None:
    found = decode(json.dumps({"device": "p1", "ts": ts, "values": {"flow": 1}}).encode())
    assert rows(found) == []
    assert only_refusal(found)[0] is Reason.BAD_TIME
    assert only_refusal(found)[2:] == (1, None)
    found = decode(series([T0, ts, T0 + 1], flow=[1, 2, 3]))
    assert [row[4][0] for row in rows(found)] == [1, 3]
    assert only_refusal(found)[0] is Reason.BAD_TIME
    assert "1 of 3 readings refused, rows 1: ts" in only_refusal(found)[1]


def test_one_letter_names_the_first_twenty_bad_rows() -> None:
    found = decode(series([0] * 50, flow=[1.0] * 50))
    assert only_refusal(found)[2] == 50
    assert "rows 0, 1," in only_refusal(found)[1]
    assert "19, ..." in only_refusal(found)[1]


def test_equal_keys_mean_the_last_on_every_way() -> None:
    values = (
        b'{"device":"p1","ts":1700000000000,"values":{"flow":1,"flow":2}}',
        b'{"device":"p1","ts":[1700000000000],"values":{"flow":[1],"speed":[1],"temp":[1],"flow":[2]}}',
        b'{"device":"p1","ts":[1700000000000],"values":{"flow":[1]},"values":{"flow":[2]}}',
        b'{"device":"p1","ts":{"start":1,"step_ms":1,"start":1700000000000},"values":{"flow":[2]}}',
    )
    assert [row[4][0] for row in rows(decode(*values))] == [2, 2, 2, 2]


def test_nested_arrays_are_not_flattened() -> None:
    found = decode(series(flow=[[1], [2]]), series(flow=[[1, 2]], humidity=3), series(flow=[1], humidity=[[3]]))
    assert [row[4][0] for row in rows(found)] == [None, None, None, 1.0]
    assert found.bad_cells == 3


def test_the_content_type_names_the_format() -> None:
    value = encode_reading("p1", T0, {"flow": 1.0})
    assert len(rows(decode(value, headers=JSON_HEADERS))) == 1
    assert len(rows(decode(value, headers=(("Content-Type", b"Application/JSON; charset=utf-8"),)))) == 1
    assert content_type((("traceparent", b"x"),)) == "application/json"
    assert only_refusal(decode(value, headers=((("content-type", b"text/csv")),)))[:2] == (
        Reason.UNDECODABLE,
        "content-type: expected application/json or application/vnd.apache.arrow.stream, found 'text/csv'",
    )
    assert only_refusal(decode(value, headers=ARROW_HEADERS))[0] is Reason.UNDECODABLE


def test_channels_must_be_sorted() -> None:
    with pytest.raises(ContractError, match="sorted"):
        Decoder(["b", "a"])


# --- times


@pytest.mark.parametrize("text", ["2026-02-03T04:05:06Z", "2026-02-03 04:05:06.5+02:00", "2026-02-03t04:05:06.25z"])
def test_rfc_3339_is_read_as_python_reads_it(text: str) -> None:
    ns = time_ns(text)
    assert ns is not None
    assert ns == round(datetime.fromisoformat(text.upper()).timestamp() * 1e3) * 1_000_000


@pytest.mark.parametrize(
    "text",
    ["2026-02-30T00:00:00Z", "20260203T040506Z", "2026-02-03", "2026-02-03T04:05:06+0200", "٢٠٢٦-02-03T04:05:06Z"],
)
def test_other_text_is_no_time(text: str) -> None:
    assert time_ns(text) is None


@given(ns=st.integers(MIN_NS, MAX_NS - 10_000))
def test_times_are_exact_where_they_can_be(ns: int) -> None:
    assert time_ns(ns // 1_000_000) == ns // 1_000_000 * 1_000_000
    assert abs((time_ns(ns / 1e6) or 0) - ns) <= 2_000  # a double of milliseconds around the year 2261
    text = f"{datetime.fromtimestamp(ns // 10**9, UTC):%Y-%m-%dT%H:%M:%S}.{ns % 10**9:09}Z"
    assert time_ns(text) == ns


# --- Arrow


def arrow(**columns: Any) -> bytes:
    table = pa.table(columns)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return bytes(sink.getvalue())


def test_arrow_holds_many_devices_in_one_record() -> None:
    value = encode_arrow(["b", "a", "b"], [T0, T0 + 1, T0 + 2], {"temp": np.array([1, np.nan, 3.0]), "x": [1, 2, 3]})
    found = decode(value, headers=ARROW_HEADERS)

    assert [(row[0], row[1], row[4], row[5]) for row in rows(found)] == [
        ("b", T0 * 1_000_000, (None, None, 1.0), False),
        ("a", (T0 + 1) * 1_000_000, (None, None, None), False),
        ("b", (T0 + 2) * 1_000_000, (None, None, 3.0), False),
    ]
    assert found.unknown_channels == 1


@pytest.mark.parametrize(
    "ts",
    [
        pa.array([T0, T0 + 1, T0 + 2, T0 + 3], pa.int64()),
        pa.array([T0, T0 + 1, T0 + 2, T0 + 3], pa.float64()),
        pa.array([T0, T0 + 1, T0 + 2, T0 + 3], pa.timestamp("ms", "UTC")),
        pa.array([(T0 + i) * 1_000_000 for i in range(4)], pa.timestamp("ns", "Europe/Berlin")),
        pa.array([f"2023-11-14T22:13:20.00{i}Z" for i in range(4)]),
    ],
)
def test_arrow_times_of_every_kind(ts: pa.Array) -> None:
    value = arrow(device=pa.array(["a", None, "skip", "b"]).dictionary_encode(), ts=ts, flow=[1.0, 2.0, 3.0, math.inf])
    found = decode(value, headers=ARROW_HEADERS, devices="[ab]")

    assert [(row[0], row[1] // 1_000_000 - T0, row[4][0], row[5]) for row in rows(found)] == [
        ("a", 0, 1.0, False),
        ("b", 3, None, True),
    ]
    assert found.unknown_devices == 1
    assert only_refusal(found) == (
        Reason.WRONG_TYPE,
        "1 of 4 readings refused, rows 1",
        1,
        (T0 + 1) * 1_000_000,
    )


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (arrow(device=["a"], ts=pa.array([T0], pa.timestamp("ms")), flow=[1.0]), Reason.BAD_TIME),
        (arrow(device=["a"], ts=pa.array([None], pa.int64()), flow=[1.0]), Reason.BAD_TIME),
        (arrow(device=["a"], ts=[math.nan], flow=[1.0]), Reason.BAD_TIME),
        (arrow(device=["a"], ts=pa.array([2**62], pa.timestamp("s", "UTC")), flow=[1.0]), Reason.BAD_TIME),
        (arrow(device=[1], ts=[T0], flow=[1.0]), Reason.WRONG_TYPE),
        (arrow(ts=[T0], flow=[1.0]), Reason.MISSING_FIELD),
        (arrow(device=pa.nulls(100_000, pa.string()), ts=pa.nulls(100_000)), Reason.TOO_LARGE),
        (b"ARROW1", Reason.UNDECODABLE),
        (b"", Reason.UNDECODABLE),
    ],
)
def test_arrow_refusals(value: bytes, reason: Reason) -> None:
    found = decode(value, headers=ARROW_HEADERS, max_bytes=200_000)
    assert rows(found) == []
    assert only_refusal(found)[0] is reason


@pytest.mark.parametrize(
    ("column", "means", "bad"),
    [
        (pa.array(["1.5", "true", "Bad Input", None, " "]), [1.5, 1.0, None, None, None], [2]),
        (pa.array(["x", "2", "x", None, "x"]).dictionary_encode(), [None, 2.0, None, None, None], [0, 2, 4]),
        (pa.array([True, False, None, True, True]), [1.0, 0.0, None, 1.0, 1.0], []),
        (pa.array([1, 2, 3, None, 5], pa.decimal128(9, 2)), [1.0, 2.0, 3.0, None, 5.0], []),
        (pa.array([1, 2, 3, None, 5], pa.uint64()), [1.0, 2.0, 3.0, None, 5.0], []),
        (pa.array(np.array([1, 2, 3, 4, 5], np.float16)), [1.0, 2.0, 3.0, 4.0, 5.0], []),
        (pa.array([1.0, math.nan, math.inf, None, 1e39]), [1.0, None, None, None, None], [1, 2, 4]),
        (pa.array([[1.0], [], None, [2.0], [3.0]]), [None] * 5, [0, 1, 3, 4]),
        (pa.array([0, 1, 2, None, 3], pa.timestamp("s")), [None] * 5, [0, 1, 2, 4]),
        (pa.array([b"1", b"2", b"3", None, b"4"]), [None] * 5, [0, 1, 2, 4]),
        (pa.nulls(5), [None] * 5, []),
    ],
)
def test_cells_of_an_arrow_column_of_any_type(column: pa.Array, means: list[float | None], bad: list[int]) -> None:
    value = arrow(device=["a"] * 5, ts=[T0 + n for n in range(5)], flow=column, speed=[1.0] * 5)
    found = decode(value, headers=ARROW_HEADERS)

    assert found.refused == ()
    assert [row[4][0] for row in rows(found)] == means
    assert [number for number, row in enumerate(rows(found)) if row[5]] == bad
    assert found.bad_cells == len(bad)


def test_an_empty_arrow_table_is_nothing() -> None:
    empty = arrow(device=pa.array([], pa.string()), ts=pa.array([], pa.int64()))
    found = decode(empty, headers=ARROW_HEADERS)
    assert rows(found) == []
    assert found.refused == ()


@settings(max_examples=60)
@given(data=st.data())
def test_broken_arrow_never_raises(data: st.DataObject) -> None:
    value = bytearray(encode_arrow(["a", "b"], [T0, T0 + 1], {"flow": np.array([1.0, np.nan])}))
    for _ in range(data.draw(st.integers(1, 4))):
        value[data.draw(st.integers(0, len(value) - 1))] = data.draw(st.integers(0, 255))
    found = decode(bytes(value[: data.draw(st.integers(0, len(value)))]), headers=ARROW_HEADERS)
    assert len(found.readings.device) + sum(r.rows for r in found.refused) <= 2


# --- properties

numbers = st.one_of(
    st.integers(-(10**30), 10**30), st.floats(allow_nan=False, allow_infinity=False), st.sampled_from([0, -0.0, 1e-320])
)
odd = st.one_of(numbers, st.none(), st.booleans(), st.text(max_size=3), st.just([1.0]), st.just({"a": [1]}))
names = st.sampled_from([*CHANNELS, "other"])
times = st.one_of(
    st.integers(T0, T0 + 10**6),
    st.floats(T0, T0 + 10**6),
    st.sampled_from(["2026-01-01T00:00:00Z", "2026-01-01T00:00:00.123456789+05:30"]),
)
odd_times = st.one_of(times, times, odd)


@st.composite
def documents(draw: st.DrawFn, value: st.SearchStrategy[Any], time: st.SearchStrategy[Any]) -> dict[str, Any]:
    shape = draw(st.sampled_from(["single", "grid", "times"]))
    n = draw(st.integers(0, 4))
    columns: dict[str, Any] = {}
    for name in draw(st.sets(names) | st.just(set(CHANNELS))):
        columns[name] = draw(value if shape == "single" else st.lists(value, min_size=n, max_size=n))
    ts: Any = draw(time)
    if shape == "grid":
        ts = {"start": ts, "step_ms": draw(st.sampled_from([1, 0.1, 1000, 1 / 3]))}
    elif shape == "times":
        ts = draw(st.lists(time, min_size=n, max_size=n))
    return {"device": draw(st.sampled_from(["p1", "p2", "zz", "ü€"])), "ts": ts, "values": columns}


def complete(values: Sequence[bytes], devices: str) -> list[tuple[Any, ...]]:
    """Rows and refusals of the complete way alone, a record at a time."""
    matches = Decoder(CHANNELS, devices)._accepts
    out: list[tuple[Any, ...]] = []
    for number, value in enumerate(values):
        try:
            found = decode_document(value, CHANNELS, matches)
        except Unreadable as error:
            out.append((number, error.problem.reason, error.problem.detail, error.problem.rows))
            continue
        if found.problem is not None:
            out.append((number, found.problem.reason, found.problem.detail, found.problem.rows))
        if found.chunk is not None:
            for event_ns, row in zip(found.chunk.event_ns.tolist(), found.chunk.values.tolist(), strict=True):
                out.append((number, found.chunk.ids[0], event_ns, [v if abs(v) <= LARGEST else None for v in row]))
    return out


def fast(found: Decoded[Any]) -> list[tuple[Any, ...]]:
    out: list[tuple[Any, ...]] = [(r.offset // 3 - 100, r.reason, r.detail, r.rows) for r in found.refused]
    out += [(row[3] // 3 - 100, row[0], row[1], list(row[4])) for row in rows(found)]
    return sorted(out, key=lambda entry: entry[0])


@settings(max_examples=120)
@given(docs=st.lists(documents(numbers, times) | documents(odd, odd_times), max_size=6))
@example(docs=[{"device": "p1", "ts": {"start": T0, "step_ms": 1}, "values": {"flow": [], "temp": [[]]}}])
@example(docs=[{"device": "p1", "ts": [T0, True], "values": {c: [1, 2] for c in CHANNELS}}])
@example(docs=[{"device": "p1", "ts": [T0, T0 + 1], "values": {"flow": [1, None], "temp": {"1": 1, "2": [2]}}}])
@example(docs=[{"device": "p1", "ts": [T0, T0 + 1], "values": {"flow": [1, None], "temp": None}}])
def test_the_short_ways_give_what_the_complete_way_gives(docs: list[dict[str, Any]]) -> None:
    values = [json.dumps(doc, ensure_ascii=i % 2 == 0).encode() for i, doc in enumerate(docs)]
    assert fast(decode(*values, devices="[pü]*")) == sorted(complete(values, "[pü]*"), key=lambda entry: entry[0])


@settings(max_examples=50)
@given(docs=st.lists(documents(numbers, times), max_size=6))
def test_well_formed_records_mean_what_they_say(docs: list[dict[str, Any]]) -> None:
    expected = []
    for doc in docs:
        columns = doc["values"]
        if not isinstance(doc["ts"], dict | list):
            events, columns = [time_ns(doc["ts"])], {c: [v] for c, v in columns.items()}
        elif isinstance(doc["ts"], list):
            events = [time_ns(ts) for ts in doc["ts"]]
        else:
            n = next((len(column) for name, column in columns.items() if name in CHANNELS), 0)
            start = time_ns(doc["ts"]["start"])
            assert start is not None
            events = [start + round(i * doc["ts"]["step_ms"] * 1e6) for i in range(n)]
        for i, event in enumerate(events):
            row = [float(columns[c][i]) if c in columns else math.nan for c in CHANNELS]
            expected.append((doc["device"], event, tuple(v if abs(v) <= LARGEST else None for v in row)))

    found = decode(*[json.dumps(doc).encode() for doc in docs])
    assert [(row[0], row[1], row[4]) for row in rows(found)] == expected
    assert found.refused == ()


@settings(max_examples=50)
@given(docs=st.lists(documents(odd, odd_times), min_size=1, max_size=8), cut=st.integers(0, 8))
def test_where_a_batch_is_cut_changes_nothing(docs: list[dict[str, Any]], cut: int) -> None:
    values = [json.dumps(doc).encode() for doc in docs]
    decoder = Decoder(CHANNELS, "p*")
    whole = decoder.decode(raw(values))
    parts = [decoder.decode(raw(values[:cut])), decoder.decode(raw(values[cut:], first=100 + len(values[:cut])))]

    assert rows(whole) == [row for part in parts for row in rows(part)]
    assert whole.refused == tuple(r for part in parts for r in part.refused)
    assert whole.unknown_channels == sum(part.unknown_channels for part in parts)
    assert whole.unknown_devices == sum(part.unknown_devices for part in parts)
    assert whole.bad_cells == sum(part.bad_cells for part in parts)


def test_large_batches_of_all_kinds_give_what_their_records_give_alone() -> None:
    values, headers = [], []
    for number in range(1_500):
        kinds = {
            0: encode_series(f"p{number % 7}", T0 + number, 0.5, {c: [1.0, float(number)] for c in CHANNELS}),
            1: encode_series(f"p{number % 7}", T0 + number, 0.5, {"flow": [None, float(number)]}),
            2: b'{"device":"p1","ts":%d,"values":{"flow":"x"}}' % (T0 + number) if number % 100 == 2 else b"",
            3: encode_arrow(["p1", "q"], [T0, T0 + number], {"temp": np.array([1.0, 2.0])}),
        }
        single = encode_reading(f"p{number % 11}", T0 + number, {"flow": number, "temp": -1.5, "speed": None})
        values.append(kinds.get(number % 50, single))
        headers.append(ARROW_HEADERS if number % 50 == 3 else ())
    decoder = Decoder(CHANNELS, "p*")
    whole = decoder.decode(raw(values, headers))
    alone = [decoder.decode(raw([v], [h], first=100 + i)) for i, (v, h) in enumerate(zip(values, headers, strict=True))]

    assert rows(whole) == [row for found in alone for row in rows(found)]
    assert whole.refused == tuple(r for found in alone for r in found.refused)
    assert whole.unknown_devices == 30
    assert list(whole.readings.ids) == list(dict.fromkeys(row[0] for row in rows(whole)))


anything = st.recursive(
    odd | st.floats(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=12
)


@settings(max_examples=80)
@given(
    junk=st.binary(max_size=60)
    | anything.map(lambda doc: json.dumps(doc).encode())
    | st.fixed_dictionaries({"device": anything, "ts": anything, "values": anything}).map(
        lambda doc: json.dumps(doc).encode()
    ),
    headers=st.sampled_from([(), ARROW_HEADERS]),
)
@example(junk=b'{"device":"p1","ts":[' + b"[" * 1_020 + b"]" * 1_020 + b'],"values":{}}', headers=())
@example(junk=b'{"a":' * 900 + b"NaN" + b"}" * 900, headers=())
def test_nothing_raises(junk: bytes, headers: Headers) -> None:
    good = encode_reading("p1", T0, {"flow": 1.0})
    found = Decoder(CHANNELS).decode(raw([junk, good], [headers, ()]))
    assert rows(found)[-1][4][0] == 1.0
    assert all(r.offset == 300 for r in found.refused)


@settings(max_examples=50)
@given(data=st.data())
def test_series_cut_short_or_changed_never_raise_and_agree(data: st.DataObject) -> None:
    value = bytearray(encode_series("p1", T0, 0.5, {c: [1.5, 2e5, -3] for c in CHANNELS}))
    for _ in range(data.draw(st.integers(0, 3))):
        value[data.draw(st.integers(0, len(value) - 1))] = data.draw(st.sampled_from(list(b'[]{},:"0.-eN\\')))
    cut = bytes(value[: data.draw(st.integers(1, len(value)))])
    assert fast(decode(cut)) == complete([cut], "*")


def test_encoders_write_what_the_parsers_read() -> None:
    assert orjson.loads(encode_series("d", 1, 2.5, {"a": np.array([1, np.nan], np.float32)})) == {
        "device": "d",
        "ts": {"start": 1, "step_ms": 2.5},
        "values": {"a": [1.0, None]},
    }
    assert orjson.loads(encode_series("d", 1, 1, {"a": np.arange(6.0)[::2]}))["values"]["a"] == [0.0, 2.0, 4.0]
    with pytest.raises(ContractError, match="one length"):
        encode_arrow(["a"], [1, 2], {})
