"""`stream-ad scores DEVICE`: score, limit, incidents and the channels behind them, from the Parquet log."""

from __future__ import annotations

import argparse
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stream_ad.cli.output import NS, console, duration_s, duration_text, print_json, time_text
from stream_ad.errors import ConfigError, ScoreLogError

if TYPE_CHECKING:
    from rich.console import Console

    from stream_ad.cli.score_plot import DeviceScores, Incident

ROWS = 20
NAMED_CHANNELS = 3
PARTS_SEARCHED = 50
"""Newest parts looked through for ids, where a device is not found."""


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    parser = subparsers.add_parser(
        "scores",
        help="show a device's scores and incidents",
        description="Show a device's scores, limits and incidents with the channels behind them. Reads the Parquet "
        "score log only: neither the log nor a running service is needed.",
    )
    parser.add_argument("device", metavar="DEVICE", help="id of the device")
    parser.add_argument("--last", metavar="TIME", help="only this long before the newest row, for example 1h")
    parser.add_argument("--rows", type=int, default=ROWS, metavar="N", help=f"newest rows to show ({ROWS})")
    parser.add_argument("--incidents", action="store_true", help="only the incidents")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw a PNG, SVG or PDF file")
    parser.add_argument(
        "--json", action="store_true", help="one JSON object a line: all rows, or with --incidents those"
    )


def run(args: argparse.Namespace) -> int:
    """Show a device; return 0.

    Raises:
        ConfigError: settings or arguments are wrong.
        ScoreLogError: the score log has no rows of the device.
    """
    from stream_ad.config import load

    settings = load(args.config)
    scores = load_device(settings.store.scores, args.device, _last_ns(args.last))
    if args.plot is not None:
        from stream_ad.cli.score_plot import save

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
        out.print(f"drawn to {args.plot}", markup=False)
    return 0


def load_device(folder: Path, device: str, last_ns: int | None) -> DeviceScores:
    """Read a device's rows; of a window that was amended, the newest revision.

    Args:
        folder: of the score log.
        device: its id.
        last_ns: only rows that end within this time before the newest; None is all.

    Raises:
        ScoreLogError: there are none, or a file is damaged.
    """
    import numpy as np

    from stream_ad.io.score_log import log as score_log

    table = score_log.read(folder, device)
    if table.num_rows == 0:
        raise ScoreLogError(_nobody(folder, device))
    end_ns = _nanoseconds(table["end"])
    keep = np.append(np.diff(end_ns) != 0, True)  # rows of one window are adjacent, by revision
    if last_ns is not None:
        keep &= end_ns > end_ns[-1] - last_ns
    return _device_scores(device, table.filter(keep))


def _device_scores(device: str, table: Any) -> DeviceScores:
    import numpy as np

    from stream_ad.cli.score_plot import DeviceScores
    from stream_ad.io.wire import contributions

    def floats(name: str) -> Any:
        return table[name].to_numpy(zero_copy_only=False).astype(np.float64)

    channels, parts = contributions.matrix(table["contribution"])
    contribution = parts if channels else None
    end_ns, incident = _nanoseconds(table["end"]), _nanoseconds(table["incident"])
    smoothed, limit = floats("smoothed"), floats("limit")
    return DeviceScores(
        device=device,
        channels=channels,
        end_ns=end_ns,
        score=floats("score"),
        smoothed=smoothed,
        limit=limit,
        is_anomaly=table["is_anomaly"].to_numpy(zero_copy_only=False).astype(np.bool_),
        incident=incident,
        contribution=contribution,
        incidents=find_incidents(channels, end_ns, smoothed, limit, incident, contribution),
    )


def find_incidents(
    channels: tuple[str, ...], end_ns: Any, smoothed: Any, limit: Any, incident: Any, contribution: Any
) -> tuple[Incident, ...]:
    """Return the incidents of rows in time order, oldest first.

    Args:
        channels: c names.
        end_ns: int64[n], end of each window.
        smoothed: float64[n].
        limit: float64[n].
        incident: int64[n], 0 outside.
        contribution: float32[n, c] or None.
    """
    import numpy as np

    from stream_ad.cli.score_plot import Incident

    found = []
    edges = np.flatnonzero(np.diff(incident, prepend=0, append=0))
    for first, stop in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        if incident[first] == 0:
            continue
        rows = slice(first, stop)
        known = smoothed[rows][np.isfinite(smoothed[rows])]
        shares: tuple[tuple[str, float], ...] = ()
        if contribution is not None:
            parts = np.nan_to_num(contribution[rows].astype(np.float64))
            total = parts.sum(axis=1, keepdims=True)
            # A row counts by its share, not by its size: else the one highest window names the culprit.
            mean = np.divide(parts, total, out=np.zeros_like(parts), where=total > 0).mean(axis=0)
            order = np.argsort(-mean, kind="stable")[:NAMED_CHANNELS]
            shares = tuple((channels[k], float(mean[k])) for k in order.tolist() if mean[k] >= 0.05)
        found.append(
            Incident(
                opened_ns=int(incident[first]),
                end_ns=int(end_ns[stop - 1]),
                is_open=stop == len(incident),
                windows=stop - first,
                peak=float(known.max()) if len(known) else float("nan"),
                limit=float(limit[first]),
                channels=shares,
            )
        )
    return tuple(found)


def summary(scores: DeviceScores) -> str:
    """Return a line about the rows."""
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
    """Return the parts of the channels that have one; None where none has."""
    return {channel: part for channel, part in zip(channels, parts, strict=True) if part == part} or None


def _nobody(folder: Path, device: str) -> str:
    """Return why there are no rows, with ids that look alike."""
    from stream_ad.io.score_log import log as score_log

    ids = score_log.newest_devices(folder, PARTS_SEARCHED)
    if not ids:
        return f"{folder}: expected Parquet parts, found none: has an archiver run (`stream-ad run`)?"
    near = get_close_matches(device, ids, n=3, cutoff=0.5) or ids[:3]
    return f"{folder}: no rows of device {device!r}; lately there were {', '.join(near)}"


def _nanoseconds(column: Any) -> Any:
    """Return microsecond times as int64 nanoseconds, 0 where null."""
    import numpy as np
    import pyarrow as pa

    return column.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64) * 1_000


def _last_ns(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return round(duration_s(text) * NS)
    except ValueError as error:
        raise ConfigError(f"--last: {error}") from error


def _figure(value: float) -> str:
    return "—" if value != value else f"{value:.4g}"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)
