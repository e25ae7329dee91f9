"""Whether the newest readings contain what the bundle expects."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import orjson
import pyarrow as pa

from stream_ad.config import Settings
from stream_ad.errors import BundleError, RightsError, TopicError
from stream_ad.inspection.finding import Finding
from stream_ad.inspection.formatting import count_text
from stream_ad.io.bundles.manifest import read_manifest
from stream_ad.io.transport import Partition, RawBatch, Transport
from stream_ad.io.wire.encode import ARROW
from stream_ad.io.wire.readings import Decoder, content_type

NO_VALUE = "no value of"
NEWEST = 200
"""Records whose channels are compared with the bundle's."""


def check_readings(transport: Transport, settings: Settings) -> Iterator[Finding]:
    """Compare the newest readings with the bundle's channels; yields nothing if either is unavailable."""
    try:
        manifest = read_manifest(settings.stream.bundle)
        newest = newest_records(transport, settings.stream.readings_topic, NEWEST)
    except (TopicError, RightsError, BundleError):
        return  # reported by another check
    if not newest:
        yield Finding("readings", True, "none yet")
        return
    fault, text = describe_readings(settings, [channel.name for channel in manifest.channels], newest)
    yield Finding("readings", not fault, text, warns=NO_VALUE in text)


def newest_records(transport: Transport, topic: str, count: int) -> list[RawBatch]:
    """Return about the newest `count` records of a topic.

    Raises:
        TopicError: the topic does not exist.
    """
    found: list[RawBatch] = []
    partitions = transport.topic(topic).partitions
    for number in range(partitions):
        partition = Partition(topic, number)
        earliest, end = transport.bounds(partition)
        start = max(earliest, end - -(-count // partitions))
        found += [batch for batch in transport.read(partition, start, end) if len(batch)]
    return found


def describe_readings(settings: Settings, channels: list[str], newest: list[RawBatch]) -> tuple[bool, str]:
    """Return whether none of the records can be scored, and a line about them."""
    decoder = Decoder(channels, settings.stream.devices)
    decoded = [decoder.decode(raw) for raw in newest]
    records = sum(map(len, newest))
    others = sum(one.unknown_devices for one in decoded)
    refused = [letter for one in decoded for letter in one.refused]
    seen = np.any([np.isfinite(one.readings.values).any(axis=0) for one in decoded], axis=0)
    start = f"the newest {count_text(records, 'record')} of {settings.stream.readings_topic}"
    if others == records:
        return True, f"{start} are all from devices that stream.devices = {settings.stream.devices!r} excludes"
    if others + len(refused) == records:
        return True, f"{start} cannot be decoded; the last: {refused[-1].detail}"
    if not seen.any():
        found = sorted({name for raw in newest for name in channel_names(raw)})
        return True, f"{start} have no channel of the bundle: expected {', '.join(channels)}, found {', '.join(found)}"
    absent = [name for name, has in zip(channels, seen.tolist(), strict=True) if not has]
    notes = [f"{NO_VALUE} {', '.join(absent)}"] if absent else ["all channels of the bundle"]
    notes += [f"{count_text(len(refused), 'record')} refused: {refused[-1].detail}"] if refused else []
    notes += [f"{others} from other devices"] if others else []
    return False, f"{start}: {'; '.join(notes)}"


def channel_names(raw: RawBatch) -> Iterator[str]:
    """Yield the channel names in some records; unreadable records are skipped."""
    for value, headers in zip(raw.values, raw.headers, strict=True):
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError, OSError):
            if content_type(headers) == ARROW:
                with pa.ipc.open_stream(value) as reader:
                    yield from (name for name in reader.schema.names if name not in ("device", "ts"))
            else:
                yield from orjson.loads(value)["values"].keys()
