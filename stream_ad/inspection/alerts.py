"""A stream's published alerts, filtered by device and time."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from stream_ad.core.names import matches
from stream_ad.errors import ContractError
from stream_ad.io.following import Stored, follow, stored
from stream_ad.io.transport import Transport
from stream_ad.io.wire.alerts import Published, published


def alerts(
    transport: Transport,
    topic: str,
    stream: str = "",
    device: str = "*",
    since_ns: int = 0,
    is_endless: bool = False,
    skipped: Callable[[Stored, ContractError], None] = lambda record, error: None,
) -> Iterator[Published]:
    """Yield alerts in publication order; reads without a consumer group.

    Args:
        transport: the log.
        topic: alerts topic; several streams may share it.
        stream: only this stream's alerts; "" for all.
        device: a device id, or a pattern such as `pump-1*`.
        since_ns: only alerts published at or after this log time, UTC nanoseconds.
        is_endless: wait for new alerts instead of ending.
        skipped: called with each unreadable record and the reason.

    Raises:
        TransportError: the log or the topic is unavailable.
    """
    wanted = device_filter(transport, topic, device)
    for found in published(follow(transport, topic, is_endless), skipped):
        alert = found.alert
        if found.at.log_ns >= since_ns and wanted(alert.device) and stream in ("", alert.stream):
            yield found


def device_filter(transport: Transport, topic: str, text: str) -> Callable[[str], bool]:
    """Return a device predicate: the device with exactly this id if it has alerts, else a pattern match."""
    if "[" in text and any(found.alert.device == text for found in published(stored(transport, topic))):
        return lambda device: device == text
    return lambda device: matches(device, text)
