"""The service computes what the reference says: every window, score, limit, incident, alert and late reading."""

from __future__ import annotations

import ast
import json
import sys
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stream_ad import pretrained
from stream_ad.config import LocalTransport
from stream_ad.core.quality import Quality
from stream_ad.core.scoring import Scoring
from stream_ad.io.bundles import bundles
from stream_ad.io.local.log import LocalLog
from stream_ad.io.state import journal
from stream_ad.io.transport import Partition
from stream_ad.io.transport import Record as Sent
from tests.crashes.conftest import other_bundle, pump_bundle
from tests.reference import fleet, reference
from tests.reference.published import Published, differences, published
from tests.reference.reference import Bundle, Record, Row, run, settings_of
from tests.same.fleet import Chunk
from tests.support.e2e import Stream
from tests.support.roles import open_scorer, work_off

__all__ = ["other_bundle", "pump_bundle"]

PRETRAINED = Path("pretrained:pump-autoencoder")
DEFAULTS: dict[str, Any] = {"time": {"idle_close_s": 30.0}}
"""Those of `stream-ad init`; other tests close windows earlier."""
CHANGED: dict[str, Any] = {
    "stream": {"devices": "pump-*"},
    "time": {"lateness_s": 20.0, "idle_close_s": 60.0, "evict_after_s": 1_000.0},
    "threshold": {"kind": "quantile", "quantile": 0.99, "memory_rows": 200, "seed_rows": 150}
    | {"factor": 1.1, "feedback": 1.0},
    "incident": {"open_after_windows": 2, "close_after_s": 60.0, "relearn_after_s": 100.0, "sensor_windows": 2},
}
FLAGS = 0xFFF & ~(Quality.HELD | Quality.AFRESH)


@dataclass(frozen=True)
class Case:
    """A stream that was worked off."""

    bundle: Bundle
    toml: dict[str, Any]
    parts: list[Published]

    def differences(self) -> list[str]:
        """Return how what was published differs from what the reference makes of the records."""
        settings = settings_of(self.toml)
        found = [(run(part.records, self.bundle, settings, part.scores()), part) for part in self.parts]
        return [line for outcome, part in found for line in differences(outcome, part)]


@pytest.fixture(scope="module")
def chunks() -> list[Chunk]:
    return fleet.chunks()


@pytest.fixture(scope="module", params=["autoencoder", "pca", "mahalanobis"])
def case(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    chunks: list[Chunk],
    pump_bundle: Path,
    other_bundle: Path,
) -> Case:
    folders = {"autoencoder": PRETRAINED, "pca": pump_bundle, "mahalanobis": other_bundle}
    options = {"partitions": 1, **CHANGED} if request.param == "pca" else DEFAULTS
    return worked_off(Stream(tmp_path_factory.mktemp(request.param), folders[request.param], **options), chunks)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, chunks: list[Chunk], pump_bundle: Path) -> Case:
    stream = Stream(tmp_path_factory.mktemp("small"), pump_bundle, partitions=1, **CHANGED)
    return worked_off(stream, chunks[:40])


def worked_off(stream: Stream, chunks: Sequence[Chunk]) -> Case:
    """Append records with their own log times, let a scorer work in this process, and return what came out."""
    names, transport = stream.settings.stream, stream.settings.transport
    assert isinstance(transport, LocalTransport)
    log_ms = 0
    log = LocalLog(transport.path, clock=lambda: log_ms * 1_000_000)
    for log_ms, records in chunks:  # noqa: B007 - the clock reads it
        log.append(names.readings_topic, [Sent(value, key, headers) for key, value, headers in records])
    log.close()
    case = scored(stream)
    stream.close()
    return case


def scored(stream: Stream) -> Case:
    role = open_scorer(stream)
    work_off(role, stream)
    role.close()
    names = stream.settings.stream
    for number in range(stream.partitions):
        kinds = {entry.kind for entry in journal.read(stream.log, Partition(names.journal_topic, number))}
        assert kinds <= {"start"}, "this machine was too busy: the wall clock closed windows"
    return Case(Bundle(names.bundle), tomllib.loads(stream.config.read_text()), published(stream))


def test_rows_alerts_and_refused_readings_are_those_of_the_reference(case: Case) -> None:
    assert case.differences() == []


def test_all_that_the_reference_describes_occurs(case: Case) -> None:
    rows = [row for part in case.parts for row in part.rows]
    alerts = [alert for part in case.parts for alert in part.alerts]
    is_changed = "threshold" in case.toml
    flags = FLAGS if case.bundle.devices else FLAGS & ~Quality.FLEET_SCALE

    assert all(part.rows for part in case.parts)
    assert Quality(reduce(or_, (row["quality"] for row in rows))) == flags
    phases = {(alert["kind"], alert["phase"]) for alert in alerts}
    assert phases >= {(kind, phase) for kind in ("process", "sensor") for phase in ("opened", "resolved")}
    assert (("regime", "updated") in phases) == is_changed
    given_up = [alert for alert in alerts if alert["phase"] == "resolved" and alert["score"] != alert["score"]]
    assert bool(given_up) == is_changed
    assert {reason for part in case.parts for reason, _ in part.refused.values()} == {"late", "future"}
    if is_changed:  # a generation of scores has been forgotten
        assert max(row["sequence"] for row in rows) > case.toml["threshold"]["memory_rows"]


@pytest.mark.parametrize("kind", ["autoencoder", "pca", "mahalanobis"])
def test_windows_near_and_far_from_the_training_mean_score_as_the_reference_says(
    kind: str, pump_bundle: Path, other_bundle: Path
) -> None:
    folder = {"autoencoder": pretrained.path("pump-autoencoder"), "pca": pump_bundle, "mahalanobis": other_bundle}[kind]
    bundle, scoring = Bundle(folder), Scoring(bundles.load(folder))
    center, scale = bundle.fleet
    random = np.random.default_rng(0)
    directions = random.standard_normal((10, bundle.samples, len(bundle.channels)))
    directions *= random.random((10, 1, len(bundle.channels))) ** 4  # few channels deviate much
    directions /= np.abs(directions).max(axis=(1, 2), keepdims=True)
    distances = [0.0, *np.geomspace(1e-3, 1e5, 24)]
    values = np.concatenate([center + scale * distance * directions for distance in distances])

    expected = np.array([bundle.score("a device without scales of its own", window)[0] for window in values])

    assert np.abs(scoring.score_values(values).score / expected - 1.0).max() < 1e-5


Alteration = Callable[[Case], Case]


def reading(case: Case) -> Case:
    """Give one reading another value."""

    def change(document: dict[str, Any]) -> dict[str, Any]:
        first, *others = document["values"]["flow"]
        return {**document, "values": {**document["values"], "flow": [first * 1.001, *others]}}

    return record(case, lambda one: (one[0], one[1], json.dumps(change(json.loads(one[2]))).encode()))


def absent(case: Case) -> Case:
    """Take away one record."""
    return record(case, lambda one: (one[0], one[1], b""))


def log_time(case: Case) -> Case:
    """Let one record come a minute later, and with it all that follow."""
    return record(case, lambda one: (one[0], one[1] + 60_000_000_000, one[2]))


def record(case: Case, change: Callable[[Record], Record]) -> Case:
    """Change one record, a series on an even grid, in the input of the reference alone."""
    part = case.parts[0]
    at = next(k for k, one in enumerate(part.records) if k > len(part.records) // 2 and b"step_ms" in one[2])
    records = [*part.records[:at], change(part.records[at]), *part.records[at + 1 :]]
    return replace(case, parts=[replace(part, records=records)])


def row_with(name: str, change: Callable[[Any], Any]) -> Alteration:
    def alter(case: Case) -> Case:
        part = case.parts[0]
        return replace(case, parts=[replace(part, rows=altered(part.rows, name, change))])

    return alter


def alert_with(name: str, change: Callable[[Any], Any]) -> Alteration:
    def alter(case: Case) -> Case:
        part = case.parts[0]
        return replace(case, parts=[replace(part, alerts=altered(part.alerts, name, change))])

    return alter


def altered(rows: Sequence[Row], name: str, change: Callable[[Any], Any]) -> list[Row]:
    middle = len(rows) // 2
    return [*rows[:middle], {**rows[middle], name: change(rows[middle][name])}, *rows[middle + 1 :]]


def without_letter(case: Case) -> Case:
    part = case.parts[0]
    return replace(case, parts=[replace(part, refused=dict(list(part.refused.items())[1:]))])


def setting(section: str, name: str, value: Any) -> Alteration:
    def alter(case: Case) -> Case:
        return replace(case, toml={**case.toml, section: {**case.toml[section], name: value}})

    return alter


@pytest.mark.parametrize(
    ("alter", "named"),
    [
        (reading, ": score "),
        (absent, ": quality "),
        (log_time, "not published"),
        (row_with("score", lambda score: score * 1.00002), ": smoothed "),
        (row_with("limit", lambda limit: limit * (1 + 2e-9)), ": limit "),
        (row_with("end", lambda end: end + 1_000_000_000), "not expected"),
        (row_with("quality", lambda quality: quality ^ 4), ": quality "),
        (row_with("incident", lambda incident: None if incident else 1), ": incident "),
        (alert_with("peak", lambda peak: peak * (1 + 2e-9)), ": peak "),
        (alert_with("kind", lambda kind: "sensor" if kind == "process" else "process"), ": kind "),
        (without_letter, "refused at "),
        (setting("incident", "open_after_windows", 1), "alert "),
        (setting("threshold", "quantile", 0.991), ": limit "),
        (setting("time", "lateness_s", 19.0), "row "),
    ],
)
def test_what_is_altered_is_reported(small: Case, alter: Alteration, named: str) -> None:
    assert any(named in line for line in alter(small).differences())


def test_what_is_not_altered_is_not_reported(small: Case) -> None:
    assert small.differences() == []


def test_the_reference_shares_nothing_with_the_package_and_stays_short() -> None:
    text = Path(reference.__file__).read_text()
    names = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add("." * node.level + (node.module or ""))

    assert {name.partition(".")[0] for name in names} <= {*sys.stdlib_module_names, "numpy"}
    assert "importlib" not in names
    assert "__import__" not in text
    assert len(text.splitlines()) < 400


@pytest.mark.broker
def test_rows_on_kafka_are_those_of_the_reference(
    tmp_path: Path, kafka_broker: list[str], chunks: list[Chunk], pump_bundle: Path
) -> None:
    stream = Stream(tmp_path, pump_bundle, servers=kafka_broker, time={"idle_close_s": 600.0})
    stream.send([Sent(value, key, headers) for _, records in chunks[:100] for key, value, headers in records])
    case = scored(stream)
    stream.close()

    assert all(part.rows for part in case.parts)
    assert case.differences() == []
