"""Which alerts are open in public, and how they end when nobody continues them.

A state that begins again knows no incidents. Those that subscribers hold for open would stay so for ever: the alerts
topic is read, and each is ended with a reason. If the trouble goes on, a new incident opens.
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
    "the state was started again (other settings, another bundle or lost input); if the trouble goes on a new "
    "incident opens"
)


def open_alerts(
    settings: Settings, transport: Transport, partition: Partition, beat: Callable[[], None] = lambda: None
) -> list[Alert]:
    """Return the last message of each incident of a partition that has no end yet; reads the whole alerts topic.

    Args:
        settings: of the stream.
        transport: the log.
        partition: of the readings.
        beat: called now and then.
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
        offset: where state begins again.
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
