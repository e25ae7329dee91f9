"""Checkpoints: whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stream_ad.core.batches import Arrays
from stream_ad.errors import CheckpointError, ContractError, StorageError
from stream_ad.io.state import checkpoints

ARRAYS: Arrays = {
    "ring": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "none": np.zeros((0, 7), np.int64),
    "is_open": np.array([True, False, True]),
    "count": np.array(7, np.uint16),
}


def write(folder: Path, offset: int = 5, stream: str = "pumps", partition: int = 2) -> str:
    return checkpoints.write(folder, stream, partition, "id-1", offset, ARRAYS, {"code": "1.0", "rows": 3})


def same(left: Arrays, right: Arrays) -> bool:
    return left.keys() == right.keys() and all(
        left[k].dtype == right[k].dtype and left[k].shape == right[k].shape and left[k].tobytes() == right[k].tobytes()
        for k in left
    )


def test_a_checkpoint_comes_back_writable(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    loaded = checkpoints.load(folder, write(folder))

    assert same(loaded.arrays, ARRAYS)
    assert all(array.flags.writeable and array.flags.aligned for array in loaded.arrays.values())
    assert (loaded.stream, loaded.partition, loaded.topic_id, loaded.offset) == ("pumps", 2, "id-1", 5)
    assert loaded.meta == {"code": "1.0", "rows": 3}
    assert [path.suffix for path in folder.iterdir()] == [".ckpt"]


@settings(max_examples=40)
@given(
    arrays=st.dictionaries(
        st.text(max_size=5),
        hnp.arrays(
            st.sampled_from(["?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8"]),
            hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
        ),
        max_size=4,
    )
)
def test_all_dtypes_and_shapes_round_trip(tmp_path_factory: pytest.TempPathFactory, arrays: Arrays) -> None:
    folder = tmp_path_factory.mktemp("checkpoints")
    name = checkpoints.write(folder, "s", 0, "t", 0, arrays, {})
    assert same(checkpoints.load(folder, name).arrays, arrays)


def test_strided_arrays_are_written_as_they_look(tmp_path: Path) -> None:
    array = np.arange(12.0).reshape(3, 4).T[::2]
    name = checkpoints.write(tmp_path, "s", 0, "t", 0, {"a": array}, {})
    assert checkpoints.load(tmp_path, name).arrays["a"].tolist() == array.tolist()


def test_a_cut_or_changed_file_is_never_loaded(tmp_path: Path) -> None:
    path = tmp_path / write(tmp_path)
    whole = path.read_bytes()
    for cut in range(0, len(whole), 7):
        path.write_bytes(whole[:cut])
        with pytest.raises(CheckpointError, match="expected"):
            checkpoints.load(tmp_path, path.name)
    for place in range(0, len(whole), 5):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(CheckpointError, match="expected"):
            checkpoints.load(tmp_path, path.name)


def test_content_under_another_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / write(tmp_path, offset=5)
    path.rename(tmp_path / path.name.replace("5.", "6.", 1))
    with pytest.raises(CheckpointError, match="does not match the file name"):
        checkpoints.load(tmp_path, path.name.replace("5.", "6.", 1))


@pytest.mark.parametrize("name", ["", "../x", "pumps.0.1.ckpt", "pumps.0.00000000000000000001.0123456789abcdef.ckpt"])
def test_other_names_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError):
        checkpoints.load(tmp_path, name)


def test_only_numbers_can_be_written(tmp_path: Path) -> None:
    for array in (np.array(["a"]), np.array([{}], object), np.array([1], ">i4"), np.array([0], "M8[ns]")):
        with pytest.raises(ContractError, match="expected bool"):
            checkpoints.write(tmp_path, "s", 0, "t", 0, {"a": array}, {})
    with pytest.raises(ContractError, match="expected a valid stream"):
        checkpoints.write(tmp_path, "../s", 0, "t", 0, {}, {})
    assert list(tmp_path.iterdir()) == []


def test_newest_is_the_highest_offset_of_the_partition(tmp_path: Path) -> None:
    assert checkpoints.names(tmp_path / "missing", "pumps", 2) == []
    low, high = write(tmp_path, 9), write(tmp_path, 100)
    write(tmp_path, 200, partition=3)
    write(tmp_path, 200, stream="pumps-b")
    (tmp_path / ".pumps.2.00000000000000000300.0123456789abcdef.ckpt").write_bytes(b"half")
    assert checkpoints.names(tmp_path, "pumps", 2) == [high, low]
    assert checkpoints.names(tmp_path, "pumps", 2)[0] == high


def test_prune_keeps_what_commits_name_and_the_newest(tmp_path: Path) -> None:
    written = [write(tmp_path, offset) for offset in range(5)]
    other = write(tmp_path, 1, partition=3)
    half = tmp_path / ".pumps.2.00000000000000000000.0123456789abcdef.ckpt"
    half.write_bytes(b"half")
    os.utime(half, ns=(1, 1))
    fresh = tmp_path / ".pumps.2.00000000000000000009.0123456789abcdef.ckpt"
    fresh.write_bytes(b"half")

    gone = checkpoints.prune(tmp_path, "pumps", 2, keep={written[1]}, count=2)
    assert sorted(gone) == sorted([written[0], written[2], half.name])
    assert {path.name for path in tmp_path.iterdir()} == {written[1], written[3], written[4], other, fresh.name}


def test_prune_keeps_the_first_of_each_hour_for_audits(tmp_path: Path) -> None:
    """Of the older ones; of these the youngest hours."""
    minutes = [0, 20, 40, 60, 80, 120, 140, 200, 210, 220]
    written = [write(tmp_path, offset) for offset in range(len(minutes))]
    for name, minute in zip(written, minutes, strict=True):
        os.utime(tmp_path / name, ns=(0, (1_000 * 3_600 + minute * 60) * 10**9))

    checkpoints.prune(tmp_path, "pumps", 2, keep={written[-1]}, count=2, sparse_every_s=3_600.0, sparse_count=3)
    left = {minutes[written.index(path.name)] for path in tmp_path.iterdir()}
    assert left == {210, 220} | {200, 120, 60}
    checkpoints.prune(tmp_path, "pumps", 2, keep={written[-1]}, count=1, sparse_every_s=3_600.0, sparse_count=0)
    assert [path.name for path in tmp_path.iterdir()] == [written[-1]]


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written: ") as caught:
        write(tmp_path / "file" / "below")
    assert "\n" not in str(caught.value)
