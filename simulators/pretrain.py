"""`python -m simulators.pretrain`: rebuild the bundles that ship with the package.

Models of the pump fleet, trained on healthy pumps that are in no scenario, and tested on a healthy and a faulty fleet
they have not seen; their cards hold the results. The same seeds give byte-identical files on one machine.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from simulators import producer, scenarios, trial
from simulators.fleet import CHANNELS, device_id
from stream_ad.core.detectors.base import Progress, no_progress
from stream_ad.core.model import Channel, WindowShape
from stream_ad.errors import StreamAdError
from stream_ad.io.bundles import bundles
from stream_ad.io.recordings.recordings import Recording
from stream_ad.training.training import Trained, TrainingPlan, train

FOLDER = Path(__file__).resolve().parents[1] / "stream_ad" / "pretrained"
SHAPE = WindowShape(period_ns=1_000_000_000, samples=64, stride=16)
SEED = 5
FLEETS, PUMPS, HOURS = 10, 10, 2.5
"""Many small fleets rather than a long recording of one: the model learns differences between pumps, sites and times of
day from examples, and the calibration's blocks hold out whole fleets."""
FIRST_SEED = 1_001
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "autoencoder": {"hidden": [96, 32, 96], "epochs": 24},
    "dagmm": {"hidden": [96, 24]},
}
UNTRAINED = {"epochs": 1, "learning_rate": 1e-7}
"""A practically untrained model, to show how much of a result comes from training."""


def quiet_recording(fleets: int = FLEETS, pumps: int = PUMPS, hours: float = HOURS) -> Recording:
    """Return healthy fleets one after the other as one recording, each at another time of day.

    Args:
        fleets: number of fleets, each with its own seed and device names.
        pumps: number of pumps per fleet.
        hours: duration per fleet.
    """
    quiet = scenarios.load("quiet").changed(devices=pumps, duration_s=hours * 3_600)
    names = sorted(CHANNELS)
    start_ms = quiet.start_ms(0, 0.0)
    values, event_ns, device = [], [], []
    for fleet in range(fleets):
        scenario = quiet.changed(seed=FIRST_SEED + fleet, clock_h=24.0 * fleet / fleets)
        for columns in producer.recording(scenario, start_ms):
            values.append(np.stack([np.asarray(columns[name], np.float32) for name in names], axis=1))
            event_ns.append(np.asarray(columns["time"], np.int64) * 1_000_000)
        numbers = np.arange(fleet * pumps, (fleet + 1) * pumps, dtype=np.int32)
        device.append(np.tile(numbers, scenario.samples_in_all))
        start_ms += scenario.samples_in_all * scenario.period_ms
    return Recording(
        devices=tuple(device_id(number) for number in range(fleets * pumps)),
        device=np.concatenate(device),
        event_ns=np.concatenate(event_ns),
        channels=tuple(names),
        values=np.concatenate(values).astype(np.float64),
    )


def plan(kind: str, settings: Mapping[str, Any] | None = None) -> TrainingPlan:
    """Return the training plan of the bundle `pump-<kind>`.

    Args:
        kind: the detector's name.
        settings: settings that differ from those of the shipped bundle.
    """
    return TrainingPlan(
        name=f"pump-{kind}",
        kind=kind,
        shape=SHAPE,
        channels=[Channel(name, unit) for name, unit in CHANNELS.items()],
        settings=SETTINGS.get(kind, {}) if settings is None else settings,
        seed=SEED,
        baseline="",
        per_device=False,  # it serves unseen pumps
    )


def tried(trained: Trained) -> dict[str, Any]:
    """Return what the model finds in unseen fleets, with a stream's default settings."""
    quiet = scenarios.load("quiet").changed(devices=40, duration_s=7_200, seed=99)
    faulty = scenarios.load("faulty").changed(duration_s=14_400)
    return {
        name: trial.run(trained.model, scenario).card() for name, scenario in (("quiet", quiet), ("faulty", faulty))
    }


def make(kind: str, recording: Recording, others: Mapping[str, Any], progress: Progress = no_progress) -> Trained:
    """Train a bundle and write its card.

    Args:
        kind: the detector's name.
        recording: of normal running.
        others: results of `tried` for other models, for comparison in the card.
        progress: called with training progress.
    """
    trained = train(recording, plan(kind), progress)
    card = {name: value for name, value in trained.card.items() if name != "seconds"}  # repeated builds are equal
    card["trial"] = {"settings": "a stream's defaults", kind: tried(trained), **others}
    return replace(trained, model=replace(trained.model, card=card), card=card)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, or 1 if training fails."""
    parser = argparse.ArgumentParser(prog="python -m simulators.pretrain", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=FOLDER, help=f"folder of the bundles ({FOLDER})")
    options = parser.parse_args(arguments)
    begun = time.monotonic()

    def print_line(text: str) -> None:
        print(f"{time.monotonic() - begun:6.0f} s  {text}", file=sys.stderr, flush=True)

    def progress(what: str, done: int, total: int) -> None:
        if done == total:
            print_line(f"{what} {done}")

    try:
        recording = quiet_recording()
        print_line(f"{len(recording)} readings of {len(recording.devices)} pumps")
        others = {
            "pca": tried(train(recording, plan("pca"))),
            "autoencoder, untrained": tried(
                train(recording, plan("autoencoder", {**SETTINGS["autoencoder"], **UNTRAINED}))
            ),
        }
        for kind in SETTINGS:
            trained = make(kind, recording, others, progress)
            model_id = bundles.save(trained.model, options.out / trained.model.name, trained.probe, replace=True)
            print_line(f"{options.out / trained.model.name} {model_id[:16]}")
            for name, found in trained.card["trial"].items():
                print_line(f"  {name}: {found}")
    except StreamAdError as error:
        print(f"pretrain: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
