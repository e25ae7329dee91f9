"""Throughput of one scorer and the archiver, as a ratio to a bare consumer in the same run.

Each repeat runs the bare consumer, then the pipeline, on the same topic and machine; the result is the median of the
ratios per repeat. `python -m benchmarks.pipeline --help`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.bare import TIMED_SHARES
from benchmarks.load import DEVICES, TOPIC, fill, make_bundle, settings_of, write_settings
from deploy.kafka.broker import KafkaCluster
from stream_ad import assembly
from stream_ad.io.transport import Partition
from stream_ad.role_table import deciding_group

BARS = {("kafka", "series"): 0.45, ("kafka", "single"): 0.55}


@dataclass(frozen=True)
class Pair:
    """One repeat: wall and processor seconds for all messages."""

    bare_s: float
    bare_cpu_s: float
    pipe_s: float
    pipe_cpu_s: float
    rows: int

    @property
    def ratio(self) -> float:
        return self.bare_s / self.pipe_s


@contextlib.contextmanager
def running(settings: Path, *roles: str) -> Iterator[dict[str, psutil.Process]]:
    """Run roles as processes, as the supervisor does; `plain` is the loop of `benchmarks.plain`."""
    command = [sys.executable, "-m", "stream_ad.cli.main", "-c", str(settings), "run"]
    plain = [sys.executable, "-m", "benchmarks.plain", str(settings)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    children = {
        role: subprocess.Popen(plain if role == "plain" else [*command, role], env=environment) for role in roles
    }
    try:
        yield {role: psutil.Process(child.pid) for role, child in children.items()}
    finally:
        for child in children.values():
            child.send_signal(signal.SIGTERM)
        for child in children.values():
            if child.wait(60) != 0:
                raise SystemExit(f"a role exited with {child.returncode}")


def pipe(
    settings_path: Path, messages: int, topic: str, *roles: str, scorer: str = "scorer"
) -> tuple[float, float, int]:
    """Return the scorer's wall and processor seconds for all messages, and the rows in the score log.

    Args:
        settings_path: of the stream.
        messages: number in the topic.
        topic: of the readings.
        roles: roles to run; by default the archiver and the scorer.
        scorer: the role to measure.
    """
    settings = settings_of(settings_path)
    transport = assembly.open_transport(settings)
    group = deciding_group(settings)
    partition = Partition(topic, 0)
    end = transport.bounds(partition)[1]
    transport.close()
    first, last = (int(share * messages) for share in TIMED_SHARES)
    begun: tuple[float, float, int] | None = None
    ended: tuple[float, float, int] | None = None
    with running(settings_path, *(roles or ("archiver", scorer))) as children:
        watch = assembly.open_transport(settings)
        deadline = time.monotonic() + 600
        while True:
            position = watch.committed(group, partition)
            now, used = time.perf_counter(), sum(children[scorer].cpu_times()[:2])
            done = position.offset if position else 0
            if begun is None and done >= first:
                begun = now, used, done
            elif begun is not None and ended is None and done >= last:
                ended = now, used, done
            if done >= end - 1:
                break
            if time.monotonic() > deadline:
                raise SystemExit(f"the pipeline made no progress at {done} of {end}")
            time.sleep(0.02)
        watch.close()
        if begun is None or ended is None:
            raise SystemExit("the pipeline finished before it could be timed; use more messages")
        share = messages / (ended[2] - begun[2])
        wall, processor = (ended[0] - begun[0]) * share, (ended[1] - begun[1]) * share
    from stream_ad.io.score_log import log as score_log

    return wall, processor, score_log.read(settings.store.scores).num_rows


def compare(folder: Path, where: str, address: str, form: str, messages: int, repeats: int) -> list[Pair]:
    """Run both sides in turn."""
    topic = f"{TOPIC}.{form}"
    transport = (
        f'kind = "kafka"\nservers = ["{address}"]' if where == "kafka" else f'kind = "local"\npath = "{address}"'
    )
    log = assembly.open_transport(settings_of(write_settings(folder, "fill", transport, topic)))
    messages = fill(log, topic, form, messages, DEVICES)
    log.close()
    pairs = []
    for repeat in range(repeats):
        command = [sys.executable, "-m", "benchmarks.bare", where, address, topic, str(messages), form]
        bare_s, bare_cpu_s = map(float, subprocess.run(command, check=True, capture_output=True).stdout.split())
        name = f"bench-{form}-{repeat}-{os.getpid()}"
        pair = Pair(bare_s, bare_cpu_s, *pipe(write_settings(folder, name, transport, topic), messages, topic))
        pairs.append(pair)
        print(
            f"{where} {form} {repeat + 1}/{repeats}: bare {messages / pair.bare_s:,.0f}/s, "
            f"pipeline {messages / pair.pipe_s:,.0f}/s, ratio {pair.ratio:.3f}; processor per message: "
            f"bare {1e6 * pair.bare_cpu_s / messages:.1f} µs, scorer {1e6 * pair.pipe_cpu_s / messages:.1f} µs; "
            f"{pair.rows:,} rows",
            flush=True,
        )
    return pairs


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--broker", choices=("kafka", "local"), action="append", help="default: both")
    parser.add_argument("--form", choices=("series", "single", "arrow"), action="append", help="default: all")
    parser.add_argument("--messages", type=int, default=60_000)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    lines = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make_bundle(folder)
        for where in args.broker or ("kafka", "local"):
            with KafkaCluster(folder / "kafka") if where == "kafka" else contextlib.nullcontext() as cluster:
                address = cluster.servers[0] if cluster is not None else str(folder / "log.sqlite")
                for form in args.form or ("series", "single", "arrow"):
                    messages = args.messages * (4 if form == "single" else 1)
                    pairs = compare(folder, where, address, form, messages, args.repeats)
                    ratio = statistics.median(pair.ratio for pair in pairs)
                    low, high = min(pair.ratio for pair in pairs), max(pair.ratio for pair in pairs)
                    bar = BARS.get((where, form))
                    verdict = "" if bar is None else f" (target {bar}: {'met' if ratio >= bar else 'MISSED'})"
                    rate = statistics.median(messages / pair.pipe_s for pair in pairs)
                    lines.append(
                        f"{where:6} {form:7} ratio {ratio:.3f} ({low:.3f}–{high:.3f}), {rate:,.0f} messages/s{verdict}"
                    )
    print("\n".join(["", *lines]))


if __name__ == "__main__":
    main()
