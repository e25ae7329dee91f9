"""One rule for a cell: every way into the pipe takes a cell for the same number, missing or bad."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stream_ad.io import json_text
from stream_ad.io.cell_rule import BAD, LARGEST, MISSING, number_of
from stream_ad.io.cells import to_float
from stream_ad.io.recordings import recordings
from stream_ad.io.recordings.recordings import Recording
from stream_ad.io.transport import Headers, Partition, RawBatch
from stream_ad.io.wire.encode import ARROW_HEADERS
from stream_ad.io.wire.producing import Form, messages
from stream_ad.io.wire.readings import Decoder

T0 = 1_772_438_400_000
CHANNELS = ("flow", "temp")
Meaning = tuple[float | None, bool]


MEANINGS: list[tuple[object, float]] = [
    *((True, 1.0), (False, 0.0), ("true", 1.0), ("FALSE", 0.0), (" True ", 1.0)),
    *((1, 1.0), (-2.5, -2.5), (10**30, 1e30), ("60.3", 60.3), ("-1e3", -1000.0), ("+.5", 0.5), ("5.", 5.0)),
    *((" 7\t", 7.0), ("007", 7.0), ("\u00a07", 7.0), ("1e-400", 0.0), (LARGEST, LARGEST)),
]
ODD: dict[float, list[object]] = {
    MISSING: [None, "", "  ", "null", "NULL"],
    BAD: [
        *("Bad Input", "#N/A", "N/A", "nan", "NaN", "-nan", "inf", "Infinity", "1e999", "-", "yes", "on"),
        *("0x1F", "1_000", "1 000", "1e", "e5", ".", "+", "--5", "\u0661", "1\n2"),
        *(math.nan, math.inf, -math.inf, 1e39, 10**400, [], [1], {}, b"1", 1j),
    ],
}


@pytest.mark.parametrize(("cell", "means"), [*MEANINGS, *((cell, means) for means in ODD for cell in ODD[means])])
def test_a_cell_is_a_number_missing_or_bad(cell: object, means: float) -> None:
    np.testing.assert_equal(number_of(cell), means)


WORDS = (
    *("true", "False", "TRUE", "null", "", " ", "Bad Input", "#N/A", "nan", "-nan", "NaN", "inf", "-Infinity", "on"),
    *("1e999", "0x1F", "1_000", " 7.5 ", "+3", "-.5e-3", "5.", "1e39", "ON", "1d5", "None"),
)
words = st.sampled_from(WORDS)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**25), 10**25),
    st.floats(allow_nan=False, allow_infinity=False),
    words,
)
cells: st.SearchStrategy[object] = st.one_of(scalars, st.just([]), st.just([1.0]), st.just({}), st.just({"a": 1}))


def meaning(cell: object) -> Meaning:
    number = number_of(cell)
    return (number if math.isfinite(number) else None, number == BAD)


def decoded(values: Sequence[bytes], headers: Headers = ()) -> list[Meaning]:
    n = len(values)
    raw = RawBatch(
        Partition("r", 0), np.arange(n), np.full(n, T0 * 1_000_000), [None] * n, values, [headers] * n, next_offset=n
    )
    found = Decoder(CHANNELS).decode(raw)
    assert found.refused == ()
    column = found.readings.values[:, 0]
    is_bad = found.readings.is_bad
    bad = np.zeros(len(column), np.bool_) if is_bad is None else is_bad
    assert found.bad_cells == int(bad.sum())
    assert (found.bad_example is None) == (found.bad_cells == 0)
    return [(None if math.isnan(v) else v, b) for v, b in zip(column.tolist(), bad.tolist(), strict=True)]


def recorded(recording: Recording) -> list[Meaning]:
    column = recording.values[:, recording.channels.index("flow")]
    bad = np.zeros(len(column), np.bool_) if recording.bad is None else recording.bad[:, 0]
    return [(None if math.isnan(v) else v, b) for v, b in zip(column.tolist(), bad.tolist(), strict=True)]


def single(row: int, cell: object) -> bytes:
    return json.dumps({"device": "p", "ts": T0 + row, "values": {"flow": cell, "temp": 1}}).encode()


def series(column: Sequence[object], grid: bool) -> bytes:
    ts: Any = {"start": T0, "step_ms": 1} if grid else [T0 + row for row in range(len(column))]
    return json.dumps({"device": "p", "ts": ts, "values": {"flow": column, "temp": [1] * len(column)}}).encode()


def arrow(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


@settings(max_examples=60, deadline=None)
@given(column=st.lists(cells, min_size=1, max_size=6))
@example(column=[True, False])
@example(column=["Bad Input", 1])
@example(column=[10**30, None])
def test_json_of_every_shape_and_recordings_of_json_lines_agree(column: list[object]) -> None:
    expected = [meaning(cell) for cell in column]

    assert decoded([single(row, cell) for row, cell in enumerate(column)]) == expected
    assert decoded([series(column, grid=True)]) == expected
    assert decoded([series(column, grid=False)]) == expected
    with TemporaryDirectory() as folder:
        path = Path(folder) / "r.jsonl"
        path.write_bytes(b"\n".join(single(row, cell) for row, cell in enumerate(column)))
        assert recorded(recordings.read(path, channels=CHANNELS)) == expected


@settings(max_examples=60, deadline=None)
@given(
    column=st.one_of(
        st.lists(st.none() | words | st.text(max_size=4), min_size=1, max_size=6),
        st.lists(st.none() | st.booleans(), min_size=1, max_size=6),
        st.lists(st.none() | st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=6),
        st.lists(st.none() | st.floats(), min_size=1, max_size=6),
    )
)
def test_arrow_and_parquet_columns_agree(column: list[Any]) -> None:
    table = pa.table({"device": ["p"] * len(column), "ts": [T0 + row for row in range(len(column))], "flow": column})
    expected = [meaning(cell) for cell in column]

    assert decoded([arrow(table)], ARROW_HEADERS) == expected
    np.testing.assert_equal(to_float(table["flow"].combine_chunks()), np.array([number_of(cell) for cell in column]))
    if pa.types.is_string(table["flow"].type):
        coded = table.set_column(2, "flow", table["flow"].dictionary_encode())
        assert decoded([arrow(coded)], ARROW_HEADERS) == expected


@settings(max_examples=40, deadline=None)
@given(column=st.lists(words, min_size=1, max_size=6))
def test_text_of_a_csv_and_of_parquet_is_what_text_on_the_wire_is(column: list[str]) -> None:
    expected = [meaning(cell) for cell in column]
    times = [T0 + row for row in range(len(column))]
    text = io.StringIO()
    csv.writer(text).writerows(
        [["ts", "device", *CHANNELS], *([time, "p", cell, 1] for time, cell in zip(times, column, strict=True))]
    )

    assert decoded([single(row, cell) for row, cell in enumerate(column)]) == expected
    with TemporaryDirectory() as folder:
        (Path(folder) / "r.csv").write_text(text.getvalue(), encoding="utf-8", newline="")
        pq.write_table(pa.table({"ts": times, "flow": column, "temp": [1] * len(column)}), Path(folder) / "r.parquet")
        for name in ("r.csv", "r.parquet"):
            assert recorded(recordings.read(Path(folder) / name, channels=CHANNELS)) == expected


@pytest.mark.parametrize("form", list(Form))
def test_what_a_recording_holds_is_sent_with_its_bad_cells(form: Form, tmp_path: Path) -> None:
    column = [1.5, None, "Bad Input", True, "7", "nan", 2]
    path = tmp_path / "r.jsonl"
    path.write_bytes(b"\n".join(single(row, cell) for row, cell in enumerate(column)))
    sent = list(messages(recordings.read(path), form, samples=3))

    headers = sent[0].record.headers
    assert decoded([message.record.value for message in sent], headers) == [meaning(cell) for cell in column]


# JSON that is almost JSON


@pytest.mark.parametrize(
    ("text", "document"),
    [
        (b'{"a": nan, "b": [-nan, NaN, 1]}', {"a": "nan", "b": ["-nan", "NaN", 1]}),
        (b'{"a": "nan, \\"nan", "b":nan}', {"a": 'nan, "nan', "b": "nan"}),
        (b'{"nan": 1, "a": +5, "b": .5, "c": 007, "d": 5.}', {"nan": 1, "a": "+5", "b": ".5", "c": "007", "d": "5."}),
        (b'{"a": True, "b": None, "c": true, "d": 1e999}', {"a": "True", "b": "None", "c": True, "d": "1e999"}),
        (b'{"a": 1.#QNAN, "b": -1.#IND00, "c": -nan(ind)}', {"a": "1.#QNAN", "b": "-1.#IND00", "c": "-nan(ind)"}),
    ],
)
def test_a_token_that_is_no_json_becomes_text(text: bytes, document: object) -> None:
    assert json_text.parse(text) == document


@pytest.mark.parametrize("text", [b"", b"{", b'{"a": nan', b'{"a" nan}', b'{"a": foo}', b'{"a": 1 2}', b'"\\', b"\xff"])
def test_what_is_broken_otherwise_stays_broken(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"(?s)."):
        json_text.parse(text)


@settings(max_examples=80)
@given(value=st.recursive(scalars | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_what_is_json_stays_as_it_is(value: object) -> None:
    text = json.dumps(value, ensure_ascii=False).encode(errors="replace")

    assert json_text.mended(text) == text


def test_text_that_never_ends_takes_no_time() -> None:
    for text in (b'{"a": nan, "b": "' + b'\\"a' * 200_000, b'"' * 400_001, b"nan " * 200_000, b"(" * 400_000):
        with pytest.raises(ValueError, match=r"(?s)."):
            json_text.parse(text)
