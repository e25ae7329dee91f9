"""A bundle's files as bytes: bounded reads, plain arrays, a folder that appears completely or not at all.

Nothing read here is trusted: symlinks must not lead out of the folder, sizes are measured, and no parser is used that
could execute code or allocate memory according to a header.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from stream_ad.core.batches import Arrays
from stream_ad.errors import BundleError, BundleFormatError, ContractError
from stream_ad.io.durable import storage_errors, sync_folder, write_file
from stream_ad.io.json_text import repeated_names

MIB = 1 << 20
MAX_HEADER = 1 << 20
"""Limit of the header that lists the arrays (thousands of them); a file of empty arrays would take minutes to read."""


def digest(data: bytes) -> str:
    """Return the SHA-256 of the data in hex."""
    return hashlib.sha256(data).hexdigest()


def read_file(folder: Path, name: str, limit: int) -> bytes:
    """Read a file of a bundle into memory.

    Args:
        folder: the bundle.
        name: a plain file name.
        limit: maximum size, bytes.

    Raises:
        BundleFormatError: the file is missing, not a regular file, outside the folder or too large.
    """
    path = folder / name
    try:
        # Kubernetes mounts files as symlinks inside the folder; one that leads out is refused.
        real = path.resolve(strict=True)
        if not real.is_relative_to(folder.resolve(strict=True)):
            raise BundleFormatError(f"{path}: leads out of the bundle's folder")
        # O_NONBLOCK: opening a pipe must not wait for a writer.
        handle = os.open(real, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise BundleFormatError(f"{path}: missing") from error
    except (OSError, RuntimeError) as error:
        raise BundleFormatError(f"{path}: cannot be read: {error}") from error
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise BundleFormatError(f"{path}: expected a regular file")
        data = b""
        if status.st_size <= limit:
            with os.fdopen(handle, "rb", closefd=False) as file:
                data = file.read(limit + 1)  # the file may grow
    except OSError as error:
        raise BundleFormatError(f"{path}: cannot be read: {error.strerror}") from error
    finally:
        os.close(handle)
    if max(status.st_size, len(data)) > limit:
        raise BundleFormatError(f"{path}: larger than the limit of {limit // MIB} MiB")
    return data


def pack_arrays(arrays: Arrays, what: str) -> bytes:
    """Return named arrays as safetensors, a container in which nothing can run.

    Raises:
        ContractError: safetensors does not support an array's dtype.
    """
    try:
        # Not ascontiguousarray, which would turn a scalar into a vector.
        return safetensors.numpy.save({name: np.asarray(array, order="C") for name, array in arrays.items()})
    except (SafetensorError, KeyError, ValueError) as error:
        raise ContractError(f"{what}: its arrays cannot be stored as safetensors: {error}") from error


def unpack_arrays(data: bytes, path: Path, float64: Sequence[str] | None = None) -> Arrays:
    """Read the output of `pack_arrays`.

    Args:
        data: the content.
        path: the file, for errors.
        float64: names of the arrays, if they are known and all of this dtype; others are refused.

    Returns:
        writable C-contiguous arrays.

    Raises:
        BundleFormatError: not a safetensors file, a duplicate name, unexpected arrays or another dtype.
    """
    header = int.from_bytes(data[:8], "little")
    if header > MAX_HEADER:
        raise BundleFormatError(
            f"{path}: not a readable safetensors file: expected a header of at most {MAX_HEADER} bytes, found {header}"
        )
    try:
        arrays = {name: array.copy() for name, array in safetensors.numpy.load(data).items()}
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise BundleFormatError(f"{path}: not a readable safetensors file: {error}") from error
    refuse_repeats(data[8 : 8 + header], path)
    found = {name: array.dtype.name for name, array in arrays.items()}
    if float64 is not None and found != dict.fromkeys(float64, "float64"):
        raise BundleFormatError(f"{path}: expected the float64 arrays {sorted(float64)}, found {str(found)[:200]}")
    return arrays


def refuse_repeats(data: bytes, path: Path) -> None:
    """Refuse JSON with a duplicate key: a human reader and this program could see different models.

    Args:
        data: already accepted by another parser, including its depth limit.
        path: for the error.

    Raises:
        BundleFormatError: an object has a duplicate key.
    """
    try:
        twice = repeated_names(data)
    except ValueError as error:
        raise BundleFormatError(f"{path}: not JSON: {str(error)[:200]}") from error
    if twice:
        raise BundleFormatError(f"{path}: duplicate key {twice[0][:80]!r}")


def place_folder(folder: Path, files: Mapping[str, bytes], replace: bool, check: Callable[[Path], object]) -> None:
    """Write files to a new folder beside the target, check it, and rename it to the target.

    Readers of the target see the old or the new content, never a mixture. While an old folder is being replaced, there
    is a moment without one.

    Args:
        folder: the target.
        files: names and contents.
        replace: replace an existing bundle.
        check: called with the written folder before the rename; its errors are passed on.

    Raises:
        BundleError: the target exists, and is not a bundle or `replace` is False.
        StorageError: writing failed.
    """
    _refuse_target(folder, replace)
    fresh = folder.parent / f".{folder.name}.{uuid.uuid4().hex}.tmp"
    old = fresh.with_suffix(".old")
    with storage_errors(folder, "written"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        fresh.mkdir()
        try:
            for name, data in files.items():
                write_file(fresh / name, data)
            sync_folder(fresh)
            check(fresh)
            if replace and folder.exists():
                folder.rename(old)
            try:
                fresh.rename(folder)
            except OSError:
                if old.exists():
                    old.rename(folder)
                raise
            sync_folder(folder.parent)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)


def _refuse_target(folder: Path, replace: bool) -> None:
    if not os.path.lexists(folder):
        return
    if folder.is_symlink() or not folder.is_dir():
        raise BundleError(f"{folder}: expected a new name or a bundle's folder, found something else")
    if any(folder.iterdir()):
        if not (folder / "manifest.json").is_file():
            raise BundleError(f"{folder}: contains other files, which a bundle must not replace")
        if not replace:
            raise BundleError(f"{folder}: a bundle exists already; use --replace to replace it")
