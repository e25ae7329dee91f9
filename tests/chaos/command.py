"""The command line of the chaos run, and its summary."""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from kafka.errors import KafkaError

from stream_ad.errors import StreamAdError
from tests.chaos.report import Report
from tests.chaos.run import Run, Size
from tests.chaos.schedule import Plan

KILL_EVERY_S, BROKER_EVERY_S = 8.0, 160.0
RATE = 100.0
FULL_KILLS, FULL_BROKER_KILLS, FULL_READINGS = 200, 10, 10_000_000
SESSION_S = 6.0
SPREAD = 0.75
"""Disturbances are spread over this share of the sending: each also waits for its victim to be there."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run; 0 only where everything was proven, 1 where something was wrong, 2 where the run itself failed."""
    args = parse(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that nothing is left running
    folder = args.folder or Path(tempfile.mkdtemp(prefix="stream-ad-chaos-"))
    if folder.exists() and any(folder.iterdir()):
        sys.stderr.write(f"{folder}: expected an empty folder\n")
        return 2
    plan, size = sized(args)
    try:
        report = Run(plan, size, folder).go()
    except (RuntimeError, OSError, StreamAdError, KafkaError, subprocess.TimeoutExpired) as error:
        sys.stderr.write(f"the run did not get to its end: {type(error).__name__}: {error}; its logs are in {folder}\n")
        return 2
    if args.json:
        args.json.write_text(json.dumps(asdict(report) | {"proven": report.is_proven}, indent=2) + "\n")
    sys.stdout.write(summary(report))
    if report.is_proven and not (args.keep or args.folder):
        shutil.rmtree(folder, ignore_errors=True)
    else:
        sys.stdout.write(f"logs, topics and files: {folder}\n")
    return 0 if report.is_proven else 1


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos",
        description="Kill, stop, add and remove scorers, archivers and brokers of a running stream by a seeded "
        "schedule, then prove that every row, alert and dead letter is there once.",
    )
    parser.add_argument("--seed", type=int, default=1, help="of schedule and fleet (1)")
    parser.add_argument("--minutes", type=float, help="of disturbances, instead of the three counts below")
    parser.add_argument("--kills", type=int, help=f"of scorers and archivers ({FULL_KILLS})")
    parser.add_argument("--broker-kills", type=int, help=f"({FULL_BROKER_KILLS})")
    parser.add_argument("--readings", type=int, help=f"sent at least ({FULL_READINGS})")
    parser.add_argument("--rate", type=float, default=RATE, help=f"messages of 64 readings a second ({RATE:.0f})")
    parser.add_argument("--swaps", type=int, help="of the bundle (one for each ten kills)")
    parser.add_argument("--folder", type=Path, help="an empty one, kept; by default a temporary one")
    parser.add_argument("--keep", action="store_true", help="keep the folder also where all is proven")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the summary there too")
    return parser.parse_args(argv)


def sized(args: argparse.Namespace) -> tuple[Plan, Size]:
    """Return the plan and size of the arguments; what is not given follows from the rest."""
    if args.minutes is not None:
        spread_s = 60.0 * args.minutes
        kills, brokers = round(spread_s / KILL_EVERY_S), round(spread_s / BROKER_EVERY_S)
        readings = round(spread_s * args.rate * 64)
    else:
        kills, brokers, readings = FULL_KILLS, FULL_BROKER_KILLS, FULL_READINGS
    kills = kills if args.kills is None else args.kills
    brokers = brokers if args.broker_kills is None else args.broker_kills
    readings = readings if args.readings is None else args.readings
    swaps = args.swaps if args.swaps is not None else kills // 10
    plan = Plan(
        seed=args.seed,
        kills=kills,
        broker_kills=brokers,
        spread_s=SPREAD * readings / 64 / args.rate,
        session_s=SESSION_S,
        swaps=swaps,
    )
    return plan, Size(readings, args.rate)


def summary(report: Report) -> str:
    """Return the summary as text."""
    found = asdict(report)
    problems = found.pop("problems")
    lines = [f"{name.replace('_', ' '):<36} {_plain(value)}" for name, value in found.items()]
    lines += [f"WRONG: {problem}" for problem in problems]
    lines.append("PROVEN: nothing is missing, nothing is there twice" if report.is_proven else "NOT PROVEN")
    return "\n".join(lines) + "\n"


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_plain(content)}" for name, content in value.items()) or "none"
    return f"{value:,}" if isinstance(value, int | float) else str(value)
