"""`stream-ad scores DEVICE`: a device's scores, limits, incidents and contributing channels, from the Parquet log."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from stream_ad.cli.output import NS, console, duration_s, duration_text, print_json, time_text

if TYPE_CHECKING:
    from rich.console import Console

    from stream_ad.inspection.scores import DeviceScores, Incident

ROWS = 20


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    parser = subparsers.add_parser(
        "scores",
        help="show a device's scores and incidents",
        description="Show a device's scores, limits and incidents with the contributing channels. Reads only the "
        "Parquet score log: needs no broker and no running service.",
    )
    parser.add_argument("device", metavar="DEVICE", help="id of the device")
    parser.add_argument(
        "--last", type=duration_s, metavar="TIME", help="only this long before the newest row, for example 1h"
    )
    parser.add_argument("--rows", type=int, default=ROWS, metavar="N", help=f"number of newest rows to show ({ROWS})")
    parser.add_argument("--incidents", action="store_true", help="show only the incidents")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="write a plot as PNG, SVG or PDF")
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object per row, or per incident with --incidents"
    )


def run(args: argparse.Namespace) -> int:
    """Show a device; return 0.

    Raises:
        ConfigError: settings or arguments are wrong.
        ScoreLogError: the score log has no rows of the device.
    """
    from stream_ad.config import load
    from stream_ad.inspection.scores import load_device

    settings = load(args.config)
    scores = load_device(settings.store.scores, args.device, None if args.last is None else round(args.last * NS))
    if args.plot is not None:
        from stream_ad.inspection.pictures import save

        save(scores, args.plot, f"stream {settings.stream.name} · {summary(scores)}")
    out = console()
    if args.json:
        for record in map(incident_json, scores.incidents) if args.incidents else rows_json(scores):
            print_json(record)
        return 0
    out.print(f"[bold]{_escaped(scores.device)}[/]  {summary(scores)}")
    if scores.incidents:
        print_incidents(out, scores)
    elif args.incidents:
        out.print("no incidents")
    if not args.incidents and args.rows > 0:
        print_rows(out, scores, args.rows)
    if args.plot is not None:
        out.print(f"plot written to {args.plot}", markup=False)
    return 0


def summary(scores: DeviceScores) -> str:
    """Return a one-line summary of the rows."""
    import numpy as np

    span = f"{time_text(int(scores.end_ns[0]))} – {time_text(int(scores.end_ns[-1]))} UTC"
    unscored = int(np.isnan(scores.score).sum())
    counts = f"{_count(len(scores), 'window')} · {_count(len(scores.incidents), 'incident')}"
    return counts + (f" · {unscored:,} unscored" if unscored else "") + f" · {span}"


def print_incidents(out: Console, scores: DeviceScores) -> None:
    """Print a table of the incidents."""
    from rich.table import Table

    table = Table(title="incidents", title_justify="left", title_style="bold red", box=None, pad_edge=False)
    for name, right in (("opened, UTC", False), ("lasted", True), ("windows", True), ("peak", True)):
        table.add_column(name, justify="right" if right else "left", no_wrap=True, header_style="dim")
    table.add_column("x limit", justify="right", header_style="dim")
    table.add_column("channels", header_style="dim")
    for incident in scores.incidents:
        lasted = duration_text((incident.end_ns - incident.opened_ns) / NS)
        table.add_row(
            time_text(incident.opened_ns),
            lasted + (" …" if incident.is_open else ""),
            f"{incident.windows:,}",
            f"{incident.peak:.4g}",
            f"{incident.peak / incident.limit:.1f}" if incident.limit > 0 else "—",
            _escaped(", ".join(f"{name} {share:.0%}" for name, share in incident.channels)),
        )
    out.print(table)


def print_rows(out: Console, scores: DeviceScores, count: int) -> None:
    """Print a table of the newest rows."""
    import numpy as np
    from rich.table import Table

    from stream_ad.inspection.scores import NAMED_CHANNELS

    title = f"newest {_count(min(count, len(scores)), 'window')}"
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column("end, UTC", no_wrap=True, header_style="dim")
    for name in ("score", "smoothed", "limit"):
        table.add_column(name, justify="right", header_style="dim")
    table.add_column("", no_wrap=True)
    table.add_column("top channels", header_style="dim")
    for i in range(max(0, len(scores) - count), len(scores)):
        top = ""
        if scores.contribution is not None and np.isfinite(scores.contribution[i]).any():
            part = np.nan_to_num(scores.contribution[i])
            total = float(part.sum()) or 1.0
            order = np.argsort(-part, kind="stable")[:NAMED_CHANNELS]
            top = ", ".join(f"{scores.channels[k]} {part[k] / total:.0%}" for k in order.tolist())
        table.add_row(
            time_text(int(scores.end_ns[i])),
            *(_figure(values[i]) for values in (scores.score, scores.smoothed, scores.limit)),
            "incident" if scores.is_anomaly[i] else "",
            _escaped(top),
            style="red" if scores.is_anomaly[i] else None,
        )
    out.print(table)


def incident_json(incident: Incident) -> dict[str, object]:
    """Return an incident as plain values."""
    return {
        "opened": time_text(incident.opened_ns, seconds=False),
        "end": time_text(incident.end_ns, seconds=False),
        "is_open": incident.is_open,
        "windows": incident.windows,
        "peak": incident.peak,
        "limit": incident.limit,
        "channels": dict(incident.channels),
    }


def rows_json(scores: DeviceScores) -> list[dict[str, object]]:
    """Return the rows as plain values."""
    parts = None if scores.contribution is None else scores.contribution.tolist()
    return [
        {
            "device": scores.device,
            "end": time_text(int(end_ns), seconds=False),
            "score": float(scores.score[i]),
            "smoothed": float(scores.smoothed[i]),
            "limit": float(scores.limit[i]),
            "is_anomaly": bool(scores.is_anomaly[i]),
            "incident": time_text(int(scores.incident[i]), seconds=False) if scores.incident[i] else None,
            "contribution": None if parts is None else _present(scores.channels, parts[i]),
        }
        for i, end_ns in enumerate(scores.end_ns)
    ]


def _present(channels: tuple[str, ...], parts: list[float]) -> dict[str, float] | None:
    """Return the contributions by channel, without NaN; None if there are none."""
    return {channel: part for channel, part in zip(channels, parts, strict=True) if part == part} or None


def _figure(value: float) -> str:
    return "—" if value != value else f"{value:.4g}"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)
