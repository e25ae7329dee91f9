"""Selects the channels among a recording's columns, and the reasons for excluding others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from stream_ad.core.names import listed, shown
from stream_ad.errors import RecordingError
from stream_ad.io.recordings.rising import is_counter, is_row_number

if TYPE_CHECKING:
    from stream_ad.io.recordings.recordings import Recording

MAX_CHANNELS = 10_000
NAMED = 10

LABEL = "label"
QUALITY = "quality"
NO_NAME = "no name"
NO_NUMBERS = "no numbers"
ROW_NUMBER = "row number"
COUNTER = "counter"

NOTES = {
    NO_NAME: "columns without a name are not used: {names}; name one in the header to use it",
    ROW_NUMBER: "row numbers are not used: {names}",
    COUNTER: "counters, which only rise, are not used: {names}; train --counter NAME uses their increments",
    NO_NUMBERS: "columns without numbers are not used: {names}",
}


@dataclass(frozen=True, slots=True)
class Choice:
    """The user's choice of columns.

    Attributes:
        wanted: only these channels, which must exist; None for all measurements.
        keep: names, or lists as typed, that are channels whatever they look like.
        counters: exclude columns that only rise.
        unnamed: columns without a name in the file.
        quality: columns that state the quality of others.
    """

    wanted: Sequence[str] | None
    keep: Sequence[str]
    counters: bool
    unnamed: frozenset[str]
    quality: tuple[str, ...] = ()


def choose_channels(whole: Recording, choice: Choice, origin: str) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return the channels, sorted, and the other columns with the reason for excluding them.

    Args:
        whole: all numeric columns as channels, rows in file order.
        choice: the user's choice.
        origin: the recording, for errors.

    Raises:
        RecordingError: a requested channel does not exist, or there are no channels.
    """
    left_out = {**dict.fromkeys(choice.quality, QUALITY), **dict.fromkeys(whole.labels, LABEL)}
    measured = [name for name in whole.channels if name not in left_out]
    if choice.wanted is not None:
        lacking = sorted(set(choice.wanted) - set(measured))
        if lacking:
            raise RecordingError(f"{origin}: no such channel: {', '.join(map(repr, lacking))}")
        return tuple(sorted(set(choice.wanted))), left_out
    keep = {name for text in choice.keep for name in listed(text, measured)}
    by_time = np.lexsort((whole.event_ns, whole.device))
    device = whole.device[by_time]
    for name in measured:
        values = whole.values[:, whole.channels.index(name)]
        values = np.where(np.isfinite(values), values, np.nan)
        if np.isnan(values).all():
            left_out[name] = NO_NUMBERS
        elif name in keep:
            continue
        elif is_row_number(name, values, whole.device, name in choice.unnamed):
            left_out[name] = ROW_NUMBER
        elif name in choice.unnamed:
            left_out[name] = NO_NAME
        elif choice.counters and is_counter(name, values[by_time], device):
            left_out[name] = COUNTER
    kept = tuple(name for name in measured if name not in left_out)
    if not kept or len(kept) > MAX_CHANNELS:
        others = "; ".join(left_out_notes(left_out, choice.unnamed))
        raise RecordingError(
            f"{origin}: expected 1 to {MAX_CHANNELS} columns of numbers, found {len(kept)}"
            f"{f' ({others})' if others else ''}"
        )
    return kept, left_out


def left_out_notes(left_out: Mapping[str, str], unnamed: frozenset[str] = frozenset()) -> list[str]:
    """Return notes on the columns that are not channels, one line per reason.

    Args:
        left_out: columns and the reason for excluding them.
        unnamed: columns without a name; empty ones among them come from commas at line ends.
    """
    found = []
    for reason, note in NOTES.items():
        names = [name for name, why in left_out.items() if why == reason]
        names = [name for name in names if not (reason == NO_NUMBERS and name in unnamed)]
        if names:
            more = f", … ({len(names):,} in all)" if len(names) > NAMED else ""
            found.append(note.format(names=", ".join(names[:NAMED]) + more))
    return found


def label_notes(recording: Recording) -> list[str]:
    """Return a note on the rows that labels mark, at most one line."""
    marked = int(np.count_nonzero(recording.faults))
    if not marked:
        return []
    return [
        f"{marked:,} of {len(recording):,} rows are marked as faults by {shown(tuple(recording.labels))}: "
        "training skips them"
        + ("; if the column means something else, remove or rename it" if 2 * marked > len(recording) else "")
    ]
