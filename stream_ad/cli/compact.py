"""`stream-ad compact`: merge the score log's small files from closed hours."""

from __future__ import annotations

import argparse
import time

from stream_ad.cli.output import NS, duration_text

OLDER_THAN_HOURS = 1.0


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    parser = subparsers.add_parser(
        "compact",
        help="merge small files of the score log",
        description="Merge the small files of closed hours into files of up to store.part_max_rows rows. Every row "
        "stays visible exactly once, also to other readers and after a crash. May run beside archivers. An hour that "
        "holds a partition's newest file is skipped. Run it regularly, for example daily.",
    )
    parser.add_argument(
        "--older-than-hours",
        type=_hours,
        default=OLDER_THAN_HOURS,
        metavar="N",
        help=f"only hours that ended at least N hours ago ({OLDER_THAN_HOURS:g})",
    )
    parser.add_argument("--dry-run", action="store_true", help="only print what would be done")


def run(args: argparse.Namespace) -> int:
    """Compact; return 0.

    Raises:
        ConfigError: the settings are wrong.
        ScoreLogError: a file is damaged, or another compaction is running.
        StorageError: the folder is not writable, or its file system cannot exchange two names atomically.
    """
    from stream_ad.config import load
    from stream_ad.io.score_log.compaction import HourReport, compact

    store = load(args.config).store
    begun = time.monotonic()

    def print_hour(report: HourReport) -> None:
        if report.skipped:
            print(f"skip  {report.hour}: {report.skipped}")
        else:
            print(f"ok    {report.hour}: {report.before:,} files into {report.after:,}, {report.rows:,} rows")

    closed_before_ns = time.time_ns() - round(args.older_than_hours * 3_600 * NS)
    done = compact(store.scores, closed_before_ns, store.part_max_rows, args.dry_run, on_hour=print_hour)
    merged = [report for report in done if not report.skipped]
    before, after = sum(report.before for report in merged), sum(report.after for report in merged)
    verb = "would merge" if args.dry_run else "merged"
    print(
        f"{verb} {before:,} files of {len(merged):,} hour(s) into {after:,}; {duration_text(time.monotonic() - begun)}"
    )
    return 0


def _hours(text: str) -> float:
    hours = float(text)
    if not 0 <= hours < 1e6:
        raise argparse.ArgumentTypeError(f"expected at least 0, found {text}")
    return hours
