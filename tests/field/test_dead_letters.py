"""Refused records are shown, and sent again once: what is refused a second time stays where it is."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from stream_ad.assembly import open_transport
from stream_ad.cli.main import main
from stream_ad.io.transport import Headers, Partition, Record
from tests.field.plant import Plant
from tests.field.seen import trained_folder
from tests.field.signals import CHANNELS, START, machine
from tests.support.e2e import Stream, fleet_records
from tests.support.roles import open_scorer, work_off

START_MS = int(START.timestamp() * 1000) + 100_000_000


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_folder(tmp_path_factory.mktemp("trained"))


@pytest.fixture
def refused(plant: Plant, once: Path) -> Plant:
    """A stream in which five records were refused: of an odd kind, without a time, not UTF-8, late, ahead."""
    shutil.copytree(once, plant.folder, dirs_exist_ok=True)
    documents: list[Any] = list(readings())
    documents[100] = {"device": "p1", "ts": "noon", "values": {}}
    documents[200] = {"device": "p2", "values": {"temp": 1.0}}
    documents[300] = b"\xff\xfe raw"
    documents[400] = documents[400] | {"ts": START_MS - 9_000_000}
    documents[450] = documents[450] | {"ts": 4_000_000_000_000}
    plant.append(documents)
    plant.drain()
    return plant


def readings(rows: int = 600) -> Iterator[dict[str, Any]]:
    for row, values in enumerate(machine(rows, seed=3).tolist()):
        yield {"device": "p1", "ts": START_MS + 1_000 * row, "values": dict(zip(CHANNELS, values, strict=True))}


def letters(plant: Plant, *options: str) -> list[dict[str, Any]]:
    return [dict(json.loads(line)) for line in plant.ok("dead-letters", "--json", *options).out.splitlines()]


def newest_readings(plant: Plant, count: int) -> list[tuple[bytes, bytes | None, Headers]]:
    settings = plant.settings()
    transport = open_transport(settings)
    try:
        place = Partition(settings.stream.readings_topic, 0)
        found: list[tuple[bytes, bytes | None, Headers]] = []
        for raw in transport.read(place, *transport.bounds(place)):
            found += zip(raw.values, raw.keys, raw.headers, strict=True)
        return found[-count:]
    finally:
        transport.close()


def test_each_letter_is_a_line_with_place_device_and_reason(refused: Plant) -> None:
    lines = refused.ok("dead-letters").out.splitlines()

    assert len(lines) == 5
    assert "0@100  p1" in lines[0]
    assert "bad_time" in lines[0]
    assert "found 'noon'" in lines[0]
    assert "0@200  p2" in lines[1]
    assert "missing_field" in lines[1]
    assert "late" in lines[3]
    assert "future" in lines[4]


def test_json_has_the_payload_as_text_or_in_base64(refused: Plant) -> None:
    found = letters(refused)

    assert json.loads(found[0]["payload"]) == {"device": "p1", "ts": "noon", "values": {}}
    assert found[0]["source"]["offset"] == 100
    assert found[0]["headers"] == {"content-type": "application/json"}
    assert (found[2]["encoding"], base64.b64decode(found[2]["payload"])) == ("base64", b"\xff\xfe raw")
    assert found[3]["device"] == "p1"
    assert found[4]["first_event"] == "2096-10-02T07:06:40.000000Z"


def test_device_reason_and_time_choose(refused: Plant) -> None:
    assert [one["device"] for one in letters(refused, "--device", "p2")] == ["p2"]
    assert [one["reason"] for one in letters(refused, "--reason", "late", "--reason", "future")] == ["late", "future"]
    assert letters(refused, "--since", "now") == []
    wrong = refused("dead-letters", "--reason", "tired")
    assert wrong.code == 2
    assert "expected one of undecodable" in wrong.err


def test_nothing_is_sent_without_yes(refused: Plant) -> None:
    shown = refused.ok("dead-letters", "--resend").out

    assert "4 records to resend; 1 skipped: late, and would be late again" in shown
    assert newest_readings(refused, 1)[0][0].startswith(b'{"device": "p1"')
    assert len(letters(refused)) == 5
    assert refused("dead-letters", "--yes").code == 2


def test_a_record_goes_again_as_it_was_with_a_mark(refused: Plant) -> None:
    assert "resent 1 record" in refused.ok("dead-letters", "--resend", "--yes", "--reason", "missing_field").out

    ((value, key, headers),) = newest_readings(refused, 1)
    topic = refused.settings().stream.readings_topic
    assert json.loads(value) == {"device": "p2", "values": {"temp": 1.0}}
    assert key == b"p2"
    assert headers == (("content-type", b"application/json"), ("stream-ad-resent", f"{topic}/0@200".encode()))


def test_what_is_refused_again_is_marked_and_never_sent_again(refused: Plant) -> None:
    refused.ok("dead-letters", "--resend", "--yes")
    refused.drain()
    second = [one for one in letters(refused) if one["resent"]]
    topic = refused.settings().stream.readings_topic

    assert [one["resent"] for one in second] == [f"{topic}/0@{offset}" for offset in (100, 200, 300, 450)]
    assert refused.ok("dead-letters").out.count("resent; first at") == 4
    again = refused.ok("dead-letters", "--resend", "--yes").out
    assert "resent 0 records" in again
    assert "4 skipped: refused again after being resent" in again
    assert "4 skipped: already resent" in again
    refused.drain()
    assert len(letters(refused)) == 9


def test_late_readings_go_only_when_they_are_named(refused: Plant) -> None:
    assert "resent 1 record" in refused.ok("dead-letters", "--resend", "--yes", "--reason", "late").out
    refused.drain()

    assert [one["reason"] for one in letters(refused) if one["resent"]] == ["late"]


def test_a_stream_with_resent_records_is_whole(refused: Plant) -> None:
    refused.ok("dead-letters", "--resend", "--yes")
    refused.drain()

    refused.ok("verify", "--topics")
    refused.ok("audit")


def test_a_stream_without_letters_shows_none(plant: Plant, once: Path) -> None:
    shutil.copytree(once, plant.folder, dirs_exist_ok=True)
    plant.append(readings(200))
    plant.drain()

    assert plant.ok("dead-letters").out == ""
    assert "0 records to resend" in plant.ok("dead-letters", "--resend").out


def test_on_every_log_a_record_goes_again_once_and_counts(
    make_stream: Callable[..., Stream], capsys: pytest.CaptureFixture[str]
) -> None:
    stream = make_stream(partitions=2)
    role = open_scorer(stream)
    bad = [Record(b"no json", key, (("h", b"v"),), number) for number, key in enumerate([b"pump-1", None])]
    stream.send([*islice(fleet_records(duration_s=300), 150), *bad])
    work_off(role, stream)

    def printed(*words: str) -> str:
        assert main([*words, "-c", str(stream.config)]) == 0
        return capsys.readouterr().out

    first = [json.loads(line) for line in printed("dead-letters", "--json").splitlines()]
    for count in (len(first), 0):
        assert f"sent {count} record" in printed("dead-letters", "--resend", "--yes")
        work_off(role, stream)
    role.close()
    found = [json.loads(line) for line in printed("dead-letters", "--json").splitlines()]
    again = [one for one in found if one["resent"]]
    assert len(found) == 2 * len(first)
    assert {one["resent"] for one in again} == {
        f"{one['source']['topic']}/{one['source']['partition']}@{one['source']['offset']}" for one in first
    }
    ours = [one for one in again if one["headers"].get("h") == "v"]
    assert sorted((str(one["key"]), one["source"]["partition"]) for one in ours) == [("None", 1), ("pump-1", 0)]
    main(["status", "--json", "-c", str(stream.config)])
    causes = json.loads(capsys.readouterr().out)["intake"]["causes"]
    assert sum(one["count"] for one in causes if one["cause"] != "unknown_device") == len(found)


def test_a_device_with_brackets_is_found_as_it_is_typed(plant: Plant, once: Path) -> None:
    shutil.copytree(once, plant.folder, dirs_exist_ok=True)
    plant.append({"device": device, "ts": "noon", "values": {}} for device in ("Pumpe [1]", "pump-1", "a,b"))
    plant.drain()
    for typed, found in (("Pumpe [1]", "Pumpe [1]"), ("pump-*", "pump-1"), ("a,b", "a,b")):
        assert [letter["device"] for letter in letters(plant, "--device", typed)] == [found]
