"""A machine that stops, runs away or overspeeds: the farther from what training saw, the surer it is an incident."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
import pytest

from stream_ad.core.quality import Quality
from tests.field.plant import Plant
from tests.field.signals import CHANNELS, csv_lines, machine

STEP_S = 10.0
NET = ("--set", "hidden=[24,8,24]", "--set", "epochs=12")
MIXTURE = ("--set", "hidden=[24,8]", "--set", "steps=200", "--set", "batch_size=64")
KINDS = {
    "pca": (),
    "mahalanobis": (),
    "multiscale_pca": (),
    "isolation_forest": ("--set", "trees=40"),
    "autoencoder": NET,
    "dagmm": MIXTURE,
}
FIRST = 100_000

Values = npt.NDArray[np.float64]


def at_rest(rows: int, seed: int = 5) -> Values:
    """Return the machine without power: at room temperature, nothing flows, sensor noise."""
    rng = np.random.default_rng(seed)
    return np.array([22.0, 0.0, 0.0, 0.2]) + rng.normal(0, 1, (rows, 4)) * [0.05, 0.005, 0.05, 0.01]


def trained(plant: Plant, kind: str = "pca") -> None:
    plant.file("normal.csv", csv_lines(machine(2_000), step_s=STEP_S))
    plant.ok("init", "normal.csv", "--name", "p")
    plant.quiet()
    options = ("--samples", "16", "--stride", "4", "--folds", "2", "--no-baseline")
    plant.ok("train", "normal.csv", "--detector", kind, *options, *KINDS[kind])


def sent(plant: Plant, values: Values) -> None:
    plant.file("today.csv", csv_lines(values, step_s=STEP_S, first=FIRST))
    plant.ok("send", "today.csv")
    plant.drain()


def phases(plant: Plant) -> list[str]:
    return [alert["phase"] for alert in plant.alerts()]


@pytest.mark.parametrize("kind", KINDS)
def test_a_machine_that_stops_is_an_incident(plant: Plant, kind: str) -> None:
    trained(plant, kind)
    sent(plant, np.concatenate([machine(200, seed=1), at_rest(200)]))

    table = plant.scores()
    start = len(table) // 2
    assert not any(table["is_anomaly"].to_pylist()[: start - 5])
    assert all(table["is_anomaly"].to_pylist()[start + 5 :])
    assert phases(plant).count("opened") == 1
    assert "resolved" not in phases(plant)


def test_ten_hours_of_standstill_are_one_incident(plant: Plant) -> None:
    trained(plant)
    sent(plant, np.concatenate([machine(200, seed=1), at_rest(3_600)]))
    assert phases(plant)[0] == "opened"
    assert not {"opened", "resolved"} & set(phases(plant)[1:])
    assert plant.scores()["is_anomaly"].to_pylist()[-1]


def test_a_machine_that_stood_still_from_the_start_is_an_incident(plant: Plant) -> None:
    trained(plant)
    sent(plant, at_rest(200))
    assert phases(plant).count("opened") == 1


FAR = {
    "one channel": [0.0, 1_000.0, 0.0, 0.0],
    "one channel, down": [0.0, 0.0, -1_000.0, 0.0],
    "two, opposite ways": [40.0, -40.0, 0.0, 0.0],
    "overspeed": [13.0, 13.0, 13.0, 13.0],
    "all down": [-13.0, -13.0, -13.0, -13.0],
    "a broken sensor": [0.0, 0.0, 0.0, 1e30],
    "a broken sensor, down": [-1e37, 0.0, 0.0, 0.0],
    "twice a broken sensor": [0.0, -1e30, 0.0, 1e30],
}


def test_what_is_far_is_an_incident_as_long_as_it_lasts(plant: Plant) -> None:
    trained(plant)
    scale = machine(2_000).std(axis=0)
    lines: list[str] = []
    for number, deviation in enumerate(FAR.values()):
        today = machine(300, seed=1)
        today[200:] += np.array(deviation) * scale
        lines += csv_lines(today, f"m{number}", step_s=STEP_S, first=FIRST, header=number == 0)
    plant.file("today.csv", lines)
    plant.ok("send", "today.csv")
    plant.drain()

    table, alerts = plant.scores(), plant.alerts()
    for number, (name, deviation) in enumerate(FAR.items()):
        mine = table.filter(pc.equal(table["device"], f"m{number}"))
        assert np.isfinite(np.array(mine["score"])[1:]).all(), name
        assert all(mine["is_anomaly"].to_pylist()[-18:]), name
        assert (np.array(mine["quality"])[-18:] & Quality.CLIPPED).all(), name
        (opened,) = [alert for alert in alerts if alert["device"] == f"m{number}" and alert["phase"] == "opened"]
        assert opened["channels"][0]["channel"] in {CHANNELS[at] for at in np.flatnonzero(deviation)}, name


def test_the_score_grows_on_the_whole_way_to_rest(plant: Plant) -> None:
    trained(plant)
    mean = machine(2_000).mean(axis=0)
    rest = np.array([22.0, 0.0, 0.0, 0.2])
    steps = np.concatenate([np.linspace(0.4, 2.0, 17), [5.0, 50.0, 1_000.0]])
    noise = np.random.default_rng(4).normal(0, 1, (32, 4)) * [0.3, 0.05, 0.6, 0.1]
    sent(plant, np.concatenate([mean + share * (rest - mean) + noise for share in steps]))

    score = np.array(plant.scores()["score"])[5::8]  # windows that hold one step alone
    assert len(score) == len(steps)
    assert (np.diff(score) > 0).all()
