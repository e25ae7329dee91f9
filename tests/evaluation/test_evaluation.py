"""Verdicts are joined to rows, counted and summed; the shipped configurations can be used as they are."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.rehearsal import rehearse
from stream_ad.core.detectors import catalog
from stream_ad.core.measures import Confusion
from stream_ad.errors import ConfigError, ContractError
from stream_ad.evaluation.configurations import SKAB, Configuration, choose
from stream_ad.evaluation.datasets import Run, skab
from stream_ad.evaluation.evaluation import Judged, baselines, evaluate, flagged
from stream_ad.training.training import Trained
from tests.support.skab import real_skab, write_runs


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    return skab(write_runs(tmp_path_factory.mktemp("skab"), runs=2))


def test_each_row_gets_the_verdict_of_the_window_that_ends_with_it(runs: list[Run]) -> None:
    run = runs[0]
    rng = np.random.default_rng(0)
    first, last = int(run.judged_end_ns[0]), int(run.judged_end_ns[-1])
    end_ns = rng.permutation(np.arange(first - 5 * run.period_ns, last + run.period_ns, run.period_ns))
    is_anomaly = rng.random(len(end_ns)) < 0.5
    by_end = dict(zip(end_ns.tolist(), is_anomaly.tolist(), strict=True))

    found = flagged(run, Judged(end_ns, is_anomaly))

    assert found.tolist() == [by_end[end] for end in run.judged_end_ns.tolist()]


def test_a_row_without_a_verdict_is_an_error(runs: list[Run]) -> None:
    end_ns = runs[0].judged_end_ns
    for missing, count in ((end_ns[:-1], 1), (end_ns[1:], 1), (np.delete(end_ns, 40), 1), (end_ns[:0], len(end_ns))):
        with pytest.raises(ContractError, match=f"rows, {count} have none"):
            flagged(runs[0], Judged(missing, np.zeros(len(missing), np.bool_)))


def test_two_verdicts_on_a_window_are_an_error(runs: list[Run]) -> None:
    end_ns = np.append(runs[0].judged_end_ns, runs[0].judged_end_ns[3])

    with pytest.raises(ContractError, match="found two"):
        flagged(runs[0], Judged(end_ns, np.zeros(len(end_ns), np.bool_)))


def test_counts_are_summed_over_runs(runs: list[Run]) -> None:
    def oracle(run: Run, configuration: Configuration, trained: Trained) -> Judged:
        return Judged(run.judged_end_ns, run.truth if run.name == "valve1-0" else ~run.truth)

    steps: list[tuple[str, int, int]] = []
    result = evaluate(runs, SKAB["pca"], oracle, progress=lambda *step: steps.append(step))

    rows, anomalous = len(runs[0].truth), int(runs[0].truth.sum())
    assert result.by_run["valve1-0"] == Confusion(anomalous, 0, 0, rows - anomalous)
    assert result.by_run["valve1-1"] == Confusion(0, rows - anomalous, anomalous, 0)
    assert result.total == Confusion(anomalous, rows - anomalous, anomalous, rows - anomalous)
    assert steps[-1] == ("pca: valve1-1", 2, 2)
    plain = result.to_json()
    assert plain["far"] == 50.0
    assert plain["configuration"]["kind"] == "pca"
    assert plain["runs"]["valve1-0"]["f1"] == 1.0


def test_the_baselines_need_no_model(runs: list[Run]) -> None:
    always, sigma = baselines(runs)

    assert always.total.missed_alarm_rate == 0.0
    assert always.total.false_alarm_rate == 100.0
    assert sigma.total.missed_alarm_rate < 50.0


@pytest.mark.parametrize("name", ["multiscale_pca", "pca", "mahalanobis"])
def test_a_broken_correlation_is_found(name: str, runs: list[Run]) -> None:
    total = evaluate(runs, SKAB[name], rehearse).total

    assert total.missed_alarm_rate < 10.0
    assert total.f1 > 0.6  # the hold of 30 s counts against it in runs as short as these


@pytest.mark.parametrize("name", sorted(SKAB))
def test_a_shipped_configuration_names_what_exists(name: str, runs: list[Run]) -> None:
    configuration = SKAB[name]
    settings = {**catalog.get(configuration.kind).defaults(), **configuration.settings}

    assert configuration.name == name
    assert set(settings) == set(catalog.get(configuration.kind).defaults())
    assert configuration.plan(runs[0], seed=3).seed == 3
    assert configuration.judging()["threshold"]["factor"] == configuration.factor


def test_an_untrained_net_takes_part(runs: list[Run]) -> None:
    total = evaluate(runs[:1], SKAB["autoencoder-untrained"], rehearse).total

    assert total.true_positive + total.false_negative == int(runs[0].truth.sum())


def test_configurations_are_chosen_by_name() -> None:
    assert [one.name for one in choose(SKAB, None)] == list(SKAB)
    assert [one.name for one in choose(SKAB, "pca, dagmm,pca")] == ["pca", "dagmm"]
    for wrong in ("pcb", "pca,all", "", ","):
        with pytest.raises(ConfigError, match="expected some of multiscale_pca, pca"):
            choose(SKAB, wrong)


def test_the_bar_on_skab_is_reached() -> None:
    folder = real_skab()
    if folder is None:
        pytest.skip("SKAB is not here: name the folder that holds skab/valve1 in STREAM_AD_DATA")

    total = evaluate(skab(folder), SKAB["multiscale_pca"], rehearse).total

    assert total.true_positive + total.false_negative == 6_309
    assert total.true_negative + total.false_positive == 11_760 - 6_309
    assert total.f1 >= 0.85
    assert total.false_alarm_rate <= 18.0
