"""`init` says what it decided and why on a screen, whatever the recording is like; `--json` has all of it."""

from __future__ import annotations

import pytest

from tests.field.plant import Plant
from tests.field.signals import CHANNELS, csv_lines, machine, stamp

LINES = 25


def wide(plant: Plant, channels: int, name: str = "r.csv") -> None:
    names = [f"AREA_{n % 7}.UNIT_{n:03d}.PT with a long name {n:05d} [bar]" for n in range(channels)]
    rows = [
        ",".join([stamp(row), *(f"{(row * n) % 13}.5" if n % 9 else "" for n in range(channels))]) for row in range(40)
    ]
    plant.file(name, [",".join(["time", *names]), *rows])


@pytest.mark.parametrize("channels", [1, 4, 30, 300, 1_000])
def test_many_channels_fit_on_a_screen(channels: int, plant: Plant) -> None:
    wide(plant, channels + channels // 8 + 1)

    ran = plant.ok("init", "r.csv")
    found = plant.ok("init", "r.csv", "--force", "--json").json()

    assert len(ran.out.splitlines()) <= LINES
    assert f"channels  {len(found['channels']):,}\n" in ran.out
    assert len(found["left_out"]) > channels // 9
    assert "--json lists all" in ran.out or channels <= 30


def test_many_notes_fit_on_a_screen(plant: Plant) -> None:
    body = list(csv_lines(machine(300)))
    extra = [f"{row},,{row * 0.5},text,{int(row < 9)},{'x' if row % 50 == 7 else row % 3}," for row in range(300)]
    rows = [f"{line},{more}" for line, more in zip(body[1:], extra, strict=True)]
    rows[20], rows[21] = rows[21], rows[20]
    lines = [
        "Logger 5",
        "# by hand",
        "",
        f"{body[0]},RECORD,,energy,who,anomaly,valve,",
        *rows,
        "# end",
        "Average,1",
        "END",
    ]
    plant.file("logs/2026-03-02.csv", lines)

    ran = plant.ok("init", "logs", "--name", "line")
    notes = plant.ok("init", "logs", "--force", "--json").json()["notes"]

    assert len(ran.out.splitlines()) <= LINES
    assert len(notes) > 7
    for note in ran.out.splitlines():
        assert len(note) <= 260


def test_many_devices_and_files_fit_on_a_screen(plant: Plant) -> None:
    for number in range(60):
        plant.file(f"logs/pump {number}.csv", list(csv_lines(machine(20, seed=number)))[:21])
        text = (plant.folder / f"logs/pump {number}.csv").read_text().replace("device,", "").replace("p1,", "")
        plant.file(f"logs/pump {number}.csv", text)

    ran = plant.ok("init", "logs")

    assert len(ran.out.splitlines()) <= LINES
    assert "devices: 60 " in ran.out
    assert "pump 0, pump 1, pump 2, " in ran.out
    assert "(60 in all)" in ran.out
    assert len(plant.ok("init", "logs", "--force", "--json").json()["device_names"]) == 60


def test_what_was_decided_is_said(plant: Plant) -> None:
    rows = list(csv_lines(machine(50)))
    plant.file("r.csv", [rows[0], ",,°C,bar,l/min,A", *rows[1:]])

    out = plant.ok("init", "r.csv").out

    assert "devices   p1\n" in out
    assert "current [A], flow [l/min], press [bar], temp [°C]" in out
    assert "(the offset in the data)" in out
    assert sorted(CHANNELS) == plant.ok("init", "r.csv", "--force", "--json").json()["channels"]


def test_names_cannot_break_the_lines(plant: Plant) -> None:
    plant.file("r.csv", ['time,"a\nb","\x1b[31mred"', *(f"{stamp(row)},{row % 3},{row % 5}" for row in range(30))])

    out = plant.ok("init", "r.csv").out

    assert "a b" in out
    assert "\x1b" not in out
