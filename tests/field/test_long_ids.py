"""Ids that the wire does not take are named before anything is sent."""

from __future__ import annotations

from tests.field.plant import Plant
from tests.field.signals import CHANNELS, csv_lines, machine

LONG = "urn:" + "x" * 300


def test_rows_of_an_id_that_is_too_long_are_not_sent_and_named(plant: Plant) -> None:
    normal = machine(1_100)
    plant.file("normal.csv", csv_lines(normal))
    plant.ok("init", "normal.csv", "--name", "p")
    plant.quiet()
    plant.ok("train", "normal.csv", "--no-baseline")
    rows = [*csv_lines(normal[:120]), *csv_lines(normal[:120], device=LONG, header=False)]
    plant.file("today.csv", [*rows, *csv_lines(normal[:120], device="y" * 256, header=False)])

    ran = plant.ok("send", "today.csv")
    plant.drain()

    assert "1 device id(s) exceed 256 characters: 'urn:" in ran.err
    assert "sent 240 rows of 2 devices" in ran.err
    assert set(plant.scores()["device"].to_pylist()) == {"p1", "y" * 256}


def test_a_recording_of_such_ids_alone_is_refused(plant: Plant) -> None:
    plant.file("normal.csv", csv_lines(machine(300), device="p1"))
    plant.file("today.csv", csv_lines(machine(5), device=LONG, channels=CHANNELS))
    plant.ok("init", "normal.csv", "--name", "p")

    ran = plant("send", "today.csv")

    assert ran.code != 0
    assert "exceed 256 characters" in ran.said
