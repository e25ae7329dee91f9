"""`stream-ad check`: is everything in place? One line for each thing that a run needs."""

from __future__ import annotations

import argparse

from stream_ad.cli.output import console, print_json
from stream_ad.inspection.topics import PARTITIONS

STYLES = {"ok": ("ok  ", "green"), "warn": ("WARN", "bold yellow"), "fail": ("FAIL", "bold red")}


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    parser = subparsers.add_parser(
        "check",
        help="check settings, log, topics, bundle, folders and ports",
        description="Say, a line each, whether what a run needs is in place. Exits with 1 if anything is not.",
    )
    parser.add_argument(
        "--create", action="store_true", help="make the topics that are missing, add partitions that are"
    )
    parser.add_argument(
        "--partitions", type=int, metavar="N", help=f"partitions of the topics made ({PARTITIONS}, or as the readings)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line")


def run(args: argparse.Namespace) -> int:
    """Check everything; return 0 if all is well, else 1."""
    from stream_ad.inspection.checking import findings

    out = console()
    good = True
    for finding in findings(args.config, args.create, args.partitions):
        good = good and finding.good
        if args.json:
            print_json({"check": finding.what, "ok": finding.good, "level": finding.level, "text": finding.text})
            continue
        mark, style = STYLES[finding.level]
        first, *more = finding.text.splitlines()
        out.print(f"[{style}]{mark}[/]", f"{finding.what:<9}", end=" ")
        out.print(first, markup=False)
        for line in more:
            out.print(" " * 14, line, markup=False)
    return 0 if good else 1
