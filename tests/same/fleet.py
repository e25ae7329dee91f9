"""The fleet that both sides read: pumps with faults, sent as badly as gateways do.

Messages are dropped, delayed, repeated, dated ahead, reordered within and damaged; pumps fall silent one at a time
and all at once; between the readings stand records that are none. All of it is the seed's, so the same commit makes the
same bytes again.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby, pairwise
from typing import Any, TypeAlias

import numpy as np
import orjson

from simulators.fleet import device_id
from simulators.producer import Message, simulate
from simulators.scenarios import Scenario
from simulators.scenarios import parse as scenario

Sent: TypeAlias = tuple[bytes, bytes, tuple[tuple[str, bytes], ...]]
"""Key, value and headers of a record."""
Chunk: TypeAlias = tuple[int, list[Sent]]
"""A log time in milliseconds and the records that have it."""

START_MS = 1_704_067_200_000
"""In the past for good: Kafka refuses producers' times that lie ahead of its clock."""
SEED = 20
PUMPS = 32
DURATION_S = 3_600.0
CHUNK_MS = 100_000
"""Log time moves in steps that divide the spans after which silence ends something: none of these is then less than a
step away while the input stops, and no wall clock decides a close."""
AHEAD_MS = 600_000
DELAYS_MS = (10_000, 20_000, 45_000)
SILENCES_S = {"pump-0003": (900, 1_400), "pump-0006": (1_000, 2_200)}
"""One longer than `idle_close_s` of tests/same/side.py, one longer than its `evict_after_s`."""
PAUSE_S = (2_400, 2_800)
"""Nobody sends anything."""
SHARES = (0.25, 0.2, 0.2, 0.2, 0.15)
"""The parts of the input; what happens between them is in tests/same/side.py."""


def parts(pumps: int = PUMPS, duration_s: float = DURATION_S) -> list[list[Chunk]]:
    """Return the input, cut where both sides swap, restart or take other settings."""
    sent = list(chunks(disturbed(pumps, duration_s), CHUNK_MS))
    edges = np.round(np.cumsum((0.0, *SHARES)) * len(sent)).astype(int).tolist()
    return [sent[low:high] for low, high in pairwise(edges)]


def disturbed(pumps: int, duration_s: float) -> list[Message]:
    """Return what the log is sent, by the time at which it is sent."""
    return _disturbed(_messages(pumps, duration_s))


def recorded(duration_s: float = 1_800.0) -> Scenario:
    """Return a fleet without faults, to be trained with."""
    return scenario({"devices": 6, "duration_s": duration_s, "seed": SEED + 1}, "recorded")


def _messages(pumps: int, duration_s: float) -> Iterator[Message]:
    """Yield the readings: most pumps send series, every eighth Arrow, one reading by reading."""
    strewn = {"per_device_hour": 1.5, "first_s": 300.0, "strength": 1.5}
    plain = {"devices": pumps, "duration_s": duration_s, "seed": SEED, "events": False, "random_faults": strewn}
    fleet = scenario(plain, "same")

    def of(form: str) -> Iterator[Message]:
        return (
            message
            for message in simulate(fleet.changed(format=form), START_MS)
            if message.topic == fleet.readings_topic and form == _form(message.key.decode())
        )

    used = {_form(device_id(number)) for number in range(pumps)}
    forms = [form for form in ("series", "arrow", "single") if form in used]
    return heapq.merge(*map(of, forms), key=lambda message: message.at_ms)


def _form(device: str) -> str:
    number = int(device.removeprefix("pump-"))
    return "single" if number == 5 else "arrow" if number % 8 == 0 else "series"


def _disturbed(messages: Iterable[Message]) -> list[Message]:
    """Drop, delay, repeat and damage messages; sort them again."""
    random = np.random.default_rng(SEED)
    found: list[Message] = []
    for number, message in enumerate(messages):
        if _is_silent(message):
            continue
        chance = float(random.random())
        if number % 40 == 39:
            found.append(_rubbish(number // 40, message))
        if chance < 0.02:  # lost on its way
            continue
        if chance < 0.05:
            found.append(message._replace(at_ms=message.at_ms + int(random.choice(DELAYS_MS))))
        elif chance < 0.07:
            found += [message, message]
        elif chance < 0.08:
            found += [message, message._replace(at_ms=message.at_ms + 30_000)]
        elif chance < 0.12 and message.value.startswith(b"{"):
            change = (_ahead, _backwards, _bad_cells, _strange)[int(random.integers(4))]
            found.append(message._replace(value=orjson.dumps(change(orjson.loads(message.value)))))
        else:
            found.append(message)
    return sorted(found, key=lambda message: message.at_ms)


def _is_silent(message: Message) -> bool:
    second = (message.at_ms - START_MS) / 1e3
    begin, end = SILENCES_S.get(message.key.decode(), (0, 0))
    return begin <= second < end or PAUSE_S[0] <= second < PAUSE_S[1]


def _ahead(document: dict[str, Any]) -> dict[str, Any]:
    """Date a message ahead of its log time."""
    ts = document["ts"]
    later = {**ts, "start": ts["start"] + AHEAD_MS} if isinstance(ts, dict) else ts + AHEAD_MS
    return {**document, "ts": later}


def _backwards(document: dict[str, Any]) -> dict[str, Any]:
    """Give each sample its time, in an order of their own."""
    ts = document["ts"]
    if not isinstance(ts, dict):
        return document
    columns = document["values"]
    times = [ts["start"] + ts["step_ms"] * k for k in range(len(next(iter(columns.values()))))]
    order = [*range(1, len(times), 2), *range(0, len(times), 2)]
    turned = {name: [column[k] for k in order] for name, column in columns.items()}
    return {**document, "ts": [times[k] for k in order], "values": turned}


def _bad_cells(document: dict[str, Any]) -> dict[str, Any]:
    """Put into one channel what is no number."""
    values = document["values"]
    bad = "Bad Input" if not isinstance(values["flow"], list) else [*values["flow"][:-1], "Bad Input"]
    return {**document, "values": {**values, "flow": bad, "pressure": None}}


def _strange(document: dict[str, Any]) -> dict[str, Any]:
    """Name a channel that no bundle knows."""
    return {
        **document,
        "values": {**document["values"], "humidity": document["values"]["flow"]},
        "note": "new firmware",
    }


def _rubbish(number: int, message: Message) -> Message:
    """Return a record that is refused, or passed over, in the place of a reading."""
    device, second = message.key.decode(), message.at_ms // 1_000
    made: tuple[Callable[[], bytes], ...] = (
        lambda: b"rubbish %d" % number,
        lambda: message.value[: len(message.value) // 2],
        lambda: orjson.dumps({"device": device, "values": {"flow": 1.0}}),
        lambda: orjson.dumps({"device": device, "ts": second, "values": {"flow": 1.0}}),
        lambda: orjson.dumps({"device": device, "ts": "2024-01-01T00:10:00", "values": {"flow": 1.0}}),
        lambda: orjson.dumps({"device": 7, "ts": message.at_ms, "values": {"flow": 1.0}}),
        lambda: orjson.dumps({"device": device, "ts": [message.at_ms], "values": 3}),
        lambda: b"",
        lambda: orjson.dumps({"device": "fan-0001", "ts": message.at_ms, "values": {"flow": 1.0}}),
    )
    return message._replace(value=made[number % len(made)]())


def chunks(messages: Iterable[Message], length_ms: int) -> Iterator[Chunk]:
    """Give the records of some seconds one log time: the end of these seconds."""
    for number, some in groupby(messages, key=lambda message: message.at_ms // length_ms):
        yield (number + 1) * length_ms, [(m.key, m.value, m.headers) for m in some]
