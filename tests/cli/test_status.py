from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from deploy.kafka.broker import first_of_free_ports
from stream_ad.cli.main import main
from stream_ad.inspection import watching
from stream_ad.io.local.log import LocalLog
from stream_ad.io.state import checkpoints
from stream_ad.io.transport import Partition, Record
from stream_ad.service.probes import Probes
from stream_ad.service.roles.archiver import Archiver
from stream_ad.service.roles.scorer import Scorer
from tests.crashes.conftest import make_stream, pump_bundle
from tests.support.e2e import Stream, fleet_records, wait_until
from tests.support.roles import open_scorer, work_off, worked_off

__all__ = ["make_stream", "pump_bundle"]


def looked_at(stream: Stream, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, dict[str, Any]]:
    code = main(["status", "--json", "-c", str(stream.config), *options])
    return code, json.loads(capsys.readouterr().out)


@contextmanager
def served(stream: Stream, roles: dict[int, Scorer | Archiver]) -> Iterator[None]:
    """Serve the roles' pages where the settings say, by their distance from the first port."""
    service = stream.settings.service
    pages = [
        Probes(service.http_host, service.http_port + number, lambda: (True, ""), role.ready, role.metrics.render)
        for number, role in roles.items()
    ]
    try:
        yield
    finally:
        for page in pages:
            page.close()


@pytest.fixture
def port() -> int:
    """The first of two free ports."""
    return first_of_free_ports(1)


def all_is_well(stream: Stream, capsys: pytest.CaptureFixture[str]) -> None:
    """Look at a stream whose roles have worked everything off and are there."""
    scorer, archiver = worked_off(stream)
    with served(stream, {0: archiver, 1: scorer}):
        code, found = looked_at(stream, capsys)
        assert (code, found["warnings"], found["ok"]) == (0, [], True)
        assert [role["state"] for role in found["roles"]] == ["ready", "ready"]
        assert main(["status", "-c", str(stream.config)]) == 0
    shown = capsys.readouterr().out
    model = scorer._models.configured.model_id
    for number, part in enumerate(found["partitions"]):
        scoring, archiving = part["scoring"], part["archiving"]
        assert part["partition"] == number
        assert (scoring["owner"], archiving["owner"]) == ("a-scorer-0", "a-archiver-0")
        assert scoring["lag"] == archiving["lag"] == {"records": 0, "seconds": 0.0, "waiting_s": 0.0}
        assert scoring["is_catching_up"] is False
        assert scoring["model"] == model
        assert scoring["committed"] == stream.ends()[Partition(stream.settings.stream.readings_topic, number)]
        names = checkpoints.names(stream.settings.store.checkpoints, stream.settings.stream.name, number)
        assert [scoring["newest"]["name"], scoring["oldest"]["name"]] == [names[0], names[-1]]
        assert 0 <= scoring["last_result_age_s"] < 120
        last = archiving["last_part"]
        assert (stream.settings.store.scores / last["path"]).exists()
        assert last["path"] in shown
        assert last["rows"] > 0
        assert 0 <= last["age_s"] < 120
    assert found["totals"]["partitions"] == stream.partitions
    assert "no warnings" in shown
    assert model[:12] in shown
    scorer.close()
    archiver.close()


def test_all_is_well(make_stream: Callable[..., Stream], capsys: pytest.CaptureFixture[str], port: int) -> None:
    all_is_well(make_stream(service={"http_port": port}), capsys)


@pytest.mark.broker
def test_all_is_well_on_kafka(
    make_stream: Callable[..., Stream], capsys: pytest.CaptureFixture[str], port: int, kafka_broker: list[str]
) -> None:
    all_is_well(make_stream(service={"http_port": port}, servers=kafka_broker), capsys)


def nobody_is_there(stream: Stream, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at a stream whose roles have gone while readings come."""
    monkeypatch.setattr(watching, "AGAIN_S", 0.0)
    scorer, archiver = worked_off(stream)
    scorer.close()
    archiver.close()
    topic = stream.settings.stream.readings_topic
    for _ in range(2):
        stream.send([Record(b"{}", partition=0)] * 3)
        time.sleep(0.3)
    code, found = looked_at(stream, capsys, "--max-lag", "1ms")
    assert code == 1
    first, second = (part["scoring"] for part in found["partitions"])
    assert first["owner"] == second["owner"] == ""
    assert (first["lag"]["records"], second["lag"]["records"]) == (6, 0)
    # By the log's own times: the newest record against the first that is not scored.
    times = [int(ns) for raw in stream.log.read(Partition(topic, 0), 0, 10**9) for ns in raw.log_ns]
    assert first["lag"]["seconds"] == pytest.approx((times[-1] - times[-6]) / 1e9)
    assert 0.2 < first["lag"]["seconds"] < first["lag"]["waiting_s"]
    assert first["is_catching_up"] is None
    assert first["committed"] == stream.ends()[Partition(topic, 0)] - 6
    assert found["warnings"][:2] == [
        "no owner: no scorer has any of the 2 partitions",
        "no owner: no archiver has any of the 2 partitions",
    ]
    assert any(line.startswith("partition 0: readings wait to be scored: 6 unread") for line in found["warnings"])
    assert not any("partition 1" in line for line in found["warnings"])


def test_nobody_is_there(
    make_stream: Callable[..., Stream], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody_is_there(make_stream(), capsys, monkeypatch)


@pytest.mark.broker
def test_nobody_is_there_on_kafka(
    make_stream: Callable[..., Stream],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    kafka_broker: list[str],
) -> None:
    nobody_is_there(make_stream(servers=kafka_broker), capsys, monkeypatch)


def test_scores_that_wait_for_their_part(
    make_stream: Callable[..., Stream], capsys: pytest.CaptureFixture[str]
) -> None:
    stream = make_stream(partitions=1)
    scorer, archiver = worked_off(stream)
    archiver.close()
    stream.send(list(islice(fleet_records(duration_s=600), 300, 600)))
    work_off(scorer, stream)
    code, found = looked_at(stream, capsys, "--max-part-age", "1ms")
    scores = Partition(stream.settings.stream.scores_topic, 0)
    archiving = found["partitions"][0]["archiving"]
    waiting = [
        int(offset)
        for raw in stream.log.read(scores, *stream.log.bounds(scores))
        for offset in raw.offset
        if offset >= archiving["last_part"]["end"]
    ]
    assert archiving["lag"]["records"] == len(waiting) > 0  # what commits leave in the log is not counted
    assert code == 1
    assert any("the last part is old" in line and f"{len(waiting)} unread" in line for line in found["warnings"])
    scorer.close()


def test_a_role_that_does_not_answer(
    make_stream: Callable[..., Stream], capsys: pytest.CaptureFixture[str], port: int
) -> None:
    stream = make_stream(service={"http_port": port})
    scorer, archiver = worked_off(stream)
    with served(stream, {0: archiver}):
        code, found = looked_at(stream, capsys)
    assert code == 1
    assert found["warnings"] == [f"scorer-0 is unreachable at 127.0.0.1:{port + 1}: Connection refused"]
    assert found["partitions"][0]["scoring"]["is_catching_up"] is None
    with served(stream, {0: archiver, 1: archiver}):
        pass
    other = make_stream(service={"http_port": port})
    with served(other, {0: archiver, 1: scorer}):  # the pages of the first stream
        _, found = looked_at(other, capsys)
    assert {role["text"] for role in found["roles"]} == {"another program or stream answers there"}
    scorer.close()
    archiver.close()


def test_a_partition_that_catches_up(
    make_stream: Callable[..., Stream], capsys: pytest.CaptureFixture[str], port: int
) -> None:
    stream = make_stream(service={"http_port": port}, store={"checkpoint_every_s": 3_600.0}, partitions=1)
    scorer, archiver = worked_off(stream)
    stream.send(list(islice(fleet_records(duration_s=600), 300, 600)))
    work_off(scorer, stream)
    scorer._checkpointer.close()
    scorer._transport.close()  # as a kill does
    again = open_scorer(stream)
    wait_until(lambda: bool(again._owned), each=lambda: again.turn(0.0))
    assert again._owned[Partition(stream.settings.stream.readings_topic, 0)].catching_up
    with served(stream, {0: archiver, 1: again}):
        code, found = looked_at(stream, capsys)
    assert code == 1
    assert found["partitions"][0]["scoring"]["is_catching_up"] is True
    assert found["warnings"] == ["scorer-0 is not ready: catching up: partitions [0]"]
    again.close()
    archiver.close()


def test_input_deleted_before_it_was_scored(
    make_stream: Callable[..., Stream], capsys: pytest.CaptureFixture[str]
) -> None:
    stream = make_stream(partitions=1)
    scorer, archiver = worked_off(stream)
    scorer.close()
    archiver.close()
    stream.send([Record(b"{}", partition=0)] * 10)
    partition = Partition(stream.settings.stream.readings_topic, 0)
    end = stream.ends()[partition]
    assert isinstance(stream.log, LocalLog)
    stream.log.trim(partition, end - 2)
    code, found = looked_at(stream, capsys)
    assert code == 1
    expected = f"partition 0: committed offset {end - 10} is outside the retained range ({end - 2} to {end})"
    assert expected in found["warnings"]
    assert found["partitions"][0]["scoring"]["lag"]["records"] == 2


def test_parts_taken_away(make_stream: Callable[..., Stream], capsys: pytest.CaptureFixture[str]) -> None:
    stream = make_stream(partitions=1)
    scorer, archiver = worked_off(stream)
    for path in stream.settings.store.scores.rglob("*.parquet"):
        path.unlink()
    code, found = looked_at(stream, capsys)
    assert code == 1
    assert any("files were removed" in line for line in found["warnings"])
    scorer.close()
    archiver.close()


def test_a_stream_that_never_ran(make_stream: Callable[..., Stream], capsys: pytest.CaptureFixture[str]) -> None:
    stream = make_stream()
    stream.send([Record(b"{}", partition=1)] * 250)
    code, found = looked_at(stream, capsys)
    assert code == 1
    assert [part["scoring"]["lag"]["records"] for part in found["partitions"]] == [0, 250]
    assert found["partitions"][1]["scoring"]["model"] == ""
    assert main(["status", "-c", str(stream.config)]) == 1
    shown = capsys.readouterr().out
    assert "nobody" in shown
    assert "WARN no owner" in shown


def test_nothing_is_made_by_looking(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "-c", str(config)]) == 1
    assert "the log does not exist yet" in capsys.readouterr().err
    assert sorted(path.name for path in config.parent.iterdir()) == [config.name]


def test_a_broker_that_is_down_is_one_line(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = config.read_text().replace(
        'kind = "local"\npath = "log.sqlite"', 'kind = "kafka"\nservers = ["127.0.0.1:1"]'
    )
    config.write_text(text.replace("[store]", "request_timeout_s = 0.5\n[store]"))
    assert main(["status", "-c", str(config)]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    (line,) = told.err.splitlines()
    assert line == "stream-ad: 127.0.0.1:1: [Errno 111] Connection refused"


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--watch", "0"], "--watch: expected seconds above 0, found 0"),
        (["--max-lag", "soon"], "--max-lag: expected a duration such as 90s, 15m, 1h or 2d, found 'soon'"),
    ],
)
def test_wrong_settings_are_2(config: Path, capsys: pytest.CaptureFixture[str], options: list[str], line: str) -> None:
    assert main(["status", "-c", str(config), *options]) == 2
    assert capsys.readouterr().err.strip().endswith(line)
    config.write_text(config.read_text() + "colour = 1\n")
    assert main(["status", "-c", str(config)]) == 2


@pytest.mark.process
def test_watching_outlives_an_outage(make_stream: Callable[..., Stream]) -> None:
    stream = make_stream()
    log = stream.settings.transport.path  # type: ignore[union-attr]  # local here
    log.rename(f"{log}.away")
    command = [sys.executable, "-m", "stream_ad.cli.main", "status", "--json", "--watch", "0.2"]
    process = subprocess.Popen([*command, "-c", str(stream.config)], stdout=subprocess.PIPE, text=True)
    ending = threading.Timer(60, process.kill)
    ending.start()
    assert process.stdout is not None
    try:
        assert json.loads(process.stdout.readline())["warnings"] == [
            f"{log}: the log does not exist yet; it is created with its first topic"
        ]
        Path(f"{log}.away").rename(log)
        while "partitions" not in (found := json.loads(process.stdout.readline())):
            pass
        assert len(found["partitions"]) == 2
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    finally:
        ending.cancel()
        process.kill()
        process.stdout.close()
        process.wait()
