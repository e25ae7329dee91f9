"""An endless fleet for long runs: cheap messages of simulated pumps, changing devices, a constant rate.

Messages are cut from a few simulated pumps; only device and time are written per message, so that the sender needs a
few microseconds for each and leaves the machine to the measured processes.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator

from benchmarks.load import SAMPLES
from simulators import producer, scenarios
from stream_ad.io.transport import Record, Transport
from stream_ad.io.wire.encode import JSON_HEADERS

PATTERNS, ROUNDS = 32, 32
"""Number of different pumps, and messages of each before it repeats, with a jump."""
TICK_S = 0.02
LARGEST = 2_000


def patterns(samples: int) -> list[list[bytes]]:
    """Return the values of consecutive messages of some pumps, as the JSON after `"values":`."""
    plain = {"devices": PATTERNS, "duration_s": float(ROUNDS * samples), "samples": samples}
    load = scenarios.load("load").changed(**plain)
    found: dict[bytes, list[bytes]] = {}
    for message in producer.simulate(load, 0):
        if message.topic == load.readings_topic:
            found.setdefault(message.key, []).append(message.value.partition(b'"values":')[2])
    return list(found.values())


class Fleet:
    """Messages of `devices` pumps in turn, with `samples` samples each, one second apart in event time.

    Args:
        devices: number of devices that send at a time.
        life: messages of a device before it stops and a new one replaces it; 0: it never stops.
        start_ms: event time of the first sample; must stay in the past of log time.
        samples: number per message.
    """

    def __init__(self, devices: int, life: int = 0, start_ms: int | None = None, samples: int = SAMPLES) -> None:
        self.devices = devices
        self._samples = samples
        self._life = life
        # A year ago: however fast messages are sent, they never reach the present.
        self._start_ms = int(time.time() * 1_000) - 31_536_000_000 if start_ms is None else start_ms
        self._values = patterns(samples)

    def messages(self) -> Iterator[Record]:
        """Yield an endless series of messages, in partition 0."""
        for turn in itertools.count():
            start = b'","ts":{"start":%d,"step_ms":1000},"values":' % (self._start_ms + turn * self._samples * 1_000)
            for number in range(self.devices):
                name = self.name(number, turn)
                values = self._values[number % PATTERNS]
                value = b'{"device":"%s%s%s' % (name, start, values[(turn + number) % ROUNDS])
                yield Record(value, name, JSON_HEADERS, 0)

    def name(self, number: int, turn: int) -> bytes:
        """Return the device at a position in a turn; devices are replaced one after the other."""
        if not self._life:
            return b"pump-%05d" % number
        age = turn + number * self._life // self.devices
        return b"pump-%05d-%d" % (number, age // self._life)


class Sender(threading.Thread):
    """Appends messages at a constant rate until stopped; the rate can be changed meanwhile.

    Attributes:
        rate: messages per second.
        sent: messages so far.
        behind_s: maximum delay behind the schedule.
    """

    def __init__(self, transport: Transport, topic: str, messages: Iterator[Record], rate: float) -> None:
        super().__init__(daemon=True)
        self.rate = rate
        self.sent = 0
        self.behind_s = 0.0
        self.error: BaseException | None = None
        self._transport, self._topic, self._messages = transport, topic, messages
        self._stop_event = threading.Event()

    def run(self) -> None:
        due, at = 0.0, time.monotonic()
        try:
            while not self._stop_event.wait(TICK_S):
                now = time.monotonic()
                due += (now - at) * self.rate
                at = now
                count = min(int(due), LARGEST)
                if count:
                    self._transport.append(self._topic, itertools.islice(self._messages, count))
                    self.sent += count
                    due -= count
                    self.behind_s = max(self.behind_s, due / self.rate if self.rate else 0.0)
        except BaseException as error:
            self.error = error
            raise

    def finish(self) -> int:
        """Stop, and return the number of messages sent.

        Raises:
            SystemExit: the sender failed.
        """
        self._stop_event.set()
        self.join(60)
        if self.error is not None or self.is_alive():
            raise SystemExit(f"the sender failed: {self.error}")
        return self.sent
