"""`stream-ad audit`: recompute a range of results and compare it with what was published."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from stream_ad.cli.output import moment_ns, print_json
from stream_ad.errors import ConfigError

if TYPE_CHECKING:
    from stream_ad.proof.audit import Outcome, ReportProgress

PROGRESS_EVERY_S = 2.0


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    parser = subparsers.add_parser(
        "audit",
        help="recompute scores and decisions and compare them with the score log",
        description="Reread the input of a time range from the nearest checkpoint or start, replay the journal, and "
        "compare every score, limit and decision with what was published. On the machine that published them, all "
        "bits match. Exits with 1 if anything differs or cannot be recomputed.",
    )
    parser.add_argument("--device", metavar="ID", help="only this device")
    parser.add_argument(
        "--from",
        dest="since",
        type=moment_ns,
        metavar="TIME",
        help="only windows that end after TIME: RFC 3339, or 1h for 1 hour ago",
    )
    parser.add_argument(
        "--to", dest="until", type=moment_ns, metavar="TIME", help="only windows that end at or before TIME"
    )
    parser.add_argument(
        "--bundle", type=Path, action="append", default=[], metavar="DIR", help="new folder of a bundle that was moved"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object per partition")


def run(args: argparse.Namespace) -> int:
    """Audit; return 0 if everything agrees, else 1.

    Raises:
        ConfigError: settings or arguments are wrong, or nothing was published in the range.
        TransportError: the log does not answer.
    """
    from stream_ad.assembly import open_transport
    from stream_ad.config import load
    from stream_ad.io.bundles.manifest import read_manifest
    from stream_ad.proof.audit import Audit, AuditRange

    settings = load(args.config)
    audited = AuditRange(args.device, args.since, args.until)
    bundles = {read_manifest(folder).model_id: str(folder) for folder in args.bundle}
    outcomes = []
    with contextlib.closing(open_transport(settings)) as transport:
        audit = Audit(settings, transport, bundles, progress_printer())
        for number in audit.partitions():
            outcome = audit.compare(number, audited)
            if outcome is None:
                continue
            outcomes.append(outcome)
            if args.json:
                print_json({**asdict(outcome), "agrees": outcome.agrees})
            else:
                for line in lines(outcome):
                    print(line)
    if not outcomes:
        raise ConfigError("audit: nothing was published in this range; widen --from and --to, or check --device")
    if not args.json:
        print(summary(outcomes))
    return 0 if all(outcome.agrees for outcome in outcomes) else 1


def lines(outcome: Outcome) -> list[str]:
    """Return the report on a partition."""
    found = [f"partition {outcome.partition}: {_result(outcome)}"]
    found += [f"  {example}" for example in outcome.examples]
    found += [f"  note: {note}" for note in outcome.notes]
    return found


def _result(outcome: Outcome) -> str:
    if outcome.failed:
        return f"cannot be recomputed: {outcome.failed}"
    where = f"offsets {outcome.first:,}–{outcome.last:,}, recomputed from {outcome.begun:,}"
    if outcome.agrees:
        return f"{outcome.rows:,} rows agree, score difference {outcome.worst:g} ({where})"
    wrong = {
        "not published": outcome.missing,
        "published but not reproduced": outcome.surplus,
        "with other values": outcome.different,
        "alerts not published": outcome.alerts_missing,
        "alerts published but not reproduced": outcome.alerts_surplus,
        "alerts with other contents": outcome.alerts_different,
    }
    counts = ", ".join(f"{count:,} {what}" for what, count in wrong.items() if count)
    return f"DIFFERS: {counts} of {outcome.rows:,} rows, largest score difference {outcome.worst:g} ({where})"


def summary(outcomes: list[Outcome]) -> str:
    """Return the closing line."""
    rows = sum(outcome.rows for outcome in outcomes)
    wrong = [outcome.partition for outcome in outcomes if not outcome.agrees]
    if wrong:
        return f"NOT PROVEN: partition(s) {', '.join(map(str, wrong))} of {len(outcomes)}"
    worst = max(outcome.worst for outcome in outcomes)
    return f"{rows:,} rows of {len(outcomes)} partition(s): same decisions, score difference {worst:g}"


def progress_printer() -> ReportProgress:
    """Return a callback that prints progress on stderr; it does nothing if stderr is not a terminal."""
    if not sys.stderr.isatty():
        return lambda *_: None
    printed = time.monotonic()

    def report(number: int, offset: int, stop: int) -> None:
        nonlocal printed
        if time.monotonic() - printed >= PROGRESS_EVERY_S:
            printed = time.monotonic()
            print(f"partition {number}: offset {offset:,} of {stop:,}", file=sys.stderr)

    return report
