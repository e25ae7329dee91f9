"""Scorer and archiver are killed at every named step of their turns; what comes out is that of an undisturbed run.

Each is a process that kills itself at a step of `tests.crashes.steps`: it dies there, is started again, dies there
again, and so on through all steps; at last a process lives. The proof compares score rows, alerts, dead letters and
Parquet rows with the input read once.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from stream_ad.cli.main import main
from stream_ad.io.score_log import log as score_log
from tests.crashes.courses import Course
from tests.crashes.dying import Lives
from tests.crashes.steps import START_OVER_STEPS, STEPS
from tests.support.e2e import Stream

DEATHS = 2
"""At the same step, one after another."""


@pytest.fixture
def stream(request: pytest.FixtureRequest, make_stream: Callable[..., Stream]) -> Stream:
    """A stream whose roles come to each step soon: small polls, a commit and a checkpoint at each turn."""
    servers = request.getfixturevalue("kafka_broker") if request.param == "kafka" else ()
    return make_stream(
        servers=servers,
        time={"idle_close_s": 1.0},
        commit={"every_s": 0.001, "poll_records": 12},
        store={"checkpoint_every_s": 0.01, "checkpoints_kept": 2, "part_max_age_s": 0.001},
    )


def each(role: str) -> list[object]:
    """Return all pairs of a transport and a step of it."""
    return [
        pytest.param(kind, step, id=f"{kind}-{step}", marks=pytest.mark.broker if kind == "kafka" else ())
        for kind in ("local", "kafka")
        for step in STEPS[role]
    ]


@pytest.mark.parametrize("stream", ["local", pytest.param("kafka", marks=pytest.mark.broker)], indirect=True)
@pytest.mark.timeout(1_200)
def test_both_die_at_every_step_in_a_row(lives: Lives, stream: Stream, pump_bundle: Path, other_bundle: Path) -> None:
    course = Course(lives, stream, (other_bundle, pump_bundle))
    for role in ("scorer", "archiver"):
        for step in STEPS[role]:
            course.die(role, step, DEATHS)
        course.live(role)
    stream.prove(at_least_alerts=5)


@pytest.mark.parametrize("stream", ["local", pytest.param("kafka", marks=pytest.mark.broker)], indirect=True)
@pytest.mark.timeout(1_200)
def test_a_scorer_dies_at_every_step_of_a_start_over(
    lives: Lives, stream: Stream, make_stream: Callable[..., Stream], capsys: pytest.CaptureFixture[str]
) -> None:
    """Settings change before each step: no state fits them, so it begins again on a stretch of old input.

    The windows are those of a stream that nobody disturbed; `verify` and `audit` find all else in order.
    """
    stream.change("time", idle_close_s=1_000.0)
    stream.change("store", warm_up_records=60)
    course = Course(lives, stream)
    course.send(400)
    course.live("scorer")
    names = list(START_OVER_STEPS)
    for number, step in enumerate(names):
        stream.change("incident", close_after_s=20.0 + number)
        course.die("scorer", step, DEATHS)
    course.live("scorer")
    course.live("archiver")
    landed = range(names.index("start committed"), len(names))
    began = {entry.config["incident"]["close_after_s"] for entry in stream.restarts()}
    assert began >= {20.0 + number for number in landed}
    for verb in (["verify", "--topics"], ["audit"]):
        assert main(["-c", str(stream.config), *verb]) == 0, capsys.readouterr().out
    undisturbed = make_stream(time={"idle_close_s": 1_000.0})
    again = Course(lives, undisturbed)
    again.send(course.sent)
    again.live("scorer")
    again.live("archiver")
    assert windows_in(stream) == windows_in(undisturbed) != []


def windows_in(stream: Stream) -> list[str]:
    """Return device, start, end and coverage of each window of the archive."""
    table = score_log.read(stream.settings.store.scores)
    columns = (table[name].to_pylist() for name in ("device", "start", "end", "coverage"))
    return sorted(" ".join(map(str, row)) for row in zip(*columns, strict=True))


@pytest.mark.thorough
@pytest.mark.parametrize(("stream", "step"), each("scorer"), indirect=["stream"])
def test_a_scorer_dies_at_one_step_again_and_again(
    lives: Lives, stream: Stream, step: str, pump_bundle: Path, other_bundle: Path
) -> None:
    course = Course(lives, stream, (other_bundle, pump_bundle))
    course.send(400)
    course.live("scorer")
    course.die("scorer", "landed", 1)
    course.die("scorer", step, 3)
    course.send(200)
    course.live("scorer")
    course.live("archiver")
    stream.prove()


@pytest.mark.thorough
@pytest.mark.parametrize(("stream", "step"), each("archiver"), indirect=["stream"])
def test_an_archiver_dies_at_one_step_again_and_again(lives: Lives, stream: Stream, step: str) -> None:
    course = Course(lives, stream)
    course.send(600)
    course.live("scorer")
    course.die("archiver", step, 3)
    course.live("archiver")
    course.send(60)
    course.live("scorer")
    course.live("archiver")
    stream.prove()
