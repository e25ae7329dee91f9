"""Hundreds of channels train in minutes and within a gigabyte; the time is measured by benchmarks/training.py."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from benchmarks.training import CHANNELS, MOST_MB, ROWS, WORK
from tests.field.plant import Plant
from tests.field.signals import csv_lines


@pytest.mark.process
@pytest.mark.parametrize("detector", ["pca", "mahalanobis"])
def test_300_channels_train_within_a_gigabyte(detector: str) -> None:
    command = [sys.executable, "-c", WORK, detector, str(CHANNELS), str(ROWS)]
    ran = subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
    assert float(ran.stdout.split()[1]) < MOST_MB


def test_a_fault_of_one_of_many_channels_is_found_and_named(plant: Plant) -> None:
    names = [f"c{number:03d}" for number in range(120)]
    rng = np.random.default_rng(2)
    mix = rng.normal(size=(8, len(names)))
    values = rng.normal(size=(2_400, 8)) @ mix + rng.normal(0, 0.3, (2_400, len(names)))
    plant.file("normal.csv", csv_lines(values[:1_600], channels=names))
    values[2_000:, 77] += 40
    plant.file("today.csv", csv_lines(values[1_600:], channels=names, first=100_000))
    plant.ok("init", "normal.csv", "--name", "p")
    plant.quiet()
    plant.ok("train", "normal.csv", "--no-baseline", "--samples", "8", "--stride", "8")
    plant.ok("send", "today.csv")
    plant.drain()
    opened = [alert for alert in plant.alerts() if alert["phase"] == "opened"]
    assert any("c077" in str(alert["channels"]) for alert in opened), opened
