"""`stream-ad init`: inspect a recording, write a stream's settings for it, print the next steps."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
import textwrap
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from stream_ad.cli.output import NS, duration_text, print_json, time_text
from stream_ad.cli.send import add_recording, read_recording
from stream_ad.errors import ConfigError, RecordingError, StorageError

if TYPE_CHECKING:
    from stream_ad.io.recordings.recordings import Description, Recording

LINE_WIDTH, NOTE_WIDTH = 100, 240
CHANNEL_LINES, NOTE_LINES = 5, 7
"""Limits for text output, 25 lines in total; `--json` is complete."""

TEMPLATE = """\
# A stream: one readings topic, one kind of device, one bundle.
# Written for {origin}:
#   devices: {devices}, channels: {channels_count}, one reading every {period}
#   {channels}
# Environment variables STREAM_AD__SECTION__KEY override a key. Relative paths are relative to this file.

[stream]
name = "{name}"                          # used in the names of consumer groups, checkpoints and topics
readings_topic = "sensor.readings.v1"    # written by devices, simulators and `stream-ad send`
devices = "*"                            # shell pattern; other devices are skipped and counted
bundle = "bundles/{name}"                # the model, written by `stream-ad train`; defines channels, units, window
# channels = {{ flow = "l/min" }}          # what devices send, with units; a bundle that does not match is refused

[transport]
kind = "local"                           # a durable log in one file on this machine
path = "data/log.sqlite"
# kind = "kafka"                         # or Apache Kafka
# servers = ["localhost:9092"]

[time]
lateness_s = {lateness}                  # a reading older than its device's newest by more is refused
idle_close_s = {idle_close}              # a silent device's open windows are closed after this time
max_ahead_s = 60                         # a reading further ahead of log time is refused
evict_after_s = {evict}                  # a silent device's state is dropped after this time

[threshold]
kind = "quantile"                        # follows each device's quiet scores; also "fixed" and "spot"
quantile = 0.999                         # about one quiet window in a thousand exceeds the limit

[incident]
close_after_s = {close_after}            # an incident ends after this long below the exit level

[store]
scores = "data/scores"                   # the score log: Parquet files, for DuckDB, pandas, Polars
checkpoints = "data/checkpoints"
"""


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    parser = subparsers.add_parser(
        "init",
        help="inspect a recording and write stream.toml",
        description="Detect the channels and the period of a recording (CSV, Parquet or JSONL; a file, folder or "
        "pattern), write commented settings for a stream on the local log, and print the next steps.",
    )
    add_recording(parser)
    parser.add_argument("--name", help="name of the stream (derived from the recording's)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="settings file to write (--config, or stream.toml)")
    parser.add_argument("--force", action="store_true", help="overwrite existing settings")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the settings; return 0.

    Raises:
        ConfigError: the file already exists, or the name is not valid.
        RecordingError: the recording cannot be read.
        StorageError: the file cannot be written.
    """
    from stream_ad.config import parse
    from stream_ad.io.recordings.recordings import describe
    from stream_ad.io.recordings.sentinel_search import sentinel_notes

    out: Path = args.out or args.config
    if out.exists() and not args.force:
        raise ConfigError(f"{out}: already exists; use --force to overwrite it or --out to write another file")
    name = args.name or stream_name(args.recording)
    recording = read_for_a_look(args, name)
    found_sentinels = sentinel_notes(recording.channels, recording.values)
    recording = replace(recording, notes=(*found_sentinels, *recording.notes))
    found = describe(recording)
    text = settings_text(name, args.recording, found)
    parse(tomllib.loads(text), "init")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{out}: cannot be written: {error.strerror}") from error
    if args.json:
        print_json(summary(out, name, found, recording))
    else:
        print_findings(args, out, found, recording)
    return 0


def read_for_a_look(args: argparse.Namespace, name: str) -> Recording:
    """Read the recording. Naive times are taken as UTC: the zone does not matter before `train`."""
    try:
        return read_recording(args, stream=name)
    except RecordingError:
        if args.zone:
            raise
    return read_recording(args, zone="UTC", stream=name)


def stream_name(recording: str) -> str:
    """Return a stream name derived from the recording's name."""
    stem = Path(recording).name.split(".")[0]
    name = re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-")[:64].strip("-")
    return name or "stream"


def settings_text(name: str, origin: str, found: Description) -> str:
    """Return the settings as commented TOML; durations scale with the period."""
    period_s = found.period_ns / NS
    idle_close_s = max(30.0, 10 * period_s)
    text = TEMPLATE.format(
        name=name,
        origin=_comment(origin),
        devices=found.devices,
        channels_count=len(found.channels),
        channels=_comment(", ".join(found.channels[:20]) + (", …" if len(found.channels) > 20 else "")),
        period=duration_text(period_s),
        lateness=_number(max(5.0, 2 * period_s)),
        idle_close=_number(idle_close_s),
        evict=_number(max(86_400.0, 10 * idle_close_s)),
        close_after=_number(max(30.0, 30 * period_s)),
    )
    return re.sub(r"^(\w.*?) +# ", lambda match: f"{match[1]:<40} # ", text, flags=re.MULTILINE)


def summary(out: Path, name: str, found: Description, recording: Recording) -> dict[str, object]:
    """Return the findings as plain values."""
    from stream_ad.training.remarks import remarks

    return {
        "settings": str(out),
        "name": name,
        "rows": found.rows,
        "devices": found.devices,
        "channels": found.channels,
        "missing": found.missing,
        "labels": found.labels,
        "period_ns": found.period_ns,
        "irregular": found.irregular,
        "start_ns": found.start_ns,
        "end_ns": found.end_ns,
        "time_basis": found.time_basis,
        "zone_needed": recording.naive,
        "device_names": recording.devices,
        "units": dict(recording.units),
        "left_out": dict(recording.left_out),
        "marked_rows": int(recording.faults.sum()),
        "layout": recording.layout.name if recording.layout else None,
        "notes": [*recording.notes, *remarks(recording)],
    }


def print_findings(args: argparse.Namespace, out: Path, found: Description, recording: Recording) -> None:
    """Print the findings and the next steps."""
    from stream_ad.training.remarks import remarks

    layout = recording.layout.name if recording.layout else "?"
    print(f"{args.recording}: {found.rows:,} rows, devices: {found.devices:,} ({layout} layout)")
    print(f"  devices   {named(recording.devices, 8)}")
    guessed = recording.naive and not args.zone
    basis = "no zone in the data, shown as UTC" if guessed else found.time_basis
    print(f"  time      {time_text(found.start_ns)} to {time_text(found.end_ns)} ({basis})")
    uneven = f", {found.irregular:.0%} of the steps differ" if found.irregular >= 0.005 else ""
    print(f"  period    {duration_text(found.period_ns / NS)}{uneven}")
    print(f"  channels  {len(found.channels):,}")
    for line in channel_lines(found, recording):
        print(f"            {line}")
    if found.labels:
        print(f"  labels    {named(found.labels, 8)} (not used as channels)")
    for note in brief((*recording.notes, *remarks(recording))):
        print(f"  note      {note}")
    print(f"\nWrote {out}. Next:")
    zone = []
    if guessed:
        print("  (the recording's times have no zone: set --zone; UTC below is a guess)")
        zone = ["--zone", "UTC"]
    for verb, needs_recording in (("train", True), ("send", True), ("run", False), ("alerts", False)):
        print(f"  {command(args, out, verb, zone if needs_recording else None)}")
    sys.stdout.flush()


def named(names: Sequence[str], most: int) -> str:
    """Return the first names on one line, and the total if there are more."""
    more = f", … ({len(names):,} in all)" if len(names) > most else ""
    return _comment(", ".join(name if len(name) <= 60 else f"{name[:59]}…" for name in names[:most])) + more


def channel_lines(found: Description, recording: Recording) -> list[str]:
    """Return the channels with units and gaps on a few lines; if not all fit, those with most gaps first."""
    entries = []
    for channel, missing in zip(found.channels, found.missing, strict=True):
        unit = f" [{recording.units[channel]}]" if channel in recording.units else ""
        gaps = f" ({missing:.1%} missing)" if missing >= 0.0005 else ""
        entries.append((missing, f"{_comment(channel)[:80]}{unit}{gaps}"))
    lines = _wrapped(entry for _, entry in entries)
    if len(lines) > CHANNEL_LINES:
        entries.sort(key=lambda entry: -entry[0])
        lines = _wrapped(entry for _, entry in entries)
        lines = [*lines[: CHANNEL_LINES - 1], "… (--json lists all)"]
    return lines


def brief(notes: Sequence[str]) -> list[str]:
    """Return the first notes, one per line, and how many more there are."""
    shown = [_comment(note if len(note) <= NOTE_WIDTH else f"{note[:NOTE_WIDTH]}…") for note in notes]
    if len(shown) > NOTE_LINES:
        shown = [*shown[: NOTE_LINES - 1], f"… and {len(notes) - NOTE_LINES + 1} more: --json lists all"]
    return shown


def _wrapped(entries: Iterable[str]) -> list[str]:
    """Return entries wrapped onto lines, none split."""
    text = ", ".join(entry.replace(" ", "\0") for entry in entries)
    lines = textwrap.wrap(text, LINE_WIDTH, break_long_words=False, break_on_hyphens=False)
    return [line.replace("\0", " ") for line in lines]


def command(args: argparse.Namespace, out: Path, verb: str, zone: list[str] | None) -> str:
    """Return a command line to type; `zone` is None for commands that take no recording."""
    words = ["stream-ad", verb]
    if zone is not None:
        words += [args.recording, *zone]
        for option in ("zone", "time_format", "start", "decimal", "layout", "device"):
            if getattr(args, option):
                words += [f"--{option.replace('_', '-')}", getattr(args, option)]
        words += [word for unit in args.unit for word in ("--unit", unit)]
    if out != Path("stream.toml"):
        words += ["-c", str(out)]
    return shlex.join(words)


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:.6g}"


def _comment(text: str) -> str:
    """Return text without line breaks or control characters."""
    return "".join(character if character.isprintable() else "?" for character in text)
