"""The yardstick of the other tests here: a clean recording goes through the pipe, and its fault is found."""

from __future__ import annotations

from tests.field.plant import Plant
from tests.field.signals import csv_lines, machine


def test_a_clean_recording_trains_and_its_fault_is_found(plant: Plant) -> None:
    plant.file("normal.csv", csv_lines(machine(3_000)))
    today = machine(900, seed=1)
    today[400:600, 1] -= 2.0
    plant.file("today.csv", csv_lines(today, first=100_000))

    plant.ok("init", "normal.csv", "--name", "p")
    plant.quiet()
    plant.ok("train", "normal.csv")
    plant.ok("send", "today.csv")
    plant.drain()

    assert "opened" in {alert["phase"] for alert in plant.alerts()}
    assert plant.scores().num_rows > 40
