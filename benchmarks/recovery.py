"""Time from the kill of a scorer to its first commit, on a real Kafka under load.

`role`: the scorer is killed with `kill -9`, and `stream-ad run` restarts it. `host`: supervisor and all roles of a host
are killed together, and a standby instance takes over after the session time-out, with or without access to the same
checkpoints. `python -m benchmarks.recovery --help`.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import random
import signal
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.fleet import Fleet, Sender
from benchmarks.load import TOPIC, make_bundle, settings_of, write_settings
from benchmarks.service import Progress, Service, await_it
from deploy.kafka.broker import KafkaCluster
from stream_ad import assembly
from stream_ad.io.state import checkpoints

BAR_S = 10.0
SETTLE_S = 0.3
"""After a kill, a commit already requested may still complete."""
STEPS = (("role_started", "started"), ("opened", "opened"), ("partition_gained", "state loaded"))


@dataclass(frozen=True)
class Kill:
    """Seconds from a kill to each step, and to the first commit after it."""

    steps: dict[str, float]
    landed_s: float


class Bench:
    """One stream under load, for all kills with one number of devices."""

    def __init__(self, folder: Path, server: str, devices: int, rate: float) -> None:
        self.name = f"recovery-{devices}-{os.getpid()}"
        topic = f"{TOPIC}.{self.name}"
        kafka = f'kind = "kafka"\nservers = ["{server}"]'
        self.folder = folder
        self.path = write_settings(folder, self.name, kafka, topic)
        self.settings = settings_of(self.path)
        self._sending = assembly.open_transport(self.settings)
        self._asking = assembly.open_transport(self.settings)
        self._sending.ensure_topic(topic, 1)
        self.progress = Progress(self.settings, self._asking)
        messages = Fleet(devices).messages()
        self._sending.append(topic, (next(messages) for _ in range(2 * devices)))
        self.sender = Sender(self._sending, topic, messages, rate)
        self.rng = random.Random(devices)

    def close(self) -> None:
        """Stop the load."""
        self.sender.finish()
        self._sending.close()
        self._asking.close()

    def checkpoint_mb(self) -> float:
        """Return the size of the newest checkpoint."""
        store, stream = self.settings.store, self.settings.stream
        names = checkpoints.names(store.checkpoints, stream.name, 0)
        return (store.checkpoints / names[0]).stat().st_size / 1e6 if names else 0.0

    def start(self, **options: str) -> Service:
        """Start the whole stream."""
        instance = options.get("SERVICE__INSTANCE", "a")
        return Service(self.path, self.folder / f"{self.name}-{instance}.log", **options)

    def await_settled(self) -> None:
        """Wait until the backlog is processed, then for a random part of the checkpoint interval."""
        await_it(lambda: self.progress.end() - self.progress.committed() < 3 * self.sender.rate, 300, "lag near 0")
        await_it(lambda: self.checkpoint_mb() > 0, 60, "a checkpoint")
        time.sleep(self.rng.uniform(0.0, self.settings.store.checkpoint_every_s))

    def landed(self, killed_at: float) -> float:
        """Return the seconds from a kill to the first commit requested after it."""
        time.sleep(SETTLE_S)
        return self.progress.await_offset(self.progress.committed() + 1) - killed_at

    def kill_role(self) -> Kill:
        """Kill the scorer of a new supervisor, which restarts it."""
        service = self.start()
        try:
            self.await_settled()
            pid = service.pid("scorer-0")
            killed_at = time.time()
            os.kill(pid, signal.SIGKILL)
            landed_s = self.landed(killed_at)
            time.sleep(1)  # for lines of the log
            steps = {name: service.moment(event, "scorer-0", killed_at) - killed_at for event, name in STEPS}
        finally:
            service.stop()
        return Kill(steps, landed_s)

    def kill_host(self, is_shared: bool) -> Kill:
        """Kill a host while another is on standby."""
        first = self.start()
        own = {} if is_shared else {"STORE__CHECKPOINTS": str(self.folder / f"{self.name}-b-{time.time_ns()}")}
        second = None
        try:
            self.await_settled()
            second = self.start(SERVICE__INSTANCE="b", STORE__SCORES=str(self.folder / self.name / "scores"), **own)
            await_it(lambda: not math.isnan(second.moment("opened", "scorer-0", 0)), 60, "the other host")
            self.await_settled()
            killed_at = time.time()
            first.kill_all()
            landed_s = self.landed(killed_at)
            time.sleep(1)
            steps = {"state loaded": second.moment("partition_gained", "scorer-0", killed_at) - killed_at}
        finally:
            if first.process.poll() is None:
                first.stop()
            if second is not None:
                second.stop()
        return Kill(steps, landed_s)


def medians_text(kills: list[Kill]) -> str:
    """Return medians as one line."""
    if not kills:
        return "not measured"
    times = [kill.landed_s for kill in kills]
    steps = [f"{name} {statistics.median(kill.steps[name] for kill in kills):.1f} s" for name in kills[0].steps]
    steps.append(f"committed {statistics.median(times):.1f} s ({min(times):.1f}–{max(times):.1f})")
    return ", ".join(steps)


def measure(folder: Path, server: str, devices: int, args: argparse.Namespace) -> list[str]:
    """Kill repeatedly; return lines to print."""
    bench = Bench(folder, server, devices, args.rate)
    bench.sender.start()
    lines = []
    try:
        kills = [_printed(f"{devices:,} devices, role", bench.kill_role()) for _ in range(args.kills)]
        if kills:
            met = statistics.median(kill.landed_s for kill in kills) <= BAR_S
            lines.append(
                f"{devices:,} devices, checkpoint {bench.checkpoint_mb():.0f} MB, restart: {medians_text(kills)} "
                f"(target {BAR_S:g} s: {'met' if met else 'MISSED'})"
            )
        for is_shared in (True, False):
            name = f"{devices:,} devices, host lost, checkpoints {'shared' if is_shared else 'not shared'}"
            hosts = [_printed(name, bench.kill_host(is_shared)) for _ in range(args.hosts)]
            lines.append(f"{name}: {medians_text(hosts)}")
    finally:
        bench.close()
    return lines


def _printed(name: str, kill: Kill) -> Kill:
    print(f"{name}: {medians_text([kill])}", flush=True)
    return kill


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, action="append", help="default: 1,000 and 20,000")
    parser.add_argument("--kills", type=int, default=5, help="kills of the scorer per number of devices")
    parser.add_argument("--hosts", type=int, default=3, help="kills of a host, with and without shared checkpoints")
    parser.add_argument("--rate", type=float, default=1_000.0, help="messages of 64 samples per second meanwhile")
    args = parser.parse_args()
    lines: list[str] = []
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        folder = Path(scratch)
        make_bundle(folder)
        server = stack.enter_context(KafkaCluster(folder / "kafka")).servers[0]
        for devices in args.devices or (1_000, 20_000):
            lines += measure(folder, server, devices, args)
    print("\n".join(["", f"at {args.rate:,.0f} messages per second, default settings:", *lines]))


if __name__ == "__main__":
    main()
