"""Values that a device sends instead of none: -9999, -127, 32767. They count as missing, without a flag."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from stream_ad.core.batches import Float64Array
from stream_ad.core.names import matching, paired, shown
from stream_ad.errors import ConfigError

OPTION = "--missing"


def sentinels_of(texts: Iterable[str], names: Sequence[str]) -> dict[str, tuple[float, ...]]:
    """Return the sentinels of each channel that has some.

    Args:
        texts: as typed: `-9999` for every channel, `temp=-127` for one (a name, else a pattern).
        names: all channels.

    Raises:
        ConfigError: not a finite number, or the channel does not exist.
    """
    found: dict[str, set[float]] = {}
    for text in texts:
        name, value = paired(text, names)
        chosen = matching(name, names) if value else names
        number = _number(value or text)
        if number is None:
            raise ConfigError(f"{OPTION}: expected a number or CHANNEL=NUMBER, found {text!r}")
        if not chosen:
            raise ConfigError(f"{OPTION}: expected the name or pattern of a channel, found {name!r}: {shown(names)}")
        for channel in chosen:
            found.setdefault(channel, set()).add(number)
    return {channel: tuple(sorted(numbers)) for channel, numbers in found.items()}


def take_out(values: Float64Array, channels: Sequence[str], sentinels: Mapping[str, Sequence[float]]) -> int:
    """Replace sentinels by NaN, in place; return how many there were.

    Also compares at single precision: -9999.9 arrives as -9999.900390625 from a float32 column.

    Args:
        values: float64[n, c].
        channels: the columns.
        sentinels: by channel.
    """
    count = 0
    for number, channel in enumerate(channels):
        for sentinel in sentinels.get(channel, ()):
            column = values[:, number]
            hit = (column == sentinel) | (column == float(np.float32(sentinel)))
            count += int(np.count_nonzero(hit))
            column[hit] = np.nan
    return count


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if abs(number) <= float(np.finfo(np.float32).max) else None
