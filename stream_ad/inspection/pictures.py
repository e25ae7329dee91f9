"""A plot of one device: score, limit and incidents over time, and the contributing channels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stream_ad.core.batches import Float64Array
from stream_ad.errors import ConfigError
from stream_ad.inspection.formatting import duration_text
from stream_ad.inspection.scores import DeviceScores

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = (".png", ".svg", ".pdf")
COLUMNS = 1_600
"""Maximum number of points along the time axis; more are invisible and make vector files huge."""
CHANNELS = 12

INK, MUTED, GRID = "#1f2933", "#7b8794", "#e4e7eb"
SCORE, RAW, RAW_TEXT, LIMIT, INCIDENT = "#0b5394", "#9fc5e8", "#6fa8dc", "#e69138", "#cc2936"
HEAT = ("#ffffff", "#fde5d4", "#f7a072", "#d7263d", "#5b0f1a")


def save(scores: DeviceScores, path: Path, title: str) -> None:
    """Write a PNG, SVG or PDF file.

    Args:
        scores: at least one row.
        path: the file; its suffix selects the format.
        title: text at the top right of the plot.

    Raises:
        ConfigError: matplotlib is not installed, the suffix is unknown or the file cannot be written.
    """
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(f"--plot {path}: expected a file name that ends in {', '.join(FORMATS)}")
    try:
        import matplotlib
    except ImportError as error:
        raise ConfigError("--plot needs matplotlib: pip install 'stream-ad[plot]'") from error
    matplotlib.use("Agg")
    style: dict[Any, Any] = {
        "font.family": "sans-serif",
        "font.size": 10,
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": GRID,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "svg.fonttype": "none",
        "svg.hashsalt": "stream-ad",
    }
    with matplotlib.rc_context(style):
        figure = draw(scores, title)
        try:
            figure.savefig(path, dpi=160, facecolor="white")
        except OSError as error:
            raise ConfigError(f"--plot {path}: cannot be written: {error.strerror}") from error


def draw(scores: DeviceScores, title: str) -> Figure:
    """Return the figure."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    shown = 0 if scores.contribution is None else min(len(scores.channels), CHANNELS)
    heat_inches = 0.55 + 0.24 * shown
    height = 4.3 + (heat_inches if shown else 0)
    figure = Figure(figsize=(12, height), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.08))
    ratios = [4.3, heat_inches] if shown else [1]
    axes = figure.subplots(len(ratios), 1, sharex=True, height_ratios=ratios, squeeze=False)[:, 0]
    binned = _binned(scores)
    _draw_scores(axes[0], scores, binned)
    axes[0].set_title(scores.device, loc="left", fontsize=15, fontweight="bold", pad=12)
    axes[0].set_title(title, loc="right", fontsize=9.5, color=MUTED, pad=12)
    if shown:
        _draw_channels(figure, axes[1], scores, binned)
    _time_axis(axes[-1])
    return figure


@dataclass(frozen=True, slots=True)
class _Binned:
    """n rows reduced to at most `COLUMNS` columns of equal width."""

    edges: Any
    centers: Any
    score: Float64Array
    smoothed: Float64Array
    limit: Float64Array
    heat: Float64Array | None


def _binned(scores: DeviceScores) -> _Binned:
    """Divide time into columns that keep their highest row, so that no peak is lost."""
    first, last = int(scores.end_ns[0]), int(scores.end_ns[-1])
    step = int(np.median(np.diff(scores.end_ns))) if len(scores) > 1 else 60_000_000_000
    step = max(step, 1)
    columns = min(COLUMNS, (last - first) // step + 1)
    width = (last - first + step) / columns
    column = np.minimum(((scores.end_ns - first) / width).astype(np.int64), columns - 1)
    start = first - step / 2

    def peak(values: Float64Array) -> Float64Array:
        out = np.full(columns, np.nan)
        np.fmax.at(out, column, values)
        return out

    heat = None
    if scores.contribution is not None:
        part = np.nan_to_num(scores.contribution.astype(np.float64))
        total = part.sum(axis=1, keepdims=True)
        with np.errstate(invalid="ignore", divide="ignore"):
            # Quiet windows have shares too; fading them keeps attention on incidents.
            weight = np.minimum(scores.smoothed / scores.limit, 1.0)[:, None] ** 2
            rows = np.where(total > 0, part / total, 0.0) * weight
        heat = np.stack([peak(rows[:, k]) for k in range(rows.shape[1])])
    edges = _moments(start + width * np.arange(columns + 1))
    centers = _moments(start + width * (np.arange(columns) + 0.5))
    return _Binned(edges, centers, peak(scores.score), peak(scores.smoothed), peak(scores.limit), heat)


def _moments(ns: Any) -> Any:
    return np.asarray(ns, np.int64).astype("datetime64[ns]")


def _draw_scores(axes: Axes, scores: DeviceScores, binned: _Binned) -> None:
    """Draw the upper panel."""
    low, high = _levels(scores)
    with np.errstate(invalid="ignore"):
        raw, smoothed = np.maximum(binned.score, low), np.maximum(binned.smoothed, low)
    for incident in scores.incidents:
        span = _moments([incident.opened_ns, incident.end_ns])
        axes.axvspan(span[0], span[1], color=INCIDENT, alpha=0.10, linewidth=0)
        axes.axvline(span[0], color=INCIDENT, linewidth=1.0, alpha=0.8)
    _label_incidents(axes, scores, high)
    dots = "." if len(binned.centers) < 120 else ""
    axes.plot(binned.centers, raw, color=RAW, linewidth=0.9, zorder=2)
    axes.plot(binned.centers, smoothed, color=SCORE, linewidth=1.5, marker=dots, markersize=4, zorder=3)
    axes.plot(binned.centers, binned.limit, color=LIMIT, linewidth=1.6, linestyle=(0, (5, 2)), zorder=4)
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    axes.set_xlim(binned.edges[0], binned.edges[-1])
    axes.set_ylabel("score")
    axes.grid(axis="y", which="major", color=GRID, linewidth=0.8)
    axes.tick_params(which="both", length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    _label_lines(axes, binned, raw, smoothed, in_layout=scores.contribution is None)


def _label_lines(axes: Axes, binned: _Binned, raw: Float64Array, smoothed: Float64Array, in_layout: bool) -> None:
    """Label each line at its end, in its colour, instead of with a legend.

    A colour bar already leaves room for the labels, so the layout need not reserve it again.
    """
    ends = []
    for text, color, values in (
        ("limit", LIMIT, binned.limit),
        ("smoothed", SCORE, smoothed),
        ("score", RAW_TEXT, raw),
    ):
        known = values[np.isfinite(values)]
        if len(known):
            ends.append((float(np.log10(known[-1])), text, color))
    low, high = (float(np.log10(level)) for level in axes.get_ylim())
    gap = (high - low) * 0.055
    ends.sort()
    place = low - gap
    for level, text, color in ends:
        place = max(level, place + gap)
        label = axes.annotate(
            text,
            (1.0, (place - low) / (high - low)),
            xycoords="axes fraction",
            xytext=(6, 0),
            textcoords="offset points",
            color=color,
            va="center",
            fontsize=9.5,
            fontweight="bold",
            annotation_clip=False,
        )
        label.set_in_layout(in_layout)


def _levels(scores: DeviceScores) -> tuple[float, float]:
    """Return the limits of the score axis: quiet scores fill at most a third, with room above the peaks."""
    levels = np.concatenate([scores.smoothed, scores.limit, scores.score])
    levels = levels[np.isfinite(levels) & (levels > 0)]
    if not len(levels):
        return 0.1, 10.0
    high = float(levels.max())
    low = float(np.quantile(levels, 0.01))
    low = max(low, high * 1e-6)
    return low / 1.5, high * (high / low) ** 0.16 * 1.1


def _label_incidents(axes: Axes, scores: DeviceScores, high: float) -> None:
    """Name the top channel above each incident unless the names would overlap."""
    width_ns = max(1, int(scores.end_ns[-1] - scores.end_ns[0]))
    free_from = -1.0
    for incident in scores.incidents:
        at = (incident.opened_ns - int(scores.end_ns[0])) / width_ns
        channel = incident.channels[0][0] if incident.channels else "incident"
        length = "still open" if incident.is_open else duration_text((incident.end_ns - incident.opened_ns) / 1e9)
        room = 0.0085 * max(len(channel), len(length)) + 0.01
        leftwards = at + room > 1
        if (at - room if leftwards else at) < free_from:
            continue
        axes.annotate(
            f"{channel}\n{length}",
            (_moments([incident.opened_ns])[0], high),
            xytext=(-4 if leftwards else 4, -5),
            textcoords="offset points",
            color=INCIDENT,
            fontsize=9,
            ha="right" if leftwards else "left",
            va="top",
            linespacing=1.25,
            zorder=5,
        )
        free_from = at if leftwards else at + room


def _draw_channels(figure: Figure, axes: Axes, scores: DeviceScores, binned: _Binned) -> None:
    """Draw the lower panel: one row per channel, top contributors first."""
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.dates import date2num

    heat = np.zeros((len(scores.channels), len(binned.centers))) if binned.heat is None else binned.heat
    with np.errstate(invalid="ignore"):
        over = np.where(binned.smoothed >= binned.limit, 1.0, 0.001)
    weight = (np.nan_to_num(heat) * over).sum(axis=1)
    order = np.argsort(-weight, kind="stable")[:CHANNELS]
    colors = LinearSegmentedColormap.from_list("heat", list(HEAT)).with_extremes(bad=GRID)
    rows = np.arange(len(order) + 1)
    mesh = axes.pcolormesh(
        date2num(binned.edges),  # type: ignore[no-untyped-call]
        rows,
        np.ma.masked_invalid(heat[order]),
        cmap=colors,
        vmin=0,
        vmax=1,
        rasterized=True,
        shading="flat",
    )
    axes.set_yticks(rows[:-1] + 0.5, [scores.channels[k] for k in order], color=INK, fontsize=9.5)
    axes.set_ylim(len(order), 0)
    axes.hlines(rows[1:-1], *axes.get_xlim(), color="white", linewidth=1.5)
    axes.tick_params(axis="y", length=0)
    for spine in axes.spines.values():
        spine.set_color(GRID)
    bar = figure.colorbar(mesh, ax=axes, pad=0.008, aspect=14, fraction=0.05, ticks=[0, 0.5, 1], format="{x:.0%}")
    bar.set_label("share of the score,\npale below the limit", fontsize=8.5, color=MUTED)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=8.5)


def _time_axis(axes: Axes) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    locator = AutoDateLocator(minticks=5, maxticks=11)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    axes.tick_params(axis="x", length=3)
    axes.set_xlabel("end of the window, UTC", color=MUTED, fontsize=9)
