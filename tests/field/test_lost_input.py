"""Input that retention deleted before it was scored: shown, counted, and no part of what is proven."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from itertools import islice
from typing import Any

import pytest

from stream_ad.cli.main import main
from stream_ad.io.kafka.log import KafkaLog
from stream_ad.io.local.log import LocalLog
from stream_ad.io.transport import Partition
from tests.support.e2e import Stream, fleet_records
from tests.support.roles import archive_all, kill, open_scorer, work_off


def seen(stream: Stream, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Run a verb; return its exit code and all that a person saw."""
    capsys.readouterr()
    code = main([*words, "-c", str(stream.config)])
    found = capsys.readouterr()
    return code, found.out + found.err


def lines_of(text: str, what: str) -> list[str]:
    return [line for line in text.splitlines() if what in line]


def trim(stream: Stream, number: int, before: int) -> None:
    """Do what retention does."""
    assert isinstance(stream.log, LocalLog | KafkaLog)
    stream.log.trim(Partition(stream.settings.stream.readings_topic, number), before)


def lost_input(stream: Stream, number: int, more: int = 300) -> tuple[int, int]:
    """Score some of the input, lose some while nobody runs, score the rest; return what was lost, the end exclusive."""
    place = Partition(stream.settings.stream.readings_topic, number)
    records = list(islice(fleet_records(duration_s=900), 2 * more))
    role = open_scorer(stream)
    stream.send(records[:more])
    work_off(role, stream)
    role.close()
    scored = stream.log.bounds(place)[1]
    stream.send(records[more:])
    end = stream.log.bounds(place)[1]
    kept = scored + (end - scored) // 3
    trim(stream, number, kept)
    role = open_scorer(stream)
    work_off(role, stream)
    assert role.metrics.lost_offsets._value.get() == kept - scored
    role.close()
    return scored, kept


def test_lost_input_is_named_everywhere(make_stream: Callable[..., Stream], capsys: pytest.CaptureFixture[str]) -> None:
    stream = make_stream(partitions=2)
    scored, kept = lost_input(stream, 1)
    archive_all(stream)
    count = f"{kept - scored:,} input offsets"

    code, text = seen(stream, capsys, "status")
    (line,) = lines_of(text, "deleted before they were scored")
    assert code == 1
    assert f"WARN partition 1: {count} ({scored} to {kept - 1}) were deleted before they were scored" in line
    assert re.search(r"found at 20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d", line)
    assert "no warnings" not in text
    code, text = seen(stream, capsys, "status", "--json")
    parts = json.loads(text)["partitions"]
    assert [(one["start"], one["end"]) for one in parts[1]["scoring"]["lost"]] == [(scored, kept)]
    assert parts[0]["scoring"]["lost"] == []

    for words in (["verify"], ["verify", "--topics"]):
        code, text = seen(stream, capsys, *words)
        assert code == 0, text
        last = text.splitlines()[-1]
        place = f"(partition 1: {scored}-{kept - 1})"
        assert last.endswith(f"; {count} were deleted before they were scored {place} and are not counted")
        assert last.count("deleted before") == 1
        assert f"input offsets {scored}-{kept - 1} ({kept - scored:,}) were deleted" in text
    code, text = seen(stream, capsys, "verify", "--json")
    found = json.loads(text)["partitions"]
    assert [one["lost_input"] for one in found] == [[], [[scored, kept]]]
    code, text = seen(stream, capsys, "audit")
    assert code == 0, text
    assert f"input {scored}..{kept - 1} was deleted before it was scored" in text


def test_what_is_proven_leaves_it_out(make_stream: Callable[..., Stream], capsys: pytest.CaptureFixture[str]) -> None:
    stream = make_stream(partitions=1)
    scored, kept = lost_input(stream, 0)
    archive_all(stream)
    code, text = seen(stream, capsys, "verify", "--json")
    (found,) = json.loads(text)["partitions"]
    begin, end = found["input"]
    assert begin <= scored < kept <= end
    code, text = seen(stream, capsys, "verify")
    assert code == 0
    assert f", {end - begin - (kept - scored):,} input offsets, " in text.splitlines()[-1]
    # A compaction keeps what the files tell.
    assert seen(stream, capsys, "compact", "--older-than-hours", "0")[0] == 0
    code, again = seen(stream, capsys, "verify")
    assert code == 0
    assert f"; {kept - scored:,} input offsets were deleted before" in again.splitlines()[-1]


def test_it_is_told_while_nobody_has_scored_since(
    make_stream: Callable[..., Stream], capsys: pytest.CaptureFixture[str]
) -> None:
    stream = make_stream(partitions=1)
    role = open_scorer(stream)
    records = fleet_records(duration_s=900)
    stream.send(list(islice(records, 200)))
    work_off(role, stream)
    role.close()
    scored = stream.ends()[Partition(stream.settings.stream.readings_topic, 0)]
    stream.send(list(islice(records, 100)))
    trim(stream, 0, scored + 40)
    code, text = seen(stream, capsys, "status")
    assert code == 1
    assert f"{40} input offsets ({scored} to {scored + 39}) were deleted before they were scored" in text


def test_lost_twice_and_killed_before_the_next_scores(
    make_stream: Callable[..., Stream], capsys: pytest.CaptureFixture[str]
) -> None:
    """The start over is public before any row of it: the files learn of it with the next scores, from a later life."""
    stream = make_stream(partitions=1)
    place = Partition(stream.settings.stream.readings_topic, 0)
    records = fleet_records(duration_s=900)
    role = open_scorer(stream)
    stream.send(list(islice(records, 300)))
    work_off(role, stream)
    role.close()
    expected = []
    for _ in range(2):
        start = stream.ends()[place]
        stream.send(list(islice(records, 3)))
        expected.append([start, stream.ends()[place]])
        trim(stream, 0, stream.ends()[place])
        role = open_scorer(stream)
        work_off(role, stream)
        kill(role)
    role = open_scorer(stream)
    stream.send(list(islice(records, 600)))
    work_off(role, stream)
    role.close()
    archive_all(stream)
    code, text = seen(stream, capsys, "verify", "--json")
    assert code == 0
    assert json.loads(text)["partitions"][0]["lost_input"] == expected
    code, text = seen(stream, capsys, "verify", "--topics")
    assert code == 0, text


def test_a_day_later_all_is_well_again(
    make_stream: Callable[..., Stream], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = make_stream(partitions=1)
    lost_input(stream, 0, 150)
    now_ns: Callable[[], int] = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: now_ns() + 25 * 3_600_000_000_000)
    found: dict[str, Any] = json.loads(seen(stream, capsys, "status", "--json")[1])
    assert found["partitions"][0]["scoring"]["lost"] == []
