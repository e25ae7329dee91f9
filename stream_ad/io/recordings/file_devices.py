"""Derives the device of a file without a device column from its name, ignoring dates.

Otherwise a logger that starts a file every day would be a new device every day. The rule uses only names, so that
tomorrow's file, sent alone, is the device that was trained:

- Dates and times in the names of file and folders are removed, and a number that counts files after one
  (`2026-03-02_001`).
- The rest of the file's name is the device: `pump3_2026-03-02.csv` is `pump3`.
- If nothing is left, the device is the nearest folder, below the one requested, whose name is not a date; if there is
  none, the device has the name of the stream.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from stream_ad.core.names import shown
from stream_ad.errors import RecordingError
from stream_ad.io.recordings.tables import name_of

YEAR = r"(?:19|20)\d\d"
MONTH = r"(?:0[1-9]|1[0-2])"
DAY = r"(?:0[1-9]|[12]\d|3[01])"
NAMED = r"(?:jan|feb|m[aä]r|apr|ma[iy]|jun|jul|aug|sep|o[ck]t|nov|de[cz])[a-zé]*"
HOUR = r"(?:[01]\d|2[0-3])"
TIME = rf"(?:[T_ -]{{0,3}}{HOUR}[-:._hH]?[0-5]\d(?:[-:._mM]?[0-5]\d)?(?:[.,]\d{{1,6}})?|T{HOUR}|{HOUR}(?!\d))"
ZONE = r"(?:[ _]?(?:Z|UTC|GMT)(?![a-z])|[+-]\d\d:?\d\d)"
FORMS = (
    rf"{YEAR}(?P<a>[-_./ ]?){MONTH}(?P=a){DAY}{TIME}?{ZONE}?",
    rf"{DAY}(?P<b>[-_./ ]?){MONTH}(?P=b){YEAR}{TIME}?{ZONE}?",
    rf"{MONTH}(?P<c>[-_./ ]){DAY}(?P=c){YEAR}{TIME}?{ZONE}?",
    rf"{DAY}[-_. ]*{NAMED}[-_., ]*{YEAR}",
    rf"{YEAR}[-_. ]*{NAMED}(?:[-_. ]*{DAY})?",
    rf"{NAMED}[-_. ]*(?:{DAY}[-_., ]+)?{YEAR}",
    rf"{YEAR}[-_]?(?:w|kw)[-_]?[0-5]\d(?:[-_]?[1-7])?",
    rf"(?:w|kw)[-_]?[0-5]\d[-_]?{YEAR}",
    rf"{YEAR}[-_][0-3]\d\d",
    rf"{YEAR}[-_./]{MONTH}",
)
DATE = re.compile(rf"(?<!\d)(?:{'|'.join(FORMS)})(?!\d)", re.IGNORECASE)
WHOLE = re.compile(r"(?:19|20)\d{2}|(?:19|20)\d{2}(?:0[1-9]|1[0-2])|\d\d([-_.])\d\d\1\d\d|1[4-9]\d{8}(?:\d{3})?")
"""Dates only if they are the whole name: a year, year and month, two digits each, seconds since 1970."""
MARK = "\0"
COUNT = re.compile(
    rf"{MARK}[-_. ]*(?:part|pt|seq|no|nr|file|teil)?[-_. ]*(?:\(\d{{1,4}}\)|\d{{1,4}})(?=$|/)", re.IGNORECASE
)
RANGE = re.compile(rf"{MARK}[-_. ]*(?:to|bis|until)?[-_. ]*{MARK}", re.IGNORECASE)
EDGES = "-_. "
LEVELS = 4
"""Number of path components examined: year, month and day may be folders."""


@dataclass(frozen=True, slots=True)
class FileDevice:
    """A file's device.

    Attributes:
        name: of the device.
        is_dated: a date was removed from the file's name.
    """

    name: str
    is_dated: bool


def file_devices(files: Sequence[Path], asked: Path, stream: str = "") -> list[FileDevice]:
    """Return the device of each file, for files without a device column.

    Args:
        files: the recording's files.
        asked: the file, folder or pattern requested.
        stream: the device's name if names contain only dates; "" uses the folder's name.
    """
    root = _root(asked)
    found = []
    for file in files:
        parts = _undated(file.resolve())
        inner = len(file.resolve().parts) - len(root.parts) - 1
        folders = parts[-1 - inner : -1] if inner > 0 else []
        folder = next((name for name in reversed(folders) if name), "")
        name = parts[-1]
        found.append((name, folder, not name or name != name_of(file)))
    owners: dict[str, set[str]] = {}
    for name, folder, _ in found:
        owners.setdefault(name, set()).add(folder)
    apart = any(name and len(folders) > 1 for name, folders in owners.items())
    devices = []
    for file, (name, folder, is_dated) in zip(files, found, strict=True):
        if not name:
            name = folder or stream or file.resolve().parent.name or "device"
        elif apart:
            name = f"{folder or file.resolve().parent.name}-{name}"
        devices.append(FileDevice(name, is_dated))
    return devices


def dated_notes(devices: Sequence[FileDevice]) -> list[str]:
    """Return a note on devices whose files are named by date, at most one line."""
    dated = [device.name for device in devices if device.is_dated]
    if not dated:
        return []
    names = list(dict.fromkeys(dated))
    which = f"one device, {names[0]!r}" if len(names) == 1 else f"{len(names):,} devices: {shown(names)}"
    return [f"{len(dated):,} file(s) named by date are {which}; --device NAME overrides"]


def following_notes(spans: Sequence[tuple[str, Path, int, int]]) -> list[str]:
    """Return a note on devices that may be one machine: files that differ by a number with consecutive times.

    Args:
        spans: per file its device, path, first and last event time.
    """
    names = list(dict.fromkeys(device for device, *_ in spans))
    if len(names) < 2 or len(names) < len(spans) or len({re.sub(r"\d+", "0", name) for name in names}) > 1:
        return []
    order = sorted(spans, key=lambda span: span[2])
    if any(later[2] < earlier[3] for earlier, later in pairwise(order)):
        return []
    return [
        f"{len(names):,} files with consecutive times were read as separate devices: {shown(names)}; if they are one "
        "machine, add --device NAME"
    ]


def check_apart(spans: Sequence[tuple[str, Path, int, int]]) -> None:
    """Refuse files of one device with overlapping times: they are probably two machines, or one file twice.

    Args:
        spans: per file its device, path, first and last event time.

    Raises:
        RecordingError: two files share more than half of the shorter one's time.
    """
    last: dict[str, tuple[Path, int, int]] = {}
    for device, path, start, end in sorted(spans, key=lambda span: span[2]):
        before = last.get(device)
        if before is not None and 2 * (min(before[2], end) - start) > min(before[2] - before[1], end - start) > 0:
            raise RecordingError(
                f"{before[0]} and {path}: expected consecutive times, since their names make both device {device!r}, "
                "found overlapping times; name them after their machines or add a device column, or add --device NAME "
                "if they are one"
            )
        if before is None or end > before[2]:
            last[device] = (path, start, end)


def _root(asked: Path) -> Path:
    """Return the folder requested: a file's own, or a pattern's part without wildcards."""
    if asked.is_dir():
        return asked.resolve()
    fixed = asked.parent.parts
    stop = next((place for place, part in enumerate(fixed) if any(sign in part for sign in "*?[")), len(fixed))
    return Path(*fixed[:stop]).resolve()


def _undated(file: Path) -> list[str]:
    """Return the path components without dates, the file's (without suffixes) last; "" if nothing is left."""
    names = [*file.parts[:-1], name_of(file)]
    head, tail = names[:-LEVELS], names[-LEVELS:]
    # A date over several folders leaves as many components.
    text = DATE.sub(lambda match: "/".join(MARK for _ in match[0].split("/")), "/".join(tail))
    text = "/".join(MARK if WHOLE.fullmatch(part) else part for part in text.split("/"))
    text = RANGE.sub(MARK, COUNT.sub(MARK, text))
    return [*head, *map(_without_mark, text.split("/"))]


def _without_mark(part: str) -> str:
    if MARK not in part:
        return part
    pieces = [piece.strip(EDGES) for piece in part.split(MARK)]
    return "_".join(piece for piece in pieces if piece.strip("()[]"))
