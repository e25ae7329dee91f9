"""`stream-ad evaluate`: run a labelled data set through the live pipeline and measure the verdicts."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stream_ad.cli.output import console, print_json
from stream_ad.errors import ConfigError

if TYPE_CHECKING:
    from stream_ad.cli.evaluate_pipe import LivePipe
    from stream_ad.evaluation.evaluation import Result

LOCAL = "local"

PUBLISHED: dict[str, tuple[tuple[str, float, float, float], ...]] = {
    "skab": (("Conv-AE (published)", 0.755, 14.4, 31.8), ("MSET (published)", 0.779, 38.5, 15.0)),
}
"""Best published results on these files: F1, FAR in per cent, MAR in per cent."""


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    parser = subparsers.add_parser(
        "evaluate",
        help="measure detection on a labelled data set with the live pipeline",
        description="Train on the first rows of each run of a labelled data set, send the rest through the log, a "
        "scorer and an archiver, read the verdicts from the score log, and print point-wise F1, FAR and MAR.",
    )
    parser.add_argument("dataset", choices=("skab",), help="the data set and its published protocol")
    parser.add_argument("--data", type=Path, required=True, metavar="PATH", help="its folder (skab: contains valve1)")
    parser.add_argument("--detectors", metavar="A,B", help="only these configurations (all)")
    parser.add_argument("--runs", type=int, metavar="N", help="only the first N runs, for a quick check (all)")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--broker", choices=(LOCAL,), help="use a private embedded log (the default)")
    where.add_argument("--kafka", metavar="HOST:PORT", help="use this Apache Kafka; topics are created and deleted")
    parser.add_argument("--seed", type=int, default=0, help="training seed (0)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="keep bundles and score logs in this folder")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Evaluate and print; return 0.

    Raises:
        ConfigError: options are wrong.
        RecordingError: the data set was not found.
        TrainingError, TransportError: training or the log failed.
    """
    from stream_ad.evaluation import evaluation
    from stream_ad.evaluation.configurations import SKAB, choose
    from stream_ad.evaluation.datasets import skab
    from stream_ad.service import logs

    configurations = choose(SKAB, args.detectors)
    runs = skab(args.data)[: read_runs(args.runs)]
    logs.configure("error", args.log_format)
    begun = time.monotonic()
    results = evaluation.baselines(runs)
    with live_pipe(args) as pipe, progress() as report:
        for configuration in configurations:
            results.append(evaluation.evaluate(runs, configuration, pipe, args.seed, report))
    if args.json:
        print_json(as_json(args, results, time.monotonic() - begun))
    else:
        print_table(args, results, len(runs))
    return 0


def read_runs(count: int | None) -> int | None:
    """Return the number of runs to evaluate, None for all."""
    if count is not None and count < 1:
        raise ConfigError(f"--runs: expected at least 1, found {count}")
    return count


@contextmanager
def live_pipe(args: argparse.Namespace) -> Iterator[LivePipe]:
    """Open the pipeline in `--out`, or in a temporary folder that is removed afterwards."""
    from stream_ad.cli.evaluate_pipe import LivePipe

    with ExitStack() as stack:
        folder = args.out
        if folder is None:
            folder = Path(tempfile.mkdtemp(prefix="stream-ad-evaluate-"))
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
        elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConfigError(f"--out: expected a new or empty folder, found {folder}")
        yield LivePipe(folder, args.kafka.split(",") if args.kafka else None)


@contextmanager
def progress() -> Iterator[Callable[[str, int, int], None]]:
    """Print progress on stderr: a bar on a terminal, else one line per configuration."""
    from stream_ad.cli.train_progress import progress_bar

    if sys.stderr.isatty():
        with progress_bar() as bar:
            yield bar
        return
    begun = time.monotonic()

    def line(what: str, done: int, total: int) -> None:
        if done == total:
            print(f"{what}, {total} runs done after {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)

    yield line


def as_json(args: argparse.Namespace, results: Sequence[Result], seconds: float) -> dict[str, Any]:
    """Return what `--json` prints."""
    return {
        "dataset": args.dataset,
        "broker": args.kafka or LOCAL,
        "seed": args.seed,
        "runs": len(results[0].by_run),
        "measure": "point-wise over rows, counts summed over runs, at the live threshold; far and mar in per cent",
        "results": [result.to_json() for result in results],
        "published": [
            {"name": name, "f1": f1, "far": far, "mar": mar} for name, f1, far, mar in PUBLISHED[args.dataset]
        ],
        "seconds": round(seconds, 1),
    }


def print_table(args: argparse.Namespace, results: Sequence[Result], runs: int) -> None:
    """Print the table."""
    from rich.table import Table

    total = results[0].total
    rows = total.true_positive + total.false_positive
    title = f"{args.dataset}: {runs} runs, {rows:,} judged rows, {total.true_positive:,} anomalous"
    table = Table(title=title)
    for column in ("detector", "F1", "FAR %", "MAR %", ""):
        table.add_column(column, justify="left" if column in ("detector", "") else "right")
    whole = args.runs is None
    for name, f1, far, mar in PUBLISHED[args.dataset] if whole else ():
        table.add_row(name, f"{f1:.3f}", f"{far:.1f}", f"{mar:.1f}", "")
    for result in results:
        found = result.total
        measures = (found.f1, found.false_alarm_rate, found.missed_alarm_rate)
        table.add_row(result.name, *(f"{m:.{d}f}" for m, d in zip(measures, (3, 1, 1), strict=True)), result.note)
    out = console()
    out.print(table)
    out.print("Point-wise, counts summed over the runs, at the threshold that the live pipeline uses.")
    if args.out is not None:
        out.print(f"Bundles and score logs are in {args.out}")
