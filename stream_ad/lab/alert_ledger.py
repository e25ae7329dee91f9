"""Alerts that are public against those that the log gives once more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from stream_ad.config import Settings
from stream_ad.core.batches import Alert
from stream_ad.errors import ContractError
from stream_ad.io import alert_messages
from stream_ad.io.transport import Partition, Transport
from stream_ad.replaying.reconciling import REASON

Key = tuple[str, int, str]
"""Incident, number of the message, phase."""


@dataclass(frozen=True, slots=True)
class Balance:
    """What a partition's alerts came to.

    Attributes:
        compared: alerts that should be there.
        missing: of these, not there.
        surplus: there, and should not be, or more than once.
        examples: a line each for the first of them.
    """

    compared: int
    missing: int
    surplus: int
    examples: tuple[str, ...]


class AlertLedger:
    """The public alerts of a stream by partition of the readings, and those that were computed again."""

    def __init__(self, settings: Settings, transport: Transport, beat: Callable[[], None] = lambda: None) -> None:
        """Read the whole alerts topic.

        Args:
            settings: of the stream.
            transport: the log.
            beat: called now and then.
        """
        self._public: dict[int, list[tuple[int, Key, bool]]] = {}
        self._expected: dict[int, Counter[Key]] = {}
        topic = settings.stream.alerts_topic
        for number in range(transport.topic(topic).partitions):
            place = Partition(topic, number)
            for raw in transport.read(place, *transport.bounds(place)):
                beat()
                for value in raw.values:
                    try:
                        message = alert_messages.decode(value)
                    except ContractError:  # somebody else's
                        continue
                    if (message.stream, message.input.topic) == (settings.stream.name, settings.stream.readings_topic):
                        key = message.id, message.version, message.phase
                        entry = message.input.offset, key, message.reason == REASON
                        self._public.setdefault(message.input.partition, []).append(entry)

    def expect(self, partition: Partition, alerts: Iterable[Alert]) -> None:
        """Note alerts that were computed again."""
        expected = self._expected.setdefault(partition.number, Counter())
        expected.update((alert.id, alert.version, alert.phase.value) for alert in alerts)

    def forget(self, number: int) -> None:
        """Let go of what was computed of a partition, which is computed anew."""
        self._expected.pop(number, None)

    def balance(self, number: int, first: int) -> Balance:
        """Compare a partition's alerts.

        Messages that ended what a state that began again had left open are no result of the input: they count as
        expected once.

        Args:
            number: of the partition.
            first: public alerts of input offsets below this were not computed again.
        """
        expected = self._expected.get(number, Counter())
        public = Counter(key for offset, key, _ in self._public.get(number, ()) if offset >= first)
        # Rows of an entry bear the offset before it, which may lie in front of `first`.
        earlier = {key for offset, key, _ in self._public.get(number, ()) if offset < first}
        ended = {key for _, key, is_ending in self._public.get(number, ()) if is_ending}
        missing = sum(((expected - public) - Counter(earlier)).values())
        surplus = public - expected - Counter(ended)
        examples = [
            f"alert {key[0]} {key[2]} ({key[1]}): not published"
            for key in list((expected - public) - Counter(earlier))[:3]
        ]
        examples += [
            f"alert {key[0]} {key[2]} ({key[1]}): published and not computed, or twice" for key in list(surplus)[:3]
        ]
        return Balance(sum(expected.values()), missing, sum(surplus.values()), tuple(examples))
