"""Draws the curves of a soak."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.watching import Sample

LABEL_ROOM = 0.08
"""Share of a panel's height used by a label."""
BLUE, ORANGE, GREY = "#1f5fa8", "#c8641e", "#8a8a8a"
PANELS: tuple[tuple[str, tuple[tuple[str, str, str], ...]], ...] = (
    ("resident size, MB", (("scorer_mb", "scorer", BLUE), ("archiver_mb", "archiver", ORANGE))),
    ("messages not yet scored", (("lag", "lag", BLUE),)),
    ("devices with state", (("devices", "devices", BLUE),)),
    ("file descriptors", (("scorer_fds", "scorer", BLUE), ("archiver_fds", "archiver", ORANGE))),
    ("threads", (("scorer_threads", "scorer", BLUE), ("archiver_threads", "archiver", ORANGE))),
    ("on disk, MB", (("checkpoint_mb", "checkpoints", BLUE), ("broker_mb", "broker", GREY))),
)


def draw(samples: Sequence[Sample], found: dict[str, Any], path: Path) -> None:
    """Draw small panels over time to a PNG or SVG file.

    Args:
        samples: of the whole run.
        found: results.
        path: of the file.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    figure, axes = plt.subplots(3, 2, figsize=(10, 7), sharex=True, layout="constrained")
    minutes = [sample.at_s / 60 for sample in samples]
    warm_min = 0.25 * found["minutes"]
    for panel, (title, lines) in zip(axes.flat, PANELS, strict=True):
        ends = [getattr(samples[-1], name) for name, _, _ in lines]
        top = max(getattr(sample, name) for sample in samples for name, _, _ in lines)
        are_close = len(ends) > 1 and abs(ends[0] - ends[1]) < LABEL_ROOM * max(top, 1)
        for number, (name, label, colour) in enumerate(lines):
            panel.plot(minutes, [getattr(sample, name) for sample in samples], color=colour, linewidth=1.2)
            shift = (4, (-6 if number else 6) * are_close)
            panel.annotate(
                label, (minutes[-1], ends[number]), xytext=shift, textcoords="offset points", color=colour, va="center"
            )
        panel.set_title(title, loc="left", fontsize=9)
        panel.set_ylim(bottom=0)
        panel.axvspan(0, warm_min, color="#f0f0f0", zorder=0)
        panel.axvline(found["minutes"], color=GREY, linewidth=0.6, linestyle=":")
        panel.margins(x=0.01)
    axes[0, 0].annotate(
        "warm-up", (warm_min / 2, 0), xytext=(0, 4), textcoords="offset points", ha="center", color=GREY
    )
    for panel in axes[-1]:
        panel.set_xlabel("minutes")
    figure.suptitle(
        f"{found['minutes']:g} minutes at {found['rate']:,} messages per second, {found['messages']:,} in all; memory "
        f"after warm-up {found['scorer_mb_growth']:+.1%} (scorer), {found['archiver_mb_growth']:+.1%} (archiver)",
        fontsize=10,
        x=0.01,
        ha="left",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
