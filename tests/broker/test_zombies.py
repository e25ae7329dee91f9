"""What a process does that slept while the group gave its partitions away, before it knows of that."""

from __future__ import annotations

import time
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pytest
from kafka import KafkaAdminClient
from kafka.admin import MemberToRemove

from stream_ad.errors import FencedError
from stream_ad.identity import group, member
from stream_ad.io.score_log import log as score_log
from tests.support.e2e import Stream, fleet_records, train_bundle, wait_until
from tests.support.roles import archive_all, kill, open_archiver, open_scorer, work_off

pytestmark = pytest.mark.broker

SESSION_S = 3.0


def be_forgotten(stream: Stream, servers: list[str]) -> None:
    """Sleep for a session; the archiver's heart beats on, so the group is told to forget it."""
    time.sleep(SESSION_S)
    admin = KafkaAdminClient(bootstrap_servers=servers)
    name = MemberToRemove(group_instance_id=member(stream.settings, "archiver"))
    admin.remove_group_members(group(stream.settings, "archiver"), [name])
    admin.close()


@pytest.mark.parametrize("while_writing", [False, True])
def test_an_archiver_that_slept_places_no_file(
    kafka_broker: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, while_writing: bool
) -> None:
    stream = Stream(
        tmp_path / "stream",
        train_bundle(tmp_path / "bundle"),
        kafka_broker,
        partitions=1,
        store={"scores": "scores", "checkpoints": "checkpoints", "part_max_age_s": SESSION_S / 2},
        transport={"kind": "kafka", "servers": kafka_broker, "session_timeout_s": SESSION_S},
    )
    scorer = open_scorer(stream)
    stream.send(list(islice(fleet_records(duration_s=600), 200)))
    work_off(scorer, stream)
    scorer.close()
    zombie = open_archiver(stream)
    wait_until(lambda: zombie._buffered_bytes() > 0, each=lambda: zombie.turn(0.02))
    write_file = score_log.write_file

    def sleep_behind(table: pa.Table, path: Path) -> None:
        write_file(table, path)
        be_forgotten(stream, kafka_broker)

    with monkeypatch.context() as patch:
        if while_writing:
            patch.setattr(score_log, "write_file", sleep_behind)
        else:
            be_forgotten(stream, kafka_broker)
        with pytest.raises(FencedError):
            wait_until(lambda: False, each=lambda: zombie.turn(0.0))
    assert score_log.parts(stream.settings.store.scores) == []
    assert not list(stream.settings.store.scores.rglob("part*"))
    kill(zombie)
    archive_all(stream)
    stream.prove(at_least_alerts=0)
    stream.close()


def test_an_archiver_that_only_paused_goes_on(kafka_broker: list[str], tmp_path: Path) -> None:
    stream = Stream(tmp_path / "stream", train_bundle(tmp_path / "bundle"), kafka_broker, partitions=1)
    scorer, archiver = open_scorer(stream), open_archiver(stream)
    archiver._doubt_s = 0.0  # in doubt before every part
    records = fleet_records(duration_s=600)
    for _ in range(3):
        stream.send(list(islice(records, 100)))
        work_off(scorer, stream)
        wait_until(stream.archived, each=lambda: archiver.turn(0.02))
    scorer.close()
    archiver.close()
    stream.prove(at_least_alerts=0)
    stream.close()
