"""`stream-ad bundle show|verify`: inspect a bundle, or check that it can be used."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from stream_ad.cli.output import NS, duration_text, print_json


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    parser = subparsers.add_parser("bundle", help="show or verify a bundle", description="Show or verify a bundle.")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    show = actions.add_parser(
        "show", help="print its contents without loading the model", description="Print manifest and training card."
    )
    verify = actions.add_parser(
        "verify",
        help="load it and score its probe",
        description="Check digests, load the model and score the probe. Exits with 1 if the bundle cannot be used.",
    )
    for action in (show, verify):
        action.add_argument("path", type=Path, metavar="PATH", help="the bundle's folder")
        action.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Show or verify; return 0.

    Raises:
        BundleError: the bundle cannot be used; the subclass gives the reason.
    """
    if args.action == "show":
        show(args.path, args.json)
        return 0
    from stream_ad.io.bundles.bundles import verify

    lines = verify(args.path)
    if args.json:
        print_json({"bundle": str(args.path), "ok": True, "report": lines})
        return 0
    for line in lines:
        print(f"ok    {line}")
    return 0


def show(path: Path, as_json: bool) -> None:
    """Print a bundle's manifest and card."""
    from stream_ad.io.bundles.manifest import read_card, read_manifest

    manifest = read_manifest(path)
    card = read_card(path)
    content: dict[str, Any] = manifest.model_dump(mode="json")
    if as_json:
        print_json(content | {"card": card})
        return
    window = manifest.window
    length_s, stride_s = (n * window.period_ns / NS for n in (window.samples, window.stride))
    rows = [
        ("name", manifest.name),
        ("model id", manifest.model_id),
        ("format", f"{manifest.format}, version {manifest.version}"),
        ("detector", manifest.detector.kind),
        ("settings", ", ".join(f"{key}={json.dumps(value)}" for key, value in manifest.detector.settings.items())),
        (
            "window",
            f"{window.samples} samples every {duration_text(window.period_ns / NS)}: {duration_text(length_s)}, "
            f"a new one every {duration_text(stride_s)}",
        ),
        ("smoothing", f"{manifest.smoothing:g}"),
        ("coverage", f"at least {manifest.min_coverage:.0%} of a channel's samples"),
        ("channels", str(len(manifest.channels))),
    ]
    for name, text in rows:
        print(f"{name:<10}{text}")
    for channel in manifest.channels:
        hold = f", held for {duration_text(channel.hold_max_age_ns / NS)}" if channel.fill.value == "hold" else ""
        unit = f" [{channel.unit}]" if channel.unit else ""
        without = f", missing if {', '.join(f'{value:g}' for value in channel.missing)}" if channel.missing else ""
        moves = ", always moves" if channel.always_moves else ""
        counter = ", a counter" if channel.counter else ""
        print(f"          {channel.name}{unit}{hold}{moves}{counter}{without}")
    print("card")
    for line in json.dumps(card, indent=2, ensure_ascii=False).splitlines()[1:-1]:
        print(f"        {line}")
