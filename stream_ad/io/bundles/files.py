"""A bundle's files as bytes: bounded reads, plain arrays, a folder that appears completely or not at all.

Nothing read here is trusted: symlinks must not lead out of the folder, sizes are measured, and no parser is used that
could execute code or allocate memory according to a header.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import re
import shutil
import stat
import uuid
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from stream_ad.core.batches import Arrays
from stream_ad.errors import BundleError, BundleFormatError, StorageError

MIB = 1 << 20
NPY_MAGIC = b"\x93NUMPY\x01\x00"
NPY_HEADER = re.compile(rb"\{'descr': '(<f4|<f8)', 'fortran_order': False, 'shape': \(([0-9, ]{1,80})\), \} *\n")
FLOATS = "<f"
"""Dtype of an array that may be float32 or float64."""
ZIP_FLAW = (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError, OSError)
"""Raised by `zipfile` on malformed input."""


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


def pack_npz(arrays: Arrays) -> bytes:
    """Return the arrays as an uncompressed `.npz` that `numpy.load` reads; equal arrays give equal bytes.

    Args:
        arrays: float32 or float64, with one to three axes.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(arrays):
            array = np.ascontiguousarray(arrays[name])
            shape = ", ".join(str(size) for size in array.shape) + ("," if array.ndim == 1 else "")
            header = f"{{'descr': '<f{array.itemsize}', 'fortran_order': False, 'shape': ({shape}), }}".encode()
            # The format aligns the data to 64 bytes.
            header += b" " * (-(len(NPY_MAGIC) + 3 + len(header)) % 64) + b"\n"
            data = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
            member = zipfile.ZipInfo(f"{name}.npy")  # has a fixed date
            archive.writestr(member, NPY_MAGIC + len(header).to_bytes(2, "little") + header + data)
    return buffer.getvalue()


def unpack_npz(data: bytes, names: Mapping[str, str], origin: str) -> Arrays:
    """Read the output of `pack_npz`.

    Args:
        data: the archive.
        names: name of every array with its dtype, "<f4", "<f8" or FLOATS for either; other entries are refused.
        origin: the file, for errors.

    Returns:
        writable C-contiguous arrays.

    Raises:
        BundleFormatError: not an archive, unexpected, compressed or encrypted entries, an object array, or a shape that
            does not match the number of bytes.
    """
    arrays: Arrays = {}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            found = sorted(member.filename for member in members)
            if found != sorted(f"{name}.npy" for name in names):
                raise BundleFormatError(f"{origin}: expected the arrays {sorted(names)}, found entries {found[:10]}")
            for member in members:
                # Stored entries cannot be zip bombs: none is larger than the file itself.
                if member.compress_type != zipfile.ZIP_STORED or member.file_size > len(data):
                    raise BundleFormatError(f"{origin}: {member.filename[:80]}: expected an uncompressed entry")
                name = member.filename.removesuffix(".npy")
                arrays[name] = _read_npy(archive.read(member), names[name], f"{origin}: {name}")
    except ZIP_FLAW as error:
        raise BundleFormatError(f"{origin}: not a readable .npz archive: {error}") from error
    return arrays


def _read_npy(data: bytes, dtype: str, origin: str) -> np.ndarray[tuple[int, ...], np.dtype[np.floating]]:
    """Read one array with a fixed pattern; numpy's own reader evaluates the header as Python literals."""
    start = len(NPY_MAGIC) + 2
    end = start + int.from_bytes(data[len(NPY_MAGIC) : start], "little")
    match = NPY_HEADER.fullmatch(data[start:end])
    said = "<f4 or <f8" if dtype == FLOATS else dtype
    if not data.startswith(NPY_MAGIC) or match is None:
        raise BundleFormatError(
            f"{origin}: expected a plain {said} array in C order, found header {data[start:end][:100]!r}"
        )
    found = match[1].decode()
    if found != dtype and dtype != FLOATS:
        raise BundleFormatError(f"{origin}: expected dtype {dtype}, found {found}")
    shape = tuple(int(size) for size in match[2].replace(b" ", b"").split(b",") if size)
    if not shape or math.prod(shape) * np.dtype(found).itemsize != len(data) - end:
        raise BundleFormatError(f"{origin}: shape {shape} does not match {len(data) - end} bytes of {found}")
    array = np.frombuffer(data, found, offset=end).reshape(shape)
    return array.astype(array.dtype.newbyteorder("="))


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
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        fresh.mkdir()
        try:
            for name, data in files.items():
                with (fresh / name).open("xb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
            _sync_folder(fresh)
            check(fresh)
            if replace and folder.exists():
                folder.rename(old)
            try:
                fresh.rename(folder)
            except OSError:
                if old.exists():
                    old.rename(folder)
                raise
            _sync_folder(folder.parent)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise StorageError(f"{folder}: cannot be written: {error.strerror or error}") from error


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


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
