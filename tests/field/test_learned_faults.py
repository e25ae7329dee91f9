"""A fault that lasts is one open incident until it is over, and the same fault after a repair is another."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.field.plant import Plant
from tests.field.signals import START, csv_lines, machine

PRESSURE = 1
FIRST = 10_000
"""Row of the live data's first reading, behind the recording."""
WINDOW = 16
"""Rows between two windows."""
Stretch = tuple[int, int, float]
"""First row, row behind the last, and what the pressure is multiplied by."""


def running(rows: int, faults: Iterable[Stretch], seed: int = 1) -> npt.NDArray[np.float64]:
    values = machine(rows, seed)
    for begin, end, factor in faults:
        values[begin:end, PRESSURE] *= factor
    return values


def trained(plant: Plant, step_s: float = 10.0, settings: str = "", rows: int = 4_000) -> None:
    """Make the stream of a machine; `settings` go into stream.toml, and may replace a section of `init`'s."""
    plant.file("normal.csv", csv_lines(machine(rows), step_s=step_s))
    plant.ok("init", "normal.csv", "--name", "press")
    plant.quiet()
    for section in (part for part in settings.split("\n\n") if part):
        replace(plant, section)
    plant.ok("train", "normal.csv")


def replace(plant: Plant, section: str) -> None:
    path = plant.folder / "stream.toml"
    head = section.splitlines()[0]
    kept, skipping = [], False
    for line in path.read_text().splitlines():
        if line.startswith("["):
            skipping = line == head
        if not skipping:
            kept.append(line)
    path.write_text("\n".join([*kept, "", section, ""]))


def live(plant: Plant, values: npt.NDArray[np.float64], step_s: float = 10.0, rows: Sequence[int] = ()) -> None:
    """Send readings, or only the given rows of them, and score them."""
    lines = list(csv_lines(values, step_s=step_s, first=FIRST))
    wanted = [lines[0], *(lines[1 + row] for row in rows)] if len(rows) else lines
    plant.file("live.csv", wanted)
    plant.ok("send", "live.csv")
    plant.drain()


def row_of(alert: dict[str, Any], step_s: float = 10.0) -> float:
    """The row at whose time the window behind a message ended."""
    end = datetime.fromisoformat(alert["end"][:26].rstrip("Z") + "+00:00")
    return (end - START) / timedelta(seconds=step_s) - FIRST


def incidents(plant: Plant, step_s: float = 10.0) -> list[tuple[float, float]]:
    """Where incidents opened and ended, infinity while open; what opens where another has just ended is the same."""
    found: dict[str, tuple[float, float]] = {}
    for alert in plant.alerts():
        begin, _ = found.get(alert["id"], (row_of(alert, step_s), 0.0))
        found[alert["id"]] = begin, row_of(alert, step_s) if alert["phase"] == "resolved" else np.inf
    joined: list[tuple[float, float]] = []
    for begin, end in found.values():
        if joined and begin - joined[-1][1] <= WINDOW:
            joined[-1] = joined[-1][0], end
        else:
            joined.append((begin, end))
    return joined


def in_incident(plant: Plant, begin: int, end: int, step_s: float = 10.0) -> list[bool]:
    """The states of the windows that end in these rows."""
    low, high = (START + timedelta(seconds=step_s * (FIRST + row)) for row in (begin, end))
    table = plant.scores()
    rows = zip(table["end"].to_pylist(), table["is_anomaly"].to_pylist(), strict=True)
    return [state for at, state in rows if low < at <= high]


THRESHOLDS = {
    "quantile": "",
    "spot": '[threshold]\nkind = "spot"',
    "fixed": '[threshold]\nkind = "fixed"',
}


@pytest.mark.parametrize("kind", THRESHOLDS)
def test_a_lasting_fault_its_repeat_and_a_milder_one_are_an_incident_each(plant: Plant, kind: str) -> None:
    faults = [(720, 1_800, 0.75), (3_600, 4_680, 0.75), (6_480, 7_560, 0.85)]
    # The tail of `spot` is a guess where few windows calibrate it.
    trained(plant, settings=THRESHOLDS[kind], rows=17_280 if kind == "spot" else 4_000)
    faults = faults[: 2 if kind == "spot" else 3]
    live(plant, running(9_000, faults))

    found = incidents(plant)
    assert len(found) == len(faults), found
    for (begin, end), (first, stop, _) in zip(found, faults, strict=True):
        assert first < begin < first + 120
        assert stop <= end < stop + 200
        assert all(in_incident(plant, first + 120, stop))
    said = " ".join(alert["reason"] for alert in plant.alerts())
    assert "learned" not in said
    assert {alert["kind"] for alert in plant.alerts()} == {"process"}


def test_a_fault_of_three_hours_at_one_reading_a_second(plant: Plant) -> None:
    faults = [(600, 11_400, 0.7), (13_000, 14_000, 0.7)]
    trained(plant, step_s=1.0)
    live(plant, running(15_000, faults), step_s=1.0)

    found = incidents(plant, step_s=1.0)
    assert len(found) == 2, found
    assert all(in_incident(plant, 700, 11_400, step_s=1.0))
    assert all(stop <= end < stop + 300 for (_, end), (_, stop, _) in zip(found, faults, strict=True))


def test_a_fault_that_grows_slowly_stays_an_incident_at_its_height(plant: Plant) -> None:
    values = running(4_000, ())
    values[500:2_000, PRESSURE] *= np.linspace(1, 0.7, 1_500)
    values[2_000:3_500, PRESSURE] *= 0.7
    trained(plant)
    live(plant, values)

    assert all(in_incident(plant, 1_500, 3_500))
    assert not any(in_incident(plant, 3_700, 4_000))


def test_a_fault_of_a_device_that_reports_half_of_the_time(plant: Plant) -> None:
    rows = [row for row in range(5_400) if row % 240 < 120]
    faults = [(720, 2_880, 0.75), (4_000, 4_800, 0.75)]
    trained(plant)
    live(plant, running(5_400, faults), rows=rows)

    found = incidents(plant)
    assert len(found) == 2, found
    assert all(in_incident(plant, 800, 2_880))
    assert all(in_incident(plant, 4_200, 4_800))


LEARN_AFTER_AN_HOUR = "[incident]\nclose_after_s = 300\nrelearn_after_s = 3600"


def test_where_levels_are_learned_the_message_says_so_and_the_incident_goes_on(plant: Plant) -> None:
    trained(plant, settings=LEARN_AFTER_AN_HOUR)
    live(plant, running(2_800, [(720, 2_400, 0.75)]))

    opened, learned, ended = (
        alert for alert in plant.alerts() if alert["phase"] != "updated" or "learned" in alert["reason"]
    )
    assert (opened["phase"], learned["phase"], ended["phase"]) == ("opened", "updated", "resolved")
    assert (learned["kind"], learned["id"]) == ("regime", opened["id"])
    assert 360 <= row_of(learned) - row_of(opened) < 400
    assert f"below {opened['limit']:.3g}, its limit at opening" in learned["reason"]
    assert "incident open for 61" in learned["reason"]
    assert 2_400 <= row_of(ended) < 2_600
    assert f"below {opened['limit']:.3g}, its limit at opening, for 5 min" in ended["reason"]
    assert all(in_incident(plant, 800, 2_400))


def test_silence_makes_no_incident_older(plant: Plant) -> None:
    rows = [row for row in range(3_000) if row % 240 < 120]
    trained(plant, settings=LEARN_AFTER_AN_HOUR)
    live(plant, running(3_000, [(720, 2_600, 0.75)]), rows=rows)

    alerts = plant.alerts()
    (learned,) = (alert for alert in alerts if alert["kind"] == "regime")
    # An hour of judged time is about two hours of this device.
    assert 500 < row_of(learned) - row_of(alerts[0]) < 800
    assert "of it judged" in learned["reason"]
    assert all(in_incident(plant, 800, 2_600))


def test_a_limit_that_learns_nothing_says_nothing_of_learning(plant: Plant) -> None:
    trained(plant, settings=f"{THRESHOLDS['fixed']}\n\n{LEARN_AFTER_AN_HOUR}")
    live(plant, running(3_800, [(720, 1_800, 0.75), (2_400, 3_400, 0.75)]))

    assert len(incidents(plant)) == 2
    assert not [alert for alert in plant.alerts() if "learned" in alert["reason"] or alert["kind"] == "regime"]


def test_a_fault_behind_a_stuck_sensor_is_not_learned(plant: Plant) -> None:
    values = running(4_200, [(800, 2_400, 0.75), (3_000, 4_000, 0.75)])
    values[720:2_000, 0] = values[720, 0]
    trained(plant)
    live(plant, values)

    # The sensor's incident ends once it moves again, and the next window opens the process's.
    assert in_incident(plant, 800, 2_400).count(False) <= 1
    assert all(in_incident(plant, 3_080, 4_000))
    kinds = [alert["kind"] for alert in plant.alerts() if alert["phase"] == "opened"]
    assert "sensor" in kinds
    assert "process" in kinds


def test_settings_of_before_still_open_and_new_ones_learn_no_incident(plant: Plant) -> None:
    plant.file("normal.csv", csv_lines(machine(1_000), step_s=10.0))
    plant.ok("init", "normal.csv", "--name", "press")

    assert "relearn" not in (plant.folder / "stream.toml").read_text()
    assert plant.settings().incident.relearn_after_s == 0
    replace(plant, "[incident]\nclose_after_s = 300\nrelearn_after_s = 5000")
    assert plant.settings().incident.relearn_after_s == 5_000
