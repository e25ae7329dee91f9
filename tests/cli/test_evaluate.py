"""`evaluate` judges through log, scorer, archiver and Parquet, and says the same on every log."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient

from benchmarks.rehearsal import rehearse
from stream_ad.assembly import ensure_topics
from stream_ad.cli.main import main
from stream_ad.config import StreamSettings
from stream_ad.evaluation.configurations import SKAB
from stream_ad.evaluation.datasets import skab
from stream_ad.evaluation.evaluation import evaluate
from stream_ad.io.bundles import bundles
from stream_ad.io.score_log import log as score_log
from tests.support.e2e import Stream
from tests.support.skab import real_skab, write_runs


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_runs(tmp_path_factory.mktemp("data"), runs=2)


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """Return what `evaluate skab … --json` prints."""
    capsys.readouterr()
    assert main(["evaluate", "skab", *arguments, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def results(found: dict[str, Any]) -> dict[str, Any]:
    return {result["name"]: result for result in found["results"]}


@pytest.mark.process
def test_the_live_pipe_gives_what_the_pipe_in_memory_gives(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = results(told(capsys, "--data", str(data), "--detectors", "multiscale_pca,pca"))

    for name in ("multiscale_pca", "pca"):
        assert found[name] == json.loads(json.dumps(evaluate(skab(data), SKAB[name], rehearse).to_json()))
    assert list(found) == ["always alarm", "3 sigma", "multiscale_pca", "pca"]


def test_bundles_and_score_logs_stay_where_wanted(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "kept"

    told(capsys, "--data", str(data), "--detectors", "pca", "--runs", "1", "--out", str(out))

    table = score_log.read(out / "pca" / "valve1-0" / "scores", "valve1-0")
    assert table.num_rows >= 120
    model = bundles.load(out / "pca" / "valve1-0" / "bundle")
    assert set(table["model_id"].to_pylist()) == {model.model_id}
    assert main(["evaluate", "skab", "--data", str(data), "--out", str(out)]) == 2
    assert "new or empty folder" in capsys.readouterr().err


def test_the_table_names_what_it_measures(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "skab", "--data", str(data), "--detectors", "pca", "--runs", "1"]) == 0

    out, err = capsys.readouterr()
    assert "1 runs, 120 judged rows, 40 anomalous" in out
    assert "FAR %" in out
    assert "always alarm" in out
    assert "published" not in out  # their figures are of all runs
    assert "pca" in err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--data", "nowhere"], 1, "valve1"),
        (["--data", "{data}", "--detectors", "magic"], 2, "expected some of"),
        (["--data", "{data}", "--runs", "0"], 2, "--runs"),
        (["--data", "{data}", "--broker", "local", "--kafka", "host:9"], 2, "not allowed with"),
        ([], 2, "--data"),
    ],
)
def test_wrong_arguments_are_told(
    arguments: list[str], code: int, said: str, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "skab", *(argument.format(data=data) for argument in arguments)]) == code
    assert said in capsys.readouterr().err


@pytest.mark.broker
@pytest.mark.parametrize("kind", ["made up", "real"])
def test_kafka_and_the_embedded_log_give_the_same_figures(
    kind: str, data: Path, kafka_broker: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = data if kind == "made up" else real_skab()
    if folder is None:
        pytest.skip("SKAB is not here: name the folder that holds skab/valve1 in STREAM_AD_DATA")
    arguments = ("--data", str(folder), "--detectors", "multiscale_pca,pca", "--runs", "2")

    local = told(capsys, *arguments)
    kafka = told(capsys, *arguments, "--kafka", ",".join(kafka_broker))

    assert kafka["results"] == local["results"]
    assert (local["broker"], kafka["broker"]) == ("local", ",".join(kafka_broker))


@pytest.mark.broker
def test_only_its_own_topics_are_deleted(data: Path, kafka_broker: list[str], tmp_path: Path) -> None:
    """The cluster may be one that others work on: the topic of commands is one for all streams by default."""
    with (
        closing(Stream(tmp_path / "others", tmp_path / "no-bundle", kafka_broker, partitions=1)) as others,
        closing(KafkaAdminClient(bootstrap_servers=kafka_broker)) as admin,
    ):
        made = ensure_topics(others.settings, others.log)
        assert StreamSettings.model_fields["control_topic"].default in made

        arguments = ("--data", str(data), "--detectors", "pca", "--runs", "1", "--kafka", ",".join(kafka_broker))
        assert main(["evaluate", "skab", *arguments]) == 0

        assert {name: others.log.topic(name) for name in made} == made
        assert [name for name in admin.list_topics() if name.startswith("stream-ad.evaluate.")] == []
