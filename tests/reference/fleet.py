"""Input for service and reference: some pumps of `tests.same.fleet`, all in JSON, each changed once more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from simulators.producer import Message
from tests.same import fleet

PUMPS, DURATION_S = 7, 2_900.0
CHUNK_MS = 10_000
Document = dict[str, Any]


def chunks() -> list[fleet.Chunk]:
    """Return the records with their log times."""
    read = {pump for pump, _, _ in CHANGES}
    sent = (message for message in fleet.disturbed(PUMPS, DURATION_S) if message.key in read)
    return list(fleet.chunks(map(_changed, sent), CHUNK_MS))


def _changed(message: Message) -> Message:
    second = (message.at_ms - fleet.START_MS) // 1_000
    for pump, seconds, change in CHANGES:
        if message.key == pump and second in seconds:
            try:
                document = change(orjson.loads(message.value))
            except (ValueError, KeyError, TypeError):
                continue  # it is damaged already
            message = message._replace(value=orjson.dumps(document))
    return message


def _between_cells(document: Document) -> Document:
    """Sample between the cells of the grid."""
    ts = document["ts"]
    if isinstance(ts, dict):
        return {**document, "ts": {**ts, "start": ts["start"] + 600}}
    return {**document, "ts": [time + 600 for time in ts]}


def _half(document: Document) -> Document:
    """Leave out half of the channels: the window is still scored."""
    return {**document, "values": dict(list(document["values"].items())[::2])}


def _seldom(document: Document) -> Document:
    """Send eight large values every half minute: a window over the limit, and between two such some without a score."""
    is_sent = 4 <= document["ts"] // 1_000 % 32 < 12
    return {**document, "values": {name: 10 * value for name, value in document["values"].items() if is_sent}}


def _tenfold(document: Document) -> Document:
    flow = [value and 10 * value for value in document["values"]["flow"]]
    return {**document, "values": {**document["values"], "flow": flow}}


def _stuck(document: Document) -> Document:
    flow = [1.5 for _ in document["values"]["flow"]]
    return {**document, "values": {**document["values"], "flow": flow}}


CHANGES: list[tuple[bytes, range, Callable[[Document], Document]]] = [
    (b"pump-0003", range(3_000), _between_cells),
    (b"pump-0005", range(172, 300), _seldom),
    (b"pump-0005", range(500, 560), _half),
    (b"pump-0006", range(940, 1_000), _tenfold),
    (b"pump-0007", range(300, 440), _stuck),
]
"""Pump, seconds of the run, and the change. pump-0003 and pump-0006 fall silent later (pump-0006 with an open
incident), pump-0005 sends single readings, pump-0007 is not among the training devices."""
