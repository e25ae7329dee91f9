"""A device whose readings come in two partitions is named; one that moved, or stays where it is, is not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stream_ad.assembly import open_transport
from stream_ad.io.transport import Record
from tests.field.plant import Plant
from tests.field.seen import trained_folder
from tests.field.signals import CHANNELS, START, machine

START_MS = int(START.timestamp() * 1000) + 100_000_000


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_folder(tmp_path_factory.mktemp("trained"))


@pytest.fixture
def trained(plant: Plant, once: Path) -> Plant:
    shutil.copytree(once, plant.folder, dirs_exist_ok=True)
    return plant


def send(plant: Plant, records: Iterable[Record]) -> None:
    settings = plant.settings()
    transport = open_transport(settings)
    try:
        transport.ensure_topic(settings.stream.readings_topic, 3)
        transport.append(settings.stream.readings_topic, list(records))
    finally:
        transport.close()


def record(device: str, row: int, values: list[float], partition: int) -> Record:
    cells: dict[str, Any] = dict(zip(CHANNELS, values, strict=True))
    document = {"device": device, "ts": START_MS + 1_000 * row, "values": cells}
    return Record(json.dumps(document).encode(), device.encode(), (), partition)


def halves(device: str, rows: int = 600) -> Iterator[Record]:
    """Two clients send a device's readings in turn, each to a partition of its own."""
    for row, values in enumerate(machine(rows, seed=3).tolist()):
        yield record(device, row, values, 2 * (row % 2))


def moved(device: str, rows: int = 600) -> Iterator[Record]:
    """Partitions were added: from one reading on the device is in another one."""
    for row, values in enumerate(machine(rows, seed=3).tolist()):
        yield record(device, row, values, int(row >= rows // 2))


def stays(device: str, rows: int = 600) -> Iterator[Record]:
    for row, values in enumerate(machine(rows, seed=3).tolist()):
        yield record(device, row, values, 1)


def looked_at(plant: Plant) -> tuple[dict[str, Any], list[str]]:
    found = plant("status", "--json").json()
    return found["intake"]["split"], [line for line in found["warnings"] if "in two partitions" in line]


def test_a_device_in_two_partitions_is_named(trained: Plant) -> None:
    send(trained, [*halves("pump-7"), *stays("pump-8")])
    trained.drain()

    found, (line,) = looked_at(trained)
    assert found["devices"] == [{"device": "pump-7", "partitions": [0, 2]}]
    assert line.startswith("a device's readings arrive in two partitions (pump-7 in 0 and 2;")
    assert "murmur2" in line
    checked = trained("check")
    assert "WARN split" in checked.out
    assert checked.code == 0


def test_many_are_counted(trained: Plant) -> None:
    send(trained, [one for number in range(5) for one in halves(f"pump-{number}", rows=300)])
    trained.drain()

    found, (line,) = looked_at(trained)
    assert found["count"] == 5
    assert line.startswith("the readings of 5 devices arrive in two partitions (pump-0 in 0 and 2, ")
    assert ", and 2 more" in line


def test_a_device_that_moved_or_stays_is_not_named(trained: Plant) -> None:
    send(trained, [*moved("pump-7"), *stays("pump-8")])
    trained.drain()

    found, lines = looked_at(trained)
    assert (found["count"], lines) == (0, [])
    assert found["messages"] > 0
