"""The SQLite file of the embedded log: its tables, transactions and errors.

The only module that imports `sqlite3`. Nothing else in the process may open and close the file: when a process closes
any descriptor of a file, POSIX drops all its locks on it. A connection does not survive `fork`.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeAlias

from stream_ad.errors import ContractError, RecordTooLargeError, TransportError, UnreachableError

Cursor: TypeAlias = sqlite3.Cursor

APPLICATION_ID = 0x53414C31  # "SAL1": detects another program's database
SCHEMA_VERSION = 1
PAGE_BYTES = 8_192  # two 3.4 kB series per page; larger pages make small commits more expensive
OFFSET_BITS = 44  # rowid of a record = pid << 44 | offset: a partition is one contiguous range of the table

SCHEMA = """
CREATE TABLE topics (
    key INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, id TEXT NOT NULL,
    append_time INTEGER NOT NULL, max_bytes INTEGER NOT NULL, retention_ns INTEGER, settings TEXT NOT NULL);
CREATE TABLE partitions (
    pid INTEGER PRIMARY KEY AUTOINCREMENT, topic INTEGER NOT NULL, number INTEGER NOT NULL,
    earliest INTEGER NOT NULL, next INTEGER NOT NULL, last_ns INTEGER NOT NULL, UNIQUE (topic, number));
CREATE TABLE records (at INTEGER PRIMARY KEY, log_ns INTEGER NOT NULL, key BLOB, value BLOB NOT NULL, headers BLOB);
CREATE TABLE positions (
    team TEXT NOT NULL, pid INTEGER NOT NULL, next INTEGER NOT NULL, metadata TEXT NOT NULL,
    PRIMARY KEY (team, pid)) WITHOUT ROWID;
CREATE TABLE generations (
    team TEXT NOT NULL, topic INTEGER NOT NULL, generation INTEGER NOT NULL, PRIMARY KEY (team, topic)) WITHOUT ROWID;
CREATE TABLE members (
    team TEXT NOT NULL, topic INTEGER NOT NULL, name TEXT NOT NULL, incarnation TEXT NOT NULL,
    renewed_ns INTEGER NOT NULL, lease_ns INTEGER NOT NULL, PRIMARY KEY (team, topic, name)) WITHOUT ROWID;
CREATE TABLE holdings (
    team TEXT NOT NULL, pid INTEGER NOT NULL, topic INTEGER NOT NULL, number INTEGER NOT NULL,
    target TEXT, holder TEXT, PRIMARY KEY (team, pid)) WITHOUT ROWID;
CREATE TABLE committers (
    team TEXT NOT NULL, name TEXT NOT NULL, epoch INTEGER NOT NULL, PRIMARY KEY (team, name)) WITHOUT ROWID;
"""

CLASSES: dict[type[sqlite3.Error], type[TransportError]] = {
    sqlite3.Error: TransportError,
    sqlite3.DatabaseError: UnreachableError,
    sqlite3.OperationalError: UnreachableError,
    sqlite3.DataError: RecordTooLargeError,
    sqlite3.IntegrityError: TransportError,
    sqlite3.InternalError: UnreachableError,
    sqlite3.InterfaceError: TransportError,
    sqlite3.ProgrammingError: TransportError,
    sqlite3.NotSupportedError: TransportError,
}

TEXTS = {
    sqlite3.SQLITE_BUSY: "another process has held the log's lock for too long",
    sqlite3.SQLITE_LOCKED: "another connection has held the log's lock for too long",
    sqlite3.SQLITE_READONLY: "the file or its folder is not writable",
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_CANTOPEN: "the file cannot be opened or created",
    sqlite3.SQLITE_NOTADB: "not a SQLite file",
    sqlite3.SQLITE_CORRUPT: "the file is damaged",
    sqlite3.SQLITE_IOERR: "the disk failed to read or write",
    sqlite3.SQLITE_PERM: "no permission",
    sqlite3.SQLITE_TOOBIG: "a record is larger than SQLite can hold",
}

UNDONE = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY})
"""Errors of COMMIT after which the WAL cannot contain the commit."""


class LogBusyError(UnreachableError):
    """Another process held the lock past the deadline; nothing was written."""


class CommitInDoubtError(UnreachableError):
    """COMMIT failed: the transaction may take effect when the file is next opened."""


def primary_code(error: sqlite3.Error) -> int | None:
    """Return SQLite's primary result code of an error, None if Python's module raised it."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def translate(error: sqlite3.Error, path: Path) -> TransportError:
    """Return the package's error for an SQLite error, with a one-line message."""
    code = primary_code(error)
    text = str(error) if code is None else TEXTS.get(code, str(error))
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return LogBusyError(f"{path}: {text}")
    kind = next(CLASSES[base] for base in type(error).__mro__ if base in CLASSES)
    return kind(f"{path}: {text} ({type(error).__name__}: {error})" if text != str(error) else f"{path}: {text}")


class LogFile:
    """One connection to the file, usable from any thread, one transaction at a time.

    Args:
        path: the file; created with its folder if missing.
        timeout_s: how long to wait for another process's write lock.
        durable: whether a finished transaction survives a power cut (`synchronous=FULL`, one sync per transaction).
            Otherwise the last ones may be undone together, but never in part.

    Raises:
        UnreachableError: it cannot be opened or created, or is not a log of this package.
    """

    def __init__(self, path: Path, timeout_s: float, durable: bool) -> None:
        self.path = path
        self._lock = threading.RLock()
        self._open = False
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UnreachableError(f"{path}: its folder cannot be created: {error.strerror}") from error
        connection: sqlite3.Connection | None = None
        try:
            connection = sqlite3.connect(path, timeout=timeout_s, isolation_level=None, check_same_thread=False)
            self._connection = connection
            self._claim(timeout_s)
            for pragma in (
                f"synchronous = {'FULL' if durable else 'NORMAL'}",
                "secure_delete = OFF",  # some builds zero deleted data, which doubles the writes
                "cache_size = -8000",
                "journal_size_limit = 67108864",
            ):
                connection.execute(f"PRAGMA {pragma}")
        except BaseException as error:
            if connection is not None:
                connection.close()
            if isinstance(error, sqlite3.Error):
                raise translate(error, path) from error
            raise

    def _claim(self, timeout_s: float) -> None:
        """Check that the file is a log of this package; initialise an empty file."""
        if self._pragma("application_id") != APPLICATION_ID:
            self._make(time.monotonic() + timeout_s)
        version = self._pragma("user_version")
        if version != SCHEMA_VERSION:
            raise UnreachableError(f"{self.path}: expected log format {SCHEMA_VERSION}, found {version}")

    def _make(self, deadline: float) -> None:
        self._refuse_foreign()
        connection = self._connection
        connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        while True:
            try:  # this pragma ignores the timeout and fails at once if busy
                if (mode := self._pragma("journal_mode = WAL")) != "wal":
                    raise UnreachableError(f"{self.path}: the file system supports no write-ahead log (mode {mode})")
                break
            except sqlite3.OperationalError as error:
                if primary_code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
        connection.execute("BEGIN IMMEDIATE")
        try:
            if self._pragma("application_id") != APPLICATION_ID:
                self._refuse_foreign()
                for statement in SCHEMA.split(";\n"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
                connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute("COMMIT")
        except BaseException:
            self._roll_back()
            raise

    def _refuse_foreign(self) -> None:
        tables = self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if tables and self._pragma("application_id") != APPLICATION_ID:
            raise UnreachableError(f"{self.path}: expected a log, found another program's SQLite file")

    def _pragma(self, text: str) -> object:
        row = self._connection.execute(f"PRAGMA {text}").fetchone()
        return row[0] if row else None

    def data_version(self) -> int:
        """Return a number that changes when another connection writes."""
        with self._lock:
            try:
                return int(str(self._pragma("data_version")))
            except sqlite3.Error as error:
                raise translate(error, self.path) from error

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Cursor]:
        """Open a short read transaction with a consistent view."""
        with self._transaction("BEGIN") as cursor:
            yield cursor

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Cursor]:
        """Open a write transaction. Keep it short: a process suspended inside one blocks all others.

        Raises:
            LogBusyError: the lock was not available; nothing was written.
            CommitInDoubtError: COMMIT failed.
            UnreachableError: the file is not writable; nothing was written.
        """
        with self._transaction("BEGIN IMMEDIATE") as cursor:
            yield cursor

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[sqlite3.Cursor]:
        with self._lock:
            if self._open:
                raise ContractError(f"{self.path}: transactions cannot be nested")
            self._open = True
            try:
                cursor = self._connection.cursor()
                cursor.execute(begin)
                yield cursor
                self._commit()
            except sqlite3.Error as error:
                raise translate(error, self.path) from error
            finally:
                self._open = False
                self._roll_back()

    def _commit(self) -> None:
        try:
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            if primary_code(error) in UNDONE:
                raise
            raise CommitInDoubtError(f"{self.path}: the commit failed: {error}") from error

    def _roll_back(self) -> None:
        with suppress(sqlite3.Error):
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")

    def close(self) -> None:
        """Close the connection; calls after it raise TransportError."""
        with self._lock, suppress(sqlite3.Error):
            self._connection.close()
