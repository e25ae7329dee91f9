"""Judges labelled runs with a configuration through a given pipeline, and counts rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any, TypeAlias

import numpy as np

from stream_ad.core.batches import BoolArray, Int64Array, expect
from stream_ad.core.detectors.base import Progress, no_progress
from stream_ad.core.measures import Confusion, confusion
from stream_ad.errors import ContractError
from stream_ad.evaluation.configurations import Configuration
from stream_ad.evaluation.datasets import Run
from stream_ad.training.training import Trained, train

SIGMAS = 3.0


@dataclass(frozen=True, slots=True)
class Judged:
    """A pipeline's verdicts on a run's windows.

    Attributes:
        end_ns: int64[n], exclusive window ends, event time, unique.
        is_anomaly: bool[n], an incident was open after the window.
    """

    end_ns: Int64Array
    is_anomaly: BoolArray

    def __post_init__(self) -> None:
        expect("end_ns", self.end_ns, np.int64, (None,))
        expect("is_anomaly", self.is_anomaly, np.bool_, self.end_ns.shape)


Pipe: TypeAlias = Callable[[Run, Configuration, Trained], Judged]
"""Sends a run through the live pipeline with a trained model and returns the verdicts."""


@dataclass(frozen=True, slots=True)
class Result:
    """Counts of rows by truth and verdict, in total and by run.

    Attributes:
        name: of the configuration or the baseline.
        note: one line for people.
        by_run: counts by run name.
        configuration: as JSON values; empty for a baseline that needs no pipeline.
    """

    name: str
    note: str
    by_run: Mapping[str, Confusion]
    configuration: Mapping[str, Any]

    @property
    def total(self) -> Confusion:
        """Counts summed over the runs."""
        return reduce(add, self.by_run.values())

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        return {
            "name": self.name,
            "note": self.note,
            **counts(self.total),
            "runs": {name: counts(found) for name, found in self.by_run.items()},
            "configuration": dict(self.configuration),
        }


def evaluate(
    runs: Sequence[Run], configuration: Configuration, pipe: Pipe, seed: int = 0, progress: Progress = no_progress
) -> Result:
    """Train on each run's first rows, judge the others, and count.

    Args:
        runs: each gets its own model.
        configuration: the same for all runs.
        pipe: the pipeline.
        seed: training seed.
        progress: called before each run is trained and after it is judged.

    Raises:
        TrainingError: a run has too few training rows.
        ContractError: the pipeline did not judge a row.
    """
    found = {}
    for number, run in enumerate(runs):
        progress(f"{configuration.name}: {run.name}", number, len(runs))
        trained = train(run.training, configuration.plan(run, seed))
        found[run.name] = confusion(run.truth, flagged(run, pipe(run, configuration, trained)))
        progress(f"{configuration.name}: {run.name}", number + 1, len(runs))
    return Result(configuration.name, configuration.note, found, configuration.to_json())


def flagged(run: Run, judged: Judged) -> BoolArray:
    """Return the verdict on each judged row: that of the window that ends with it.

    Raises:
        ContractError: a row has no verdict, or a window has two.
    """
    order = np.argsort(judged.end_ns, kind="stable")
    end_ns = judged.end_ns[order]
    if (end_ns[1:] == end_ns[:-1]).any():
        raise ContractError(f"{run.name}: expected one verdict per window, found two")
    wanted = run.judged_end_ns
    at = np.searchsorted(end_ns, wanted)
    is_found = at < len(end_ns)
    is_found[is_found] = end_ns[at[is_found]] == wanted[is_found]
    if not is_found.all():
        missing = int(np.count_nonzero(~is_found))
        raise ContractError(f"{run.name}: expected a verdict for each of {len(wanted)} rows, {missing} have none")
    verdicts: BoolArray = judged.is_anomaly[order][at]
    return verdicts


def baselines(runs: Sequence[Run]) -> list[Result]:
    """Return the results of rules without a model: always alarm, and a row beyond 3 sigma in any channel."""
    always = {run.name: confusion(run.truth, np.ones(len(run.truth), np.bool_)) for run in runs}
    sigma = {run.name: confusion(run.truth, beyond_sigmas(run)) for run in runs}
    return [
        Result("always alarm", "every row is called anomalous", always, {}),
        Result("3 sigma", "any channel beyond 3 training deviations, row by row, no pipe", sigma, {}),
    ]


def beyond_sigmas(run: Run) -> BoolArray:
    """Return bool[n - training_rows]: a channel is more than 3 standard deviations from its training mean."""
    values = run.recording.values.astype(np.float64)
    training = values[: run.training_rows]
    mean, deviation = np.nanmean(training, axis=0), np.nanstd(training, axis=0)
    far: BoolArray = (np.abs(values[run.training_rows :] - mean) > SIGMAS * deviation).any(axis=1)
    return far


def counts(found: Confusion) -> dict[str, float]:
    """Return the measures and their counts; F1 in 0..1, FAR and MAR in per cent."""
    return {
        "f1": found.f1,
        "far": found.false_alarm_rate,
        "mar": found.missed_alarm_rate,
        "true_positive": found.true_positive,
        "false_positive": found.false_positive,
        "false_negative": found.false_negative,
        "true_negative": found.true_negative,
    }
