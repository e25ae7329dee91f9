"""An endless fleet for long runs: cheap messages of simulated pumps, devices that come and go, a steady sender.

Messages are cut from a few simulated pumps; only the device and the time are written anew, so that the sender takes a
few microseconds a message and leaves the machine to what is measured.
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
"""So many different pumps, and messages of each until it begins anew, with a jump."""
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
    """Messages of `devices` pumps in turn, `samples` samples each, one second apart in event time.

    Args:
        devices: how many speak at a time.
        life: messages of a device until it falls silent and a new one takes its turn; 0 is for ever.
        start_ms: event time of the first sample; it must stay in the past of the log's time.
        samples: of a message.
    """

    def __init__(self, devices: int, life: int = 0, start_ms: int | None = None, samples: int = SAMPLES) -> None:
        self.devices = devices
        self._samples = samples
        self._life = life
        # A year: however fast messages are sent, they never reach the present.
        self._start_ms = int(time.time() * 1_000) - 31_536_000_000 if start_ms is None else start_ms
        self._values = patterns(samples)

    def messages(self) -> Iterator[Record]:
        """Yield messages without end, partition 0."""
        for turn in itertools.count():
            start = b'","ts":{"start":%d,"step_ms":1000},"values":' % (self._start_ms + turn * self._samples * 1_000)
            for number in range(self.devices):
                name = self.name(number, turn)
                values = self._values[number % PATTERNS]
                value = b'{"device":"%s%s%s' % (name, start, values[(turn + number) % ROUNDS])
                yield Record(value, name, JSON_HEADERS, 0)

    def name(self, number: int, turn: int) -> bytes:
        """Return the device that speaks at a place in a turn; places change hands one after the other."""
        if not self._life:
            return b"pump-%05d" % number
        age = turn + number * self._life // self.devices
        return b"pump-%05d-%d" % (number, age // self._life)


class Sender(threading.Thread):
    """Appends messages at a steady rate until stopped; the rate can be changed meanwhile.

    Attributes:
        rate: messages a second.
        sent: so far.
        behind_s: how far the sender could not keep up at the worst.
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
        """Stop; return how many were sent.

        Raises:
            SystemExit: the sender failed.
        """
        self._stop_event.set()
        self.join(60)
        if self.error is not None or self.is_alive():
            raise SystemExit(f"the sender failed: {self.error}")
        return self.sent
