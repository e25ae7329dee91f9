"""Entries of the journal: what is written is read, and what cannot be one is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from stream_ad.errors import JournalError
from stream_ad.io.local.log import LocalLog
from stream_ad.io.state import journal
from stream_ad.io.state.journal import CloseEntry, Entry, StartEntry, SwapEntry
from stream_ad.io.transport import Partition, Record

START = StartEntry(
    kind="start",
    number=0,
    offset=0,
    read_from=0,
    why="first start",
    fingerprint="f",
    config={"time": {"lateness_s": 5.0}},
    bundle="b",
    model_id="m",
    control=0,
)
CLOSE = CloseEntry(number=1, offset=10, log_ns=1_767_225_600_000_000_001)
SWAP = SwapEntry(number=2, offset=10, bundle="c", model_id="n", configured="m", control=3)
LOST = START.model_copy(update={"kind": "restart", "number": 3, "offset": 40, "read_from": 40, "lost": (12, 40)})


@pytest.mark.parametrize("entry", [START, CLOSE, SWAP, LOST], ids=lambda entry: entry.kind)
def test_an_entry_comes_back(entry: Entry) -> None:
    assert journal.decode(journal.encode(entry, 3).value) == entry
    assert journal.encode(entry, 3).partition == 3


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"null",
        b"{}",
        b'{"kind":"close","number":0,"offset":0}',
        b'{"kind":"close","number":-1,"offset":0,"log_ns":0}',
        b'{"kind":"close","number":0,"offset":0,"log_ns":"soon"}',
        b'{"kind":"pause","number":0,"offset":0}',
        b'{"v":2,"kind":"close","number":0,"offset":0,"log_ns":0}',
    ],
)
def test_what_is_no_entry_is_refused(value: bytes) -> None:
    with pytest.raises(JournalError, match="journal entry"):
        journal.decode(value)


def opened(tmp_path: Path, *entries: Entry) -> LocalLog:
    log = LocalLog(tmp_path / "log.sqlite")
    log.ensure_topic("j", 2, journal.KEEP_FOR_EVER)
    log.append("j", [journal.encode(entry, 1) for entry in entries])
    return log


def test_a_partition_is_read_in_order_and_from_an_offset(tmp_path: Path) -> None:
    log = opened(tmp_path, START, CLOSE, SWAP, LOST)
    assert list(journal.read(log, Partition("j", 1))) == [START, CLOSE, SWAP, LOST]
    assert list(journal.read(log, Partition("j", 1), 2)) == [SWAP, LOST]
    assert list(journal.read(log, Partition("j", 0))) == []
    log.close()


@pytest.mark.parametrize(
    "entries",
    [(START, SWAP), (START, CLOSE, CLOSE), (START, CLOSE, SWAP.model_copy(update={"offset": 9}))],
    ids=["missing", "repeated", "backwards"],
)
def test_a_hole_a_repeat_and_a_step_back_are_refused(tmp_path: Path, entries: tuple[Entry, ...]) -> None:
    log = opened(tmp_path, *entries)
    with pytest.raises(JournalError, match="expected entry"):
        list(journal.read(log, Partition("j", 1)))
    log.close()


def test_a_strange_record_is_named_with_its_place(tmp_path: Path) -> None:
    log = opened(tmp_path, START)
    log.append("j", [Record(b"rubbish", partition=1)])
    with pytest.raises(JournalError, match=r"j\[1\] offset 1"):
        list(journal.read(log, Partition("j", 1)))
    log.close()
