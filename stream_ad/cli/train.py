"""`stream-ad train`: recording of normal operation -> bundle."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stream_ad.cli.output import NS, console, duration_s, duration_text, print_json
from stream_ad.cli.send import add_recording, read_recording
from stream_ad.cli.train_advice import advice
from stream_ad.cli.train_progress import print_cost, progress_bar
from stream_ad.core.names import listed, matching, paired, shown
from stream_ad.errors import ConfigError, RecordingError, TrainingError

if TYPE_CHECKING:
    from stream_ad.core.model import Channel, WindowShape
    from stream_ad.io.recordings.recordings import Recording

DETECTOR = "pca"
MAX_NAME, MAX_IGNORED = 500, 10_000
"""Limits of a bundle's manifest for names that are left out."""


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    parser = subparsers.add_parser(
        "train",
        help="train a bundle on a recording of normal operation",
        description="Fit a detector on a recording of normal operation (CSV, Parquet or JSONL), calibrate it "
        "leave-block-out, and write the bundle named in the settings. Also trains a linear baseline for comparison.",
    )
    add_recording(parser)
    parser.add_argument("--detector", default=DETECTOR, help=f"autoencoder, dagmm, pca, mahalanobis, … ({DETECTOR})")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="settings", help="a setting of the detector"
    )
    parser.add_argument("--channels", metavar="A,B", help="only these channels, names or patterns (all)")
    parser.add_argument(
        "--hold",
        action="append",
        default=[],
        metavar="CHANNEL=AGE",
        help="a channel (or pattern) that reports on change: its last value stays valid for AGE (90s, 1h)",
    )
    parser.add_argument(
        "--counter",
        action="append",
        default=[],
        metavar="CHANNEL",
        help="a channel (or pattern) that only rises, such as an energy meter: its increments are scored",
    )
    parser.add_argument("--period", metavar="TIME", help="grid step, such as 250ms or 1s (the recording's median)")
    parser.add_argument("--samples", type=int, help="samples per window (64, fewer for a short recording)")
    parser.add_argument("--stride", type=int, help="samples between two windows (a quarter of a window, or fewer)")
    parser.add_argument(
        "--scale",
        choices=("device", "fleet"),
        default="device",
        help="normalise by each training device (the default), or by the fleet, for a model of devices not yet seen",
    )
    parser.add_argument("--smoothing", type=float, default=0.3, help="weight of the newest log score; 1 disables (0.3)")
    parser.add_argument("--folds", type=int, default=5, help="number of calibration blocks (5)")
    parser.add_argument("--seed", type=int, default=0, help="random seed; same seed and data give the same bundle (0)")
    parser.add_argument("--no-baseline", action="store_true", help="do not train the linear baseline")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="bundle folder to write (stream.bundle)")
    parser.add_argument("--name", help="name of the bundle (the folder's name)")
    parser.add_argument("--replace", action="store_true", help="replace an existing bundle")
    parser.add_argument("--json", action="store_true", help="print the training card as JSON")
    parser.set_defaults(run=run, actions=parser._actions)


def run(args: argparse.Namespace) -> int:
    """Train and write the bundle; return 0.

    Raises:
        ConfigError: options or settings are wrong.
        RecordingError: the recording cannot be read or lacks a channel.
        TrainingError: there is too little data.
        BundleError: the target cannot be replaced.
    """
    from stream_ad.config import load
    from stream_ad.core.model import WindowShape
    from stream_ad.io.bundles import bundles
    from stream_ad.training.remarks import remarks
    from stream_ad.training.shaping import Obstacle, choose
    from stream_ad.training.training import TrainingPlan, train

    check(args)

    folder: Path = args.out or load(args.config).stream.bundle
    if folder.exists() and not args.replace:
        raise ConfigError(f"{folder}: already exists; use --replace to replace it or --out to write another folder")
    recording = read_recording(args, stream=stream_of(args))
    for note in recording.notes:
        print(f"note: {note}", file=sys.stderr)
    plan = TrainingPlan(
        name=args.name or folder.name,
        kind=args.detector,
        shape=WindowShape(period_ns(args, recording), 1, 1),
        channels=choose_channels(args, recording),
        settings=dict(map(read_setting, args.settings)),
        smoothing=args.smoothing,
        folds=args.folds,
        seed=args.seed,
        baseline="" if args.no_baseline else "pca",
        per_device=args.scale == "device",
    )
    begun = time.monotonic()
    choice = choose(recording, plan, args.samples, args.stride)
    if isinstance(choice, Obstacle):
        raise TrainingError(advice(args, choice))
    named = [channel.name for channel in plan.channels]
    for note in (*choice.notes, *remarks(recording, named)):
        print(f"note: {note}", file=sys.stderr)
    plan = choice.plan
    print_cost(recording, choice)
    with progress_bar() as progress:
        trained = train(recording, plan, progress, choice.windows)
    model = replace(trained.model, ignored=ignored_names(recording, plan.channels))
    model_id = bundles.save(model, folder, trained.probe, replace=args.replace)
    if args.json:
        print_json({"bundle": str(folder), "model_id": model_id, **trained.card})
    else:
        print_card(plan.shape, trained.card)
        print(f"Wrote {folder} ({args.detector}, {model_id[:16]}, {duration_text(time.monotonic() - begun)})")
    return 0


def ignored_names(recording: Recording, channels: Sequence[Channel]) -> tuple[str, ...]:
    """Return channels that devices send but the model ignores on purpose; service does not report them as unknown."""
    used = {channel.name for channel in channels}
    names = {*recording.left_out, *recording.channels} - used
    return tuple(sorted(name for name in names if 0 < len(name) <= MAX_NAME))[:MAX_IGNORED]


def stream_of(args: argparse.Namespace) -> str:
    """Return the stream's name: from the settings, else the name that `init` would choose."""
    from stream_ad.cli.init import stream_name
    from stream_ad.config import load

    try:
        return load(args.config).stream.name
    except ConfigError:
        if args.out is None:
            raise
        return stream_name(args.recording)


def check(args: argparse.Namespace) -> None:
    """Check numeric options.

    Raises:
        ConfigError: a number is out of range.
    """
    if any(number is not None and number < 1 for number in (args.samples, args.stride)):
        raise ConfigError("--samples and --stride: expected at least 1")
    if not 0 < args.smoothing <= 1:
        raise ConfigError(f"--smoothing: expected more than 0 and at most 1, found {args.smoothing}")
    if args.folds < 2:
        raise ConfigError(f"--folds: expected at least 2, found {args.folds}")


def period_ns(args: argparse.Namespace, recording: Recording) -> int:
    """Return the grid step: `--period`, else the recording's median."""
    from stream_ad.io.recordings.recordings import describe

    return _duration_ns("--period", args.period) if args.period else describe(recording).period_ns


def choose_channels(args: argparse.Namespace, recording: Recording) -> tuple[Channel, ...]:
    """Return the channels to use, with units and fill rules."""
    from stream_ad.core.model import Channel, Fill
    from stream_ad.core.sentinels import sentinels_of

    names = list(recording.channels)
    if args.channels:
        chosen = listed(args.channels, names)
        names = [name for pattern in chosen for name in _matching("--channels", pattern, recording.channels)]
    counters = {name for pattern in args.counter for name in _matching("--counter", pattern, recording.channels)}
    names = sorted({*names, *counters})
    stated = (paired(text, names) for text in args.unit)
    units = {_matching("--unit", name, names)[0]: unit for name, unit in stated if _given("--unit", name, unit)}
    units = {**recording.units, **units}
    ages: dict[str, int] = {}
    for text in args.hold:
        pattern, age = paired(text, names)
        _given("--hold", pattern, age)
        ages.update(dict.fromkeys(_matching("--hold", pattern, names), _duration_ns("--hold", age)))
    sentinels = sentinels_of(args.missing, [*recording.channels, *recording.left_out])
    if counters and args.samples == 1:
        raise ConfigError("--counter: expected at least 2 samples per window, found --samples 1")
    return tuple(
        Channel(
            name,
            units.get(name, ""),
            Fill.HOLD if name in ages else Fill.NAN,
            ages.get(name, 0),
            missing=sentinels.get(name, ()),
            counter=name in counters,
        )
        for name in sorted(set(names))
    )


def _matching(option: str, pattern: str, names: Sequence[str]) -> list[str]:
    found = matching(pattern, names)
    if not found:
        raise RecordingError(
            f"{option}: expected the name or pattern of a channel, found {pattern!r}; channels: {shown(names, pattern)}"
        )
    return found


def _given(option: str, name: str, value: str) -> bool:
    if not name or not value:
        raise ConfigError(f"{option}: expected NAME=VALUE, found {name or '=' + value!r}")
    return True


def _pair(option: str, text: str) -> tuple[str, str]:
    key, _, value = text.partition("=")
    _given(option, key, value)
    return key, value


def _duration_ns(option: str, text: str) -> int:
    try:
        return round(duration_s(text) * NS)
    except argparse.ArgumentTypeError as error:
        raise ConfigError(f"{option}: expected a time such as 250ms, 1s or 5m, found {text!r}") from error


def read_setting(text: str) -> tuple[str, Any]:
    """Parse `epochs=20`, `hidden=[64,8,64]`: JSON if the value is valid JSON, else text."""
    key, value = _pair("--set", text)
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        return key, value


def print_card(shape: WindowShape, card: dict[str, Any]) -> None:
    """Print a summary of the training and its sensitivity."""
    from rich.table import Table

    out = console()
    recording = card["recording"]
    seconds = shape.samples * shape.period_ns / NS
    out.print(
        f"{recording['windows']:,} windows of {duration_text(seconds)} ({shape.samples} samples, stride "
        f"{shape.stride}) from {recording['rows']:,} rows of {recording['devices']:,} device(s), "
        f"{len(recording['channels'])} channels"
    )
    table = Table(title="held-out windows, leave-block-out; share of injected one-channel shifts over the limit")
    sizes = list(next(iter(card["held_out"].values()))["shift_found"])
    columns = ("detector", "median score", "99 % limit", *(f"{size} σ" for size in sizes))
    for column in columns:
        table.add_column(column, justify="left" if column == "detector" else "right")
    for kind, report in card["held_out"].items():
        shares = [f"{share:.1%}" for share in report["shift_found"].values()]
        table.add_row(kind, f"{report['score_median']:.4g}", f"{report['limit']:.4g}", *shares)
    out.print(table)
