"""Partitions added to the readings: the service goes on, takes them as soon as it can, and names devices that moved."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from itertools import islice

import pytest

from stream_ad.cli.main import main
from stream_ad.errors import RightsError
from stream_ad.io.kafka.log import KafkaLog
from stream_ad.io.local.log import LocalLog
from stream_ad.io.local.records import partition_of
from stream_ad.io.state import journal
from stream_ad.io.state.journal import GrowthEntry
from stream_ad.io.transport import Partition, Record
from stream_ad.io.wire import scores as score_messages
from tests.support.e2e import Stream, fleet_records, wait_until
from tests.support.roles import archive_all, kill, open_archiver, open_scorer, work_off

Capture = pytest.CaptureFixture[str]


def seen(stream: Stream, capsys: Capture, *words: str) -> tuple[int, str]:
    capsys.readouterr()
    code = main([*words, "-c", str(stream.config)])
    found = capsys.readouterr()
    return code, found.out + found.err


def grow(stream: Stream, partitions: int) -> None:
    """Do what `kafka-topics.sh --alter --partitions` does to the readings."""
    stream.log.extend_topic(stream.settings.stream.readings_topic, partitions)
    stream.partitions = partitions


def outputs(stream: Stream) -> list[int]:
    settings = stream.settings.stream
    return [stream.log.topic(name).partitions for name in (settings.scores_topic, settings.journal_topic)]


def devices_of(records: list[Record]) -> set[str]:
    return {(record.key or b"").decode() for record in records if record.value[:1] == b"{"}


def forbid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Grant no right to alter topics."""

    def refuse(self: object, name: str, partitions: int) -> None:
        raise RightsError(f"topic {name}: the broker grants too few rights on the topic {name}")

    monkeypatch.setattr(LocalLog, "extend_topic", refuse)
    monkeypatch.setattr(KafkaLog, "extend_topic", refuse)


def growths(stream: Stream, number: int) -> list[GrowthEntry]:
    place = Partition(stream.settings.stream.journal_topic, number)
    return [entry for entry in journal.read(stream.log, place) if isinstance(entry, GrowthEntry)]


def whole(stream: Stream, capsys: Capture) -> None:
    for words in (["verify"], ["verify", "--topics"], ["audit"]):
        code, text = seen(stream, capsys, *words)
        assert code == 0, text


@pytest.mark.parametrize("is_running", [False, True])
def test_the_service_takes_what_was_added(
    make_stream: Callable[..., Stream], capsys: Capture, caplog: pytest.LogCaptureFixture, is_running: bool
) -> None:
    caplog.set_level(logging.WARNING)
    stream = make_stream(partitions=2)
    records = list(islice(fleet_records(duration_s=900), 900))
    scorer, archiver = open_scorer(stream), open_archiver(stream)
    stream.send(records[:400])
    work_off(scorer, stream)
    if not is_running:
        scorer.close()
        archiver.close()
    grow(stream, 4)
    if not is_running:
        scorer, archiver = open_scorer(stream), open_archiver(stream)

    def both() -> None:
        scorer.turn(0.02)
        archiver.turn(0.02)

    wait_until(lambda: len(scorer._owned) == 4 and outputs(stream) == [4, 4], each=both)
    stream.log.close()
    stream.log = Stream.at(stream.config).log  # a producer that knows the new partitions
    stream.send(records[400:])
    wait_until(stream.scored, each=both)
    wait_until(stream.archived, each=both)
    wait_until(lambda: bool(growths(stream, 0) and growths(stream, 1)), each=both)

    devices = devices_of(records)
    for number in (0, 1):
        moved = sorted(
            one for one in devices if partition_of(one.encode(), 2) == number != partition_of(one.encode(), 4)
        )
        (entry,) = growths(stream, number)
        assert (entry.before, entry.partitions, entry.moved, list(entry.devices)) == (2, 4, len(moved), moved)
        assert moved
    assert "partitions_added" in caplog.messages
    code, text = seen(stream, capsys, "status")
    assert code == 1
    assert "partitions were added to the readings topic (2 before, 4 now)" in text
    assert f"start with empty state there: {moved[0]}" in text
    scorer.close()
    archiver.close()
    stream.prove()
    whole(stream, capsys)
    rows = stream.log.bounds(Partition(stream.settings.stream.scores_topic, 3))[1]
    assert rows > 0
    # A moved device has scores of both its partitions.
    found: dict[str, set[int]] = {}
    for place, _, value, headers in stream.read(stream.settings.stream.scores_topic):
        for device in score_messages.decode(value, headers).table["device"].to_pylist():
            found.setdefault(device, set()).add(place.number)
    assert all(found[one] == {1, partition_of(one.encode(), 4)} for one in moved)


def test_without_the_right_it_goes_on_with_what_it_has(
    make_stream: Callable[..., Stream],
    capsys: Capture,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.WARNING)
    stream = make_stream(partitions=2)
    records = list(islice(fleet_records(duration_s=900), 900))
    scorer = open_scorer(stream)
    stream.send(records[:300])
    work_off(scorer, stream)
    kill(scorer)
    grow(stream, 3)
    stream.log.close()
    stream.log = Stream.at(stream.config).log
    stream.send(records[300:600])
    ends = stream.ends()
    readings = stream.settings.stream.readings_topic

    def old_ones_scored() -> bool:
        place = (Partition(readings, number) for number in range(2))
        group = f"stream-ad.{stream.settings.stream.name}.scorer"
        found = {one: stream.log.committed(group, one) for one in place}
        return all(position is not None and position.offset >= ends[one] for one, position in found.items())

    with monkeypatch.context() as patch:
        forbid(patch)
        scorer, archiver = open_scorer(stream), open_archiver(stream)  # both start
        wait_until(
            lambda: old_ones_scored() and "partition_not_taken" in caplog.messages, each=lambda: scorer.turn(0.02)
        )
        wait_until(lambda: len(archiver._buffers) == 2, each=lambda: (scorer.turn(0.02), archiver.turn(0.02)))
        assert scorer.ready()[0]
        assert outputs(stream) == [2, 2]
        assert stream.log.committed(f"stream-ad.{stream.settings.stream.name}.scorer", Partition(readings, 2)) is None

        code, text = seen(stream, capsys, "status")
        assert code == 1
        assert "WARN not scored: partition 2 of the readings" in text
        assert "`stream-ad check --create`" in text
        assert json.loads(seen(stream, capsys, "status", "--json")[1])["partitions"][2]["scoring"]["lag"]["records"] > 0
        code, text = seen(stream, capsys, "check")
        assert code == 1
        assert "partition 2 of the readings is not scored" in text
        whole_but_files = seen(stream, capsys, "audit")
        assert whole_but_files[0] == 0, whole_but_files[1]

    code, text = seen(stream, capsys, "check", "--create")
    assert "not scored" not in text
    assert outputs(stream) == [3, 3]

    def both() -> None:
        scorer.turn(0.02)
        archiver.turn(0.02)

    wait_until(stream.scored, each=both)  # the running scorer takes it, from the first record on
    stream.send(records[600:])
    wait_until(stream.scored, each=both)
    wait_until(stream.archived, each=both)
    scorer.close()
    archiver.close()
    stream.prove()
    whole(stream, capsys)
    assert "not scored" not in seen(stream, capsys, "status")[1]


def test_killed_at_once_after_it_has_taken_them(make_stream: Callable[..., Stream], capsys: Capture) -> None:
    stream = make_stream(partitions=1)
    records = list(islice(fleet_records(duration_s=900), 900))
    scorer = open_scorer(stream)
    stream.send(records[:300])
    work_off(scorer, stream)
    grow(stream, 2)
    wait_until(lambda: len(scorer._owned) == 2, each=lambda: scorer.turn(0.02))
    kill(scorer)
    stream.log.close()
    stream.log = Stream.at(stream.config).log
    stream.send(records[300:600])
    scorer = open_scorer(stream)
    work_off(scorer, stream)
    kill(scorer)
    scorer = open_scorer(stream)
    stream.send(records[600:])
    work_off(scorer, stream)
    wait_until(lambda: bool(growths(stream, 0)), each=lambda: scorer.turn(0.02))
    scorer.close()
    archive_all(stream)
    stream.prove()
    whole(stream, capsys)
    assert len(growths(stream, 0)) == 1
    assert growths(stream, 1) == []


def test_partitions_shared_by_two_scorers(make_stream: Callable[..., Stream], capsys: Capture) -> None:
    stream = make_stream(partitions=2)
    records = list(islice(fleet_records(duration_s=900), 600))
    scorers = [open_scorer(stream, index) for index in range(2)]

    def each() -> None:
        for scorer in scorers:
            scorer.turn(0.02)

    stream.send(records[:300])
    wait_until(stream.scored, each=each)
    grow(stream, 4)
    wait_until(lambda: sorted(len(scorer._owned) for scorer in scorers) == [2, 2], each=each)
    stream.log.close()
    stream.log = Stream.at(stream.config).log
    stream.send(records[300:])
    wait_until(stream.scored, each=each)
    for scorer in scorers:
        scorer.close()
    archive_all(stream)
    stream.prove()
    whole(stream, capsys)


def test_fewer_partitions_are_still_refused(make_stream: Callable[..., Stream], capsys: Capture) -> None:
    stream = make_stream(partitions=2)
    settings = stream.settings.stream
    stream.log.ensure_topic(settings.scores_topic, 3)
    code, text = seen(stream, capsys, "check", "--create")
    assert code == 1
    assert f"{settings.scores_topic} has 3 partitions, {settings.readings_topic} has 2: they must be equal" in text
