"""Many parsed single readings -> columns, one channel at a time.

Python's built-in loops (`map`, `zip`) do the per-record work, so that it costs little more than parsing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

import numpy as np

from stream_ad.core.batches import Float64Array, Int64Array
from stream_ad.io.cell_rule import numbers_of
from stream_ad.io.wire.json import MAX_DEVICE_LENGTH
from stream_ad.io.wire.rows import Gathered, Singles
from stream_ad.io.wire.times import MAX_MS, MIN_MS, time_ns

_FIELDS = itemgetter("device", "ts", "values")


def take_singles(
    found: Gathered,
    records: Sequence[int],
    documents: Sequence[Any],
    channels: Sequence[str],
    accepts: Callable[[str], bool],
    ignored: frozenset[str] = frozenset(),
) -> list[int]:
    """Decode all well-formed single readings.

    Args:
        found: receives the readings; unknown devices and channels are counted there.
        records: number of each document's record in the batch, ascending.
        documents: parsed JSON without arrays of samples.
        channels: the bundle's channels, in column order.
        accepts: returns whether a device belongs to the stream.
        ignored: names that are neither used nor unknown.

    Returns:
        the records left for the general path.
    """
    if _take(found, records, documents, channels, accepts, ignored):
        return []
    plain = [place for place, document in enumerate(documents) if _is_plain(document)]
    kept = [records[place] for place in plain]
    if not _take(found, kept, [documents[place] for place in plain], channels, accepts, ignored):
        return list(records)
    return sorted(set(records) - set(kept))


def is_id(device: Any) -> bool:
    """Return whether a value is a valid device id."""
    return type(device) is str and 1 <= len(device) <= MAX_DEVICE_LENGTH


def _is_plain(document: Any) -> bool:
    """Return whether one document meets the conditions that `_take` checks for all."""
    try:
        device, ts, values = _FIELDS(document)
    except (KeyError, TypeError):
        return False
    return is_id(device) and time_ns(ts) is not None and type(values) is dict


def _take(
    found: Gathered,
    records: Sequence[int],
    documents: Sequence[Any],
    channels: Sequence[str],
    accepts: Callable[[str], bool],
    ignored: frozenset[str],
) -> bool:
    """Decode all documents, or none if one of them does not qualify."""
    if not documents:
        return True
    try:
        devices, times, values = zip(*map(_FIELDS, documents), strict=True)
    except (KeyError, TypeError):
        return False
    distinct = dict.fromkeys(devices) if {*map(type, devices)} == {str} else {}
    if not distinct or not all(map(is_id, distinct)) or {*map(type, values)} != {dict}:
        return False
    foreign = {device for device in distinct if not accepts(device)}
    if foreign:
        mine = [place for place, device in enumerate(devices) if device not in foreign]
        ours = [documents[place] for place in mine]
        if not _take(found, [records[place] for place in mine], ours, channels, accepts, ignored):
            return False
        found.unknown_devices += len(documents) - len(mine)
        found.strangers.add_devices(device for device in devices if device in foreign)
        return True
    event_ns = _times(times)
    if event_ns is None:
        return False
    matrix = _matrix(values, channels)
    if np.isnan(matrix).any() or sum(map(len, values)) != matrix.size:
        names = ignored.union(channels)
        extra = [[name for name in row if name not in names] for row in values]
        if any(extra):
            found.unknown_channels += sum(map(len, extra))
            first = next(place for place, some in enumerate(extra) if some)
            found.strangers.add_channel(devices[first], extra[first][0], sum(map(bool, extra)))
    for device in distinct:
        found.slot(device)
    slot = np.fromiter(map(found.slots.__getitem__, devices), np.int64, len(devices))
    found.singles.append(Singles(np.array(records, np.intp), slot, event_ns, matrix))
    return True


def _matrix(values: Sequence[dict[str, Any]], channels: Sequence[str]) -> Float64Array:
    """Return float64[n, c]: NaN missing, bad beyond LARGEST."""
    matrix = np.empty((len(values), len(channels)))
    for number, channel in enumerate(channels):
        try:
            column = list(map(itemgetter(channel), values))
        except KeyError:
            column = [row.get(channel) for row in values]
        matrix[:, number] = numbers_of(column)
    return matrix


def _times(times: Sequence[Any]) -> Int64Array | None:
    if {*map(type, times)} == {int}:
        if min(times) < MIN_MS or max(times) > MAX_MS:
            return None
        return np.fromiter(times, np.int64, len(times)) * 1_000_000
    event_ns = list(map(time_ns, times))
    return None if None in event_ns else np.array(event_ns, np.int64)
