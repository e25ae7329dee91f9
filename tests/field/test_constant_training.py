"""Recordings in which nothing moves, or some channels do not: said so, and a real change counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import pytest

from tests.field.plant import Plant
from tests.field.signals import csv_lines, machine

Values = npt.NDArray[np.float64]
ROWS = 1_200
NAMES = ("a", "b")


def constant(rows: int, levels: Sequence[float]) -> Values:
    return np.tile(np.array(levels, np.float64), (rows, 1))


def judged(plant: Plant, normal: Values, today: Values, names: Sequence[str], *words: str) -> tuple[str, list[str]]:
    """Return what `init` and `train` said, and the phases of the alerts."""
    plant.file("normal.csv", csv_lines(normal, channels=names))
    plant.file("today.csv", csv_lines(today, channels=names, first=100_000))
    said = plant.ok("init", "normal.csv", "--name", "p").said
    plant.quiet()
    said += plant.ok("train", "normal.csv", "--no-baseline", *words).said
    plant.ok("send", "today.csv")
    plant.drain()
    return said, [f"{alert['phase']} {alert.get('kind', '')}" for alert in plant.alerts()]


def with_step(size: float, levels: Sequence[float]) -> Values:
    values = constant(1_500, levels)
    values[500:700, 0] += size
    return values


@pytest.mark.parametrize("detector", ["pca", "mahalanobis", "multiscale_pca", "isolation_forest"])
def test_nothing_moves_is_said_and_the_last_digit_is_no_emergency(plant: Plant, detector: str) -> None:
    said, phases = judged(plant, constant(ROWS, (5, 1)), with_step(0.0001, (5, 1)), NAMES, "--detector", detector)
    assert said.count("no channel moves in this recording") == 2
    assert not phases
    limits = plant.scores()["limit"].to_pylist()
    assert min(limits) > 1e-6


@pytest.mark.parametrize("detector", ["pca", "mahalanobis", "multiscale_pca"])
@pytest.mark.parametrize(
    ("levels", "size"),
    [((5.0, 1.0), 1.0), ((0.0, 0.0), 1.0), ((100.0, 3.0), -5.0), ((1e6, 2.0), 1e5), ((-40.0, 7.0), 4)],
)
def test_a_real_step_is_found(plant: Plant, detector: str, levels: Sequence[float], size: float) -> None:
    _, phases = judged(plant, constant(ROWS, levels), with_step(size, levels), NAMES, "--detector", detector)
    assert any(phase.startswith("opened") for phase in phases)


@pytest.mark.parametrize(("levels", "size"), [((5.1234, 1.0), 0.0001), ((293.15, 0.0), 0.01), ((1e9, 1.0), 1.0)])
def test_the_last_digit_of_any_level_is_none(plant: Plant, levels: Sequence[float], size: float) -> None:
    _, phases = judged(plant, constant(ROWS, levels), with_step(size, levels), NAMES)
    assert not phases


def test_quiet_constant_service_stays_quiet(plant: Plant) -> None:
    _, phases = judged(plant, constant(ROWS, (5, 1)), constant(3_000, (5, 1)), NAMES)
    assert not phases


def test_a_channel_that_left_its_value_once_makes_no_alarm_of_its_last_digit(plant: Plant) -> None:
    normal = constant(ROWS, (5, 1))
    normal[700, 0] += 0.0001
    _, phases = judged(plant, normal, with_step(0.0001, (5, 1)), NAMES)
    assert not phases


def among_moving(rows: int, seed: int, third: Callable[[int], float]) -> Values:
    moving = machine(rows, seed)[:, :2]
    return np.column_stack([moving, [third(row) for row in range(rows)]])


@pytest.mark.parametrize(("level", "moved"), [(0.0, 1.0), (50.0, 55.0), (7.0, 6.0)])
def test_a_constant_channel_among_moving_ones_is_named_and_counts_when_it_moves(
    plant: Plant, level: float, moved: float
) -> None:
    normal = among_moving(2_500, 0, lambda row: level)
    today = among_moving(1_500, 1, lambda row: moved if 700 <= row < 1_000 else level)
    said, phases = judged(plant, normal, today, ("a", "b", "still"))
    assert said.count("still never moved here") == 2
    assert any(phase.startswith("opened") for phase in phases)
