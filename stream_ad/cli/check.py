"""`stream-ad check`: check everything that a run needs, one line each."""

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
        description="Check everything that a run needs, one line each. Exits with 1 if anything is wrong.",
    )
    parser.add_argument("--create", action="store_true", help="create missing topics and add missing partitions")
    parser.add_argument(
        "--partitions",
        type=int,
        metavar="N",
        help=f"partitions of a topic created ({PARTITIONS}, or as many as the readings topic has)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object per line")


def run(args: argparse.Namespace) -> int:
    """Run all checks; return 0 if none failed, else 1."""
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
