"""The proof of the score log: what is whole passes, and whatever is done to a file is found where it was done."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from stream_ad.errors import ScoreLogError
from stream_ad.io.score_log import log as score_log
from stream_ad.io.score_log.parts import part_info
from stream_ad.proof.chains import DeviceChains, Rows
from stream_ad.proof.verification import Gap, verify
from tests.support.score_logs import Fleet, rewrite, varied, with_double, without


def first_gap(folder: Path) -> Gap:
    proof = verify(folder)
    assert proof.gaps, "nothing was found"
    return proof.gaps[0]


def test_a_whole_log_is_proven(tmp_path: Path) -> None:
    paths = varied(tmp_path, 0) + varied(tmp_path, 1)
    proof = verify(tmp_path)
    assert proof.gaps == ()
    assert [chain.partition for chain in proof.chains] == [0, 1]
    assert sum(chain.parts for chain in proof.chains) == len(paths)
    chain = proof.chains[0]
    infos = [part_info(path) for path in paths if part_info(path).partition == 0]
    assert (chain.rows, chain.parts) == (sum(info.rows for info in infos), len(infos))
    assert chain.last == infos[-1]
    assert chain.is_from_start
    assert chain.devices.lives > 0
    assert chain.devices.returns == 0


def test_progress_is_told(tmp_path: Path) -> None:
    varied(tmp_path)
    seen = []
    proof = verify(tmp_path, lambda progress: seen.append((progress.parts, progress.of_parts, progress.rows)))
    assert seen[-1] == (seen[-1][1], len(seen), proof.chains[0].rows)


def test_parts_that_are_linked_while_hours_are_listed_make_no_hole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = Fleet(tmp_path)
    fleet.part(["a"], hour=0)
    fleet.part(["a"], hour=1)
    list_hour, linked = score_log._files, 0

    def list_and_link(hour: Path) -> Iterator[tuple[int, int, Path]]:
        nonlocal linked
        found = list(list_hour(hour))
        if hour.name == "log_hour=01" and linked == 0:
            linked += 2
            fleet.part(["a"], hour=1)  # after its hour was listed,
            fleet.part(["a"], hour=2)  # and before this one
        yield from found

    hour_2 = fleet.part(["a"], hour=1).parent.parent / "log_hour=02"
    hour_2.mkdir()  # another partition has parts there
    monkeypatch.setattr(score_log, "_files", list_and_link)
    assert verify(tmp_path).gaps == ()
    assert linked == 2
    assert verify(tmp_path).chains[0].parts == 5


def test_nothing_is_no_proof(tmp_path: Path) -> None:
    with pytest.raises(ScoreLogError, match="expected parts, found none"):
        verify(tmp_path)


def remove(paths: list[Path]) -> None:
    paths[7].unlink()


def remove_the_first(paths: list[Path]) -> None:
    paths[0].unlink()


def cut(paths: list[Path]) -> None:
    paths[7].write_bytes(paths[7].read_bytes()[:-200])


def flip(paths: list[Path]) -> None:
    content = bytearray(paths[7].read_bytes())
    content[4:200] = bytes(196)
    paths[7].write_bytes(content)


def copy_under_a_part_name(paths: list[Path]) -> None:
    shutil.copy(paths[7], paths[7].with_name("part-0-00000000000000000999.parquet"))


def copy_under_another_name(paths: list[Path]) -> None:
    shutil.copy(paths[7], paths[7].with_name("backup.parquet"))


def copy_elsewhere(paths: list[Path]) -> None:
    (paths[7].parent / "old").mkdir()
    shutil.copy(paths[7], paths[7].parent / "old" / paths[7].name)


def copy_into_another_hour(paths: list[Path]) -> None:
    shutil.copy(paths[7], paths[0].parent / paths[7].name)


def take_a_row_out(paths: list[Path]) -> None:
    rewrite(paths[7], without(4))


def put_a_row_in_twice(paths: list[Path]) -> None:
    rewrite(paths[7], with_double(4))


def put_a_first_row_in_twice(paths: list[Path]) -> None:
    rewrite(paths[0], with_double(0))


def rows_without_the_footer(paths: list[Path]) -> None:
    rewrite(paths[7], without(4), {"rows": part_info(paths[7]).rows})


def swap_rows(paths: list[Path]) -> None:
    left, right = (pa.parquet.read_table(pa.BufferReader(path.read_bytes())) for path in (paths[8], paths[9]))
    rewrite(paths[8], lambda table: pa.concat_tables([right.slice(0, 1).cast(table.schema), table.slice(1)]))
    rewrite(paths[9], lambda table: pa.concat_tables([left.slice(0, 1).cast(table.schema), table.slice(1)]))


def another_partition(paths: list[Path]) -> None:
    def change(table: pa.Table) -> pa.Table:
        at = table.column_names.index("partition")
        return table.set_column(at, "partition", pa.array(np.full(table.num_rows, 5, np.int32)))

    rewrite(paths[7], change)


def another_model(paths: list[Path]) -> None:
    rewrite(paths[7], footer={"model_ids": "other"})


def a_scores_span(paths: list[Path]) -> None:
    rewrite(paths[7], footer={"end": part_info(paths[7]).span.end + 1})


def an_input_span(paths: list[Path]) -> None:
    rewrite(paths[7], footer={"input_end": part_info(paths[7]).spans.input.end + 1})


def a_journal_span(paths: list[Path]) -> None:
    rewrite(paths[7], footer={"journal_end": part_info(paths[7]).spans.journal.end + 1})


def a_generation(paths: list[Path]) -> None:
    rewrite(paths[7], footer={"generation": 9})


def a_topic(paths: list[Path]) -> None:
    rewrite(paths[7], footer={"topic_id": "other"})


def a_beginning(paths: list[Path]) -> None:
    rewrite(paths[7], footer={"is_first": 1})


DAMAGES: list[tuple[Callable[[list[Path]], None], int | None, str]] = [
    (remove, 8, "a gap in the scores offsets: expected a start at 7, found 8"),
    (remove_the_first, 1, "the first file: expected one written when there was no other"),
    (cut, 7, "cannot be read as a part"),
    (flip, 7, "cannot be read as a part"),
    (copy_under_a_part_name, None, "part-0-00000000000000000999.parquet: cannot be read as a part"),
    (copy_under_another_name, None, "backup.parquet: not a part"),
    (copy_elsewhere, None, "not a part"),
    (copy_into_another_hour, None, "found a part of log_date=2026-01-01/log_hour=01"),
    (take_a_row_out, 7, "a window is missing"),
    (put_a_row_in_twice, 7, "a window twice"),
    (put_a_first_row_in_twice, 0, "a window twice"),
    (rows_without_the_footer, 7, "rows, not"),
    (swap_rows, 8, "the input offset of a row"),
    (another_partition, 7, "the partition of a row: expected 0, found 5"),
    (another_model, 7, "the models of the rows: expected other"),
    (a_scores_span, 8, "an overlap of the scores offsets"),
    (an_input_span, 8, "an overlap of the input offsets"),
    (a_journal_span, 8, "an overlap of the journal entries"),
    (a_generation, 8, "the generation: expected at least 9"),
    (a_topic, 7, "the scores topic: expected topic-1, found other"),
    (a_beginning, 7, "the files start again"),
]


@pytest.mark.parametrize(("damage", "at", "text"), DAMAGES, ids=lambda value: getattr(value, "__name__", ""))
def test_damage_is_found_where_it_was_done(
    tmp_path: Path, damage: Callable[[list[Path]], None], at: int | None, text: str
) -> None:
    paths = varied(tmp_path)
    damage(paths)
    gap = first_gap(tmp_path)
    assert text in str(gap).replace("found: ", "found ")
    if at is not None:
        assert gap.file == paths[at].relative_to(tmp_path).as_posix()


def test_the_first_gap_of_each_partition_is_named(tmp_path: Path) -> None:
    left, right = varied(tmp_path, 0), varied(tmp_path, 3)
    left[4].unlink()
    left[9].unlink()
    right[2].unlink()
    gaps = verify(tmp_path).gaps
    assert [(gap.partition, gap.file.rsplit("/")[-1]) for gap in gaps] == [(0, left[5].name), (3, right[3].name)]


def test_a_row_of_a_journal_entry_bears_the_offset_before_the_span(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    fleet.part([], rows_of_journal=["a"])  # before any record: offset -1
    fleet.part(["a", "b"])
    alone = fleet.part([], rows_of_journal=["a", "b"])
    assert part_info(alone).spans.input.is_empty
    assert verify(tmp_path).gaps == ()
    rewrite(alone, footer={"journal_start": 2, "journal_end": 2})
    assert first_gap(tmp_path).what == "a gap in the journal entries"


def test_an_offset_before_the_span_needs_a_journal_entry(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    fleet.part(["a", "b"])
    path = fleet.part(["a", "b"])

    def change(table: pa.Table) -> pa.Table:
        offsets = np.asarray(table["offset"]).copy()
        offsets[0] = part_info(path).spans.input.start - 1
        return table.set_column(table.column_names.index("offset"), "offset", pa.array(offsets))

    assert verify(tmp_path).gaps == ()
    rewrite(path, change)
    gap = first_gap(tmp_path)
    assert (gap.what, gap.device, gap.expected, gap.found) == ("the input offset of a row", "a", "3 to 5", "2")


def test_a_device_that_goes_back_in_time_is_told_and_no_gap(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    fleet.part(["a", "b"] * 5)
    fleet.evict("a", back_s=3)
    fleet.part(["a", "b"] * 2)
    proof = verify(tmp_path)
    assert proof.gaps == ()
    assert (proof.chains[0].devices.returns, proof.chains[0].devices.returned) == (1, "a")


@pytest.mark.parametrize("back_s", [0, 3])
def test_windows_judged_again_after_a_start_over_are_counted(tmp_path: Path, back_s: int) -> None:
    fleet = Fleet(tmp_path)
    fleet.part(["a", "b"] * 5)
    fleet.evict("a", back_s)
    fleet.part(["a", "b"] * 5, restart=True)
    fleet.part(["a", "b"] * 5)
    proof = verify(tmp_path)
    assert proof.gaps == ()
    devices = proof.chains[0].devices
    assert (devices.returns, devices.again, devices.judged_again) == (0, back_s, "a" if back_s else "")


@pytest.mark.parametrize("begin", [0, 5])
def test_what_an_archive_that_begins_later_covers(tmp_path: Path, begin: int) -> None:
    fleet = Fleet(tmp_path)
    for _ in range(begin):
        fleet.table(["a"])
    fleet.part(["a", "b"])
    fleet.part(["a", "b"])
    proof = verify(tmp_path)
    assert proof.gaps == ()
    assert proof.chains[0].is_from_start == (begin == 0)


def test_from_the_start_each_device_begins_at_0(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    fleet.part(["a"])
    path = fleet.part(["a", "b", "b"])
    rewrite(path, without(1))
    gap = first_gap(tmp_path)
    assert (gap.device, gap.what, gap.expected) == ("b", "a window is missing", "sequence 0")


# -- the vectorised comparison against a naive one ---------------------------------------------------


def naive(parts: list[list[tuple[int, int, int, int]]]) -> bool:
    """Return whether rows (device, offset, end, sequence), in the order of their making, follow on each other."""
    last: dict[int, tuple[int, int, int]] = {}
    for device, offset, end, sequence in (row for part in parts for row in part):
        before, end_before, offset_before = last.get(device, (-1, -(10**9), -(10**9)))
        goes_on = sequence == before + 1 and end > end_before
        begins = sequence == 0 and (offset, end) != (offset_before, end_before)
        if not (goes_on or begins):
            return False
        last[device] = (sequence, end, offset)
    return True


@st.composite
def lives(draw: st.DrawFn) -> list[list[tuple[int, int, int, int]]]:
    """Parts of rows as a scorer makes them: lives of devices, some of which go back in time at one record."""
    state: dict[int, tuple[int, int]] = {}
    begun: dict[int, int] = {}
    offset, parts = 0, []
    for _ in range(draw(st.integers(1, 4))):
        part = []
        for _ in range(draw(st.integers(0, 12))):
            device = draw(st.integers(0, 2))
            step = draw(st.sampled_from(["next", "next", "next", "same record", "new life", "new life, same record"]))
            if "same record" not in step or begun.get(device) == offset:
                offset += 1
            sequence, end = state.get(device, (-1, 100))
            begun.setdefault(device, offset)
            if "new life" in step and sequence > 0 and begun[device] < offset:
                begun[device] = offset
                sequence, end = -1, end - draw(st.integers(0, 6))
            state[device] = (sequence + 1, end + draw(st.integers(1, 3)))
            part.append((device, offset, state[device][1], state[device][0]))
        offset += 1  # spans are disjoint
        parts.append(part)
    return parts


def chained(parts: list[list[tuple[int, int, int, int]]]) -> bool:
    chains = DeviceChains()
    for part in parts:
        rows = sorted(part, key=lambda row: (row[0], row[2]))  # as in a file
        device, offset, end, sequence = (
            (np.array(column, np.int64) for column in zip(*rows, strict=True))
            if rows
            else (np.empty(0, np.int64) for _ in range(4))
        )
        zeros = np.zeros(len(rows), np.int64)
        fault = chains.add(
            Rows(["a", "b", "c"], device, end, zeros, sequence, zeros, offset, frozenset()), 0, is_whole=True
        )
        if fault is not None:
            return False
    return True


@settings(max_examples=60, deadline=None)
@given(parts=lives())
def test_what_a_scorer_makes_is_sound(parts: list[list[tuple[int, int, int, int]]]) -> None:
    assume(naive(parts))
    assert chained(parts)


@settings(max_examples=60, deadline=None)
@given(parts=lives(), data=st.data())
def test_a_missing_or_doubled_row_is_found(parts: list[list[tuple[int, int, int, int]]], data: st.DataObject) -> None:
    rows = [(i, k) for i, part in enumerate(parts) for k in range(len(part))]
    assume(rows and naive(parts))
    i, k = data.draw(st.sampled_from(rows))
    row = parts[i][k]
    later = [r for part in parts[i:] for r in part if r[0] == row[0] and r[1] > row[1]]
    doubled = [[*part, row] if at == i else part for at, part in enumerate(parts)]
    assert not chained(doubled)
    if later and later[0][3] == row[3] + 1:  # what ends a life leaves no trace in what follows
        assert not chained([[r for r in part if r != row] for part in parts])


def test_memory_is_by_device_not_by_row() -> None:
    chains = DeviceChains()
    ids = [f"d{k}" for k in range(100)]
    device, zeros = np.arange(100), np.zeros(100, np.int64)
    for number in range(50):
        same = np.full(100, number)
        assert chains.add(Rows(ids, device, same, zeros, same, zeros, same, frozenset()), 0, True) is None
    assert len(chains.sequence) <= 150
