"""Devices whose timers started at another moment lose nothing: readings near the middle between two cells."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from stream_ad.core.quality import Quality
from tests.field.plant import Plant
from tests.field.signals import CHANNELS, machine

T0_MS = 1_772_438_400_000
PHASES = {"p00": 0.0, "p25": 0.25, "p45": 0.45, "p50": 0.5, "p75": 0.75}
SPOILT = int(Quality.DUPLICATE | Quality.GAPS | Quality.OUT_OF_ORDER)


def lines(rows: int, first: int, step_ms: int = 1_000, jitter: float = 0.02, header: bool = True) -> Iterator[str]:
    rng = np.random.default_rng(first + 3)
    if header:
        yield ",".join(("time", "device", *CHANNELS))
    for number, (device, phase) in enumerate(PHASES.items()):
        values = machine(rows, seed=number + first)
        for row, cells in enumerate(values):
            when = T0_MS + round((first + row + phase + rng.normal(0, jitter)) * step_ms)
            yield ",".join((str(when), device, *(f"{cell:.4f}" for cell in cells)))


@pytest.mark.parametrize(("step_ms", "form"), [(1_000, "json"), (1_000, "series"), (60_000, "arrow")])
def test_a_device_between_two_cells_loses_nothing(plant: Plant, step_ms: int, form: str) -> None:
    plant.file("normal.csv", lines(700, 0, step_ms))
    plant.file("today.csv", lines(300, 100_000, step_ms))
    plant.ok("init", "normal.csv", "--name", "ph")
    plant.quiet()
    plant.ok("train", "normal.csv", "--no-baseline", "--period", f"{step_ms}ms")
    plant.ok("send", "today.csv", "--format", form, "--samples", "7")
    plant.drain()

    table = plant.scores()
    device, quality = np.array(table["device"].to_pylist()), np.asarray(table["quality"])
    coverage = np.asarray(table["coverage"])
    for name in PHASES:
        inner = np.flatnonzero(device == name)[4:-4]  # windows that lie within the device's readings
        assert len(inner) >= 8
        assert not (quality[inner] & SPOILT).any(), name
        np.testing.assert_allclose(coverage[inner], 1.0)


def test_the_ends_of_windows_stay_multiples_of_the_period(plant: Plant) -> None:
    plant.file("normal.csv", lines(700, 0))
    plant.ok("init", "normal.csv", "--name", "ph")
    plant.quiet()
    plant.ok("train", "normal.csv", "--no-baseline")
    plant.ok("send", "normal.csv")
    plant.drain()

    end_us = plant.scores()["end"].cast("int64").to_numpy()
    assert not (end_us % (16 * 1_000_000)).any()
