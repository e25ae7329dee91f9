"""Sensitivity of the SKAB figures: the shipped configuration with one setting changed at a time.

    python benchmarks/skab_sensitivity.py PATH [DETECTOR]

Prints the Markdown table of docs/evaluation.md, and the result of choosing the limit's factor on fifteen runs and
judging the sixteenth. Runs in memory: the whole pipeline gives the same figures.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

from benchmarks.rehearsal import rehearse
from stream_ad.config import IncidentSettings
from stream_ad.core.measures import Confusion
from stream_ad.evaluation.configurations import SKAB, Configuration
from stream_ad.evaluation.datasets import Run, skab
from stream_ad.evaluation.evaluation import evaluate

FACTORS = (1.6, 1.8, 2.0, 2.1, 2.2, 2.3, 2.4, 2.6, 2.8, 3.0)
CHANGES: Mapping[str, Sequence[Any]] = {
    "smoothing": (0.1, 0.15, 0.3, 0.5, 1.0),
    "samples": (12, 16, 24, 32),
    "folds": (3, 8),
}
DETECTOR_CHANGES: Mapping[str, Mapping[str, Sequence[Any]]] = {
    "multiscale_pca": {"variance": (0.7, 0.8, 0.9), "members": (1, 2, 4)},
    "pca": {"variance": (0.7, 0.8, 0.9)},
}
INCIDENT_CHANGES: Mapping[str, Sequence[Any]] = {"exit_ratio": (0.0, 0.25, 0.75), "close_after_s": (15.0, 60.0)}
QUANTILES = ((0.9, 1.4), (0.9, 1.6), (0.9, 1.8), (0.99, 1.1), (0.99, 1.2), (0.99, 1.3))
MOST_FAR = 18.0


def judge(runs: Sequence[Run], configuration: Configuration) -> dict[str, Confusion]:
    """Return the counts per run."""
    return dict(evaluate(runs, configuration, rehearse).by_run)


def line(what: str, counts: Mapping[str, Confusion]) -> None:
    """Print a row of the table."""
    total = reduce(add, counts.values())
    print(
        f"| {what} | {total.f1:.3f} | {total.false_alarm_rate:.1f} | {total.missed_alarm_rate:.1f} |",
        flush=True,
    )


def variants(base: Configuration) -> dict[str, Configuration]:
    """Return configurations that differ from the base in one setting."""
    found: dict[str, Configuration] = {}
    for name, values in CHANGES.items():
        found |= {f"{name} {value:g}": replace(base, **{name: value}) for value in values}
    for name, values in DETECTOR_CHANGES.get(base.name, {}).items():
        found |= {f"{name} {value:g}": replace(base, settings={**base.settings, name: value}) for value in values}
    for name, values in INCIDENT_CHANGES.items():
        found |= {f"{name} {value:g}": replace(base, incident=IncidentSettings(**{name: value})) for value in values}
    for quantile, factor in QUANTILES:
        found[f"limit {factor:g} x {quantile:g}-quantile"] = replace(base, quantile=quantile, factor=factor)
    return found


def left_out(by_factor: Mapping[float, Mapping[str, Confusion]]) -> dict[str, Confusion]:
    """Return each run's counts at the factor that is best on all other runs (F1 at FAR <= 18 %)."""
    found = {}
    for run in next(iter(by_factor.values())):
        others = {
            factor: reduce(add, (one for name, one in counts.items() if name != run))
            for factor, counts in by_factor.items()
        }
        allowed = {factor: total for factor, total in others.items() if total.false_alarm_rate <= MOST_FAR} or others
        best = max(allowed, key=lambda factor: allowed[factor].f1)
        found[run] = by_factor[best][run]
    return found


def main(path: Path, name: str) -> None:
    """Print both tables."""
    runs, base = skab(path), SKAB[name]
    print("| changed | F1 | FAR % | MAR % |\n| --- | --- | --- | --- |")
    line(f"nothing ({name}, factor {base.factor:g})", judge(runs, base))
    by_factor = {factor: judge(runs, replace(base, factor=factor)) for factor in FACTORS}
    for factor, counts in by_factor.items():
        line(f"factor {factor:g}", counts)
    line("factor chosen on the other 15 runs", left_out(by_factor))
    for what, configuration in variants(base).items():
        line(what, judge(runs, configuration))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "multiscale_pca")
