"""Files that survive a power cut: folders and names are synced, errors have one-line messages."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stream_ad.errors import StorageError
from stream_ad.io.steps import reached

AT_FDCWD, RENAME_EXCHANGE = -100, 2


@contextmanager
def storage_errors(path: Path, doing: str) -> Iterator[None]:
    """Translate OSError inside the block into StorageError with the path."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"{path}: cannot be {doing}: {error.strerror or error}") from error


def write_file(path: Path, data: bytes) -> None:
    """Write a new file durably; its name is only once the folder is synced.

    Raises:
        OSError: it is there already, or cannot be written.
    """
    with path.open("xb") as file:
        file.write(data)
        reached("file half written", path=path)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(folder: Path) -> None:
    """Create a folder and its parents, each name durable; a no-op if it exists."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


def exchange(left: Path, right: Path) -> None:
    """Exchange two names on one file system atomically and durably (Linux `renameat2`).

    Raises:
        StorageError: the system or the file system does not support it.
        OSError: a name does not exist or cannot be changed.
    """
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if function is None:
        raise StorageError(f"{left}: cannot be exchanged: expected Linux with renameat2, found none")
    if function(AT_FDCWD, os.fsencode(left), AT_FDCWD, os.fsencode(right), RENAME_EXCHANGE):
        code = ctypes.get_errno()
        if code in (errno.EINVAL, errno.ENOSYS, errno.EXDEV):
            raise StorageError(
                f"{left}: cannot be exchanged with {right}: expected a file system that supports it (ext4, xfs, btrfs, "
                f"tmpfs), found: {os.strerror(code)}"
            )
        raise OSError(code, os.strerror(code), str(left))
    for folder in {left.parent, right.parent}:
        sync_folder(folder)
