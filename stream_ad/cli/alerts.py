"""`stream-ad alerts`: print the alerts of the stream, and go on as they come."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stream_ad.cli.output import NS, console, moment_ns, print_json, time_text
from stream_ad.core.names import matches
from stream_ad.errors import ConfigError, ContractError, UnreachableError

if TYPE_CHECKING:
    from rich.console import Console

    from stream_ad.io.transport import Partition, Transport
    from stream_ad.io.wire.alerts import AlertMessage

POLL_S = 0.2
PATIENCE_S = 60.0
"""How long following outlives a log that does not answer."""

MARKS = {"opened": ("▲", "bold red"), "updated": ("△", "yellow"), "resolved": ("✓", "green")}


@dataclass(frozen=True, slots=True)
class Published:
    """An alert and where it stands in the log."""

    log_ns: int
    partition: int
    offset: int
    alert: AlertMessage


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    parser = subparsers.add_parser(
        "alerts",
        help="print alerts, and follow new ones",
        description="Print the alerts of the stream in the order in which they were published. Reads the alerts "
        "topic without a consumer group: it takes nothing away from other subscribers.",
    )
    parser.add_argument("-f", "--follow", action="store_true", help="go on as alerts come, until Ctrl-C")
    parser.add_argument(
        "--since", metavar="TIME", help="published after a time (2026-03-01T12:00:00Z), in the last 15m or 2h, or now"
    )
    parser.add_argument("--device", metavar="PATTERN", default="*", help="only these devices, for example 'pump-1*'")
    parser.add_argument("--all-streams", action="store_true", help="also alerts of other streams in the topic")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")


def run(args: argparse.Namespace) -> int:
    """Print alerts; return 0.

    Raises:
        ConfigError: the settings or `--since` are wrong.
        TransportError: the log or the topic is not there.
    """
    from stream_ad.assembly import open_transport
    from stream_ad.config import load

    settings = load(args.config)
    since_ns = _since(args.since)
    out = console()
    with contextlib.closing(open_transport(settings)) as transport:
        topic = settings.stream.alerts_topic
        wanted = device_filter(transport, topic, args.device)
        for published in published_alerts(transport, topic, args.follow):
            alert = published.alert
            if published.log_ns < since_ns or not wanted(alert.device):
                continue
            if alert.stream != settings.stream.name and not args.all_streams:
                continue
            if args.json:
                print_json(as_json(published, topic))
            else:
                print_line(out, alert)
            if args.follow:
                out.file.flush()
    return 0


def device_filter(transport: Transport, topic: str, text: str) -> Callable[[str], bool]:
    """Return what chooses devices: the one of that very name if it has alerts, else those that match as a pattern."""
    if "[" in text and any(found.alert.device == text for found in published_alerts(transport, topic, False)):
        return lambda device: device == text
    return lambda device: matches(device, text)


def published_alerts(transport: Transport, topic: str, follow: bool) -> Iterator[Published]:
    """Yield a topic's alerts from the earliest retained on, by log time within a look at the log.

    Args:
        transport: the log.
        topic: the alerts topic.
        follow: wait for more instead of ending.

    Raises:
        TransportError: the log does not answer (with `follow`: for `PATIENCE_S`).
    """
    from stream_ad.io.transport import Partition

    count = transport.topic(topic).partitions
    position: dict[Partition, int] = {}
    for number in range(count):
        partition = Partition(topic, number)
        position[partition] = transport.bounds(partition)[0]
    answered = time.monotonic()
    while True:
        try:
            found = _read_on(transport, position)
            answered = time.monotonic()
        except UnreachableError:
            if not follow or time.monotonic() - answered > PATIENCE_S:
                raise
            found = []
        yield from sorted(found, key=lambda one: (one.log_ns, one.partition, one.offset))
        if not follow:
            return
        if not found:
            time.sleep(POLL_S)


def _read_on(transport: Transport, position: dict[Partition, int]) -> list[Published]:
    """Return what came since the last look, and move the positions on."""
    from stream_ad.io.wire.alerts import decode

    found = []
    for partition, start in position.items():
        _, end = transport.bounds(partition)
        if end <= start:
            continue
        for batch in transport.read(partition, start, end):
            for value, log_ns, offset in zip(batch.values, batch.log_ns.tolist(), batch.offset.tolist(), strict=True):
                try:
                    found.append(Published(log_ns, partition.number, offset, decode(value)))
                except ContractError as error:
                    print(f"stream-ad: skipped {partition.topic}/{partition.number}@{offset}: {error}", file=sys.stderr)
        position[partition] = end
    return found


def as_json(published: Published, topic: str) -> dict[str, object]:
    """Return the message's body and, under `log`, where and when it was published."""
    place = {"topic": topic, "partition": published.partition, "offset": published.offset}
    return published.alert.model_dump(mode="json") | {"log": {"time": time_text(published.log_ns, False), **place}}


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


def _since(text: str | None) -> int:
    if text is None:
        return 0
    try:
        return moment_ns(text, round(time.time() * NS))
    except ValueError as error:
        raise ConfigError(f"--since: {error}") from error
