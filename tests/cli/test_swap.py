from __future__ import annotations

import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from stream_ad.assembly import ensure_topics
from stream_ad.cli.main import main
from stream_ad.core.model import Model
from stream_ad.io.bundles import bundles
from stream_ad.io.transport import Partition
from tests.crashes.conftest import make_stream, other_bundle, pump_bundle
from tests.support.e2e import Process, Stream, fleet_records, train_bundle, wait_until
from tests.support.roles import open_scorer, work_off

__all__ = ["make_stream", "other_bundle", "pump_bundle"]

RECORDS = 60


def swap(stream: Stream, bundle: Path | str, *options: str) -> int:
    return main(["swap", "-c", str(stream.config), str(bundle), *options])


def model_of(folder: Path) -> Model:
    return bundles.load(folder)


def commands(stream: Stream) -> int:
    """Return how many commands there are."""
    start, end = stream.log.bounds(Partition(stream.settings.stream.control_topic, 0))
    return end - start


@pytest.fixture
def stream(make_stream: Callable[..., Stream]) -> Stream:
    """A stream with scores whose scorer has ended."""
    stream: Stream = make_stream()
    stream.send(list(islice(fleet_records(duration_s=600), RECORDS)))
    scorer = open_scorer(stream)
    work_off(scorer, stream)
    scorer.close()
    assert stream.scored()
    return stream


@pytest.mark.process
def test_another_bundle_goes_into_service(
    stream: Stream, other_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scorer = Process(stream, "scorer")
    try:
        scorer.await_event("ready")
        assert swap(stream, other_bundle) == 0
        said = capsys.readouterr().out
        assert said == f"{other_bundle.name} ({model_of(other_bundle).model_id[:16]}) is in service\n"
        assert scorer.said("swapped")

        assert swap(stream, other_bundle, "--json") == 0  # again: nothing to do, and said to be so
        told: dict[str, Any] = json.loads(capsys.readouterr().out)
        assert told["waited"]
        assert (told["gone_over"], told["behind"]) == ([0, 1], [])
        assert scorer.stop() == 0
    finally:
        scorer.end()


def test_nobody_who_listens_is_said(stream: Stream, other_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert swap(stream, other_bundle, "--wait", "0.3") == 1
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = said.err.splitlines()
    assert "after 0.3 s not in service in partition(s) 0, 1: check that the scorers run" in line
    assert swap(stream, other_bundle, "--wait", "0.3", "--json") == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["gone_over"], told["behind"]) == ([], [0, 1])


def test_a_command_that_nobody_waits_for_is_obeyed_by_the_next_scorer(
    stream: Stream, other_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert swap(stream, other_bundle, "--wait", "0") == 0
    assert capsys.readouterr().out.startswith("requested ")
    scorer = open_scorer(stream)
    try:
        wait_until(lambda: scorer.metrics.swaps._value.get() > 0, each=lambda: scorer.turn(0.01))
    finally:
        scorer.close()


def test_a_stream_without_scores_is_not_said_to_be_served(
    make_stream: Callable[..., Stream], other_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = make_stream()
    ensure_topics(stream.settings, stream.log)
    assert swap(stream, other_bundle, "--wait", "5") == 0
    assert "no partition has scores yet" in capsys.readouterr().out
    assert commands(stream) == 1


@pytest.mark.parametrize("case", ["windows", "unit", "no bundle", "changed"])
def test_what_cannot_be_used_is_refused_before_any_command(
    make_stream: Callable[..., Stream],
    tmp_path: Path,
    case: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stream, folder = make_stream(), tmp_path / "refused"
    ensure_topics(stream.settings, stream.log)
    if case == "windows":
        train_bundle(folder, samples=12)
    elif case == "unit":
        train_bundle(folder, unit="bar")
    elif case == "changed":
        train_bundle(folder)
        with (folder / "card.json").open("a") as text:
            text.write(" ")
    assert swap(stream, folder) == 1
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = said.err.splitlines()
    assert str(folder) in line
    assert "Traceback" not in line
    assert commands(stream) == 0
