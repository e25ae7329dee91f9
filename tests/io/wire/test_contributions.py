from __future__ import annotations

from math import isnan
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_ad.io.score_log import log as score_log
from stream_ad.io.wire import contributions

CHANNELS = ("flow", "b", "a", "ü [m/s]")
parts = st.one_of(st.none(), st.floats(width=32, allow_infinity=False))
rows = st.lists(st.one_of(st.none(), st.fixed_dictionaries(dict.fromkeys(CHANNELS, parts))), max_size=20)


def table_of(found: list[Any]) -> pa.Table:
    kind = pa.struct([(channel, pa.float32()) for channel in CHANNELS])
    return pa.table({"row": pa.array(range(len(found))), "contribution": pa.array(found, kind)})


def written_out(row: dict[str, float | None] | None) -> list[tuple[str, float]] | None:
    """What the map of a row is, by ifs."""
    if row is None:
        return None
    there = sorted(name for name, part in row.items() if part is not None and not isnan(part))
    return [(name, float(np.float32(row[name]))) for name in there]


@settings(max_examples=60, deadline=None)
@given(found=rows, cut=st.integers(0, 20), low=st.integers(0, 5))
def test_maps_are_the_structs_without_what_is_not_there(found: list[Any], cut: int, low: int) -> None:
    whole = table_of(found)
    table = pa.concat_tables([whole.slice(0, cut), whole.slice(cut)]).slice(low)
    expected = [written_out(row) for row in found][low:]

    maps = contributions.as_map(table)
    assert maps["contribution"].to_pylist() == expected
    assert maps.schema.field("contribution").type == contributions.TYPE
    assert contributions.as_map(maps) is maps

    channels, values = contributions.matrix(maps["contribution"])
    assert list(channels) == sorted({name for row in expected for name, _ in row or ()})
    for row, line in zip(expected, values, strict=True):
        assert {name: part for name, part in zip(channels, line.tolist(), strict=True) if not isnan(part)} == dict(
            row or ()
        )


@settings(max_examples=20, deadline=None)
@given(found=rows)
def test_they_come_back_from_a_file(tmp_path_factory: pytest.TempPathFactory, found: list[Any]) -> None:
    path = tmp_path_factory.mktemp("map") / "x.parquet"
    table = contributions.as_map(table_of(found))
    score_log.write_file(table, path)

    assert pq.read_table(path).equals(table)


def test_many_rows_are_converted_in_pieces() -> None:
    n = 150_000
    kind = [pa.field(name, pa.float32()) for name in ("a", "b")]
    arrays = [pa.array(np.arange(n, dtype=np.float32)), pa.array(np.full(n, 2.0, np.float32))]
    table = pa.table({"contribution": pa.StructArray.from_arrays(arrays, fields=kind)})

    maps = contributions.as_map(table)["contribution"]
    assert maps.num_chunks > 1
    channels, values = contributions.matrix(maps)
    assert channels == ("a", "b")
    np.testing.assert_array_equal(values[:, 0], np.arange(n))


def test_a_model_without_channels_and_a_table_without_rows() -> None:
    empty = pa.table({"contribution": pa.array([{}, None], pa.struct([]))})
    assert contributions.as_map(empty)["contribution"].to_pylist() == [[], None]
    assert contributions.matrix(contributions.as_map(empty)["contribution"])[1].shape == (2, 0)
    assert contributions.as_map(table_of([])).num_rows == 0


def test_entries_of_a_null_row_do_not_count() -> None:
    offsets = pa.array([0, 1, 2], pa.int32())
    whole = pa.MapArray.from_arrays(offsets, pa.array(["a", "b"]), pa.array([1.0, 2.0], pa.float32()))
    masked = pa.Array.from_buffers(
        whole.type,
        2,
        [pa.py_buffer(b"\x02"), whole.buffers()[1]],
        children=[
            pa.StructArray.from_arrays([whole.keys, whole.items], fields=[whole.type.key_field, whole.type.item_field])
        ],
    )
    assert contributions.matrix(pa.chunked_array([masked]))[0] == ("b",)
