"""A whole scorer here against one of another checkout: `python -m benchmarks.paired --old PATH`.

Both work off the same messages from an embedded log, in processes of their own on the same core, in turn. Each pair
gives two ratios, here to there: messages per second of processor time, and peak memory there to here. `--check` exits
with 1 where the lower 95 % bound of the median of either is below `--least`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.decode import lower_bound
from benchmarks.load import DEVICES, TOPIC, fill, make_bundle, settings_of, write_settings
from stream_ad.assembly import open_transport

HERE = Path(__file__).resolve().parent
LEAST = 0.97
MESSAGES = 20_000
NAME = "paired"


def prepare(folder: Path, form: str, messages: int, devices: int) -> None:
    """Write bundle, settings and a log full of messages."""
    make_bundle(folder)
    config = write_settings(folder, NAME, 'kind = "local"\npath = "log.sqlite"', TOPIC)
    transport = open_transport(settings_of(config))
    fill(transport, TOPIC, form, messages, devices)
    transport.close()


def worked_off(checkout: Path, prepared: Path, seed: int) -> tuple[float, float]:
    """Let a checkout's scorer work off a copy of the log; return its processor seconds and its peak in MB."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "stream"
        shutil.copytree(prepared, copy)
        env = os.environ | {"PYTHONPATH": str(checkout), "PYTHONHASHSEED": str(seed), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(HERE / "paired_worker.py"), str(copy / f"{NAME}.toml")]
        ran = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise SystemExit(f"{checkout}: {ran.stderr.strip()}")
    found, seconds, megabytes = ran.stdout.splitlines()[-1].split("\t")
    if not Path(found).is_relative_to(checkout):
        raise SystemExit(f"{checkout}: expected stream_ad from there, found {found}")
    return float(seconds), float(megabytes)


def compared(old: Path, prepared: Path, pairs: int) -> dict[str, list[float]]:
    """Return the ratios of all pairs, above 1 where this checkout is better."""
    checkouts = (HERE.parent, old.resolve())
    ratios: dict[str, list[float]] = {"throughput": [], "memory": []}
    cores = sorted(os.sched_getaffinity(0))
    for number in range(pairs):
        # Neighbours make the cores of a virtual machine unlike: both sides run on one, in turn.
        os.sched_setaffinity(0, {cores[number % len(cores)]})
        order = (0, 1) if number % 2 else (1, 0)
        took = {side: worked_off(checkouts[side], prepared, seed=number) for side in order}
        ratios["throughput"].append(took[1][0] / took[0][0])
        ratios["memory"].append(took[1][1] / took[0][1])
        print(f"pair {number + 1} of {pairs}: {took[0][0]:.2f} s here, {took[1][0]:.2f} s there", file=sys.stderr)
    return ratios


def report(ratios: dict[str, list[float]], least: float) -> bool:
    """Print the ratios; return whether each lower bound reaches `least`."""
    print(f"{'':12} median  lower 95 % bound, of {len(ratios['throughput'])} pairs")
    bounds = {name: lower_bound(found) for name, found in ratios.items()}
    for name, found in ratios.items():
        short = "" if bounds[name] >= least else f"  below {least:g}"
        print(f"{name:12} {np.median(found):6.3f}  {bounds[name]:6.3f}{short}")
    return min(bounds.values()) >= least


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old", type=Path, metavar="PATH", required=True, help="another checkout to measure against")
    parser.add_argument("--check", action="store_true", help="exit with 1 where this checkout is worse")
    parser.add_argument("--least", type=float, default=LEAST, help=f"ratio that is enough ({LEAST})")
    parser.add_argument("--pairs", type=int, default=16, help="pairs of processes (16)")
    parser.add_argument("--messages", type=int, default=MESSAGES, help=f"in the log ({MESSAGES:,})")
    parser.add_argument("--form", choices=("series", "single", "arrow"), default="series", help="of messages (series)")
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), args.form, args.messages, DEVICES)
        is_enough = report(compared(args.old, Path(folder), args.pairs), args.least)
    return 1 if args.check and not is_enough else 0


if __name__ == "__main__":
    sys.exit(main())
