"""`stream-ad send`: send a recording as its devices would have."""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from stream_ad.cli.output import NS, duration_text, print_json
from stream_ad.core.names import matches
from stream_ad.errors import ConfigError, RecordingError

if TYPE_CHECKING:
    from stream_ad.config import Settings
    from stream_ad.io.recordings.recordings import Recording
    from stream_ad.io.transport import Transport
    from stream_ad.io.wire.producing import Message

PARTITIONS = 4
"""Partitions of a topic created here: enough to add scorers later."""
BATCH = 500
"""Records appended at once when sending is not paced."""


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    parser = subparsers.add_parser(
        "send",
        help="send a recording to the readings topic",
        description="Send a recording (CSV, Parquet or JSONL; a file, folder or pattern) to the stream's readings "
        "topic, as fast as possible or in real time. Creates the topic if it is missing.",
    )
    add_recording(parser)
    parser.add_argument(
        "--speed",
        type=read_speed,
        default=None,
        metavar="max|1|N",
        help="as fast as possible (max, the default), in real time (1), or N times as fast",
    )
    parser.add_argument(
        "--shift-to-now",
        action="store_true",
        help="shift all times by one amount so that no reading is in the future when sent: at --speed 1 the first "
        "reading is now, at max the last one is",
    )
    parser.add_argument(
        "--format",
        choices=("json", "series", "arrow"),
        help="one reading per record (json, the default with --speed) or several (series, the default at max; arrow)",
    )
    parser.add_argument("--samples", type=int, default=64, metavar="N", help="readings per series or Arrow record (64)")
    parser.add_argument("--loop", action="store_true", help="restart at the end, with later times, until stopped")
    parser.add_argument(
        "--partitions", type=int, default=PARTITIONS, help=f"partitions of the topic if created ({PARTITIONS})"
    )
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    parser.set_defaults(run=run)


def add_recording(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that select a recording and control how it is read."""
    parser.add_argument("recording", metavar="RECORDING", help="file, folder or pattern such as 'runs/*.csv'")
    parser.add_argument("--zone", help="zone of times that have none: UTC, Europe/Berlin, +02:00")
    parser.add_argument(
        "--layout", metavar="NAME[,KEY=COLUMN]", help="wide, long, skab or nab; for example long,time=stamp,channel=tag"
    )
    parser.add_argument(
        "--time-format",
        metavar="FORMAT",
        help="format of the times, if the rows are ambiguous: a strptime pattern such as "
        "'%%d/%%m/%%Y %%H:%%M:%%S', or day_first, month_first, excel, filetime, ticks, labview, matlab, compact, "
        "epoch_ms, elapsed_s, …",
    )
    parser.add_argument("--start", metavar="TIME", help="start of a recording with elapsed times: 2026-03-02T08:00:00Z")
    parser.add_argument(
        "--decimal",
        choices=("comma", "point"),
        help="decimal sign of ambiguous columns (1,234 or 1.234)",
    )
    parser.add_argument("--unit", action="append", default=[], metavar="CHANNEL=UNIT", help="unit of a channel")
    parser.add_argument("--device", metavar="NAME", help="name of the device, or the one device to read out of several")
    parser.add_argument(
        "--missing",
        action="append",
        default=[],
        metavar="[CHANNEL=]VALUE",
        help="a value that means missing, for every channel or one: -9999, temp=-127; repeatable",
    )
    # argparse's own pattern has no exponents and would take -1e20 for an option.
    parser._negative_number_matcher = re.compile(r"-([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$")


def read_recording(args: argparse.Namespace, zone: str | None = None, stream: str = "") -> Recording:
    """Read the recording that the arguments select.

    Args:
        args: includes those of `add_recording`.
        zone: zone of naive times if the arguments give none.
        stream: the stream's name; names the device if files are named only by date.

    Raises:
        RecordingError: it cannot be read.
    """
    from stream_ad.core.names import paired
    from stream_ad.io.recordings.layouts import Layout
    from stream_ad.io.recordings.recordings import read

    layout = Layout.parse(args.layout) if args.layout else None
    keep = [*filter(None, [getattr(args, "channels", None)]), *getattr(args, "counter", [])]
    return read(
        args.recording,
        layout,
        args.zone or zone,
        args.device,
        stream=stream,
        time_format=args.time_format,
        start=args.start,
        decimal=args.decimal,
        units=dict(paired(text) for text in args.unit),
        keep=keep,
        # Devices send counters as they are, even if a model uses their increments.
        counters=getattr(args, "verb", "") != "send",
        missing=getattr(args, "missing", ()),
    )


def read_speed(text: str) -> float | None:
    """Return the speed factor, None for `max`.

    Raises:
        ArgumentTypeError: neither `max` nor a positive number.
    """
    try:
        speed = None if text == "max" else float(text)
    except ValueError:
        speed = 0.0
    if speed is not None and not 0 < speed < float("inf"):
        raise argparse.ArgumentTypeError(f"expected max or a number above 0, found {text!r}")
    return speed


def run(args: argparse.Namespace) -> int:
    """Send; return 0.

    Raises:
        ConfigError: the settings are wrong, or options conflict.
        RecordingError: the recording cannot be read.
        TransportError: the log is unavailable or refuses the records.
    """
    from stream_ad.assembly import open_transport
    from stream_ad.config import load
    from stream_ad.io.wire.json import MAX_DEVICE_LENGTH
    from stream_ad.io.wire.producing import without_long_ids

    if args.loop and args.shift_to_now and (args.speed is None or args.speed > 1):
        raise ConfigError(
            "--loop with --shift-to-now: expected --speed of at most 1, otherwise times would run ahead of the clock"
        )
    if args.samples < 1 or args.partitions < 1:
        raise ConfigError("--samples and --partitions: expected at least 1")
    settings = load(args.config)
    recording, long = without_long_ids(read_recording(args, stream=settings.stream.name))
    if long:
        shown = ", ".join(f"{device[:40]!r}… ({len(device)} characters)" for device in long[:3])
        problem = f"{len(long):,} device id(s) exceed {MAX_DEVICE_LENGTH} characters: {shown}"
        if not len(recording):
            raise RecordingError(f"{args.recording}: {problem}; rename them")
        print(f"note: {problem}; their rows are not sent: rename them", file=sys.stderr)
    for line in notes(settings, recording):
        print(f"note: {line}", file=sys.stderr)
    transport = open_transport(settings)
    try:
        topic = settings.stream.readings_topic
        make_topic(transport, topic, args.partitions)
        return send(transport, topic, recording, args)
    finally:
        transport.close()


def notes(settings: Settings, recording: Recording) -> Iterator[str]:
    """Yield notes to print before the recording is sent."""
    yield from recording.notes
    pattern = settings.stream.devices
    strange = [device for device in recording.devices if not matches(device, pattern)]
    if strange:
        shown = ", ".join(strange[:5]) + (", …" if len(strange) > 5 else "")
        yield f"devices that do not match {pattern!r} will be skipped by the scorer: {shown}"


def make_topic(transport: Transport, topic: str, partitions: int) -> None:
    """Create the topic if it is missing; an existing one is not changed."""
    from stream_ad.errors import TopicError

    try:
        transport.topic(topic)
    except TopicError:
        made = transport.ensure_topic(topic, partitions)
        print(f"created topic {topic} with {made.partitions} partitions", file=sys.stderr)


def send(transport: Transport, topic: str, recording: Recording, args: argparse.Namespace) -> int:
    """Send all messages when they are due, with progress and a summary."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    start = time.monotonic()
    rows = records = 0
    interrupted = False
    total = None if args.loop else len(recording)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    show = Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True)
    with show:
        task = show.add_task("rows", total=total)
        try:
            for batch in paced(planned(recording, args), args.speed):
                transport.append(topic, [message.record for message in batch])
                rows += sum(message.rows for message in batch)
                records += len(batch)
                show.update(task, completed=rows)
        except KeyboardInterrupt:
            interrupted = True
    took_s = time.monotonic() - start
    summary = {"topic": topic, "rows": rows, "records": records, "devices": len(recording.devices)}
    if args.json:
        print_json(summary | {"seconds": round(took_s, 3), "complete": not interrupted})
    print(
        f"sent {rows:,} rows of {len(recording.devices):,} devices in {records:,} records to {topic} "
        f"in {duration_text(took_s)} ({rows / max(took_s, 1e-9):,.0f} rows/s)",
        file=sys.stderr,
    )
    if interrupted and not args.loop:
        raise KeyboardInterrupt
    return 0


def planned(recording: Recording, args: argparse.Namespace) -> Iterator[Message]:
    """Yield the messages in order, repeated with --loop."""
    from stream_ad.io.recordings.recordings import describe
    from stream_ad.io.wire.producing import Form, messages

    form = Form(args.format or ("series" if args.speed is None else "json"))
    first_ns, last_ns = int(recording.event_ns[0]), int(recording.event_ns[-1])
    shift_ns = shift_to(time.time_ns(), first_ns, last_ns, args.speed) if args.shift_to_now else 0
    yield from messages(recording, form, args.samples, shift_ns)
    while args.loop:
        shift_ns += last_ns - first_ns + describe(recording).period_ns
        yield from messages(recording, form, args.samples, shift_ns)


def shift_to(now_ns: int, first_ns: int, last_ns: int, speed: float | None) -> int:
    """Return the shift, in whole seconds, that puts no reading ahead of the clock when it is sent.

    Args:
        now_ns: current time.
        first_ns: first event time.
        last_ns: last event time.
        speed: factor, or None for as fast as possible.
    """
    if speed is not None and speed <= 1:
        shift_ns = now_ns - first_ns
    else:
        shift_ns = now_ns - last_ns + (0 if speed is None else round((last_ns - first_ns) / speed))
    return shift_ns // NS * NS


def paced(
    messages: Iterator[Message],
    speed: float | None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Sequence[Message]]:
    """Yield messages in batches, each when its last one is due; sleeps in between.

    Args:
        messages: in order of `due_ns`.
        speed: factor, or None to not wait.
        clock: seconds, monotonic.
        sleep: waits the given seconds.
    """
    start_s = clock()
    first_ns: int | None = None
    batch: list[Message] = []
    for message in messages:
        first_ns = message.due_ns if first_ns is None else first_ns
        wait_s = 0.0
        if speed is not None:
            wait_s = start_s + (message.due_ns - first_ns) / NS / speed - clock()
        if batch and (wait_s > 0 or len(batch) >= BATCH):
            yield batch
            batch = []
        if wait_s > 0:
            sleep(wait_s)
        batch.append(message)
    if batch:
        yield batch
