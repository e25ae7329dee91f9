"""`stream-ad status`: lag, owners, model, checkpoints and parts of each partition, and warnings."""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from stream_ad.cli.output import console, duration_s, duration_text, print_json, time_text
from stream_ad.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from stream_ad.config import Settings
    from stream_ad.inspection.facts import CheckpointFile, Lag, PartitionStatus, Status

MODEL_DIGITS = 12


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    parser = subparsers.add_parser(
        "status",
        help="show lag, owners, checkpoints and parts of each partition",
        description="Show the state of the stream, partition by partition, and warnings. Reads the log without a "
        "consumer group, this host's folders and the pages of this host's roles; changes nothing. Exits with 0 if "
        "there are no warnings, 1 if there are, 2 if the settings are wrong.",
    )
    parser.add_argument("--watch", type=float, metavar="S", help="repeat every S seconds until Ctrl-C")
    parser.add_argument("--json", action="store_true", help="print one JSON object per status")
    group = parser.add_argument_group("warning thresholds")
    group.add_argument("--max-lag", type=duration_s, metavar="TIME", help="readings wait longer for their score (60s)")
    text = "the newest checkpoint is further behind the scores (10 x store.checkpoint_every_s, at least 60s)"
    group.add_argument("--max-checkpoint-age", type=duration_s, metavar="TIME", help=text)
    text = "scores wait longer to be archived (10 x store.part_max_age_s, at least 60s)"
    group.add_argument("--max-part-age", type=duration_s, metavar="TIME", help=text)


def run(args: argparse.Namespace) -> int:
    """Show the status; return 0 if there are no warnings, else 1.

    Raises:
        ConfigError: settings or options are wrong.
        TransportError: the log does not answer or has no readings topic. `--watch` reports this and continues.
    """
    from stream_ad.config import load
    from stream_ad.inspection.judging import Limits
    from stream_ad.inspection.watching import watch

    settings = load(args.config)
    if args.watch is not None and not 0 < args.watch < 1e6:
        raise ConfigError(f"--watch: expected seconds above 0, found {args.watch:g}")
    limits = Limits.of(settings, args.max_lag, args.max_checkpoint_age, args.max_part_age)
    out = console()
    code = 0
    for status, lines in watch(settings, limits, args.watch):
        code = 1 if lines else 0
        if args.json:
            print_json(as_json(settings, status, lines))
        else:
            if args.watch is not None and sys.stdout.isatty():
                out.clear()
            show(out, settings, status, lines)
        sys.stdout.flush()
    return code


def as_json(settings: Settings, status: Status | None, lines: list[str]) -> dict[str, Any]:
    """Return a status as plain values."""
    answer: dict[str, Any] = {"stream": settings.stream.name, "ok": not lines, "warnings": lines}
    if status is None:
        return answer | {"time": time_text(time.time_ns(), seconds=False)}
    from stream_ad.inspection.facts import totals
    from stream_ad.inspection.intake import as_plain

    return (
        answer
        | {"time": time_text(status.taken_ns, seconds=False), "totals": totals(status)}
        | {"partitions": [asdict(part) for part in status.partitions]}
        | {"roles": [asdict(role) for role in status.roles], "intake": as_plain(status.intake)}
    )


# -- for people -----------------------------------------------------------------------------------


def show(out: Console, settings: Settings, status: Status | None, lines: list[str]) -> None:
    """Print a status."""
    now_ns = time.time_ns() if status is None else status.taken_ns
    out.print(f"[bold]{settings.stream.name}[/]  {time_text(now_ns)} UTC")
    if status is not None:
        out.print(scoring_table(settings, status))
        out.print(archiving_table(settings, status))
        for role in status.roles:
            out.print(f"{role.name:<10} {role.state:<11} {role.address}  {role.text}", markup=False)
        out.print(totals_line(status), markup=False)
    for line in lines:
        out.print("[bold red]WARN[/]", end=" ")
        out.print(line, markup=False)
    if not lines:
        out.print("[green]no warnings[/]")


def scoring_table(settings: Settings, status: Status) -> Table:
    """Return the table about scoring."""
    from stream_ad.role_table import decider

    table = _table(f"scoring {settings.stream.readings_topic}")
    for name in ("partition", "unscored", "behind", "at offset"):
        table.add_column(name, justify="right")
    for name in (decider().name, "model", "state", "last scores", "checkpoints: newest, oldest"):
        table.add_column(name)
    for part in status.partitions:
        found = part.scoring
        table.add_row(
            str(part.partition),
            f"{found.lag.records:,}",
            _behind(found.lag),
            "—" if found.committed is None else f"{found.committed:,}",
            _owner(found.owner),
            found.model[:MODEL_DIGITS] or "unknown",
            _state(part),
            _ago(found.last_result_age_s),
            "none here" if found.newest is None else f"{_file(found.newest)}, {_age(found.oldest)}",
        )
    return table


def archiving_table(settings: Settings, status: Status) -> Table:
    """Return the table about archiving."""
    from stream_ad.role_table import ARCHIVER

    table = _table(f"archiving {settings.stream.scores_topic}")
    for name in ("partition", "not in Parquet", "behind"):
        table.add_column(name, justify="right")
    for name in (ARCHIVER.name, "last part"):
        table.add_column(name)
    for part in status.partitions:
        found = part.archiving
        last = found.last_part
        table.add_row(
            str(part.partition),
            f"{found.lag.records:,}",
            _behind(found.lag),
            _owner(found.owner),
            "none here" if last is None else f"{last.path}, {duration_text(last.age_s)} ago, {last.rows:,} rows",
        )
    return table


def totals_line(status: Status) -> str:
    """Return the totals on one line."""
    from stream_ad.inspection.facts import totals

    found = totals(status)
    return (
        f"total: {found['unscored_records']:,} records unscored, at most {duration_text(found['unscored_s'])} behind; "
        f"{found['unarchived_messages']:,} score messages not archived, at most "
        f"{duration_text(found['unarchived_s'])} behind"
    )


def _table(title: str) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    return Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)


def _behind(lag: Lag) -> str:
    return duration_text(lag.seconds) if lag.records else "—"


def _owner(owner: str) -> str:
    return owner or "[bold red]nobody[/]"


def _state(part: PartitionStatus) -> str:
    states = {True: "[yellow]catching up[/]", False: "up to date", None: "unknown"}
    return states[part.scoring.is_catching_up]


def _ago(seconds: float | None) -> str:
    return "none" if seconds is None else f"{duration_text(seconds)} ago"


def _age(file: CheckpointFile | None) -> str:
    return "—" if file is None else duration_text(file.age_s)


def _file(file: CheckpointFile) -> str:
    return f"{duration_text(file.age_s)} (offset {file.offset:,})"
