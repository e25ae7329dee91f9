"""The score log: parts appear whole, once, and others can read them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stream_ad.core.batches import Float64Array, Judged, Keys, ScoreBatch, VerdictBatch
from stream_ad.errors import ContractError, PartExistsError, ScoreLogError, StorageError
from stream_ad.io.durable import storage_errors
from stream_ad.io.score_log import log as score_log
from stream_ad.io.spans import Span, Spans
from stream_ad.io.transport import Partition
from stream_ad.io.wire import score_rows
from stream_ad.io.wire import scores as score_messages

T0 = 1_700_000_000_000_000_000
HOUR_NS = 3_600_000_000_000


def table(devices: list[int], first: int = 0, channels: tuple[str, ...] = ("flow", "temp")) -> pa.Table:
    n = len(devices)
    keys = Keys(
        device=np.array(devices, np.int32),
        end_ns=T0 + np.arange(first, first + n, dtype=np.int64) * 1_000_000_000,
        offset=np.arange(first, first + n, dtype=np.int64),
        sequence=np.arange(n, dtype=np.int64),
    )
    shares = np.full((n, len(channels)), 0.5, np.float32)
    score: Float64Array = np.arange(n) + np.float64(0.25)
    scores = ScoreBatch(keys, np.zeros(n, np.uint32), shares, score, shares, "model")
    batch = VerdictBatch(scores, scores.score, np.full(n, 9.0), np.zeros(n, np.bool_), np.zeros(n, np.int64))
    rows = score_rows.table([Judged.of(batch, [f"p{i}" for i in range(9)])], channels, 10**9, 0)
    (record,) = score_messages.encode(rows, Spans(Span(0, 5)), Partition("r", 0), "c")
    return score_messages.decode(record.value, record.headers).table


def write(
    folder: Path,
    start: int = 0,
    end: int = 4,
    partition: int = 0,
    log_ns: int = T0,
    tables: list[pa.Table] | None = None,
) -> Path:
    rows = [table([2, 1, 2, 0], first=start)] if tables is None else tables
    extra = {"config_digest": "abc"}
    return score_log.write_part(
        folder, partition, Span(start, end), rows, log_ns, "topic-1", Spans(Span(start * 10, end * 10)), extra
    )


def test_a_part_tells_what_it_holds(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "scores"
    path = write(folder, 4, 8, partition=3)

    assert path.relative_to(folder).as_posix() == (
        "log_date=2023-11-14/log_hour=22/part-3-00000000000000000004.parquet"
    )
    info = score_log.last_part(folder, 3)
    assert info == score_log.PartInfo(
        path=path,
        partition=3,
        span=Span(4, 8),
        spans=Spans(Span(40, 80)),
        generation=0,
        topic_id="topic-1",
        rows=4,
        is_first=False,
        first_log_ns=T0,
        holds=(),
        extra={"config_digest": "abc"},
    )
    assert score_log.last_part(folder, 0) is None
    assert list((folder / ".aside").iterdir()) == []


def test_rows_come_back_sorted_and_filtered(tmp_path: Path) -> None:
    write(tmp_path, 0, 4)
    write(tmp_path, 4, 8, log_ns=T0 + HOUR_NS)
    everything = score_log.read(tmp_path)
    assert everything["offset"].to_pylist() == list(range(8))
    assert everything.schema.field("end").type == pa.timestamp("us", "UTC")
    assert everything.schema.field("device").type == pa.string()
    assert set(everything.column_names) == set(score_rows.schema(["flow"]).names)

    assert score_log.read(tmp_path, device="p2")["offset"].to_pylist() == [0, 2, 4, 6]
    after, until = T0 + 1_000_000_000, T0 + 5_000_000_000
    assert score_log.read(tmp_path, start_ns=after, end_ns=until)["offset"].to_pylist() == [2, 3, 4, 5]
    assert score_log.read(tmp_path, device="nobody").num_rows == 0
    assert score_log.read(tmp_path / "missing").num_rows == 0


def test_a_part_is_sorted_by_device_and_end(tmp_path: Path) -> None:
    path = write(tmp_path, tables=[table([2, 1, 2]), table([1, 0], first=3)])
    rows = pq.read_table(pa.BufferReader(path.read_bytes()))
    assert rows["device"].to_pylist() == ["p0", "p1", "p1", "p2", "p2"]
    assert rows["offset"].to_pylist() == [4, 1, 3, 0, 2]


def test_parts_of_models_with_other_channels_are_read_together(tmp_path: Path) -> None:
    write(tmp_path, 0, 4)
    write(tmp_path, 4, 5, tables=[table([1], first=4, channels=("flow", "noise"))])
    found = score_log.read(tmp_path)["contribution"].to_pylist()
    assert found[0] == [("flow", 0.5), ("temp", 0.5)]
    assert found[-1] == [("flow", 0.5), ("noise", 0.5)]


def test_a_second_part_with_the_same_start_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path)
    before = path.read_bytes()
    with pytest.raises(PartExistsError, match="expected no part with this start"):
        write(tmp_path, end=2)
    assert path.read_bytes() == before
    assert list((tmp_path / ".aside").iterdir()) == []


@settings(max_examples=20, deadline=None)
@given(hours=st.lists(st.integers(0, 60), min_size=1, max_size=6), partition=st.integers(0, 1))
def test_the_last_part_is_the_highest_start_in_any_hour(
    tmp_path_factory: pytest.TempPathFactory, hours: list[int], partition: int
) -> None:
    folder = tmp_path_factory.mktemp("scores")
    rows = [table([1])]
    for number, hour in enumerate(hours):
        write(folder, number, number + 1, number % 2, T0 + hour * HOUR_NS, rows)
    mine = [number for number in range(len(hours)) if number % 2 == partition]
    last = score_log.last_part(folder, partition)
    assert (None if last is None else last.span.start) == (mine[-1] if mine else None)
    assert [part.span.start for part in score_log.parts(folder, partition)] == mine
    assert len(score_log.parts(folder)) == len(hours)


def test_duckdb_reads_it_without_us(tmp_path: Path) -> None:
    write(tmp_path, 0, 4)
    write(tmp_path, 4, 8, log_ns=T0 + 30 * HOUR_NS)
    (tmp_path / ".aside" / "part-0-9").write_bytes(b"half a file")
    query = f"""
        select log_date::text, log_hour::int, device, max(score), any_value(contribution['flow']), count(*)
        from read_parquet('{tmp_path}/**/*.parquet', hive_partitioning = true)
        where device = 'p2' and "end" >= timestamptz '2023-11-14 00:00:00Z' group by all order by all
    """
    with duckdb.connect() as connection:
        found = connection.execute(query).fetchall()
    assert found == [
        ("2023-11-14", 22, "p2", 2.25, 0.5, 2),
        ("2023-11-16", 4, "p2", 2.25, 0.5, 2),
    ]


def test_what_lies_aside_is_no_parquet_file_to_others(tmp_path: Path) -> None:
    """A part that exists already leaves its try aside at the moment of the link: look there from a hook."""
    write(tmp_path)
    seen: list[str] = []

    def look(event: str, _: tuple[object, ...]) -> None:
        if event == "os.link" and tmp_path.exists():
            seen.extend(path.name for path in (tmp_path / ".aside").iterdir())

    sys.addaudithook(look)
    write(tmp_path, 4, 8)
    assert len(seen) == 1
    assert not seen[0].endswith(".parquet")


def test_other_files_are_ignored_and_damaged_parts_are_told(tmp_path: Path) -> None:
    path = write(tmp_path)
    (path.parent / "notes.parquet").write_text("x")
    (tmp_path / "log_date=today").mkdir()
    assert len(score_log.parts(tmp_path)) == 1

    whole = path.read_bytes()
    renamed = path.with_name("part-0-00000000000000000007.parquet")
    renamed.write_bytes(whole)
    with pytest.raises(ScoreLogError, match="found: partition 0, start 0"):
        score_log.last_part(tmp_path, 0)
    renamed.unlink()
    elsewhere = path.parent.with_name("log_hour=23") / path.name
    elsewhere.parent.mkdir()
    path.rename(elsewhere)
    with pytest.raises(ScoreLogError, match="found: a part of log_date=2023-11-14/log_hour=22"):
        score_log.last_part(tmp_path, 0)
    elsewhere.rename(path)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ScoreLogError, match="expected a Parquet file"):
        score_log.last_part(tmp_path, 0)
    with pytest.raises(ScoreLogError, match="expected a Parquet file"):
        score_log.read(tmp_path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1), bit=st.integers(0, 7))
def test_a_flipped_bit_in_the_rows_is_told(tmp_path: Path, place: float, bit: int) -> None:
    path = next(tmp_path.rglob("part-*"), None) or write(tmp_path, tables=[table([1, 2, 3] * 50)])
    whole = path.read_bytes()
    pages = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")  # before the footer
    damaged = bytearray(whole)
    damaged[4 + int(place * (pages - 5))] ^= 1 << bit
    expected = score_log.read(tmp_path)
    path.write_bytes(damaged)
    try:
        assert score_log.read(tmp_path).equals(expected)  # statistics of a page, which nobody needs
    except StorageError:
        pass
    finally:
        path.write_bytes(whole)


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written: ") as caught:
        write(tmp_path / "file")
    assert "\n" not in str(caught.value)
    with pytest.raises(StorageError, match="cannot be written: "):
        write(Path("/proc/scores"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    # The same error from within Parquet's writer, whose file object is Python's.
    with (
        pytest.raises(StorageError, match="No space left"),
        storage_errors(tmp_path, "written"),
        Path("/dev/full").open("wb", buffering=0) as file,
    ):
        pq.write_table(table([1]), file)


def test_clean_aside_spares_the_young(tmp_path: Path) -> None:
    assert score_log.clean_aside(tmp_path, 10**19) == 0
    write(tmp_path)
    old, young = tmp_path / ".aside" / "old", tmp_path / ".aside" / "young"
    old.touch()
    young.touch()
    os.utime(old, ns=(1_000, 1_000))
    assert score_log.clean_aside(tmp_path, 2_000) == 1
    assert young.exists()
    assert not old.exists()


def test_a_part_needs_tables_of_scores(tmp_path: Path) -> None:
    with pytest.raises(ScoreLogError, match="at least one table"):
        write(tmp_path, tables=[])
    with pytest.raises(ScoreLogError, match="columns of a score message"):
        write(tmp_path, tables=[pa.table({"a": [1]})])


def test_a_part_has_a_span_of_the_topic_though_its_input_may_be_empty(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="expected a non-empty span of the scores topic, found 3-3"):
        write(tmp_path, 3, 3)
    path = score_log.write_part(
        tmp_path, 0, Span(3, 4), [table([1])], T0, "topic-1", Spans(Span(9, 9), Span(1, 2)), {}, generation=5
    )
    info = score_log.part_info(path)
    assert (info.spans, info.generation) == (Spans(Span(9, 9), Span(1, 2)), 5)
