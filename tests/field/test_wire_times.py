"""Times on the wire that are no epoch milliseconds are refused, and the letter says what they might be."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from stream_ad.core.batches import Reason, Refused
from stream_ad.io.transport import Headers, Partition, RawBatch
from stream_ad.io.wire import dead_letters
from stream_ad.io.wire.encode import ARROW_HEADERS
from stream_ad.io.wire.readings import Decoded, Decoder
from tests.field.plant import Plant
from tests.field.signals import CHANNELS, csv_lines, machine

MOMENT = datetime(2026, 3, 2, 8, tzinfo=UTC)
EPOCH_S = int(MOMENT.timestamp())
NUMBERS: dict[str, tuple[float, str]] = {
    "seconds": (EPOCH_S, "epoch seconds (2026-03-02T08:00:00Z)"),
    "fractional seconds": (EPOCH_S + 0.25, "epoch seconds (2026-03-02T08:00:00Z)"),
    "microseconds": (EPOCH_S * 10**6, "epoch microseconds (2026-03-02T08:00:00Z)"),
    "nanoseconds": (EPOCH_S * 10**9, "epoch nanoseconds (2026-03-02T08:00:00Z)"),
    "filetime": ((EPOCH_S + 11_644_473_600) * 10**7, "a Windows FILETIME (2026-03-02T08:00:00Z)"),
    "dotnet": ((EPOCH_S + 62_135_596_800) * 10**7, ".NET ticks (2026-03-02T08:00:00Z)"),
    "labview": (EPOCH_S + 2_082_844_800, "seconds since 1904 (LabVIEW) (2026-03-02T08:00:00Z)"),
    "excel": (46_083 + 1 / 3, "an Excel date (2026-03-02T08:00:00Z)"),
    "compact 8": (20260302, "the digits of a date (2026-03-02 00:00)"),
    "compact 12": (202603020800, "the digits of a date (2026-03-02 08:00)"),
    "compact 14": (20260302080000, "the digits of a date (2026-03-02 08:00)"),
}
UNREADABLE: dict[str, tuple[object, str]] = {
    **NUMBERS,
    "digits in quotes": (
        str(EPOCH_S * 1000),
        "epoch milliseconds (2026-03-02T08:00:00Z); send epoch milliseconds without",
    ),
    "no offset": ("2026-03-02T08:00:00", "it has no offset"),
    "zero": (0, "found 0"),
    "negative": (-EPOCH_S, f"found -{EPOCH_S}"),
    "unset clock": (315_532_800_000, "found 315532800000"),  # 1980, as clocks without a battery say
    "unset clock as text": ("1980-01-06T00:00:00Z", "found '1980-01-06T00:00:00Z'"),
    "far": (10**30, "found"),
    "nothing": (None, "found None"),
}


def decode(value: bytes, headers: Headers = ()) -> Decoded[Any]:
    log_ns = np.array([EPOCH_S * 10**9])
    return Decoder(["flow"]).decode(
        RawBatch(Partition("r", 0), np.zeros(1, np.int64), log_ns, [b""], [value], [headers], 1)
    )


def only(found: Decoded[Any]) -> Refused:
    (refused,) = found.refused
    assert len(refused.detail) < 400
    return refused


@pytest.mark.parametrize("case", UNREADABLE)
def test_a_time_that_is_none_is_refused_with_what_it_might_be(case: str) -> None:
    ts, said = UNREADABLE[case]
    shapes: list[tuple[object, object]] = [
        (ts, 1.0),
        ([ts], [1.0]),
        ({"start": ts, "step_ms": 1000}, [1.0]),
    ]
    for time, cells in shapes:
        found = decode(json.dumps({"device": "p", "ts": time, "values": {"flow": cells}}).encode())
        assert len(found.readings.device) == 0
        assert only(found).reason is Reason.BAD_TIME
        assert said in only(found).detail


@pytest.mark.parametrize("case", NUMBERS)
def test_the_same_in_arrow(case: str) -> None:
    ts, said = NUMBERS[case]
    table = pa.table({"device": ["p", "p"], "ts": pa.array([EPOCH_S * 1000, ts]), "flow": [1.0, 2.0]})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)

    found = decode(bytes(sink.getvalue()), ARROW_HEADERS)

    assert found.readings.event_ns.tolist() == [EPOCH_S * 10**9]
    assert only(found).reason is Reason.BAD_TIME
    assert said in only(found).detail


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("ticks", [0, -1, 2**62, -(2**62)])
def test_timestamps_of_arrow_that_are_absurd_are_refused_without_overflow(unit: str, ticks: int) -> None:
    table = pa.table({"device": ["p"], "ts": pa.array([ticks], pa.timestamp(unit, "UTC")), "flow": [1.0]})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)

    found = decode(bytes(sink.getvalue()), ARROW_HEADERS)

    if (unit, ticks) != ("ns", 2**62):  # 2116: a time, and too far ahead for the windows
        assert only(found).reason is Reason.BAD_TIME
        assert f"found {ticks} {unit}" in only(found).detail


def test_letters_of_times_ahead_say_which_mistake_they_look_like(plant: Plant) -> None:
    plant.file("normal.csv", csv_lines(machine(1_100)))
    plant.ok("init", "normal.csv", "--name", "p")
    plant.quiet()
    plant.ok("train", "normal.csv", "--no-baseline")
    values = dict.fromkeys(CHANNELS, 1.0)
    now = int(datetime.now(UTC).timestamp() * 1000)
    plant.append(
        {"device": "p1", "ts": ts, "values": values}
        for ts in (now, now + 2_082_844_800_000, now + 7_200_000, now + 10**12, now // 1000)
    )
    plant.drain()

    details = [letter.refused.detail for letter in letters(plant)]
    said = (
        "might be milliseconds since 1904",
        "might be local time sent as UTC",
        "log time is",
        "might be epoch seconds",
    )
    assert len(details) == len(said)
    for detail, part in zip(details, said, strict=True):
        assert part in detail


def letters(plant: Plant) -> list[dead_letters.DeadLetter]:
    from stream_ad.assembly import open_transport

    settings = plant.settings()
    transport = open_transport(settings)
    try:
        place = Partition(settings.stream.dead_letters_topic, 0)
        raws = list(transport.read(place, *transport.bounds(place)))
        return [
            dead_letters.decode(value, headers)
            for raw in raws
            for value, headers in zip(raw.values, raw.headers, strict=True)
        ]
    finally:
        transport.close()
