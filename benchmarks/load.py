"""Inputs of the pipeline benchmarks: a bundle, filled topics, settings."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from pathlib import Path

from simulators import producer, recorder, scenarios
from stream_ad.config import Settings, load
from stream_ad.core.model import Channel, WindowShape
from stream_ad.io.bundles import bundles
from stream_ad.io.recordings import recordings
from stream_ad.io.transport import Record, Transport
from stream_ad.training.training import TrainingPlan, train

TOPIC = "bench.readings"
DEVICES = 1_000
SAMPLES, STRIDE = 64, 16
TRAINING_START_MS = 1_767_571_200_000


def make_bundle(folder: Path) -> Path:
    """Train the autoencoder 512-128-32-128-512 briefly on a few healthy pumps: weights do not affect speed."""
    target = folder / "bundle"
    if not target.exists():
        quiet = scenarios.load("quiet").changed(devices=4, duration_s=20_000)
        recorder.write_recording(quiet, TRAINING_START_MS, folder / "quiet.parquet")
        recording = recordings.read(folder / "quiet.parquet")
        plan = TrainingPlan(
            name="bench",
            kind="autoencoder",
            shape=WindowShape(1_000_000_000, SAMPLES, STRIDE),
            channels=[Channel(name) for name in recording.channels],
            settings={"hidden": [128, 32, 128], "epochs": 5},
            folds=2,
            baseline="",
        )
        trained = train(recording, plan)
        bundles.save(trained.model, target, trained.probe)
    return target


def fill(transport: Transport, topic: str, form: str, messages: int, devices: int) -> int:
    """Append simulated messages to a topic of one partition; return their number."""
    transport.ensure_topic(topic, 1)
    sent = 0
    records = messages_of(form, messages, devices)
    while batch := list(itertools.islice(records, 2_000)):
        transport.append(topic, batch)
        sent += len(batch)
    return sent


def messages_of(form: str, messages: int, devices: int) -> Iterator[Record]:
    """Yield simulated messages of readings that end about now."""
    samples = 1 if form == "single" else SAMPLES
    duration_s = -(-messages // devices) * samples
    scenario = scenarios.load("load").changed(devices=devices, duration_s=float(duration_s), format=form)
    readings = (
        Record(message.value, message.key, message.headers, 0)
        for message in producer.simulate(scenario, int(time.time() * 1_000) - duration_s * 1_000)
        if message.topic == scenario.readings_topic
    )
    return itertools.islice(readings, messages)


def write_settings(folder: Path, name: str, transport: str, topic: str, extra: str = "") -> Path:
    """Write the settings of a stream that scores a topic from its beginning."""
    path = folder / f"{name}.toml"
    path.write_text(
        f"""
[stream]
name = "{name}"
readings_topic = "{topic}"
alerts_topic = "bench.alerts.{name}"
bundle = "bundle"
[transport]
{transport}
[store]
scores = "{name}/scores"
checkpoints = "{name}/checkpoints"
[service]
http_port = 0
log_level = "warning"
{extra}
"""
    )
    return path


def settings_of(path: Path) -> Settings:
    """Read written settings."""
    return load(path, {})
