"""A topic deleted and made anew under the same name: roles refuse it and name it, stopped or running meanwhile."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from stream_ad.errors import PositionError, ScoreLogError, StreamAdError
from stream_ad.identity import group
from stream_ad.io.kafka import source as kafka_source
from stream_ad.io.kafka.log import KafkaLog
from stream_ad.io.transport import Partition, Record
from stream_ad.service.roles.archiver import Archiver
from stream_ad.service.roles.scorer import Scorer
from tests.crashes.conftest import pump_bundle
from tests.support.e2e import LONG_S, Stream, fleet_records, wait_until
from tests.support.roles import kill, open_archiver, open_scorer, work_off

__all__ = ["pump_bundle"]

pytestmark = pytest.mark.broker

RECORDS = 120


@pytest.fixture
def stream(kafka_broker: list[str], tmp_path: Path, pump_bundle: Path) -> Iterator[Stream]:
    stream = Stream(tmp_path / "stream", pump_bundle, kafka_broker, partitions=1)
    yield stream
    stream.close()


def made_anew(stream: Stream, topic: str) -> None:
    """Delete a topic and make it again, with as many partitions."""
    assert isinstance(stream.log, KafkaLog)
    old = stream.log.topic(topic)
    stream.log.delete_topic(topic)
    assert stream.log.ensure_topic(topic, old.partitions).topic_id != old.topic_id


def published(stream: Stream) -> int:
    place = Partition(stream.settings.stream.scores_topic, 0)
    return sum(len(raw) for raw in stream.log.read(place, *stream.log.bounds(place)))


def committed(stream: Stream) -> int | None:
    """Return the scorer's offset; brokers drop those of a topic that is deleted while nobody reads it."""
    place = Partition(stream.settings.stream.readings_topic, 0)
    position = stream.log.committed(group(stream.settings, "scorer"), place)
    return None if position is None else position.offset


def turned(role: Scorer | Archiver) -> StreamAdError:
    """Let a role work until it gives up; return why."""
    end = time.monotonic() + LONG_S
    while time.monotonic() < end:
        try:
            role.turn(0.05)
        except StreamAdError as error:
            return error
    raise AssertionError(f"the role went on: {role.ready()}, reads {role._source and role._source.assignment()}")


@pytest.mark.parametrize("noticed_by", ["start", "poll", "commit"])
def test_readings_made_anew_are_not_taken_for_the_old(
    stream: Stream, noticed_by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new topic has more records than were scored of the old one: by its offsets alone it looks like a sequel."""
    records: Iterator[Record] = fleet_records(duration_s=900)
    monkeypatch.setattr(kafka_source, "TOPIC_EVERY_S", 0.0 if noticed_by == "poll" else math.inf)
    scorer = open_scorer(stream)
    stream.send(list(islice(records, RECORDS)))
    work_off(scorer, stream)
    # The coordinator answers before the topic has the transaction's end.
    wait_until(lambda: published(stream) > 0)
    before = published(stream)
    offset = committed(stream)
    if noticed_by == "start":
        scorer.close()
    made_anew(stream, stream.settings.stream.readings_topic)
    stream.send(list(islice(records, 2 * RECORDS)))
    if noticed_by != "start":
        why = turned(scorer)
        assert isinstance(why, PositionError)
        assert "recreated" in str(why)
        kill(scorer)
    scorer = open_scorer(stream)
    why = turned(scorer)
    kill(scorer)
    assert isinstance(why, PositionError)
    assert "recreated" in str(why)
    assert published(stream) == before
    assert committed(stream) in (None, offset)


@pytest.mark.parametrize("is_running", [False, True])
def test_scores_made_anew_are_not_placed_behind_the_old(stream: Stream, is_running: bool) -> None:
    records: Iterator[Record] = fleet_records(duration_s=900)
    scorer, archiver = open_scorer(stream), open_archiver(stream)
    stream.send(list(islice(records, RECORDS)))
    work_off(scorer, stream)
    wait_until(stream.archived, each=lambda: archiver.turn(0.02))
    rows = stream.archive_rows()
    if not is_running:
        archiver.close()
    made_anew(stream, stream.settings.stream.scores_topic)
    stream.send(list(islice(records, 4 * RECORDS)))
    work_off(scorer, stream)
    if is_running:
        why = turned(archiver)
        assert isinstance(why, PositionError)
        assert "recreated" in str(why)
        kill(archiver)
    archiver = open_archiver(stream)
    why = turned(archiver)
    kill(archiver)
    scorer.close()
    assert isinstance(why, ScoreLogError)
    assert "the topic was recreated; set store.scores to another folder" in str(why)
    assert stream.archive_rows() == rows
