"""`stream-ad init`: look at a recording, write the settings of a stream for it, say what comes next."""

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
"""What a person looks at: 25 lines in all; `--json` has everything."""

TEMPLATE = """\
# A stream: one topic of readings, one kind of device, one bundle.
# Written for {origin}:
#   devices: {devices}, channels: {channels_count}, a reading every {period}
#   {channels}
# Environment variables STREAM_AD__SECTION__KEY replace a key. Relative paths count from this file.

[stream]
name = "{name}"                          # names the consumer groups, the checkpoints and the scores topic
readings_topic = "sensor.readings.v1"    # what devices, simulators and `stream-ad send` write to
devices = "*"                            # shell pattern; other devices are skipped and counted
bundle = "bundles/{name}"                # the model; `stream-ad train` makes it. Owns channels, units, window
# channels = {{ flow = "l/min" }}          # what devices send, with units: a bundle for others is then refused

[transport]
kind = "local"                           # a durable log in one file on this machine
path = "data/log.sqlite"
# kind = "kafka"                         # or an Apache Kafka
# servers = ["localhost:9092"]

[time]
lateness_s = {lateness}                  # a reading older than its device's youngest by more is refused
idle_close_s = {idle_close}              # after this silence a device's open windows are closed
max_ahead_s = 60                         # a reading further ahead of the log's clock is refused
evict_after_s = {evict}                  # after this silence a device's state is dropped

[threshold]
kind = "quantile"                        # follows each device's quiet scores; also "fixed" and "spot"
quantile = 0.999                         # about one quiet window in a thousand lies above the limit

[incident]
close_after_s = {close_after}            # an incident ends after this long under the exit level

[store]
scores = "data/scores"                   # the score log: Parquet files, for DuckDB, pandas, Polars
checkpoints = "data/checkpoints"
"""


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    parser = subparsers.add_parser(
        "init",
        help="look at a recording and write stream.toml",
        description="Guess the channels and the period of a recording (CSV, Parquet or JSONL; a file, folder or "
        "pattern), write commented settings for a stream on the local log, and say what comes next.",
    )
    add_recording(parser)
    parser.add_argument("--name", help="name of the stream (from the recording's)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the settings to write (--config, or stream.toml)")
    parser.add_argument("--force", action="store_true", help="replace settings that are there")
    parser.add_argument("--json", action="store_true", help="print what was found as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the settings; return 0.

    Raises:
        ConfigError: the file is there already, or the name cannot be one.
        RecordingError: the recording cannot be read.
        StorageError: the file cannot be written.
    """
    from stream_ad.config import parse
    from stream_ad.io.recordings.recordings import describe
    from stream_ad.io.recordings.sentinel_search import sentinel_notes

    out: Path = args.out or args.config
    if out.exists() and not args.force:
        raise ConfigError(f"{out}: is there already; --force replaces it, --out names another")
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
        tell(args, out, found, recording)
    return 0


def read_for_a_look(args: argparse.Namespace, name: str) -> Recording:
    """Read the recording; naive times are taken as UTC here, since the zone matters only from `train` on."""
    try:
        return read_recording(args, stream=name)
    except RecordingError:
        if args.zone:
            raise
    return read_recording(args, zone="UTC", stream=name)


def stream_name(recording: str) -> str:
    """Return a name for the stream, made of the recording's."""
    stem = Path(recording).name.split(".")[0]
    name = re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-")[:64].strip("-")
    return name or "stream"


def settings_text(name: str, origin: str, found: Description) -> str:
    """Return the settings as commented TOML; durations grow with the period."""
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
    """Return what was found, for programs."""
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


def tell(args: argparse.Namespace, out: Path, found: Description, recording: Recording) -> None:
    """Print what was found and what comes next."""
    from stream_ad.training.remarks import remarks

    layout = recording.layout.name if recording.layout else "?"
    print(f"{args.recording}: {found.rows:,} rows, devices: {found.devices:,} ({layout} layout)")
    print(f"  devices   {named(recording.devices, 8)}")
    guessed = recording.naive and not args.zone
    basis = "no zone in the data, shown as if UTC" if guessed else found.time_basis
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
        print("  (the recording's times have no zone: say which it is; UTC below is a guess)")
        zone = ["--zone", "UTC"]
    for verb, needs_recording in (("train", True), ("send", True), ("run", False), ("alerts", False)):
        print(f"  {command(args, out, verb, zone if needs_recording else None)}")
    sys.stdout.flush()


def named(names: Sequence[str], most: int) -> str:
    """Return some names on a line, and how many there are."""
    more = f", … ({len(names):,} in all)" if len(names) > most else ""
    return _comment(", ".join(name if len(name) <= 60 else f"{name[:59]}…" for name in names[:most])) + more


def channel_lines(found: Description, recording: Recording) -> list[str]:
    """Return the channels with their units and gaps on a few lines, those with most gaps first if not all fit."""
    entries = []
    for channel, missing in zip(found.channels, found.missing, strict=True):
        unit = f" [{recording.units[channel]}]" if channel in recording.units else ""
        gaps = f" ({missing:.1%} missing)" if missing >= 0.0005 else ""
        entries.append((missing, f"{_comment(channel)[:80]}{unit}{gaps}"))
    lines = _wrapped(entry for _, entry in entries)
    if len(lines) > CHANNEL_LINES:
        entries.sort(key=lambda entry: -entry[0])
        lines = _wrapped(entry for _, entry in entries)
        lines = [*lines[: CHANNEL_LINES - 1], "… (--json lists all of them)"]
    return lines


def brief(notes: Sequence[str]) -> list[str]:
    """Return the first notes, a line each, and how many more there are."""
    shown = [_comment(note if len(note) <= NOTE_WIDTH else f"{note[:NOTE_WIDTH]}…") for note in notes]
    if len(shown) > NOTE_LINES:
        shown = [*shown[: NOTE_LINES - 1], f"… and {len(notes) - NOTE_LINES + 1} more: --json lists all of them"]
    return shown


def _wrapped(entries: Iterable[str]) -> list[str]:
    """Return entries on lines, none cut in two."""
    text = ", ".join(entry.replace(" ", "\0") for entry in entries)
    lines = textwrap.wrap(text, LINE_WIDTH, break_long_words=False, break_on_hyphens=False)
    return [line.replace("\0", " ") for line in lines]


def command(args: argparse.Namespace, out: Path, verb: str, zone: list[str] | None) -> str:
    """Return a command line to type; `zone` is None for verbs that take no recording."""
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
    """Return text that stays on its line."""
    return "".join(character if character.isprintable() else "?" for character in text)
