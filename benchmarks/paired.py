"""A whole scorer here against one of another checkout: `python -m benchmarks.paired --old PATH`.

Both work off the same messages from an embedded log, in processes of their own on the same core, in turn. Each pair
gives two ratios, here to there: messages per second of processor time, and peak memory there to here. `--kafka` runs
both on a real broker, with the rest of the machine as it is: the ratios are messages per second while a backlog is
worked off, and the median time from a reading's log time to its alert at a steady rate. `--check` exits with 1 if the
lower 95 % bound of the median of a ratio is below `--least`. Each checkout trains the bundle that it scores with.
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
from benchmarks.load import DEVICES, TOPIC, fill, settings_of, write_settings
from stream_ad.assembly import open_transport

HERE = Path(__file__).resolve().parent
LEAST = 0.97
MESSAGES = 20_000
KAFKA_MESSAGES = 60_000
NAME = "paired"
SIDES = ("here", "there")


def prepare(folder: Path, form: str, messages: int, devices: int) -> None:
    """Write settings and a log full of messages."""
    folder.mkdir(exist_ok=True)
    config = write_settings(folder, NAME, 'kind = "local"\npath = "log.sqlite"', TOPIC)
    transport = open_transport(settings_of(config))
    fill(transport, TOPIC, form, messages, devices)
    transport.close()


def make_bundle(checkout: Path, folder: Path) -> None:
    """Let a checkout train its bundle into a folder: their formats may differ.

    Raises:
        SystemExit: it cannot.
    """
    code = (
        "import sys, pathlib; from benchmarks.load import make_bundle; "
        "folder = pathlib.Path(sys.argv[1]); folder.mkdir(); make_bundle(folder)"
    )
    command = [sys.executable, "-c", code, str(folder)]
    ran = subprocess.run(command, cwd=checkout, env=environment(checkout), capture_output=True, text=True, check=False)
    if ran.returncode:
        raise SystemExit(f"{checkout}: {ran.stderr.strip()}")


def environment(checkout: Path, seed: int = 0) -> dict[str, str]:
    """Return the environment of a process that runs a checkout's package."""
    return os.environ | {"PYTHONPATH": str(checkout), "PYTHONHASHSEED": str(seed), "OMP_NUM_THREADS": "1"}


def worked_off(checkout: Path, prepared: Path, bundle: Path, seed: int) -> tuple[float, float]:
    """Let a checkout's scorer work off a copy of the log; return its processor seconds and its peak in MB."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "stream"
        shutil.copytree(prepared, copy)
        shutil.copytree(bundle, copy / "bundle")
        env = environment(checkout, seed)
        command = [sys.executable, str(HERE / "paired_worker.py"), str(copy / f"{NAME}.toml")]
        ran = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise SystemExit(f"{checkout}: {ran.stderr.strip()}")
    found, seconds, megabytes = ran.stdout.splitlines()[-1].split("\t")
    if not Path(found).is_relative_to(checkout):
        raise SystemExit(f"{checkout}: expected stream_ad from there, found {found}")
    return float(seconds), float(megabytes)


def compared(checkouts: Sequence[Path], bundles: Sequence[Path], prepared: Path, pairs: int) -> dict[str, list[float]]:
    """Return the ratios of all pairs, above 1 where the first checkout is better."""
    ratios: dict[str, list[float]] = {"throughput": [], "memory": []}
    cores = sorted(os.sched_getaffinity(0))
    for number in range(pairs):
        # Neighbours make the cores of a virtual machine unlike: both sides run on one, in turn.
        os.sched_setaffinity(0, {cores[number % len(cores)]})
        order = (0, 1) if number % 2 else (1, 0)
        took = {side: worked_off(checkouts[side], prepared, bundles[side], seed=number) for side in order}
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
    parser.add_argument("--messages", type=int, help=f"to work off ({MESSAGES:,}; on Kafka {KAFKA_MESSAGES:,})")
    parser.add_argument("--form", choices=("series", "single", "arrow"), default="series", help="of messages (series)")
    parser.add_argument("--kafka", action="store_true", help="on a real Kafka: throughput and alert latency")
    args = parser.parse_args(arguments)
    checkouts = (HERE.parent, args.old.resolve())
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for checkout, name in zip(checkouts, SIDES, strict=True):
            make_bundle(checkout, folder / name)
        bundles = [folder / name / "bundle" for name in SIDES]
        if args.kafka:
            from benchmarks.paired_kafka import compared_on_kafka

            ratios = compared_on_kafka(checkouts, bundles, folder, args.pairs, args.messages or KAFKA_MESSAGES)
        else:
            prepare(folder / "stream", args.form, args.messages or MESSAGES, DEVICES)
            ratios = compared(checkouts, bundles, folder / "stream", args.pairs)
        is_enough = report(ratios, args.least)
    return 1 if args.check and not is_enough else 0


if __name__ == "__main__":
    sys.exit(main())
