from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from stream_ad.config import parse
from stream_ad.errors import ConfigError, FencedError, PositionError, ScoreLogError
from stream_ad.io.local.log import LocalLog
from stream_ad.io.score_log import exchange as score_exchange
from stream_ad.io.score_log import log as score_log
from stream_ad.io.score_log.compaction import compact
from stream_ad.io.spans import Span
from stream_ad.io.transport import Partition, Record
from stream_ad.io.wire.scores import ScoreMessage, decode
from stream_ad.proof.verification import verify
from stream_ad.role_table import ARCHIVER, SCORER
from stream_ad.service.role import Exit
from stream_ad.service.roles import archiver as module
from stream_ad.service.roles.archiver import Archiver
from stream_ad.service.roles.catalog import RoleContext
from stream_ad.service.roles.part_buffer import HOUR_NS
from tests.support.e2e import wait_until
from tests.support.scores import TOPIC, messages, settings_in, verdicts


class House:
    """A log with a scores topic, a folder for parts, and archivers on them."""

    def __init__(self, folder: Path, partitions: int = 1, clock: Callable[[], int] = time.time_ns) -> None:
        self.folder = folder
        self.log = LocalLog(folder / "log.sqlite", clock=clock)
        self.log.ensure_topic("sensor.readings.v1", partitions)
        self.topic = self.log.ensure_topic(TOPIC, partitions)
        self.running: list[Archiver] = []
        self.sent = [0] * partitions

    def send(
        self,
        rows: int = 4,
        partition: int = 0,
        max_bytes: int = 900_000,
        journal: tuple[int, int] = (0, 0),
        generation: int = 0,
    ) -> int:
        """Publish one input span of `rows` windows; return how many messages it took."""
        first = self.sent[partition]
        self.sent[partition] += rows
        records = messages(
            verdicts(first, rows),
            (first, first + rows),
            partition,
            max_bytes,
            journal=journal,
            generation=generation,
        )
        self.log.append(TOPIC, records)
        return len(records)

    def archiver(self, **store: float) -> Archiver:
        settings = settings_in(self.folder, **store)
        role = Archiver(RoleContext(settings, 0, lambda: None), lambda: LocalLog(self.folder / "log.sqlite"))
        role.open()
        self.running.append(role)
        return role

    def kill(self, role: Archiver) -> None:
        """End an archiver as `kill -9` does: nothing is written or left."""
        self.running.remove(role)
        role._transport.close()

    def rows(self, partition: int = 0) -> list[int]:
        """Return the sequence numbers in the score log, in order of the files."""
        table = score_log.read(self.folder / "scores")
        if not table.num_rows:
            return []
        mine = np.asarray(table["partition"]) == partition
        return [int(number) for number in np.asarray(table["sequence"])[mine]]

    def parts(self, partition: int = 0) -> list[score_log.PartInfo]:
        return score_log.parts(self.folder / "scores", partition)

    def files(self) -> int:
        return sum(1 for _ in (self.folder / "scores").glob("log_date=*/*/part-*"))

    def all_once(self, partition: int = 0) -> None:
        """Check that every row is there once and that the parts chain."""
        parts = self.parts(partition)
        assert self.rows(partition) == list(range(self.sent[partition]))
        assert [part.span.start for part in parts[1:]] == [part.span.end for part in parts[:-1]]
        assert [part.spans.input.start for part in parts[1:]] == [part.spans.input.end for part in parts[:-1]]
        assert {part.topic_id for part in parts} == {self.topic.topic_id}


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path)
    yield house
    close(house)


def close(house: House) -> None:
    for role in house.running:
        role._transport.close()
    house.log.close()


def settle(role: Archiver, turns: int = 3) -> None:
    for _ in range(turns):
        role.turn(0.02)


def test_messages_become_linked_parts_that_chain(house: House) -> None:
    role = house.archiver()
    for _ in range(3):
        house.send()
        settle(role)
    assert len(house.parts()) == 3
    house.all_once()
    assert role.ready() == (True, "1 partition(s)")
    (extra,) = {tuple(sorted(part.extra.items())) for part in house.parts()}
    assert extra == (("config_digests", "c0ffee"), ("model_ids", "abc123"), ("stream", "pumps"), ("topic", TOPIC))


def test_a_part_closes_by_rows_and_else_by_age(house: House) -> None:
    role = house.archiver(part_max_age_s=3_600, part_max_rows=10)
    for _ in range(5):
        house.send(rows=4)
    settle(role)
    assert [part.rows for part in house.parts()] == [12]
    role.close()
    house.running.clear()
    house.all_once()  # the hand-over wrote the rest


def test_a_new_hour_of_the_log_starts_a_new_part(tmp_path: Path) -> None:
    hours = iter([1, 1, 2, 4])
    now = [0]
    house = House(tmp_path, clock=lambda: now[0])
    for hour in hours:
        now[0] = hour * 3_600_000_000_000 + 1
        house.send()
    role = house.archiver()
    settle(role)
    names = [part.path.parent.name for part in house.parts()]
    assert names == ["log_hour=01", "log_hour=02", "log_hour=04"]
    house.all_once()
    close(house)


def test_an_input_span_is_never_cut(house: House) -> None:
    count = house.send(rows=400, max_bytes=12_000)
    assert count > 3
    house.send()
    role = house.archiver(part_max_rows=100)
    role._poll_records = 2  # polls end inside the span
    settle(role, 2 + count)
    assert house.parts()[0].spans.input == Span(0, 400)
    house.all_once()


@pytest.mark.parametrize("when", ["read", "written", "between"])
def test_a_killed_archiver_goes_on_after_its_newest_part(house: House, when: str) -> None:
    house.send()
    role = house.archiver(part_max_age_s=0.001 if when != "read" else 3_600)
    settle(role)
    if when == "between":  # linked, but the group's offset was not committed
        role._committer.close()
        house.send()
        with pytest.raises(Exception, match="closed"):
            settle(role)
    house.kill(role)
    house.send()
    settle(house.archiver())
    house.all_once()


@pytest.mark.parametrize(("instance", "index"), [("b", 0), ("a", 1)], ids=["another host", "the same host"])
def test_two_archivers_share_the_partitions(tmp_path: Path, instance: str, index: int) -> None:
    house = House(tmp_path, partitions=2)
    house.send(partition=0)
    house.send(partition=1)
    first = house.archiver(part_max_age_s=3_600)
    settle(first)
    settings = settings_in(tmp_path).model_dump(mode="json")
    settings["service"]["instance"] = instance
    second = Archiver(RoleContext(parse(settings), index, lambda: None), lambda: LocalLog(tmp_path / "log.sqlite"))
    second.open()
    house.running.append(second)
    for _ in range(4):
        settle(first, 1)
        settle(second, 1)
    assert {len(role._buffers) for role in (first, second)} == {1}
    house.send(partition=0)
    house.send(partition=1)
    for role in (first, second):
        settle(role)
        role.close()
    house.running.clear()
    house.all_once(0)
    house.all_once(1)
    close(house)


def test_pages_of_all_roles_have_ports_of_their_own(tmp_path: Path) -> None:
    settings = settings_in(tmp_path).model_dump(mode="json")
    settings["service"]["http_port"] = 9_464
    parsed = parse(settings)
    found = [spec.address(parsed, index) for spec in (SCORER, ARCHIVER) for index in range(4)]
    assert len({address for address in found if address}) == len(found)
    assert found[4] == ("127.0.0.1", 9_464)
    with pytest.raises(ConfigError, match="would use port 0"):
        ARCHIVER.address(parsed, 9_464)


def test_a_zombie_places_no_file(house: House) -> None:
    zombie = house.archiver(part_max_age_s=3_600)
    house.send()
    settle(zombie)
    (buffer,) = zombie._buffers.values()
    settle(house.archiver())
    buffer.seal()
    with pytest.raises(FencedError, match="another archiver took over"):
        zombie._write_full()
    house.all_once()


def test_a_zombie_places_no_file_after_compaction(tmp_path: Path) -> None:
    now = [HOUR_NS * 400_000]
    house = House(tmp_path, clock=lambda: now[0])
    zombie = house.archiver(part_max_age_s=3_600)
    house.send()
    settle(zombie)
    (buffer,) = zombie._buffers.values()
    buffer.seal()
    other = house.archiver()
    settle(other)
    house.send()
    settle(other)
    now[0] += HOUR_NS
    house.send()
    settle(other)
    (report,) = compact(tmp_path / "scores", now[0], 1_000, grace_s=0.0)
    assert report.before == 2
    with pytest.raises(FencedError, match="another archiver took over"):
        zombie._write_full()
    house.all_once()
    house.kill(other)
    house.send()
    settle(house.archiver())  # goes on after compaction
    house.all_once()
    assert verify(tmp_path / "scores").gaps == ()
    close(house)


def test_an_archiver_that_starts_finishes_a_compaction_that_died(tmp_path: Path) -> None:
    now = [HOUR_NS * 400_000]
    house = House(tmp_path, clock=lambda: now[0])
    role = house.archiver()
    for hour in (0, 0, 0, 1):
        now[0] = HOUR_NS * (400_000 + hour)
        house.send()
        settle(role)
    house.kill(role)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(score_exchange.Exchange, "adopt", lambda _: sys.exit("killed"))
        with pytest.raises(SystemExit):
            compact(tmp_path / "scores", now[0], 1_000, grace_s=0.0)
    assert score_exchange.is_unfinished(tmp_path / "scores")
    house.archiver()
    assert not score_exchange.is_unfinished(tmp_path / "scores")
    house.all_once()
    close(house)


@pytest.mark.process
def test_a_stopped_archiver_that_wakes_up_after_compaction_places_no_file(tmp_path: Path) -> None:
    old_ns = (time.time_ns() // HOUR_NS - 3) * HOUR_NS
    now = [old_ns]
    house = House(tmp_path, clock=lambda: now[0])

    def start(instance: str, part_max_age_s: float, *module: str) -> subprocess.Popen[str]:
        config = tmp_path / f"{instance}.toml"
        config.write_text(
            '[stream]\nname = "pumps"\nbundle = "bundle"\n[transport]\nkind = "local"\npath = "log.sqlite"\n'
            f'session_timeout_s = 1.5\n[store]\nscores = "scores"\ncheckpoints = "c"\n'
            f'part_max_age_s = {part_max_age_s}\n[service]\nhttp_port = 0\ninstance = "{instance}"\n'
        )
        command = [sys.executable, "-m", *module, "-c", str(config), "--log-format", "json", "run"]
        with (tmp_path / f"{instance}.log").open("w") as file:
            return subprocess.Popen([*command, "archiver"], stderr=file, text=True)

    for _ in range(3):
        house.send()
    # It stops once it holds them.
    processes = [start("zombie", 3_600, "tests.crashes.dying", "--stop", "--at", "stepped", "--")]
    try:
        (zombie,) = processes
        wait_until(lambda: psutil.Process(zombie.pid).status() == psutil.STATUS_STOPPED)
        processes.append(start("other", 0.05, "stream_ad.cli.main"))
        for now_ns in (old_ns, old_ns, time.time_ns()):
            now[0] = now_ns
            house.send()
            wait_until(lambda: house.files() > 0 and house.parts()[-1].spans.input.end == house.sent[0])
        reports = compact(tmp_path / "scores", time.time_ns() - HOUR_NS, 1_000, grace_s=0.0)
        assert [report.after for report in reports] == [1], [part.path for part in house.parts()]
        before = sorted(path.name for path in (tmp_path / "scores").rglob("*"))
        zombie.send_signal(signal.SIGCONT)
        assert zombie.wait(60) == Exit.FENCED, (tmp_path / "zombie.log").read_text()
        assert sorted(path.name for path in (tmp_path / "scores").rglob("*")) == before
        house.send()
        wait_until(lambda: house.parts()[-1].spans.input.end == house.sent[0])
        processes[1].send_signal(signal.SIGTERM)
        assert processes[1].wait(60) == 0
    finally:
        for process in processes:
            process.kill()
            process.wait()
    house.all_once()
    assert verify(tmp_path / "scores").gaps == ()
    close(house)


def archived(house: House, parts: int) -> None:
    """Archive some parts, commit, and end."""
    for _ in range(parts):
        house.send()
        role = house.archiver()
        settle(role)
        role.close()
        house.running.clear()


def test_a_lost_folder_is_refused_until_a_person_gives_it_up(house: House) -> None:
    archived(house, 3)
    house.log.trim(Partition(TOPIC, 0), 2)
    house.send()
    folder = house.folder / "scores"
    shutil.rmtree(folder)
    text = "archived up to offset .*, but the newest part there ends at none: files were removed. Restore them"
    with pytest.raises(ScoreLogError, match=text) as caught:
        settle(house.archiver())
    line = str(caught.value).split("`")[1]
    for wrong in ("0 1", line + "0", ""):
        folder.mkdir(exist_ok=True)
        (folder / module.GIVEN_UP).write_text(wrong + "\n")
        with pytest.raises(ScoreLogError, match=text):
            settle(house.archiver())
    (folder / module.GIVEN_UP).write_text(line + "\n")
    role = house.archiver()
    settle(role)
    assert house.rows() == list(range(8, 16))  # of the messages that are left
    first = house.parts()[0]
    assert (first.is_first, first.spans.input.start) == (True, 8)
    proof = verify(folder)
    assert proof.gaps == ()
    assert not proof.chains[0].is_from_start
    house.kill(role)
    shutil.rmtree(folder)  # lost again: what was said then does not count now
    folder.mkdir()
    (folder / module.GIVEN_UP).write_text(line + "\n")
    with pytest.raises(ScoreLogError, match=text):
        settle(house.archiver())


def test_a_part_lost_at_the_end_is_refused(house: House) -> None:
    archived(house, 3)
    house.parts()[-1].path.unlink()
    with pytest.raises(ScoreLogError, match=r"newest part there ends at \d+: files were removed. .* move the folder"):
        settle(house.archiver())


def test_an_older_copy_of_the_folder_is_refused(house: House) -> None:
    archived(house, 2)
    folder = house.folder / "scores"
    shutil.copytree(folder, house.folder / "copy")
    archived(house, 2)
    shutil.rmtree(folder)
    (house.folder / "copy").rename(folder)
    with pytest.raises(ScoreLogError, match=r"files were removed. Restore them"):
        settle(house.archiver())


def test_what_follows_an_older_copy_is_no_hole(house: House) -> None:
    """Killed before it committed, an archiver writes the lost part again."""
    archived(house, 2)
    role = house.archiver()
    role._committer.close()
    house.send()
    with pytest.raises(Exception, match="closed"):
        settle(role)
    house.kill(role)
    house.parts()[-1].path.unlink()
    settle(house.archiver())
    house.all_once()
    assert verify(house.folder / "scores").gaps == ()


def test_an_archive_begins_with_a_whole_span(house: House) -> None:
    count = house.send(rows=400, max_bytes=12_000)
    assert count > 2
    house.log.trim(Partition(TOPIC, 0), 1)  # retention cuts anywhere
    house.send()
    settle(house.archiver())
    assert [(part.span.start, part.spans.input) for part in house.parts()] == [(1, Span(400, 404))]


def test_a_topic_made_anew_is_refused(house: House) -> None:
    house.send()
    role = house.archiver()
    settle(role)
    house.kill(role)
    house.log.delete_topic(TOPIC)
    house.log.ensure_topic(TOPIC, 1)
    with pytest.raises(ScoreLogError, match=r"the topic was recreated; set store\.scores to another folder"):
        settle(house.archiver())
    (house.folder / "scores").rename(house.folder / "old")  # which is what the line says
    house.send()
    role = house.archiver()
    settle(role)
    assert verify(house.folder / "old").chains[0].rows == 4
    assert house.parts()[0].is_first


def test_deleted_scores_are_refused_and_deleted_markers_are_not(house: House) -> None:
    house.send()
    role = house.archiver()
    settle(role)
    house.kill(role)
    scores = Partition(TOPIC, 0)
    house.log.append(TOPIC, [Record(b"gone", partition=0)])
    house.log.trim(scores, 2)  # no scores: the next message follows on the newest part
    house.send()
    role = house.archiver()
    settle(role)
    house.all_once()
    house.kill(role)
    house.send()
    house.log.trim(scores, 4)
    house.send()
    with pytest.raises(
        PositionError, match="input offset 8 and journal entry 0, the earliest message left starts at 12 and 0"
    ):
        settle(house.archiver())


def test_a_gap_in_the_input_is_told(house: House) -> None:
    house.send()
    house.sent[0] += 5
    house.send()
    role = house.archiver()
    settle(role)
    assert role.metrics.input_gaps._value.get() == 1
    assert [part.spans.input for part in house.parts()] == [Span(0, 4), Span(9, 13)]


def test_a_gap_in_the_journal_is_told(house: House) -> None:
    role = house.archiver(part_max_age_s=3_600)
    house.send(journal=(0, 1))
    house.send(journal=(1, 1))
    settle(role)
    assert role.metrics.input_gaps._value.get() == 0
    house.send(journal=(2, 3))
    settle(role)
    assert role.metrics.input_gaps._value.get() == 1
    role.close()
    house.running.clear()
    assert [part.spans.journal for part in house.parts()] == [Span(0, 1), Span(2, 3)]


def test_a_part_holds_one_generation(house: House) -> None:
    role = house.archiver(part_max_age_s=3_600)
    for entries, generation in (((0, 1), 0), ((1, 1), 0), ((1, 2), 1), ((2, 2), 1)):
        house.send(journal=entries, generation=generation)
    settle(role)
    role.close()
    house.running.clear()
    assert [(part.generation, part.spans.journal, part.rows) for part in house.parts()] == [
        (0, Span(0, 1), 8),
        (1, Span(1, 2), 8),
    ]
    house.all_once()


@pytest.mark.parametrize("record", [Record(b"nonsense", partition=0), Record(b"", partition=0)])
def test_a_foreign_record_breaks_the_contract(house: House, record: Record) -> None:
    house.log.append(TOPIC, [record])
    with pytest.raises(ScoreLogError, match=rf"{TOPIC}/0 offset 0: score message"):
        settle(house.archiver())


def test_half_a_span_breaks_the_contract(house: House) -> None:
    records = messages(verdicts(0, 400), (0, 400), max_bytes=12_000)
    house.log.append(TOPIC, [records[0], records[2]])
    with pytest.raises(ScoreLogError, match="expected message 1 of an input span, found 2"):
        settle(house.archiver())


def test_a_full_disk_is_waited_out(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_S", (0.05, 0.05))
    monkeypatch.setattr(module, "BUFFER_BYTES", 1)
    role = house.archiver()
    blocker = house.folder / "scores" / score_log.ASIDE
    blocker.parent.mkdir()
    blocker.touch()  # no file can be written aside
    house.send()
    settle(role)
    assert role.ready()[0] is False
    assert "cannot be written" in role.ready()[1]
    house.send()
    settle(role)
    assert role._buffered_bytes() > 0
    assert role.metrics.records._value.get() == 1  # back-pressure: the second was not polled
    blocker.unlink()
    time.sleep(0.06)
    settle(role, 4)
    assert role.ready()[0]
    house.all_once()


def test_a_silent_member_keeps_its_place_while_it_cannot_write(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEEP_ALIVE_S", 0.0)
    role = house.archiver()
    house.send()
    settle(role)
    (buffer,) = role._buffers.values()
    role._retry_s, role._retry_at = 0.05, time.monotonic() + 0.05
    monkeypatch.setattr(module, "BUFFER_BYTES", 0)
    role.turn(0.01)
    position = house.log.committed("stream-ad.pumps.archiver", Partition(TOPIC, 0))
    assert position is not None
    assert position.offset == buffer.linked


def test_metrics_of_a_partition_go_with_it(house: House) -> None:
    role = house.archiver()
    house.send()
    settle(role)
    assert b'stream_ad_linked_offset{partition="0"' in role.metrics.render()[0]
    assert b'stream_ad_lag_records{partition="0"' in role.metrics.render()[0]
    role.close()
    house.running.clear()
    assert b'partition="0"' not in role.metrics.render()[0]


@pytest.mark.process
def test_the_archiver_loads_neither_torch_nor_kafka() -> None:
    code = (
        "import sys, stream_ad.service.roles.archiver; print({'torch', 'kafka', 'sklearn', 'river'} & set(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == "set()\n"


@pytest.mark.process
def test_every_row_is_there_once_after_real_kills(tmp_path: Path) -> None:
    house = House(tmp_path, partitions=2)
    config = tmp_path / "stream.toml"
    config.write_text(
        '[stream]\nname = "pumps"\nbundle = "bundle"\n[transport]\nkind = "local"\npath = "log.sqlite"\n'
        '[store]\nscores = "scores"\ncheckpoints = "c"\npart_max_age_s = 0.05\n[service]\nhttp_port = 0\n'
    )
    command = [sys.executable, "-m", "stream_ad.cli.main", "-c", str(config), "run", "archiver"]
    for links in (3, 5):
        before = house.files()
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)

        def send() -> None:
            house.send(partition=0)
            house.send(partition=1)

        wait_until(lambda goal=before + links: house.files() >= goal, each=send)  # type: ignore[misc]
        process.kill()
        process.wait()
    for partition in (0, 1):
        house.send(partition=partition)  # so that there is something left for the last one to link
    last = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: [len(house.rows(0)), len(house.rows(1))] == list(house.sent))
    last.send_signal(signal.SIGTERM)
    _, text = last.communicate(timeout=60)
    assert last.returncode == 0, text
    house.all_once(0)
    house.all_once(1)
    close(house)


def test_decoded_messages_are_what_was_sent() -> None:
    (record,) = messages(verdicts(3, 2, devices=2), (0, 5))
    message = decode(record.value, record.headers)
    assert isinstance(message, ScoreMessage)
    assert message.table["device"].to_pylist() == ["pump-0-0", "pump-0-1", "pump-0-0", "pump-0-1"]
