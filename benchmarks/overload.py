"""A one-minute burst of ten times the sustainable rate: is it processed, without loss and in bounded memory?

Windows at every sample (stride 1) and messages of 128 samples make the pipeline slow enough that a sender on the same
machine can send ten times as much. Before the burst, half the sustainable rate gives the idle size.
`python -m benchmarks.overload --help`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks.fleet import Fleet, Sender
from benchmarks.load import DEVICES, SAMPLES, TOPIC, make_bundle, settings_of, write_settings
from benchmarks.pipeline import pipe
from benchmarks.service import Progress, Service, await_it
from benchmarks.soak import check_chain
from benchmarks.watching import Sample, Sampler, growth, write_csv
from deploy.kafka.broker import KafkaCluster
from stream_ad import assembly
from stream_ad.core.model import WindowShape
from stream_ad.io.bundles import bundles
from stream_ad.io.score_log import log as score_log

TIMES = 10.0
MESSAGE_SAMPLES = 2 * SAMPLES
POLL = "[commit]\npoll_records = 1000"
"""As many rows per poll as the default, which has messages half as long."""
IDLE_S = 40.0
GROWTH_BAR = 2.0
"""Maximum ratio of resident size to the idle one: a poll has 128,000 rows here."""
BACKLOG_BAR = 0.1
"""Maximum growth while the backlog is processed: memory must not depend on the backlog."""


def dense_bundle(folder: Path) -> None:
    """Create the bundle with windows at every sample."""
    model = bundles.load(make_bundle(folder / "sparse"))
    shape = WindowShape(model.window.period_ns, SAMPLES, 1)
    probe = np.random.default_rng(1).normal(size=(64, SAMPLES, len(model.channels)))
    bundles.save(replace(model, window=shape), folder / "bundle", probe)


def sustainable(folder: Path, kafka: str, messages: int) -> float:
    """Return the messages per second that the pipeline processes."""
    topic = f"{TOPIC}.dense"
    path = write_settings(folder, "dense", kafka, topic, POLL)
    log = assembly.open_transport(settings_of(path))
    log.ensure_topic(topic, 1)
    fleet = Fleet(DEVICES, samples=MESSAGE_SAMPLES).messages()
    log.append(topic, (next(fleet) for _ in range(messages)))
    log.close()
    wall_s, _, _ = pipe(path, messages, topic)
    return messages / wall_s


def burst(folder: Path, kafka: str, rate: float, seconds: float) -> tuple[list[Sample], dict[str, Any]]:
    """Run idle, burst and recovery; return samples and results."""
    name = f"overload-{os.getpid()}"
    topic = f"{TOPIC}.{name}"
    path = write_settings(folder, name, kafka, topic, POLL)
    settings = settings_of(path)
    sending, asking = assembly.open_transport(settings), assembly.open_transport(settings)
    sending.ensure_topic(topic, 1)
    progress = Progress(settings, asking)
    sender = Sender(sending, topic, Fleet(DEVICES, samples=MESSAGE_SAMPLES).messages(), rate / 2)
    service = Service(path, folder / "overload.log")
    try:
        await_it(lambda: bool(service.lines("opened")), 60, "the scorer")
        sampler = Sampler(service, settings, progress, 1.0, lambda: sender.sent, lambda: -1, folder / "kafka")
        sampler.start()
        sender.start()
        time.sleep(IDLE_S)
        begun, before = time.monotonic(), sender.sent
        sender.rate = TIMES * rate
        time.sleep(seconds)
        sender.rate, took_s = 0.0, time.monotonic() - begun
        time.sleep(0.1)  # for the append in progress
        sent = sender.sent - before
        total = sender.finish()
        await_it(lambda: progress.committed() >= progress.end(), 60 + 4 * total / rate, "backlog processed")
        drained_s = time.monotonic() - begun - took_s
        time.sleep(settings.store.part_max_age_s + 5)
        samples = sampler.finish()
    finally:
        service.stop()
        sending.close()
        asking.close()
    idle = [sample for sample in samples if IDLE_S / 2 <= sample.at_s < IDLE_S - 1]
    later = [sample for sample in samples if sample.at_s >= IDLE_S]
    working = [sample for sample in later if sample.lag > rate]
    found = {
        "sustainable": round(rate),
        "burst": round(sent / took_s),
        "times": round(sent / took_s / rate, 1),
        "burst_s": round(took_s, 1),
        "messages": total,
        "samples_a_message": MESSAGE_SAMPLES,
        "lag_at_most": max(sample.lag for sample in later),
        "worked_off_s": round(drained_s, 1),
        "restarts": sampler.restarts,
        **{f"{role}_mb_idle": max(getattr(s, f"{role}_mb") for s in idle) for role in ("scorer", "archiver")},
        **{f"{role}_mb_at_most": max(getattr(s, f"{role}_mb") for s in later) for role in ("scorer", "archiver")},
        **{
            f"{role}_growth_working_off": round(
                growth([getattr(s, f"{role}_mb") for s in working[len(working) // 4 :]]), 4
            )
            for role in ("scorer", "archiver")
        },
        "rows": whole(settings.store.scores),
    }
    return samples, found


def whole(folder: Path) -> int:
    """Return the number of rows, after checking that parts are contiguous and no device's sequence has gaps or repeats.

    Raises:
        SystemExit: something is missing or duplicated.
    """
    check_chain(folder)
    rows = 0
    ends: dict[str, int] = {}
    for part in score_log.parts(folder):
        table = pq.read_table(part.path, columns=["device", "sequence"], partitioning=None)
        numbers = table.group_by("device").aggregate([("sequence", name) for name in ("min", "max", "count_distinct")])
        for device, first, last, distinct in zip(*(column.to_pylist() for column in numbers.columns), strict=True):
            if first != ends.get(device, 0) or distinct != last + 1 - first:
                raise SystemExit(f"{part.path}: {device}: sequence {first} to {last} after {ends.get(device, 0)}")
            ends[device] = last + 1
        if table.num_rows != sum(numbers["sequence_max"].to_numpy() - numbers["sequence_min"].to_numpy() + 1):
            raise SystemExit(f"{part.path}: a row is duplicated")
        rows += table.num_rows
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="duration of the burst")
    parser.add_argument("--rate", type=float, help="sustainable messages per second (default: measured first)")
    parser.add_argument("--csv", type=Path, help="write the samples to this file")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        folder = Path(scratch)
        dense_bundle(folder)
        server = stack.enter_context(KafkaCluster(folder / "kafka")).servers[0]
        kafka = f'kind = "kafka"\nservers = ["{server}"]'
        samples, found = burst(folder, kafka, args.rate or sustainable(folder, kafka, 4_000), args.seconds)
    if args.csv is not None:
        write_csv(args.csv, samples)
    bounded = all(
        found[f"{role}_mb_at_most"] <= GROWTH_BAR * found[f"{role}_mb_idle"] for role in ("scorer", "archiver")
    )
    flat = all(found[f"{role}_growth_working_off"] <= BACKLOG_BAR for role in ("scorer", "archiver"))
    found["ok"] = bounded and flat and found["restarts"] == 0
    print(json.dumps(found, indent=2))
    sys.exit(0 if found["ok"] else 1)


if __name__ == "__main__":
    main()
