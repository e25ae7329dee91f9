"""Builds an hour's folder beside the score log, then exchanges it with the current one in one system call.

The folders are in `.<scores>.compaction`, each in its own place with a plan of the exchange, so that after a crash the
next process can complete or undo it. Only the holder of the lock may do so.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from stream_ad.errors import BusyError, StorageError
from stream_ad.io import durable
from stream_ad.io.durable import make_folder, storage_errors, sync_folder
from stream_ad.io.score_log.parts import PART

_PLAN, _HOUR, _LOCK = "plan.json", "hour", "lock"


@dataclass(frozen=True, slots=True)
class Exchange:
    """An hour's new folder being built in `place`, or the old one after the exchange.

    Attributes:
        place: its own folder beside the score log.
        hour: the folder in the score log.
        names: content of the hour when the new folder was built.
        inode: inode of the new folder.
    """

    place: Path
    hour: Path
    names: tuple[str, ...]
    inode: int

    @property
    def built(self) -> Path:
        """The folder that was built; after the exchange, the hour's old folder."""
        return built_in(self.place)

    def save(self, folder: Path) -> None:
        """Write the plan, for recovery after a crash."""
        plan = {"hour": self.hour.relative_to(folder).as_posix(), "names": self.names, "inode": self.inode}
        with (self.place / _PLAN).open("x") as file:
            json.dump(plan, file)
            file.flush()
            os.fsync(file.fileno())
        sync_folder(self.place)

    @classmethod
    def load(cls, place: Path, folder: Path) -> Exchange | None:
        """Read the plan; None if the process died before writing it."""
        try:
            plan = json.loads((place / _PLAN).read_bytes())
            return cls(place, folder / plan["hour"], tuple(plan["names"]), int(plan["inode"]))
        except (FileNotFoundError, ValueError, KeyError):
            return None

    def has_happened(self) -> bool:
        """Return whether the folders have been exchanged."""
        return self.built.is_dir() and self.built.stat().st_ino != self.inode

    def adopt(self) -> list[str]:
        """Move parts that arrived late in the old folder: an archiver may have linked one after it was listed.

        If its name is now taken in the hour, another archiver has written that span.

        Returns:
            the names of the late parts.
        """
        late = [entry.name for entry in os.scandir(self.built) if entry.name not in self.names]
        if late and self.hour.is_dir():
            for name in late:
                with suppress(FileExistsError):
                    os.link(self.built / name, self.hour / name)
            sync_folder(self.hour)
        return late

    def remove(self) -> None:
        """Delete the unneeded folder: the old one, or the new one if the exchange did not happen."""
        if self.has_happened():
            self._empty()
        _discard(self.place)

    def _empty(self) -> None:
        names: Sequence[str] = self.names
        while True:
            for name in names:
                path = self.built / name
                if path.is_dir():
                    path.rmdir()
                else:
                    path.unlink(missing_ok=True)
            try:
                self.built.rmdir()  # fails if something arrived in the meantime
                return
            except OSError as error:
                if error.errno != errno.ENOTEMPTY:
                    raise
            names = self.adopt()


def new_place(work: Path) -> Path:
    """Create a place with an empty folder for an hour, and return it."""
    place = work / secrets.token_hex(8)
    make_folder(place / _HOUR)
    return place


def built_in(place: Path) -> Path:
    """Return the folder of a place in which an hour is built."""
    return place / _HOUR


def change_places(hour: Path, merged: Collection[str], place: Path, folder: Path) -> Exchange:
    """Complete the new folder of an hour, exchange it with the old one, then move late parts.

    Args:
        hour: its folder in the score log.
        merged: names of the parts that were merged; everything else is carried over.
        place: place of the new folder with the merged parts.
        folder: the score log's folder.

    Raises:
        OSError: writing failed, or the file system cannot exchange two names.
    """
    built = built_in(place)
    names = []
    for entry in os.scandir(hour):
        names.append(entry.name)
        if entry.is_dir():
            (built / entry.name).mkdir()
        elif entry.name not in merged:
            os.link(entry.path, built / entry.name)
    for name in merged:
        if _is_linked_name(name):
            (built / name).mkdir()
    shutil.copymode(hour, built)
    sync_folder(built)
    exchange = Exchange(place, hour, tuple(names), built.stat().st_ino)
    exchange.save(folder)
    durable.exchange(built, hour)
    exchange.adopt()
    return exchange


def abandon(place: Path, folder: Path) -> None:
    """Delete a place after an error, unless the folders were exchanged: then the next compaction completes it."""
    exchange = Exchange.load(place, folder)
    if exchange is None or not exchange.has_happened():
        _discard(place)


def _is_linked_name(name: str) -> bool:
    match = PART.fullmatch(name)
    return match is not None and match[3] is None


def _discard(place: Path) -> None:
    """Delete a place. The plan is deleted last, so that a crash here is not mistaken for one before the plan."""
    shutil.rmtree(built_in(place), ignore_errors=True)
    shutil.rmtree(place, ignore_errors=True)


# -- recovery after a crash ------------------------------------------------------------------------


def finish(folder: Path) -> bool:
    """Complete or undo an interrupted compaction, unless another is running.

    Returns:
        whether there was one.

    Raises:
        StorageError: the folder cannot be read or written.
    """
    folder = folder.resolve()
    if not _places(folder):
        return False
    try:
        with locked(folder) as work:
            return sweep(work, folder)
    except BusyError:
        return False


def is_unfinished(folder: Path) -> bool:
    """Return whether a compaction is running or was interrupted."""
    return bool(_places(folder.resolve()))


def _places(folder: Path) -> list[Path]:
    work = _work(folder)
    with storage_errors(work, "listed"):
        return [path for path in work.iterdir() if path.is_dir()] if work.is_dir() else []


def sweep(work: Path, folder: Path) -> bool:
    """Complete or undo interrupted compactions, under the lock; return whether there were any."""
    found = _places(folder)
    with storage_errors(work, "cleaned"):
        for place in found:
            exchange = Exchange.load(place, folder)
            if exchange is None:
                _discard(place)
                continue
            if exchange.has_happened():
                exchange.adopt()
            exchange.remove()
    return bool(found)


def _work(folder: Path) -> Path:
    return folder.parent / f".{folder.name}.compaction"


@contextmanager
def locked(folder: Path) -> Iterator[Path]:
    """Create the work folder and keep other compactions out.

    Raises:
        BusyError: another compaction is running.
        StorageError: it cannot be created, or is on another file system.
    """
    work = _work(folder)
    with storage_errors(work, "written"):
        if folder.parent.stat().st_dev != folder.stat().st_dev:
            raise StorageError(
                f"{work}: expected the file system of {folder}, found another: parts are merged beside the score log, "
                "where `**/*.parquet` does not match; set store.scores to a folder below the mount point"
            )
        make_folder(work)
        handle = os.open(work / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BusyError(f"{folder}: another compaction is running; wait until it has finished") from error
        yield work
    finally:
        os.close(handle)
