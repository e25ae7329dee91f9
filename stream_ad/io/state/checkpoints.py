"""Checkpoints: a partition's state at an offset, in one file each, written atomically.

A safetensors file; its metadata holds facts about the state as JSON, and the BLAKE2b digest of facts and arrays. It is
written under a temporary name, synced and renamed, and its folder synced. It contains no code.
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
import safetensors.numpy
from safetensors import SafetensorError

from stream_ad.core.batches import Arrays
from stream_ad.errors import CheckpointError, ContractError
from stream_ad.io.durable import make_folder, storage_errors, sync_folder, write_file
from stream_ad.io.steps import reached

FORMAT = 2
FACTS, DIGEST = "facts", "blake2b"
"""Keys of the metadata."""
DTYPES = frozenset("?bBhHiIlLqQefd")
_NAME = re.compile(r"([a-z0-9][a-z0-9-]{0,63})\.([0-9]{1,9})\.([0-9]{20})\.[0-9a-f]{16}\.ckpt")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A loaded checkpoint.

    Attributes:
        stream: name of the stream.
        partition: number of the input partition.
        topic_id: id of the input topic.
        offset: the next input offset: the state includes everything before it.
        arrays: the state; writable copies.
        meta: facts, for example the fingerprint.
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
    """Write a checkpoint durably and atomically.

    Args:
        folder: created if missing.
        stream: name of the stream.
        partition: number of the input partition.
        topic_id: id of the input topic.
        offset: the next input offset, >= 0.
        arrays: named arrays of bool, integer or float dtypes, any shape.
        meta: facts.

    Returns:
        the file's name, for `load` and for the metadata of a commit.

    Raises:
        ContractError: an array of another dtype, or values that make no valid file name.
        StorageError: the folder cannot be written.
    """
    name = f"{stream}.{partition}.{offset:020d}.{secrets.token_hex(8)}.ckpt"
    if _NAME.fullmatch(name) is None:
        raise ContractError(f"checkpoint: expected a valid stream, partition and offset, found {name!r}")
    ready = {key: _plain(key, array) for key, array in arrays.items()}
    described = {"format": FORMAT, "stream": stream, "partition": partition, "topic_id": topic_id, "offset": offset}
    facts = json.dumps(described | {"meta": dict(meta)})
    content = safetensors.numpy.save(ready, {FACTS: facts, DIGEST: _digest(ready, facts)})
    aside = folder / f".{name}"
    with storage_errors(folder, "written"):
        make_folder(folder)
        try:
            write_file(aside, content)
            reached("checkpoint written aside")
            aside.rename(folder / name)
        finally:
            aside.unlink(missing_ok=True)
        sync_folder(folder)
    reached("checkpoint in place")
    return name


def load(folder: Path, name: str) -> Checkpoint:
    """Read a checkpoint and verify its digest.

    Raises:
        CheckpointError: missing, damaged, of another format, or inconsistent.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise CheckpointError(f"{name!r}: expected the name of a checkpoint")
    path = folder / name
    try:
        with safetensors.safe_open(path, "np") as file:
            arrays: Arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
        facts = json.loads(metadata[FACTS])
        if facts["format"] != FORMAT:
            raise ValueError(f"format {facts['format']}")
        loaded = Checkpoint(
            facts["stream"], facts["partition"], facts["topic_id"], facts["offset"], arrays, facts["meta"]
        )
        found = (loaded.stream, str(loaded.partition), f"{loaded.offset:020d}")
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path}: expected a checkpoint of format {FORMAT}, found: {error}") from error
    if _digest(arrays, metadata[FACTS]) != metadata.get(DIGEST):
        raise CheckpointError(f"{path}: expected content that matches the digest, found damage; delete the file")
    if found != match.groups():
        raise CheckpointError(f"{path}: the content does not match the file name, found stream {loaded.stream}")
    return loaded


def names(folder: Path, stream: str, partition: int) -> list[str]:
    """Return a partition's checkpoints, highest offset first; newest first for equal offsets.

    Raises:
        StorageError: the folder cannot be read; a missing one counts as empty.
    """
    return [name for _, _, name in sorted(_entries(folder, stream, partition, ""), reverse=True)]


def offset_of(name: str) -> int:
    """Return the input offset in a checkpoint's name.

    Raises:
        CheckpointError: not the name of a checkpoint.
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
    """Delete checkpoints that are no longer needed; call it after a successful commit.

    Args:
        folder: of the checkpoints.
        stream: as in the settings.
        partition: number of the input partition.
        keep: names to keep at any age: those that commits refer to.
        count: number of highest offsets to keep besides.
        sparse_every_s: of older ones, keep the first in each such interval of modification time.
        sparse_count: maximum number of these, newest first.

    Returns:
        the deleted names.

    Raises:
        StorageError: the folder cannot be read or written.
    """
    entries = sorted(_entries(folder, stream, partition, ""), reverse=True)
    stays = {name for _, _, name in entries[:count]} | set(keep)
    first_of: dict[int, str] = {}
    for _, age, name in entries:  # highest offset first, so the lowest of an interval remains
        first_of[int(age / 1e9 // sparse_every_s)] = name
    stays.update(first_of[stretch] for stretch in sorted(first_of, reverse=True)[:sparse_count])
    gone = [name for _, _, name in entries if name not in stays]
    # Temporary files of dead processes: older than everything kept, so nobody still writes them.
    oldest = min((age for _, age, name in entries if name in stays), default=0)
    gone += [name for _, age, name in _entries(folder, stream, partition, ".") if age < oldest]
    with storage_errors(folder, "pruned"):
        for name in gone:
            (folder / name).unlink(missing_ok=True)
            reached("checkpoint pruned")
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
            except FileNotFoundError:  # another process pruned it
                continue
    return found


def _plain(name: str, array: Any) -> Any:
    if not isinstance(array, np.ndarray) or array.dtype.char not in DTYPES or not array.dtype.isnative:
        found = getattr(array, "dtype", type(array).__name__)
        raise ContractError(f"checkpoint array {name}: expected bool, integers or floats, found {found}")
    return np.require(array, requirements="C")


def _digest(arrays: Arrays, facts: str) -> str:
    digest = hashlib.blake2b(facts.encode(), digest_size=32)
    for name, array in sorted(arrays.items()):
        digest.update(f"{name!r} {array.dtype.str} {array.shape}".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
