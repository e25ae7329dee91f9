"""Cost of exactly-once: the scorer with transactions and checkpoints against a plain at-least-once loop.

Both sides run in turn on the same topic and machine; the result is the median of the ratios per pair. Alert latency of
both is measured at half the rate of the slower side. `python -m benchmarks.proof --help`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.latency import Latency, measure
from benchmarks.load import DEVICES, TOPIC, fill, make_bundle, settings_of, write_settings
from benchmarks.pipeline import pipe
from deploy.kafka.broker import KafkaCluster
from stream_ad import assembly

BAR = 0.9
SIDES = ("scorer", "plain")


@dataclass(frozen=True)
class Pair:
    """Messages per second, and processor seconds per message, of both sides."""

    rate: dict[str, float]
    cpu_s: dict[str, float]

    @property
    def ratio(self) -> float:
        return self.rate["scorer"] / self.rate["plain"]


def compare(folder: Path, server: str, messages: int, repeats: int) -> list[Pair]:
    """Run both sides in turn; every other repeat starts with the other side."""
    topic = f"{TOPIC}.proof"
    kafka = f'kind = "kafka"\nservers = ["{server}"]'
    log = assembly.open_transport(settings_of(write_settings(folder, "fill", kafka, topic)))
    messages = fill(log, topic, "series", messages, DEVICES)
    log.close()
    pairs = []
    for repeat in range(repeats):
        rate, cpu_s = {}, {}
        for side in SIDES if repeat % 2 == 0 else SIDES[::-1]:
            path = write_settings(folder, f"proof-{side}-{repeat}-{os.getpid()}", kafka, topic)
            wall_s, used_s, _ = pipe(path, messages, topic, side, scorer=side)
            rate[side], cpu_s[side] = messages / wall_s, used_s / messages
        pair = Pair(rate, cpu_s)
        pairs.append(pair)
        print(
            f"{repeat + 1}/{repeats}: exactly once {rate['scorer']:,.0f}/s, plain {rate['plain']:,.0f}/s, ratio "
            f"{pair.ratio:.3f}; processor per message: {1e6 * cpu_s['scorer']:.1f} and {1e6 * cpu_s['plain']:.1f} µs",
            flush=True,
        )
    return pairs


def latencies(folder: Path, server: str, rate: float, seconds: float, repeats: int) -> dict[str, list[Latency]]:
    """Measure alert latency of both sides in turn, at one rate."""
    found: dict[str, list[Latency]] = {side: [] for side in SIDES}
    for repeat in range(repeats):
        for side in SIDES:
            name = f"alerts-{side}-{repeat}-{os.getpid()}"
            found[side].append(measure(folder, server, rate, seconds, name, side))
            print(f"{side:6} {repeat + 1}/{repeats}: {found[side][-1]}", flush=True)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=20.0, help="duration of each latency measurement")
    parser.add_argument("--latency-repeats", type=int, default=3, help="0: throughput only")
    parser.add_argument("--rate", type=float, help="messages per second for latency (default: half of the maximum)")
    args = parser.parse_args()
    lines = []
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        folder = Path(scratch)
        make_bundle(folder)
        server = stack.enter_context(KafkaCluster(folder / "kafka")).servers[0]
        rate = args.rate
        if args.repeats:
            pairs = compare(folder, server, args.messages, args.repeats)
            ratio = statistics.median(pair.ratio for pair in pairs)
            low, high = min(pair.ratio for pair in pairs), max(pair.ratio for pair in pairs)
            verdict = "met" if ratio >= BAR else "MISSED"
            cpu = statistics.median(pair.cpu_s["plain"] / pair.cpu_s["scorer"] for pair in pairs)
            lines.append(
                f"throughput: ratio {ratio:.3f} ({low:.3f}–{high:.3f}; target {BAR}: {verdict}); "
                f"ratio of processor time per message {cpu:.3f}"
            )
            rate = rate or statistics.median(min(pair.rate.values()) for pair in pairs) / 2
        if args.latency_repeats:
            if not rate:
                raise SystemExit("--rate is required with --repeats 0")
            for side, found in latencies(folder, server, rate, args.seconds, args.latency_repeats).items():
                p50 = statistics.median(one.p50_ms for one in found)
                p99 = statistics.median(one.p99_ms for one in found)
                lines.append(f"alert latency, {side}: p50 {p50:.0f} ms, p99 {p99:.0f} ms at {rate:,.0f} messages/s")
    print("\n".join(["", *lines]))


if __name__ == "__main__":
    main()
