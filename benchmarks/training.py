"""Cost of training with many channels: seconds and peak memory, in its own process.

`python -m benchmarks.training --check` fails above 120 s or 1 GB for 300 channels and 4,000 readings.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence

CHANNELS, ROWS = 300, 4_000
DETECTORS = ("pca", "mahalanobis", "multiscale_pca")
MOST_S, MOST_MB = 120.0, 1_000.0
WORK = """
import sys, time
import numpy as np
from stream_ad.core.model import Channel, WindowShape
from stream_ad.io.recordings.recordings import Recording
from stream_ad.training.training import TrainingPlan, train
kind, channels, rows = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
rng = np.random.default_rng(1)
loads = rng.normal(size=(rows, 12)).cumsum(axis=0) * 0.05
values = loads @ rng.normal(size=(12, channels)) + rng.normal(0, 0.3, (rows, channels))
names = tuple(f"ch{number:04d}" for number in range(channels))
times = 1_767_600_000_000_000_000 + np.arange(rows) * 10**9
recording = Recording(("p1",), np.zeros(rows, np.int32), times, names, values)
plan = TrainingPlan("wide", kind, WindowShape(10**9, 64, 16), tuple(map(Channel, names)), baseline="")
begun = time.perf_counter()
train(recording, plan)
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(time.perf_counter() - begun, int(peak.split()[1]) / 1e3)
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line per detector; return 1 with --check if one takes too much."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__.splitlines()[0])
    parser.add_argument("--channels", type=int, default=CHANNELS)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--check", action="store_true", help=f"fail above {MOST_S:g} s or {MOST_MB:g} MB")
    options = parser.parse_args(arguments)
    is_over = False
    for kind in DETECTORS:
        command = [sys.executable, "-c", WORK, kind, str(options.channels), str(options.rows)]
        seconds, megabytes = map(float, subprocess.run(command, check=True, capture_output=True).stdout.split())
        is_over |= seconds > MOST_S or megabytes > MOST_MB
        print(f"{kind:16} {options.channels} channels, {options.rows:,} rows: {seconds:6.1f} s, {megabytes:6.0f} MB")
    return int(options.check and is_over)


if __name__ == "__main__":
    sys.exit(main())
