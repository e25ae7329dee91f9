"""Published alerts compared with recomputed ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from stream_ad.config import Settings
from stream_ad.core.batches import Alert, AlertPhase
from stream_ad.io.following import stored
from stream_ad.io.transport import Partition, Transport
from stream_ad.io.wire import alerts as alert_messages
from stream_ad.io.wire.alerts import AlertMessage, published
from stream_ad.replaying.reconciling import endings
from stream_ad.role_table import deciding_group

Key = tuple[str, int, str]
"""Incident, number of the message, phase."""


@dataclass(frozen=True, slots=True)
class Balance:
    """Result of comparing a partition's alerts.

    Attributes:
        compared: number of expected alerts.
        missing: expected but not published.
        surplus: published but not expected, or more than once.
        different: published with other contents.
        examples: one line each for the first of them.
    """

    compared: int
    missing: int
    surplus: int
    different: int
    examples: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Public:
    """An alert in the topic: the offset in it, its key, its content."""

    offset: int
    key: Key
    value: bytes


class AlertLedger:
    """A stream's published alerts by partition of the readings, and the recomputed ones.

    All are held in memory, about 1 kB each. Scorers may keep running: alerts published later are ignored.

    Attributes:
        positions: each partition's position, committed before the alerts were read; up to there they are complete.
    """

    def __init__(self, settings: Settings, transport: Transport, beat: Callable[[], None] = lambda: None) -> None:
        """Read the positions, then the whole alerts topic.

        Args:
            settings: the stream's settings.
            transport: the log.
            beat: called from time to time.
        """
        readings, self._group = settings.stream.readings_topic, deciding_group(settings)
        self._transport = transport
        partitions = [Partition(readings, number) for number in range(transport.topic(readings).partitions)]
        self.positions = {one.number: transport.committed(self._group, one) for one in partitions}
        self._public: dict[int, list[_Public]] = {}
        self._expected: dict[int, list[tuple[Key, bytes]]] = {}
        self._open: dict[int, dict[str, Alert]] = {}
        for found in published(stored(transport, settings.stream.alerts_topic, beat=beat)):
            message = found.alert
            if (message.stream, message.input.topic) == (settings.stream.name, readings):
                entry = _Public(message.input.offset, _key(message), found.at.value)
                self._public.setdefault(message.input.partition, []).append(entry)

    def begin(self, number: int, first: int) -> None:
        """Start or restart the recomputation of a partition.

        Args:
            number: of the partition.
            first: published alerts of lower input offsets are not recomputed.
        """
        self._expected[number], self._open[number] = [], {}
        earlier = [one.value for one in self._public.get(number, ()) if one.offset < first]
        self._follow(number, (alert_messages.decode(value).alert() for value in earlier))

    def expect(self, partition: Partition, alerts: Iterable[Alert], config_digest: str) -> None:
        """Record recomputed alerts.

        Args:
            partition: of the readings.
            alerts: in order.
            config_digest: digest of the settings in force.
        """
        noted = list(alerts)
        self._follow(partition.number, noted)
        expected = self._expected[partition.number]
        for alert in noted:
            value = alert_messages.encode(alert, partition, config_digest).value
            expected.append(((alert.id, alert.version, alert.phase.value), value))

    def expect_endings(self, partition: Partition, offset: int, config_digest: str) -> None:
        """Record a state reset, which ends open incidents.

        Args:
            partition: of the readings.
            offset: offset of the reset.
            config_digest: digest of its settings.
        """
        self.expect(partition, endings(list(self._open[partition.number].values()), offset), config_digest)

    def balance(self, partition: Partition, first: int) -> Balance:
        """Compare a partition's alerts, each by all its fields.

        Args:
            partition: of the readings.
            first: published alerts of lower input offsets were not recomputed.
        """
        number = partition.number
        expected, public = self._expected.get(number, []), self._public.get(number, [])
        position = self.positions[number]
        if position is not None and self._transport.committed(self._group, partition) != position:
            # Later alerts are not recomputed. An entry of the journal that follows has the offset before.
            known = {key for key, _ in expected}
            public = [one for one in public if one.offset < position.offset - 1 or one.key in known]
        wanted = Counter(key for key, _ in expected)
        found = Counter(one.key for one in public if one.offset >= first or one.key in wanted)
        missing, surplus = wanted - found, found - wanted
        # Rows of an entry have the offset before it, which may be below `first`; these are included already.
        contents: dict[Key, list[bytes]] = {}
        for one in public:
            contents.setdefault(one.key, []).append(one.value)
        different = [
            (key, _difference(contents[key][0], value))
            for key, value in expected
            if key in contents and value not in contents[key]
        ]
        examples = [f"alert {_name(key)}: not published" for key in list(missing)[:3]]
        examples += [f"alert {_name(key)}: published but not reproduced, or twice" for key in list(surplus)[:3]]
        examples += [f"alert {_name(key)}: published {what}" for key, what in different[:3]]
        return Balance(len(expected), missing.total(), surplus.total(), len(different), tuple(examples))

    def _follow(self, number: int, alerts: Iterable[Alert]) -> None:
        """Track open incidents, as a state reset reads them from the topic."""
        is_open = self._open[number]
        for alert in alerts:
            if alert.phase is AlertPhase.RESOLVED:
                is_open.pop(alert.id, None)
            else:
                before = is_open.get(alert.id)
                is_open[alert.id] = alert if before is None else replace(alert, kind=before.kind)


def _key(message: AlertMessage) -> Key:
    return message.id, message.version, message.phase


def _name(key: Key) -> str:
    return f"{key[0]} {key[2]} ({key[1]})"


def _difference(published: bytes, computed: bytes) -> str:
    one, other = (alert_messages.decode(value).model_dump() for value in (published, computed))
    wrong = [f"{name} {one[name]!r}, computed {other[name]!r}" for name in one if one[name] != other[name]]
    return "; ".join(wrong) or "in another form"
