"""What service and reference read: some pumps of `tests.same.fleet`, all in JSON, with two faults more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from simulators.producer import Message
from tests.same import fleet

PUMPS, DURATION_S = 7, 2_900.0
READ = {b"pump-0003", b"pump-0005", b"pump-0006", b"pump-0007"}
"""Two that fall silent, one that sends reading by reading, one that no bundle was trained on."""
CHUNK_MS = 10_000
Fault = tuple[range, Callable[[list[float | None]], list[float | None]]]
FAULTS: dict[bytes, Fault] = {
    # Until it falls silent, so that it is given up with an incident open.
    b"pump-0006": (range(940, 1_000), lambda values: [value and 10 * value for value in values]),
    b"pump-0007": (range(300, 440), lambda values: [1.5 for _ in values]),
}
"""By pump: the seconds of the run, and what becomes of the flow."""


def chunks() -> list[fleet.Chunk]:
    """Return the records with their log times."""
    sent = (message for message in fleet.disturbed(PUMPS, DURATION_S) if message.key in READ)
    return list(fleet.chunks(map(_with_fault, sent), CHUNK_MS))


def _with_fault(message: Message) -> Message:
    seconds, change = FAULTS.get(message.key, (range(0), list))
    if (message.at_ms - fleet.START_MS) // 1_000 not in seconds:
        return message
    try:
        document: dict[str, Any] = orjson.loads(message.value)
        values = {**document["values"], "flow": change(document["values"]["flow"])}
    except (ValueError, KeyError, TypeError):
        return message  # it is damaged already
    return message._replace(value=orjson.dumps({**document, "values": values}))
