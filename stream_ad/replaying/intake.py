"""Counts of the input and of what in it was unusable, by minute of log time, with one example per cause.

A scorer commits the counts of the last ten minutes with its position (`Marker.intake`), so that they are exactly those
of the input before that position, even after crashes and on every host.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from stream_ad.core.batches import Reason, Refused
from stream_ad.core.pipeline import StepResult
from stream_ad.core.unscored import Lack, UnscoredDevice
from stream_ad.io.transport import RawBatch
from stream_ad.io.wire.dead_letters import device_in
from stream_ad.io.wire.rows import Decoded

MINUTE_NS = 60_000_000_000
MINUTES = 10
"""Minutes of log time that are kept, including the newest."""
READINGS, CELLS = "readings", "cells"
BAD_CELL, UNKNOWN_DEVICE, UNKNOWN_CHANNEL = "bad_value", "unknown_device", "unknown_channel"
CAUSES: tuple[str, ...] = (BAD_CELL, *(reason.value for reason in Reason), UNKNOWN_DEVICE, UNKNOWN_CHANNEL)
"""Counted besides readings and cells: `BAD_CELL` counts cells, all others count readings."""
REFUSALS = frozenset(reason.value for reason in Reason)
NAMES = (READINGS, CELLS, *CAUSES)
SHOWN = 60
"""Maximum length of an example, in characters."""
MAX_BYTES = 2_000
"""Limit of the committed text: a position's metadata has 4,096 bytes, including everything else."""
NAMED = 3
"""Number of unscored devices named per partition."""


@dataclass(frozen=True, slots=True)
class Example:
    """One instance of a cause.

    Attributes:
        device: id of the device, "" if unknown.
        value: what was found.
    """

    device: str
    value: str


@dataclass(frozen=True, slots=True)
class Intake:
    """Counts of some input within one minute of log time.

    Attributes:
        minute: of log time, since the epoch.
        counts: by the words of `NAMES`; zeros may be omitted.
        examples: by cause.
        offset: input offset of its last record.
    """

    minute: int
    counts: Mapping[str, int]
    examples: Mapping[str, Example] = field(default_factory=dict)
    offset: int = 0


def intake_of(raw: RawBatch, log_ns: int, decoded: Decoded[Any], result: StepResult) -> Intake:
    """Count some input.

    Args:
        raw: the records, at least one, all of one minute of log time, or of minutes long past.
        log_ns: log time after them.
        decoded: their content.
        result: the pipeline's result.
    """
    readings = decoded.readings
    letters = (*decoded.refused, *result.refused)
    strangers = decoded.strangers
    counts = {
        READINGS: len(readings.device) + sum(max(letter.rows, 1) for letter in decoded.refused) + strangers.of_devices,
        CELLS: readings.cells + decoded.bad_cells,
        BAD_CELL: decoded.bad_cells,
        UNKNOWN_DEVICE: strangers.of_devices,
        UNKNOWN_CHANNEL: strangers.with_channels,
    }
    examples: dict[str, Example] = {}
    for letter in letters:
        word = letter.reason.value
        counts[word] = counts.get(word, 0) + max(letter.rows, 1)
        if word not in examples:
            examples[word] = _example(letter, raw)
    if decoded.bad_example is not None:
        cell = decoded.bad_example
        examples[BAD_CELL] = Example(_short(cell.device), f"{_short(cell.shown)} as {_short(cell.channel)}")
    if strangers.of_devices:
        examples[UNKNOWN_DEVICE] = Example(_short(strangers.device), "")
    if strangers.channel is not None:
        device, channel = strangers.channel
        examples[UNKNOWN_CHANNEL] = Example(_short(device), _short(channel))
    found = {name: count for name, count in counts.items() if count}
    return Intake(log_ns // MINUTE_NS, found, examples, int(raw.offset[-1]))


def _example(letter: Refused, raw: RawBatch) -> Example:
    """Return the device of a refused record, if it can be recovered, and what was wrong."""
    at = int(np.searchsorted(raw.offset, letter.offset))
    device = letter.device or device_in(raw.values[at], raw.keys[at])
    if letter.first_event_ns is not None and letter.reason in (Reason.LATE, Reason.FUTURE):
        moment = np.datetime64(letter.first_event_ns, "ns").astype("datetime64[ms]")
        return Example(_short(device), f"{moment}Z")
    # The end of the line says what was found.
    detail = letter.detail if len(letter.detail) <= 2 * SHOWN else "…" + letter.detail[-2 * SHOWN + 1 :]
    return Example(_short(device), _short(detail, 2 * SHOWN))


def _short(text: str, length: int = SHOWN) -> str:
    """Return a text cut to some characters, without characters that would break a line or a terminal."""
    plain = "".join(char if char.isprintable() else "?" for char in text[: length + 1])
    return plain if len(plain) <= length else plain[: length - 1] + "…"


def pieces(raw: RawBatch, log_ns: int, public: int) -> Iterator[RawBatch]:
    """Split records where counts must be kept apart: at the public offset, and between the last minutes of log time.

    Args:
        raw: the records.
        log_ns: log time before them.
        public: the effects of input before this offset are public.
    """
    if not len(raw):
        yield raw
        return
    minute = np.maximum(np.maximum.accumulate(raw.log_ns), log_ns) // MINUTE_NS
    edges = {int(np.searchsorted(raw.offset, public))}
    if minute[0] != minute[-1]:
        changes = np.flatnonzero(np.diff(minute)) + 1
        edges |= set(changes[minute[changes] > minute[-1] - MINUTES].tolist())
    bounds = sorted({0, len(raw)} | {edge for edge in edges if 0 < edge < len(raw)})
    for start, stop in pairwise(bounds):
        rows = slice(start, stop)
        yield RawBatch(
            raw.partition,
            raw.offset[rows],
            raw.log_ns[rows],
            raw.keys[rows],
            raw.values[rows],
            raw.headers[rows],
            int(raw.offset[stop]) if stop < len(raw) else raw.next_offset,
        )


def share_of(counts: Mapping[str, int], cause: str) -> float:
    """Return a cause's share of the readings, or of the cells for `BAD_CELL`; 0 if there were none."""
    whole = counts.get(CELLS if cause == BAD_CELL else READINGS, 0)
    return counts.get(cause, 0) / whole if whole else 0.0


def largest_share(counts: Mapping[str, int]) -> str:
    """Return the cause with the largest share."""
    return max(CAUSES, key=lambda cause: share_of(counts, cause))


class Tally:
    """Counts of the last minutes of a partition's log time; additions belong to the newest of them or are newer."""

    def __init__(self) -> None:
        self._minutes: dict[int, dict[str, int]] = {}
        self._examples: dict[str, tuple[int, Example]] = {}

    @property
    def newest(self) -> int | None:
        """Newest minute of log time, None if nothing was counted."""
        return max(self._minutes, default=None)

    def add(self, intake: Intake) -> None:
        """Add the counts of some input."""
        counts = self._minutes.setdefault(intake.minute, {})
        for name, count in intake.counts.items():
            counts[name] = counts.get(name, 0) + count
        for name, example in intake.examples.items():
            self._examples[name] = intake.minute, example
        self._forget(max(self._minutes))

    def _forget(self, newest: int) -> None:
        self._minutes = {at: counts for at, counts in self._minutes.items() if at > newest - MINUTES}
        self._examples = {name: pair for name, pair in self._examples.items() if pair[0] > newest - MINUTES}

    def until(self, newest: int) -> tuple[dict[str, int], dict[str, Example]]:
        """Return totals and examples of the ten minutes that end with a minute."""
        sums: dict[str, int] = {}
        for at, counts in self._minutes.items():
            if at > newest - MINUTES:
                for name, count in counts.items():
                    sums[name] = sums.get(name, 0) + count
        examples = {name: example for name, (at, example) in self._examples.items() if at > newest - MINUTES}
        return sums, examples

    def to_json(self, unscored: int = 0, devices: Sequence[UnscoredDevice] = ()) -> dict[str, Any]:
        """Return the tally as JSON values of at most `MAX_BYTES`, with devices that have no score.

        Args:
            unscored: number of devices without a score.
            devices: some of them.
        """
        newest = self.newest
        if newest is None:
            return {}
        plain: dict[str, Any] = {
            "at": newest,
            "counts": {
                str(newest - at): [counts.get(name, 0) for name in NAMES]
                if len(counts) > len(NAMES) // 2
                else {str(NAMES.index(name)): count for name, count in counts.items()}
                for at, counts in sorted(self._minutes.items())
            },
            "examples": {
                str(NAMES.index(name)): [newest - at, example.device, example.value]
                for name, (at, example) in self._examples.items()
            },
        }
        if unscored:
            plain["unscored"] = unscored
            plain["devices"] = [
                [
                    _short(one.device),
                    (one.newest_ns - one.since_ns) // 1_000_000_000,
                    one.lack.value,
                    _short(one.channel),
                    round(one.interval_s, 3),
                ]
                for one in devices
            ]
        return _fitted(plain)

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Tally:
        """Read the output of `to_json`; anything else gives an empty tally, as results do not depend on it."""
        tally = cls()
        try:
            newest = int(plain["at"])
            for back, counts in plain["counts"].items():
                pairs = counts.items() if isinstance(counts, dict) else enumerate(counts)
                tally._minutes[newest - int(back)] = {NAMES[int(at)]: int(count) for at, count in pairs if count}
            for at, (back, device, value) in plain["examples"].items():
                tally._examples[NAMES[int(at)]] = newest - int(back), Example(str(device), str(value))
        except (KeyError, ValueError, TypeError, IndexError, AttributeError):
            return cls()
        return tally


@dataclass(frozen=True, slots=True)
class Unjudged:
    """A device without a score, as committed.

    Attributes:
        device: its id.
        partition: where its readings are.
        seconds: event time without a score.
        lack, channel, interval_s: see `core.unscored.UnscoredDevice`.
    """

    device: str
    partition: int
    seconds: int
    lack: Lack
    channel: str
    interval_s: float


def unjudged_in(plain: Mapping[str, Any], partition: int) -> tuple[int, list[Unjudged]]:
    """Return the number of devices without a score, and those named; none if unreadable."""
    try:
        found = [
            Unjudged(str(device), partition, int(seconds), Lack(lack), str(channel), float(interval_s))
            for device, seconds, lack, channel, interval_s in plain.get("devices", [])
        ]
        return int(plain.get("unscored", 0)), found
    except (ValueError, TypeError, AttributeError):
        return 0, []


def _fitted(plain: dict[str, Any]) -> dict[str, Any]:
    """Drop the least useful parts until the text fits: long values, then examples, then devices."""
    if _size(plain) <= MAX_BYTES:
        return plain
    shorter = {name: [back, device[:20], value[:20]] for name, (back, device, value) in plain["examples"].items()}
    part: dict[str, Any]
    for part in ({"examples": shorter}, {"examples": {}}, {"devices": []}):
        plain = plain | part
        if _size(plain) <= MAX_BYTES:
            break
    return plain


def _size(plain: Mapping[str, Any]) -> int:
    return len(json.dumps(plain))
