"""Checkpoints: a partition's state at an offset, one file each, whole or not at all.

Layout: magic, length of the header, header (JSON), arrays (each aligned to 64 bytes), BLAKE2b digest of all
before it. Written aside under a unique name, synced, renamed, folder synced; nothing in it can run.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stream_ad.core.batches import Arrays, UInt8Array
from stream_ad.errors import CheckpointError, ContractError
from stream_ad.io.durable import make_folder, storage_errors, sync_folder

FORMAT = 1
MAGIC = b"SADCKPT\n"
ALIGN = 64
DIGEST_BYTES = 32
DTYPES = frozenset("?bBhHiIlLqQefd")
_NAME = re.compile(r"([a-z0-9][a-z0-9-]{0,63})\.([0-9]{1,9})\.([0-9]{20})\.[0-9a-f]{16}\.ckpt")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A loaded checkpoint.

    Attributes:
        stream: name of the stream.
        partition: number of the input partition.
        topic_id: identity of the input topic.
        offset: the next input offset: the state holds everything before it.
        arrays: the state; writable, in memory of their own.
        meta: plain facts, for example the fingerprint.
    """

    stream: str
    partition: int
    topic_id: str
    offset: int
    arrays: Arrays
    meta: Mapping[str, str | int]


def write(
    folder: Path,
    stream: str,
    partition: int,
    topic_id: str,
    offset: int,
    arrays: Arrays,
    meta: Mapping[str, str | int],
) -> str:
    """Write a checkpoint durably; its file appears complete or not at all.

    Args:
        folder: made where it is missing.
        stream: as in the settings.
        partition: number of the input partition.
        topic_id: identity of the input topic.
        offset: the next input offset, >= 0.
        arrays: named arrays of bool, integer or float dtypes, any shape.
        meta: plain facts.

    Returns:
        the name of the file, for `load` and for the metadata of a commit.

    Raises:
        ContractError: an array of another dtype, or a name that cannot be a file's.
        StorageError: the folder cannot be written.
    """
    name = f"{stream}.{partition}.{offset:020d}.{secrets.token_hex(8)}.ckpt"
    if _NAME.fullmatch(name) is None:
        raise ContractError(f"checkpoint: expected a stream, partition and offset, found {name!r}")
    ready = {key: _plain(key, array) for key, array in arrays.items()}
    facts = {"format": FORMAT, "stream": stream, "partition": partition, "topic_id": topic_id, "offset": offset}
    layout = [[key, array.dtype.str, list(array.shape)] for key, array in ready.items()]
    header = json.dumps({**facts, "meta": dict(meta), "arrays": layout}).encode()
    aside = folder / f".{name}"
    with storage_errors(folder, "written"):
        make_folder(folder)
        try:
            _write_file(aside, header, ready)
            aside.rename(folder / name)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise
        sync_folder(folder)
    return name


def load(folder: Path, name: str) -> Checkpoint:
    """Read a checkpoint whose digest holds.

    Raises:
        CheckpointError: missing, damaged, of another format, or inconsistent in itself.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise CheckpointError(f"{name!r}: expected the name of a checkpoint")
    path = folder / name
    try:
        content = np.fromfile(path, np.uint8)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    body = content[:-DIGEST_BYTES]
    if len(content) < len(MAGIC) + 8 + DIGEST_BYTES or body[: len(MAGIC)].tobytes() != MAGIC:
        raise CheckpointError(f"{path}: expected a checkpoint, found {len(content)} other bytes")
    if hashlib.blake2b(body.data, digest_size=DIGEST_BYTES).digest() != content[-DIGEST_BYTES:].tobytes():
        raise CheckpointError(f"{path}: expected content that fits its digest, found another")
    try:
        loaded = _parse(body)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise CheckpointError(f"{path}: expected a header of format {FORMAT}, found: {error}") from error
    if (loaded.stream, str(loaded.partition), f"{loaded.offset:020d}") != match.groups():
        raise CheckpointError(f"{path}: expected the content that its name says, found {loaded.stream}")
    return loaded


def names(folder: Path, stream: str, partition: int) -> list[str]:
    """Return the checkpoints of a partition, highest offset first, of equal ones the youngest.

    Raises:
        StorageError: the folder cannot be read; a missing one is empty.
    """
    return [name for _, _, name in sorted(_entries(folder, stream, partition, ""), reverse=True)]


def offset_of(name: str) -> int:
    """Return the input offset that a checkpoint's name tells.

    Raises:
        CheckpointError: it is not the name of one.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise CheckpointError(f"{name!r}: expected the name of a checkpoint")
    return int(match[3])


def prune(
    folder: Path,
    stream: str,
    partition: int,
    keep: Collection[str],
    count: int,
    sparse_every_s: float = 3_600.0,
    sparse_count: int = 0,
) -> list[str]:
    """Delete checkpoints that nobody can need any more; call it after a landed commit.

    Args:
        folder: of the checkpoints.
        stream: as in the settings.
        partition: number of the input partition.
        keep: names that stay, whatever their age: those that commits name.
        count: how many of the highest offsets stay besides.
        sparse_every_s: of the older ones the first of each such stretch of time stays, by when they were written.
        sparse_count: so many of these stay, the youngest.

    Returns:
        the names deleted.

    Raises:
        StorageError: the folder cannot be read or written.
    """
    entries = sorted(_entries(folder, stream, partition, ""), reverse=True)
    stays = {name for _, _, name in entries[:count]} | set(keep)
    first_of: dict[int, str] = {}
    for _, age, name in entries:  # highest offset first, so that the lowest of a stretch is what remains
        first_of[int(age / 1e9 // sparse_every_s)] = name
    stays.update(first_of[stretch] for stretch in sorted(first_of, reverse=True)[:sparse_count])
    gone = [name for _, _, name in entries if name not in stays]
    # Half-written files of processes that died: older than anything kept, so nobody still writes them.
    oldest = min((age for _, age, name in entries if name in stays), default=0)
    gone += [name for _, age, name in _entries(folder, stream, partition, ".") if age < oldest]
    with storage_errors(folder, "pruned"):
        for name in gone:
            (folder / name).unlink(missing_ok=True)
    return gone


def _entries(folder: Path, stream: str, partition: int, prefix: str) -> list[tuple[int, int, str]]:
    """Return offset, modification time and name of each file."""
    found = []
    with storage_errors(folder, "listed"):
        if not folder.is_dir():
            return []
        for entry in os.scandir(folder):
            match = _NAME.fullmatch(entry.name.removeprefix(prefix))
            if match is None or match[1] != stream or int(match[2]) != partition or not entry.name.startswith(prefix):
                continue
            try:
                found.append((int(match[3]), entry.stat().st_mtime_ns, entry.name))
            except FileNotFoundError:  # pruned by another process meanwhile
                continue
    return found


def _plain(name: str, array: Any) -> Any:
    if not isinstance(array, np.ndarray) or array.dtype.char not in DTYPES or not array.dtype.isnative:
        found = getattr(array, "dtype", type(array).__name__)
        raise ContractError(f"checkpoint array {name}: expected bool, integers or floats, found {found}")
    return np.require(array, requirements="C")


def _padding(position: int) -> int:
    return -position % ALIGN


def _write_file(path: Path, header: bytes, arrays: Arrays) -> None:
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    with path.open("xb") as file:
        position = 0
        start = MAGIC + len(header).to_bytes(8, "little") + header
        contents: list[Any] = [start, *(array.reshape(-1).view(np.uint8) for array in arrays.values())]
        for content in contents:
            for piece in (bytes(_padding(position)), memoryview(content)):
                digest.update(piece)
                file.write(piece)
                position += len(piece)
        file.write(digest.digest())
        file.flush()
        os.fsync(file.fileno())


def _parse(body: UInt8Array) -> Checkpoint:
    start = len(MAGIC) + 8
    position = start + int.from_bytes(body[len(MAGIC) : start].tobytes(), "little")
    header = json.loads(body[start:position].tobytes())
    if header["format"] != FORMAT:
        raise ValueError(f"format {header['format']}")
    arrays: Arrays = {}
    for name, code, shape in header["arrays"]:
        dtype = np.dtype(code)
        if dtype.char not in DTYPES:
            raise ValueError(f"array {name} of dtype {dtype}")
        position += _padding(position)
        end = position + dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        if not position <= end <= len(body):
            raise ValueError(f"array {name} beyond the end")
        arrays[name] = body[position:end].view(dtype).reshape(shape)
        position = end
    if position != len(body):
        raise ValueError(f"{len(body) - position} bytes behind the arrays")
    meta = header["meta"]
    return Checkpoint(header["stream"], header["partition"], header["topic_id"], header["offset"], arrays, meta)
