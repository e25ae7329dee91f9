"""An hour at half load with changing devices: does anything grow?

One real broker, and the stream under `stream-ad run`. Each device sends for a fifth of the run, then a new one replaces
it; silent ones are evicted after a twentieth. The first quarter, in which the first devices are evicted, is warm-up and
not judged. `python -m benchmarks.soak --help`.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import shutil
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from benchmarks.fleet import Fleet, Sender
from benchmarks.latency import sustainable
from benchmarks.load import TOPIC, make_bundle, settings_of, write_settings
from benchmarks.service import Progress, Service, await_it
from benchmarks.watching import Sample, Sampler, growth, write_csv
from deploy.kafka.broker import KafkaCluster, free_ports
from stream_ad import assembly
from stream_ad.io.score_log import log as score_log
from stream_ad.io.score_log.parts import follows

GROWTH_BAR = 0.05
WARM_UP = 0.25
LIVES, EVICTIONS = 5, 20
REPORT_EVERY_S = 60.0
LEAST_EVICTION_S = 31.0
"""No device is evicted before its windows are closed."""
RETAINED_BYTES = 1_000_000_000
"""Retention of readings and of scores: enough for an outage of minutes."""
TOPIC_SETTINGS = {"retention.bytes": str(RETAINED_BYTES), "segment.bytes": "100000000", "retention.ms": "600000"}
BROKER_SETTINGS = {"log.retention.check.interval.ms": "10000", "log.segment.delete.delay.ms": "1000"}


@dataclass(frozen=True)
class Outcome:
    """Results of a soak.

    Attributes:
        samples: of the whole run, including the drain.
        rate: achieved messages per second.
        restarts: of roles.
        drained_s: from the end of sending to lag 0; None if it was not reached.
        rows: number in the score log.
    """

    samples: Sequence[Sample]
    rate: float
    restarts: int
    drained_s: float | None
    rows: int


class Page:
    """The scorer's metrics page."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/metrics"

    def value(self, name: str) -> int:
        """Return a metric summed over its labels; -1 without an answer."""
        try:
            with urllib.request.urlopen(self._url, timeout=2) as answer:
                page = answer.read().decode()
        except OSError:
            return -1
        families = text_string_to_metric_families(page)
        return int(sum(sample.value for family in families for sample in family.samples if sample.name == name))


def soak(folder: Path, server: str, devices: int, rate: float, minutes: float, broker: Path) -> Outcome:
    """Run the soak."""
    name = f"soak-{os.getpid()}"
    topic = f"{TOPIC}.{name}"
    port = next(free_ports())
    path = write_settings(
        folder,
        name,
        f'kind = "kafka"\nservers = ["{server}"]',
        topic,
        f"[time]\nevict_after_s = {max(LEAST_EVICTION_S, 60 * minutes / EVICTIONS)}",
    )
    settings = settings_of(path)
    sending, asking = assembly.open_transport(settings), assembly.open_transport(settings)
    sending.ensure_topic(topic, 1, TOPIC_SETTINGS)
    sending.ensure_topic(settings.stream.scores_topic, 1, TOPIC_SETTINGS)
    progress, page = Progress(settings, asking), Page(port + 1)
    turns = 60 * minutes * rate / devices
    fleet = Fleet(devices, life=max(1, round(turns / LIVES)))
    sender = Sender(sending, topic, fleet.messages(), rate)
    service = Service(path, folder / "soak.log", SERVICE__HTTP_PORT=str(port))
    drained_s = None
    try:
        await_it(lambda: page.value("stream_ad_ready") == 1, 60, "the scorer is ready")
        sampler = Sampler(
            service,
            settings,
            progress,
            max(1.0, min(5.0, 60 * minutes / 200)),
            lambda: sender.sent,
            lambda: page.value("stream_ad_devices"),
            broker,
        )
        begun = time.monotonic()
        sampler.start()
        sender.start()
        reported_s = 0.0
        while (gone := time.monotonic() - begun) < 60 * minutes and service.process.poll() is None:
            if gone >= reported_s + REPORT_EVERY_S and sampler.samples:
                reported_s = gone
                report(sampler.samples[-1])
            time.sleep(1)
        actual = sender.finish() / (time.monotonic() - begun)
        ended = time.monotonic()
        with contextlib.suppress(SystemExit):
            await_it(lambda: progress.committed() >= progress.end(), 120, "lag 0")
            drained_s = time.monotonic() - ended
        time.sleep(settings.store.part_max_age_s + 5)  # for the archiver's last parts and a sample after them
        samples = sampler.finish()
    finally:
        service.stop()
        sending.close()
        asking.close()
    check_chain(settings.store.scores)
    rows = sum(part.rows for part in score_log.parts(settings.store.scores))
    return Outcome(samples, actual, sampler.restarts, drained_s, rows)


def report(sample: Sample) -> None:
    """Report progress on standard error."""
    print(
        f"{sample.at_s / 60:5.1f} min: {sample.sent:,} messages sent, lag {sample.lag:,}, {sample.devices:,} devices, "
        f"scorer {sample.scorer_mb:.0f} MB, archiver {sample.archiver_mb:.0f} MB",
        file=sys.stderr,
        flush=True,
    )


def check_chain(folder: Path) -> None:
    """Check that the parts of partition 0 are contiguous.

    Raises:
        SystemExit: there is a gap or an overlap.
    """
    parts = score_log.parts(folder, 0)
    for before, after in itertools.pairwise(parts):
        if not follows(after, before):
            raise SystemExit(f"a gap between {before.path} and {after.path}")


def verdict(outcome: Outcome, minutes: float) -> dict[str, Any]:
    """Return the results with their targets."""
    end = 60 * minutes
    warm = [sample for sample in outcome.samples if WARM_UP * end <= sample.at_s <= end]
    if len(warm) < 8:
        raise SystemExit("too few samples; use more --minutes")
    grown = {
        f"{name}_growth": round(growth([getattr(s, name) for s in warm]), 4) for name in ("scorer_mb", "archiver_mb")
    }
    counted = ("scorer_fds", "archiver_fds", "scorer_threads", "archiver_threads")
    flat = {f"{name}_growth": round(growth([float(getattr(s, name)) for s in warm]), 4) for name in counted}
    checks = {
        "memory": all(value <= GROWTH_BAR for value in grown.values()),
        "file_descriptors": flat["scorer_fds_growth"] <= 0 and flat["archiver_fds_growth"] <= 0,
        "lag": outcome.drained_s is not None,
        "no_restarts": outcome.restarts == 0,
    }
    return {
        "minutes": minutes,
        "rate": round(outcome.rate),
        "rows": outcome.rows,
        "messages": outcome.samples[-1].sent,
        "devices_with_state_at_most": max(sample.devices for sample in warm),
        "scorer_mb": [min(s.scorer_mb for s in warm), max(s.scorer_mb for s in warm)],
        "archiver_mb": [min(s.archiver_mb for s in warm), max(s.archiver_mb for s in warm)],
        "lag_at_most": max(sample.lag for sample in warm),
        "drained_s": None if outcome.drained_s is None else round(outcome.drained_s, 1),
        "checkpoint_mb_at_most": max(sample.checkpoint_mb for sample in warm),
        "broker_mb_at_most": max(sample.broker_mb for sample in warm),
        "restarts": outcome.restarts,
        **grown,
        **flat,
        "met": checks,
        "ok": all(checks.values()),
    }


def main() -> None:
    """Run and report; exit with 1 if something grew."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--devices", type=int, default=5_000)
    parser.add_argument("--rate", type=float, help="messages of 64 samples per second (default: half of the maximum)")
    parser.add_argument("--out", type=Path, default=Path("soak"), help="folder for soak.csv, soak.json and the log")
    parser.add_argument("--picture", type=Path, help="draw the curves to this file")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        folder = Path(scratch)
        make_bundle(folder)
        server = stack.enter_context(KafkaCluster(folder / "kafka", options=BROKER_SETTINGS)).servers[0]
        rate = args.rate or sustainable(folder, server, 40_000) / 2
        try:
            outcome = soak(folder, server, args.devices, rate, args.minutes, folder / "kafka")
        finally:
            if (folder / "soak.log").exists():
                shutil.copy(folder / "soak.log", args.out / "soak.log")
    write_csv(args.out / "soak.csv", outcome.samples)
    found = verdict(outcome, args.minutes)
    (args.out / "soak.json").write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))
    if args.picture is not None:
        from benchmarks.soak_picture import draw

        draw(outcome.samples, found, args.picture)
    sys.exit(0 if found["ok"] else 1)


if __name__ == "__main__":
    main()
