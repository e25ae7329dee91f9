"""Alerts that are publicly open, and how they end when nobody continues them.

A reset state has no incidents. Those that subscribers consider open would stay so forever: so the alerts topic is read,
and each is ended with a reason. If the trouble continues, a new incident opens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import nan

from stream_ad.config import Settings
from stream_ad.core.batches import Alert, AlertPhase
from stream_ad.io.following import stored
from stream_ad.io.transport import Partition, Transport
from stream_ad.io.wire.alerts import published

REASON = (
    "the state was reset (other settings, another bundle or lost input); if the trouble continues, a new incident opens"
)


def open_alerts(
    settings: Settings, transport: Transport, partition: Partition, beat: Callable[[], None] = lambda: None
) -> list[Alert]:
    """Return the last message of each incident of a partition that is still open; reads the whole alerts topic.

    Args:
        settings: the stream's settings.
        transport: the log.
        partition: of the readings.
        beat: called from time to time.
    """
    mine = settings.stream.name, partition.topic, partition.number
    found: dict[str, Alert] = {}
    for entry in published(stored(transport, settings.stream.alerts_topic, beat=beat)):
        message = entry.alert
        if (message.stream, message.input.topic, message.input.partition) != mine:
            continue
        if message.phase == AlertPhase.RESOLVED.value:
            found.pop(message.id, None)
            continue
        alert = message.alert()
        before = found.get(message.id)
        # A later message may be of kind `regime`; the incident keeps the kind it opened with.
        found[message.id] = alert if before is None else replace(alert, kind=before.kind)
    return list(found.values())


def endings(alerts: Sequence[Alert], offset: int) -> tuple[Alert, ...]:
    """Return the messages that end incidents at an input offset.

    Args:
        alerts: the last message of each.
        offset: offset of the state reset.
    """
    return tuple(
        replace(
            alert,
            version=alert.version + 1,
            phase=AlertPhase.RESOLVED,
            offset=max(offset - 1, 0),
            score=nan,
            channels=(),
            reason=REASON,
        )
        for alert in sorted(alerts, key=lambda alert: (alert.device, alert.id))
    )
