"""The groups' offsets deleted or moved by somebody: refused in one line that names the verb that puts them back."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest

from stream_ad.cli.main import main
from stream_ad.errors import OffsetsError, PartsGoneError, StreamAdError
from stream_ad.identity import group
from stream_ad.io.transport import Partition, Position, Record
from stream_ad.replaying import Marker
from stream_ad.service.role import Exit, exit_code
from stream_ad.service.roles.catalog import RoleContext
from stream_ad.service.roles.scorer import Scorer
from tests.support.e2e import Stream, fleet_records, wait_until
from tests.support.roles import archive_all, kill, open_archiver, open_scorer, work_off

Capture = pytest.CaptureFixture[str]
MOVES = ("deleted", "back", "forward", "stale metadata", "an older position")


def seen(stream: Stream, capsys: Capture, *words: str) -> tuple[int, str]:
    capsys.readouterr()
    code = main([*words, "-c", str(stream.config)])
    found = capsys.readouterr()
    return code, found.out + found.err


def committed(stream: Stream, number: int, role: str = "scorer") -> Position | None:
    settings = stream.settings.stream
    topic = settings.readings_topic if role == "scorer" else settings.scores_topic
    return stream.log.committed(group(stream.settings, role), Partition(topic, number))


def put(stream: Stream, number: int, position: tuple[int, str] | None, role: str = "scorer") -> None:
    """Do what an operator does with `kafka-consumer-groups.sh`, as soon as the group has no member."""
    settings = stream.settings.stream
    topic = settings.readings_topic if role == "scorer" else settings.scores_topic

    def done() -> bool:
        try:
            stream.log.set_positions(group(stream.settings, role), topic, {Partition(topic, number): position})
        except StreamAdError:
            return False
        return True

    wait_until(done)


def moved(stream: Stream, how: str, earlier: Position) -> None:
    """Move or delete the position of partition 0."""
    now = committed(stream, 0)
    assert now is not None
    assert earlier.offset < now.offset
    put(
        stream,
        0,
        {
            "deleted": None,
            "back": (now.offset - 30, ""),
            "forward": (now.offset + 5, ""),
            "stale metadata": (now.offset - 30, now.metadata),
            "an older position": (earlier.offset, earlier.metadata),
        }[how],
    )


def lived(stream: Stream, records: list[Record], die: bool = False) -> None:
    role = open_scorer(stream)
    stream.send(records)
    work_off(role, stream)
    kill(role) if die else role.close()


def refused(stream: Stream) -> StreamAdError:
    """Start a scorer as a service does; return why it ends."""
    role = Scorer(RoleContext(stream.settings, 0, lambda: None, checks_offsets=True))
    with pytest.raises(StreamAdError) as why:
        role.open()
    kill(role)
    return why.value


@pytest.mark.parametrize("how", MOVES)
def test_a_position_is_put_back(make_stream: Callable[..., Stream], capsys: Capture, how: str) -> None:
    stream = make_stream(partitions=2)
    records = list(islice(fleet_records(duration_s=900), 900))
    lived(stream, records[:300])
    earlier = committed(stream, 0)
    assert earlier is not None
    lived(stream, records[300:600])
    archive_all(stream)
    true = committed(stream, 0)
    moved(stream, how, earlier)
    stream.send(records[600:605])

    why = refused(stream)
    assert isinstance(why, OffsetsError)
    assert exit_code(why) is Exit.CONFIGURATION
    assert "`stream-ad reposition`" in str(why)
    assert ("nothing is committed" if how == "deleted" else "changed by hand") in str(why)
    assert len(str(why).splitlines()) == 1
    code, text = seen(stream, capsys, "status")
    assert code == 1
    assert "reposition" in text
    assert "no warnings" not in text

    code, text = seen(stream, capsys, "check")
    assert code == 1
    assert "FAIL offsets" in text
    assert "reposition" in text

    before = committed(stream, 0)
    code, text = seen(stream, capsys, "reposition")
    assert code == 1
    assert "would be restored to" in text
    assert "nothing was changed" in text
    assert committed(stream, 0) == before
    code, text = seen(stream, capsys, "reposition", "--yes")
    assert code == 0, text
    assert "1 restored" in text
    now = committed(stream, 0)
    assert now is not None
    assert true is not None
    assert earlier.offset < now.offset <= true.offset
    marker, was = Marker.from_text(now.metadata), Marker.from_text(true.metadata)
    same = ("covered", "entries", "generation", "model_id", "topic_id", "control", "lost")
    assert {name: getattr(marker, name) for name in same} == {name: getattr(was, name) for name in same}
    assert seen(stream, capsys, "reposition")[0] == 0

    lived(stream, records[605:])
    archive_all(stream)
    stream.prove()
    for words in (["verify", "--topics"], ["audit"]):
        code, text = seen(stream, capsys, *words)
        assert code == 0, text


def test_no_letter_and_no_alert_comes_twice(make_stream: Callable[..., Stream], capsys: Capture) -> None:
    """Letters were published behind the last span of scores: the position is put behind them."""
    stream = make_stream(partitions=1)
    records = list(islice(fleet_records(duration_s=900), 700))
    lived(stream, records[:400])
    lived(stream, [Record(b"rubbish %d" % number, b"x") for number in range(7)])
    put(stream, 0, None)
    code, text = seen(stream, capsys, "reposition", "--yes")
    assert code == 0, text
    now = committed(stream, 0)
    assert now is not None
    assert now.offset >= 407
    assert Marker.from_text(now.metadata).covered.offset < now.offset
    lived(stream, records[400:], die=True)
    archive_all(stream)
    stream.prove()


@pytest.mark.process
def test_the_service_ends_with_one_line_and_is_not_started_again(make_stream: Callable[..., Stream]) -> None:
    stream = make_stream(partitions=1)
    lived(stream, list(islice(fleet_records(duration_s=900), 300)))
    put(stream, 0, None)
    command = [sys.executable, "-m", "stream_ad.cli.main", "-c", str(stream.config), "--log-format", "json", "run"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == Exit.CONFIGURATION
    lines = [json.loads(line) for line in ended.stderr.splitlines()]
    (failed,) = [line for line in lines if line["event"] == "failed"]
    assert (failed["error"], failed["exit_code"]) == ("OffsetsError", Exit.CONFIGURATION)
    assert "`stream-ad reposition`" in failed["message"]
    assert [line["child"] for line in lines if line["event"] == "role_started"].count("scorer-0") == 1


def test_running_roles_are_not_overruled(make_stream: Callable[..., Stream], capsys: Capture) -> None:
    stream = make_stream(partitions=1, transport={"session_timeout_s": 6.0})
    records = list(islice(fleet_records(duration_s=900), 300))
    role = open_scorer(stream)
    stream.send(records)
    work_off(role, stream)
    partition = Partition(stream.settings.stream.readings_topic, 0)
    with pytest.raises(StreamAdError, match="expected no members"):
        stream.log.set_positions(group(stream.settings, "scorer"), partition.topic, {partition: (1, "")})
    assert seen(stream, capsys, "reposition")[0] == 0
    assert seen(stream, capsys, "reposition", "--yes")[0] == 0
    role.turn(0.0)
    role.close()


def test_the_archiver_too(make_stream: Callable[..., Stream], capsys: Capture) -> None:
    stream = make_stream(partitions=1)
    records = list(islice(fleet_records(duration_s=900), 600))
    lived(stream, records[:300])
    archive_all(stream)
    true = committed(stream, 0, "archiver")
    assert true is not None
    lived(stream, records[300:])
    end = stream.log.bounds(Partition(stream.settings.stream.scores_topic, 0))[1]
    put(stream, 0, (end, ""), "archiver")
    archiver = open_archiver(stream)
    with pytest.raises(PartsGoneError, match="reposition") as why:
        wait_until(lambda: False, each=lambda: archiver.turn(0.05))
    kill(archiver)
    assert exit_code(why.value) is Exit.CONFIGURATION
    assert seen(stream, capsys, "reposition")[0] == 1
    code, text = seen(stream, capsys, "reposition", "--yes")
    assert code == 0, text
    assert committed(stream, 0, "archiver") == true
    archive_all(stream)
    stream.prove()


def test_a_topic_made_anew_is_no_moved_offset(make_stream: Callable[..., Stream], capsys: Capture) -> None:
    """The old scores must not be taken for those of the new readings."""
    stream = make_stream(partitions=1)
    records = list(islice(fleet_records(duration_s=900), 300))
    lived(stream, records)
    topic = stream.settings.stream.readings_topic
    put(stream, 0, None)
    stream.log.delete_topic(topic)
    stream.log.ensure_topic(topic, 1)
    stream.send(records + records)
    code, text = seen(stream, capsys, "reposition", "--yes")
    assert code == 1
    assert "recreated since it was scored" in text
    assert committed(stream, 0) is None


def test_scores_that_are_gone_from_the_topic_are_looked_for_in_the_files(
    make_stream: Callable[..., Stream], capsys: Capture
) -> None:
    stream = make_stream(partitions=1)
    records = list(islice(fleet_records(duration_s=900), 600))
    lived(stream, records[:300])
    archive_all(stream)
    scores = Partition(stream.settings.stream.scores_topic, 0)
    stream.log.trim(scores, stream.log.bounds(scores)[1])  # type: ignore[attr-defined]  # both transports of tests have it
    put(stream, 0, None)
    folder = stream.settings.store.scores
    aside = folder.rename(folder.with_name("aside"))
    code, text = seen(stream, capsys, "reposition", "--yes")
    assert code == 1
    assert "has no files of them" in text
    aside.rename(folder)
    code, text = seen(stream, capsys, "reposition", "--yes")
    assert code == 0, text
    lived(stream, records[300:])
    archive_all(stream)
    for words in (["verify", "--topics"], ["audit"]):
        code, text = seen(stream, capsys, *words)
        assert code == 0, text


def test_nothing_to_put_back(make_stream: Callable[..., Stream], capsys: Capture) -> None:
    stream = make_stream(partitions=1)
    code, text = seen(stream, capsys, "reposition", "--json")
    assert code == 0
    assert [json.loads(line)["fault"] for line in text.splitlines()] == [""]
    put(stream, 0, (3, ""))
    stream.send(list(islice(fleet_records(duration_s=900), 300)))
    assert seen(stream, capsys, "reposition")[0] == 1
    code, text = seen(stream, capsys, "reposition", "--yes")
    assert code == 0
    assert "no offset, so that the role starts from the beginning" in text
    assert committed(stream, 0) is None
    lived(stream, [])
    archive_all(stream)
    stream.prove(at_least_alerts=0)
    assert Path(stream.config).exists()
