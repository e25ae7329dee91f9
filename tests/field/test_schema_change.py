"""Channels come and go in one stream and one score log, and every reader sees each of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pytest

from stream_ad.io.score_log import log as score_log
from tests.field.plant import Plant
from tests.field.signals import CHANNELS, csv_lines, machine
from tests.support.score_logs import as_format_1

DAY = 100_000
"""Rows between the days."""


def day(plant: Plant, number: int, channels: Sequence[str], rows: int = 400) -> None:
    """Train on some channels, put the bundle into service by a restart, and score a day."""
    columns = [CHANNELS.index(name) for name in channels]
    plant.file(f"normal{number}.csv", csv_lines(machine(1_500)[:, columns], channels=channels))
    if number == 1:
        plant.ok("init", "normal1.csv", "--name", "p")
        plant.quiet()
    settings = plant.folder / "stream.toml"
    bundle = f"bundles/v{number}"
    settings.write_text(
        "\n".join(
            f'bundle = "{bundle}"' if line.startswith("bundle =") else line
            for line in settings.read_text().splitlines()
        )
    )
    plant.ok("train", f"normal{number}.csv", "--out", bundle)
    values = machine(rows, seed=number)[:, columns]
    plant.file(f"day{number}.csv", csv_lines(values, channels=channels, first=number * DAY))
    plant.ok("send", f"day{number}.csv")
    plant.drain()


def parts(plant: Plant) -> list[Path]:
    return [part.path for part in score_log.parts(plant.settings().store.scores)]


def rows(plant: Plant) -> list[dict[str, Any]]:
    return [json.loads(line) for line in plant.ok("scores", "p1", "--json").out.splitlines()]


def keys(plant: Plant) -> list[tuple[str, ...]]:
    """The channels of each window with a score, in order of time."""
    return [tuple(row["contribution"]) for row in rows(plant) if row["contribution"]]


def by_duckdb(folder: Path) -> list[tuple[str, ...]]:
    query = (
        f"""SELECT map_keys(contribution) FROM '{folder}/**/*.parquet' WHERE contribution IS NOT NULL ORDER BY "end" """
    )
    with duckdb.connect() as connection:
        return [tuple(found) for (found,) in connection.execute(query).fetchall()]


def old_days(plant: Plant) -> None:
    """Leave all parts as version 0.1 wrote them."""
    for path in parts(plant):
        as_format_1(path)


def all_read_it(plant: Plant, expected: Sequence[tuple[str, ...]]) -> None:
    """Check that each verb reads the log, with these channels in this order of time."""
    assert "proven" in plant.ok("verify").said
    assert list(dict.fromkeys(keys(plant))) == list(expected)
    plant.ok("scores", "p1")
    plant.ok("scores", "p1", "--plot", "p1.png")
    assert (plant.folder / "p1.png").stat().st_size > 1_000


CHANGES: Mapping[str, Sequence[tuple[str, ...]]] = {
    "one comes": [("flow", "press", "temp"), ("current", "flow", "press", "temp")],
    "one goes": [("current", "flow", "press", "temp"), ("flow", "press", "temp")],
    "others": [("flow", "temp"), ("current", "press")],
}


@pytest.mark.parametrize("change", CHANGES)
def test_channels_come_and_go(plant: Plant, change: str) -> None:
    before, after = CHANGES[change]
    day(plant, 1, before)
    day(plant, 2, after)
    folder = plant.settings().store.scores

    all_read_it(plant, [before, after])
    assert list(dict.fromkeys(by_duckdb(folder))) == [before, after]


def test_a_log_that_the_version_before_began_goes_on(plant: Plant) -> None:
    day(plant, 1, ("flow", "press", "temp"))
    before = rows(plant)
    old_days(plant)
    assert rows(plant) == before
    assert "proven" in plant.ok("verify").said
    assert "other contributions" not in plant("audit").said

    day(plant, 2, CHANNELS)
    everything = [("flow", "press", "temp"), tuple(sorted(CHANNELS))]
    all_read_it(plant, everything)
    assert rows(plant)[: len(before)] == before


def test_a_whole_log_is_audited_in_either_format(plant: Plant) -> None:
    day(plant, 1, CHANNELS)
    assert plant.ok("audit").code == 0
    old_days(plant)
    assert plant.ok("audit").code == 0


def test_a_channel_that_is_missing_has_no_part(plant: Plant) -> None:
    channels = CHANNELS
    plant.file("normal.csv", csv_lines(machine(1_500)))
    plant.ok("init", "normal.csv", "--name", "p")
    plant.quiet()
    plant.ok("train", "normal.csv")
    lines = list(csv_lines(machine(900, seed=1), first=DAY))
    for row in range(300, 600):
        cells = lines[1 + row].split(",")
        cells[2 + channels.index("flow")] = ""
        lines[1 + row] = ",".join(cells)
    plant.file("live.csv", lines)
    plant.ok("send", "live.csv")
    plant.drain()

    found = list(dict.fromkeys(keys(plant)))
    assert found == [("current", "flow", "press", "temp"), ("current", "press", "temp")]
    assert all(part >= 0 for row in rows(plant) for part in (row["contribution"] or {}).values())
    assert plant.ok("audit").code == 0
