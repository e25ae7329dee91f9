"""What a commit on the embedded log says of itself is true, whatever SQLite answers and wherever it fails."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from stream_ad.errors import StreamAdError
from stream_ad.io.local.log import LocalLog
from stream_ad.io.local.members import LocalCommitter
from stream_ad.io.transport import Commit, Partition, Position, Record

IN = Partition("in", 0)
OUTPUTS = (Partition("scores", 0), Partition("scores", 1), Partition("alerts", 0))


class Keeper:
    """An owner that starts where the group stands."""

    def gained(self, position: Position | None, partition: Partition) -> int | None:
        return None

    def leaving(self, partition: Partition) -> None: ...

    def lost(self, partition: Partition) -> None: ...


class Failing:
    """A connection that fails in one statement, before or after SQLite has done it.

    Nothing here can make a real disk fail in a sync: this answers in SQLite's words.
    """

    def __init__(self, connection: sqlite3.Connection, statement: str, result: int, after: bool) -> None:
        self._connection, self._statement = connection, statement
        self._result, self._after = result, after
        self._is_writing = False
        self.hits = 0

    def execute(self, text: str, *arguments: Any) -> Any:
        return self._perhaps(text, lambda: self._connection.execute(text, *arguments))

    def executemany(self, text: str, *arguments: Any) -> Any:
        return self._perhaps(text, lambda: self._connection.executemany(text, *arguments))

    def cursor(self) -> Any:
        return _FailingCursor(self, self._connection.cursor())

    def _perhaps(self, text: str, do: Any) -> Any:
        self._is_writing = self._is_writing or text == "BEGIN IMMEDIATE"
        if self.hits or not self._is_writing or not text.startswith(self._statement):
            return do()
        self.hits += 1
        if self._after:
            do()
        error = sqlite3.OperationalError("injected")
        error.sqlite_errorcode = self._result
        raise error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


class _FailingCursor:
    def __init__(self, owner: Failing, cursor: sqlite3.Cursor) -> None:
        self._owner, self._cursor = owner, cursor

    def execute(self, text: str, *arguments: Any) -> Any:
        return self._owner._perhaps(text, lambda: self._cursor.execute(text, *arguments))

    def executemany(self, text: str, *arguments: Any) -> Any:
        return self._owner._perhaps(text, lambda: self._cursor.executemany(text, *arguments))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cursor, name)


@dataclass(frozen=True)
class Case:
    """A statement of the commit that fails.

    Attributes:
        statement: how it begins.
        result: SQLite's code.
        after: SQLite has done it all the same.
        says: the outcome, or the error's class.
        is_public: what is true afterwards.
    """

    statement: str
    result: int
    says: str
    after: bool = False
    is_public: bool = False


CASES = {
    "the lock is held": Case("BEGIN IMMEDIATE", sqlite3.SQLITE_BUSY, "REJECTED"),
    "another connection has the table": Case("BEGIN IMMEDIATE", sqlite3.SQLITE_LOCKED, "REJECTED"),
    "the file cannot be written": Case("BEGIN IMMEDIATE", sqlite3.SQLITE_READONLY, "UnreachableError"),
    "the file is gone": Case("BEGIN IMMEDIATE", sqlite3.SQLITE_CANTOPEN, "UnreachableError"),
    "the disk fails at the beginning": Case("BEGIN IMMEDIATE", sqlite3.SQLITE_IOERR, "UnreachableError"),
    "the disk is full at a record": Case("INSERT INTO records", sqlite3.SQLITE_FULL, "UnreachableError"),
    "the disk is full behind the records": Case(
        "INSERT INTO records", sqlite3.SQLITE_FULL, "UnreachableError", after=True
    ),
    "the disk fails at a record": Case("INSERT INTO records", sqlite3.SQLITE_IOERR, "UnreachableError"),
    "the disk is full at the position": Case(
        "INSERT OR REPLACE INTO positions", sqlite3.SQLITE_FULL, "UnreachableError"
    ),
    "the file is damaged at the position": Case(
        "INSERT OR REPLACE INTO positions", sqlite3.SQLITE_CORRUPT, "UnreachableError"
    ),
    "the disk fails behind the position": Case(
        "INSERT OR REPLACE INTO positions", sqlite3.SQLITE_IOERR, "UnreachableError", after=True
    ),
    "COMMIT finds the lock held": Case("COMMIT", sqlite3.SQLITE_BUSY, "REJECTED"),
    "COMMIT finds the disk full": Case("COMMIT", sqlite3.SQLITE_FULL, "UnreachableError"),
    "COMMIT cannot write": Case("COMMIT", sqlite3.SQLITE_IOERR, "UNKNOWN"),
    "COMMIT has written and cannot sync": Case("COMMIT", sqlite3.SQLITE_IOERR, "UNKNOWN", after=True, is_public=True),
    "COMMIT has written and failed strangely": Case(
        "COMMIT", sqlite3.SQLITE_INTERNAL, "UNKNOWN", after=True, is_public=True
    ),
}


@pytest.fixture
def log(tmp_path: Path) -> Iterator[LocalLog]:
    log = LocalLog(tmp_path / "log.sqlite", timeout_s=0.2)
    log.ensure_topic("in", 1)
    log.ensure_topic("scores", 2)
    log.ensure_topic("alerts", 1)
    log.append("in", [Record(b"input")] * 10)
    yield log
    log.close()


def opened(log: LocalLog) -> LocalCommitter:
    source = log.join("in", "g", Keeper(), "a-0")
    source.poll(1, 0)
    return log.committer(source, "a-0")


def commit(committer: LocalCommitter, offset: int, size: int = 0) -> str:
    """Commit a record in each output and a position; return the outcome or the error's class."""
    records: dict[str, list[Record]] = {}
    for output in OUTPUTS:
        records.setdefault(output.topic, []).append(Record(b"%d " % offset + os.urandom(size), partition=output.number))
    try:
        return committer.commit(Commit(records, {IN: (offset, f"at {offset}")})).name
    except StreamAdError as error:
        return type(error).__name__


def public(log: LocalLog, offset: int) -> bool:
    """Return whether a commit is public; check that it is in all of its parts, once, or in none."""
    found = [
        sum(value.startswith(b"%d " % offset) for raw in log.read(p, *log.bounds(p)) for value in raw.values)
        for p in OUTPUTS
    ]
    position = log.committed("g", IN)
    reached = 0 if position is None else position.offset
    assert found in ([1, 1, 1], [0, 0, 0])
    assert (found == [1, 1, 1]) == (reached >= offset)
    assert position is None or position.metadata == f"at {reached}"
    return reached >= offset


def after_a_power_cut(log: LocalLog, offset: int) -> bool:
    """Return whether a commit is public for those who open the files as they lie there, without shared memory."""
    folder = log.path.parent / "after"
    folder.mkdir()
    for suffix in ("", "-wal"):
        shutil.copy(f"{log.path}{suffix}", folder)
    found = LocalLog(folder / log.path.name)
    try:
        return public(found, offset)
    finally:
        found.close()


@pytest.mark.parametrize("name", CASES)
def test_a_commit_tells_the_truth(log: LocalLog, name: str) -> None:
    case = CASES[name]
    committer = opened(log)
    assert commit(committer, 1) == "LANDED"
    connection = committer._file._connection
    failing = Failing(connection, case.statement, case.result, case.after)
    committer._file._connection = failing  # type: ignore[assignment]
    word = commit(committer, 2)
    committer._file._connection = connection
    assert failing.hits == 1
    assert word == case.says
    untouched = LocalLog(log.path)
    assert public(untouched, 1)
    assert public(untouched, 2) is case.is_public
    assert after_a_power_cut(log, 2) is case.is_public
    # A scorer ends where it does not know; where nothing was published, the same committer goes on.
    successor = opened(log) if word == "UNKNOWN" else committer
    assert public(untouched, 2) is case.is_public
    assert commit(successor, 3) == "LANDED"
    assert public(untouched, 3)
    found = [value for raw in untouched.read(OUTPUTS[0], *untouched.bounds(OUTPUTS[0])) for value in raw.values]
    assert [int(value.split()[0]) for value in found] == ([1, 2, 3] if case.is_public else [1, 3])
    untouched.close()


@pytest.mark.process
def test_a_commit_on_a_disk_that_runs_full_is_whole_or_not_there(tmp_path: Path) -> None:
    """A real one: where exactly SQLite notices is its affair."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this machine does not let us mount a small disk")
    try:
        log = LocalLog(disk / "log.sqlite")
        for topic, partitions in (("in", 1), ("scores", 2), ("alerts", 1)):
            log.ensure_topic(topic, partitions)
        log.append("in", [Record(b"input")] * 100)
        committer = opened(log)
        said = {offset: commit(committer, offset, size=4_000) for offset in range(1, 60)}
        assert set(said.values()) == {"LANDED", "UnreachableError"}
        whole = [offset for offset, word in said.items() if word == "LANDED"]
        values = [value for raw in log.read(OUTPUTS[0], *log.bounds(OUTPUTS[0])) for value in raw.values]
        assert [int(value.split(b" ")[0]) for value in values] == whole
        subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
        assert commit(opened(log), 100) == "LANDED"
        assert public(log, 100)
        log.close()
        again = LocalLog(disk / "log.sqlite")  # what the write-ahead log holds comes to light here, if anything
        values = [value for raw in again.read(OUTPUTS[0], *again.bounds(OUTPUTS[0])) for value in raw.values]
        assert [int(value.split(b" ")[0]) for value in values] == [*whole, 100]
        again.close()
    finally:
        subprocess.run(["umount", "-l", str(disk)], capture_output=True, check=False)
