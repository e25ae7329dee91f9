"""Which columns of a recording are channels, and what the others were taken for."""

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
    NO_NAME: "columns without a name are left out: {names}; name one in the header to use it",
    ROW_NUMBER: "row numbers are left out: {names}",
    COUNTER: "counters, which only rise, are left out: {names}; train --counter NAME compares what one adds",
    NO_NUMBERS: "columns without a number are left out: {names}",
}


@dataclass(frozen=True, slots=True)
class Choice:
    """What a person asked for.

    Attributes:
        wanted: only these channels, which must be there; None takes all that measure.
        keep: names, or lists as typed, that are channels whatever they look like.
        counters: leave out columns that only rise.
        unnamed: columns without a name in the file.
        quality: columns that say how good others are.
    """

    wanted: Sequence[str] | None
    keep: Sequence[str]
    counters: bool
    unnamed: frozenset[str]
    quality: tuple[str, ...] = ()


def choose_channels(whole: Recording, choice: Choice, origin: str) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return the channels, sorted, and the other columns with what they were taken for.

    Args:
        whole: all columns of numbers as channels, rows in the order of reading.
        choice: what was asked for.
        origin: the recording, for errors.

    Raises:
        RecordingError: a channel that was asked for is not there, or none is left.
    """
    left_out = {**dict.fromkeys(choice.quality, QUALITY), **dict.fromkeys(whole.labels, LABEL)}
    measured = [name for name in whole.channels if name not in left_out]
    if choice.wanted is not None:
        lacking = sorted(set(choice.wanted) - set(measured))
        if lacking:
            raise RecordingError(f"{origin}: there is no channel {', '.join(map(repr, lacking))}")
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
    """Return what to tell of the columns that are no channels, a line for each reason.

    Args:
        left_out: columns and what they were taken for.
        unnamed: columns without a name; those of them that are empty are the commas at the ends of lines.
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
    """Return what to tell of the rows that labels mark, a line at most."""
    marked = int(np.count_nonzero(recording.faults))
    if not marked:
        return []
    return [
        f"{marked:,} of {len(recording):,} rows are marked as faults by {shown(tuple(recording.labels))}: "
        "training leaves them out"
        + ("; if the column means something else, remove or rename it" if 2 * marked > len(recording) else "")
    ]
