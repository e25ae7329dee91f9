"""`stream-ad alerts`: print a stream's alerts, and follow new ones."""

from __future__ import annotations

import argparse
import contextlib
from typing import TYPE_CHECKING

from stream_ad.cli.output import console, moment_ns, print_json, time_text, warn_skipped

if TYPE_CHECKING:
    from rich.console import Console

    from stream_ad.io.wire.alerts import AlertMessage, Published

MARKS = {"opened": ("▲", "bold red"), "updated": ("△", "yellow"), "resolved": ("✓", "green")}


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    parser = subparsers.add_parser(
        "alerts",
        help="print alerts, and follow new ones",
        description="Print the stream's alerts in publication order. Reads the alerts topic without a consumer group, "
        "so other subscribers are not affected.",
    )
    parser.add_argument("-f", "--follow", action="store_true", help="keep printing new alerts until Ctrl-C")
    parser.add_argument(
        "--since",
        type=moment_ns,
        default=0,
        metavar="TIME",
        help="only alerts published since: a time (2026-03-01T12:00:00Z), a duration ago (15m, 2h) or now",
    )
    parser.add_argument("--device", metavar="PATTERN", default="*", help="only these devices, for example 'pump-1*'")
    parser.add_argument("--all-streams", action="store_true", help="include other streams' alerts in the topic")
    parser.add_argument("--json", action="store_true", help="print one JSON object per line")


def run(args: argparse.Namespace) -> int:
    """Print alerts; return 0.

    Raises:
        ConfigError: the settings or `--since` are wrong.
        TransportError: the log or the topic is unavailable.
    """
    from stream_ad.assembly import open_transport
    from stream_ad.config import load
    from stream_ad.inspection.alerts import alerts

    settings = load(args.config)
    out = console()
    with contextlib.closing(open_transport(settings)) as transport:
        stream = "" if args.all_streams else settings.stream.name
        topic = settings.stream.alerts_topic
        for found in alerts(transport, topic, stream, args.device, args.since, args.follow, warn_skipped):
            if args.json:
                print_json(as_json(found))
            else:
                print_line(out, found.alert)
            if args.follow:
                out.file.flush()
    return 0


def as_json(found: Published) -> dict[str, object]:
    """Return the message body plus, under `log`, where and when it was published."""
    at = found.at
    place = {"topic": at.partition.topic, "partition": at.partition.number, "offset": at.offset}
    return found.alert.model_dump(mode="json") | {"log": {"time": time_text(at.log_ns, False), **place}}


def print_line(out: Console, alert: AlertMessage) -> None:
    """Print one alert for a person."""
    from rich.text import Text

    mark, style = MARKS[alert.phase]
    line = Text()
    line.append(time_text(alert.end_ns), "dim")
    line.append(f"  {mark} {alert.phase:<8}", style)
    line.append(f"  {alert.device:<12}", "bold")
    line.append(f"  {alert.kind:<7}  ", "" if alert.kind == "process" else "cyan")
    line.append(alert.reason)
    out.print(line)
