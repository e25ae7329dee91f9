"""What the embedded log promises beyond the contract of all transports."""

from __future__ import annotations

import itertools
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_ad.errors import ContractError, FencedError, PositionError, TopicError, TransportError, UnreachableError
from stream_ad.io.local.file import CLASSES, CommitInDoubtError, LogBusyError, LogFile, translate
from stream_ad.io.local.groups import spread
from stream_ad.io.local.log import LocalLog
from stream_ad.io.local.members import LocalSource, shares
from stream_ad.io.local.records import READ_BYTES, murmur2, pack_headers, unpack_headers
from stream_ad.io.transport import Commit, CommitOutcome, Partition, Position, Record
from tests.support.e2e import wait_until

IN, OUT = Partition("in", 0), Partition("out", 0)


class Keeper:
    """An owner that starts where the group stands and remembers what it was told."""

    def __init__(self) -> None:
        self.events: list[tuple[str, int]] = []
        self.on_gained: Callable[[], None] = lambda: None

    def gained(self, position: Position | None, partition: Partition) -> int | None:
        self.events.append(("gained", partition.number))
        self.on_gained()
        return None

    def leaving(self, partition: Partition) -> None:
        self.events.append(("leaving", partition.number))

    def lost(self, partition: Partition) -> None:
        self.events.append(("lost", partition.number))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "log.sqlite"


@pytest.fixture
def log(path: Path) -> Iterator[LocalLog]:
    log = LocalLog(path, session_timeout_s=0.5, timeout_s=0.2)
    log.ensure_topic("in", 2)
    log.ensure_topic("out", 1)
    yield log
    log.close()


def values(log: LocalLog, partition: Partition) -> list[bytes]:
    return [value for batch in log.read(partition, *log.bounds(partition)) for value in batch.values]


def joined(log: LocalLog, member: str = "a-0") -> tuple[LocalSource, Keeper]:
    keeper = Keeper()
    source = log.join("in", "g", keeper, member)
    source.poll(1, 0)
    return source, keeper


# Partitioner, headers, shares


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_murmur2_of_apache_kafkas_own_vectors(key: bytes, expected: int) -> None:
    assert murmur2(key) == expected & 0xFFFFFFFF


def naive_murmur2(data: bytes) -> int:
    """Byte by byte, as org.apache.kafka.common.utils.Utils writes it."""
    m, mask = 0x5BD1E995, 0xFFFFFFFF
    h = 0x9747B28C ^ len(data)
    for i in range(0, len(data) - len(data) % 4, 4):
        k = data[i] + (data[i + 1] << 8) + (data[i + 2] << 16) + (data[i + 3] << 24)
        k = (k * m) & mask
        k ^= k >> 24
        k = (k * m) & mask
        h = ((h * m) & mask) ^ k
    tail = len(data) & ~3
    if len(data) % 4 == 3:
        h ^= data[tail + 2] << 16
    if len(data) % 4 >= 2:
        h ^= data[tail + 1] << 8
    if len(data) % 4 >= 1:
        h ^= data[tail]
        h = (h * m) & mask
    h ^= h >> 13
    h = (h * m) & mask
    return h ^ (h >> 15)


@given(st.binary(max_size=40))
def test_murmur2_is_the_one_of_apache_kafka(key: bytes) -> None:
    assert murmur2(key) == naive_murmur2(key)


@given(st.lists(st.tuples(st.text(max_size=5), st.binary(max_size=20)), max_size=4).map(tuple))
def test_headers_come_back(headers: tuple[tuple[str, bytes], ...]) -> None:
    assert unpack_headers(pack_headers(headers)) == headers


@given(st.lists(st.integers(0, 50), min_size=1, max_size=6), st.integers(1, 100), st.integers(0, 5))
def test_a_poll_is_shared_fairly(waiting: list[int], total: int, first: int) -> None:
    result = shares(waiting, total, first % len(waiting))
    assert all(0 <= got <= backlog for got, backlog in zip(result, waiting, strict=True))
    assert sum(result) <= total
    assert sum(result) > 0 or sum(waiting) == 0
    even = total // len(waiting)
    assert all(got >= min(backlog, even) for got, backlog in zip(result, waiting, strict=True))


def test_every_partition_is_served_in_turn_when_a_poll_is_small() -> None:
    served = {shares([9, 9, 9], 1, first % 3).index(1) for first in range(3)}
    assert served == {0, 1, 2}


@given(
    st.dictionaries(st.integers(0, 9), st.sampled_from(["a", "b", "c", "gone", None]), min_size=1),
    st.sets(st.sampled_from(["a", "b", "c", "d"])),
)
def test_partitions_are_spread_evenly_and_seldom_moved(targets: dict[int, str | None], members: set[str]) -> None:
    result = spread(targets, sorted(members))
    assert result.keys() == targets.keys()
    if not members:
        assert set(result.values()) == {None}
        return
    counts = [list(result.values()).count(name) for name in members]
    assert sum(counts) == len(targets)
    assert max(counts) - min(counts) <= 1
    for name in members:
        before = {number for number, target in targets.items() if target == name}
        after = {number for number, target in result.items() if target == name}
        assert after <= before or before <= after  # nobody swaps


# Topics and append times


@pytest.mark.parametrize(
    ("name", "partitions", "settings"),
    [
        ("bad name", 1, {}),
        ("x" * 250, 1, {}),
        ("t", 0, {}),
        ("t", 1, {"message.timestamp.type": "Whenever"}),
        ("t", 1, {"max.message.bytes": "much"}),
        ("t", 1, {"retention.ms": "-2"}),
    ],
)
def test_topics_that_make_no_sense_are_refused(
    log: LocalLog, name: str, partitions: int, settings: dict[str, str]
) -> None:
    with pytest.raises(TopicError):
        log.ensure_topic(name, partitions, settings)


def test_partitions_that_are_not_there_are_refused(log: LocalLog) -> None:
    for call in (log.bounds, lambda p: log.committed("g", p), lambda p: list(log.read(p, 0, 1))):
        with pytest.raises(TopicError):
            call(Partition("in", 2))
    with pytest.raises(TopicError):
        log.append("in", [Record(b"v", partition=-1)])


def test_a_driven_clock_sets_append_times_which_never_go_back(tmp_path: Path) -> None:
    now = itertools.chain([50, 70, 60, 80])
    log = LocalLog(tmp_path / "log.sqlite", clock=lambda: next(now))
    log.ensure_topic("in", 1)
    log.ensure_topic("raw", 1, {"message.timestamp.type": "CreateTime"})
    for _ in range(3):
        log.append("in", [Record(b"a"), Record(b"b")])
    (batch,) = log.read(IN, 0, 6)
    assert batch.log_ns.tolist() == [50, 50, 70, 70, 70, 70]
    log.append("raw", [Record(b"a")])
    now = itertools.chain([40])
    log.append("raw", [Record(b"a")])
    (batch,) = log.read(Partition("raw", 0), 0, 2)
    assert batch.log_ns.tolist() == [80, 40]  # a producer's clock may
    log.close()


def test_a_deleted_topic_ends_its_members_and_comes_back_as_another(log: LocalLog) -> None:
    source, keeper = joined(log)
    log.append("in", [Record(b"v", partition=0)] * 2_500)
    committer = log.committer(source, "a-0")
    assert committer.commit(Commit(positions={IN: (1, "m")})) is CommitOutcome.LANDED
    old = log.topic("in").topic_id
    log.delete_topic("in")
    log.delete_topic("in")
    with pytest.raises(TopicError):
        log.topic("in")
    with pytest.raises(TopicError):
        source.poll(1, 0)
    assert keeper.events[-2:] == [("lost", 0), ("lost", 1)]
    assert committer.commit(Commit(positions={IN: (2, "m")})) is CommitOutcome.REJECTED
    assert log.ensure_topic("in", 2).topic_id != old
    assert log.bounds(IN) == (0, 0)
    assert log.committed("g", IN) is None
    assert committer.commit(Commit(positions={IN: (2, "m")})) is CommitOutcome.REJECTED


def test_trim_gives_the_space_back(log: LocalLog, path: Path) -> None:
    def fill() -> int:
        log.append("in", [Record(os.urandom(1_000), partition=0)] * 3_000)
        log.trim(IN, log.bounds(IN)[1])
        return path.stat().st_size

    sizes = [fill() for _ in range(6)]
    assert sizes[-1] < 2 * 3_000 * 1_000  # what is in the log at most, not what went through it
    assert log.bounds(IN) == (18_000, 18_000)
    log.trim(IN, 99_999)
    assert log.bounds(IN) == (18_000, 18_000)


def test_old_records_go_as_new_ones_come(tmp_path: Path) -> None:
    now_ns = 0
    log = LocalLog(tmp_path / "log.sqlite", clock=lambda: now_ns)
    log.ensure_topic("in", 1, {"retention.ms": "10"})
    for tick in range(100):
        now_ns = tick * 1_000_000
        log.append("in", [Record(b"%d" % tick)] * 3)
        earliest, end = log.bounds(IN)
        (batch,) = log.read(IN, earliest, end)
        old = now_ns - batch.log_ns > 10_000_000
        assert end == 3 * (tick + 1)
        assert old.sum() <= 6  # dropped in steps
        assert tick < 10 or len(batch) >= 30  # none too early
    log.close()


def test_a_slow_iterable_is_not_held_back(log: LocalLog) -> None:
    def slowly() -> Iterator[Record]:
        yield Record(b"0", partition=0)
        time.sleep(0.1)
        yield Record(b"1", partition=0)
        assert log.bounds(IN) == (0, 2)
        yield Record(b"2", partition=0)

    log.append("in", slowly())
    assert log.bounds(IN) == (0, 3)


def test_a_poll_of_large_records_is_bounded_in_bytes(log: LocalLog) -> None:
    log.append("in", (Record(bytes(900_000), partition=0) for _ in range(50)))
    source, _ = joined(log)
    (batch,) = source.poll(1_000, 0)
    assert READ_BYTES / 2 <= sum(map(len, batch.values)) < 2 * READ_BYTES
    (rest,) = source.poll(1_000, 0)
    assert 1 + len(batch) + len(rest) == 50
    assert sum(map(len, log.read(IN, 0, 50))) == 50


# Groups


def test_a_member_that_only_reads_keeps_its_lease(log: LocalLog, path: Path) -> None:
    log.append("in", [Record(b"v", partition=0)] * 10)
    keeper = Keeper()

    def recover() -> None:
        until = time.monotonic() + 1.2  # more than two sessions
        while time.monotonic() < until:
            list(log.read(IN, 0, 10))
            time.sleep(0.02)
            rival.poll(1, 0)

    rival = LocalLog(path).join("in", "g", Keeper(), "b-0")
    source = log.join("in", "g", keeper, "a-0")
    keeper.on_gained = recover
    source.poll(1, 0)
    assert source.assignment() == {Partition("in", 1)}
    assert rival.assignment() == {IN}
    assert keeper.events == [("gained", 1)]


def test_a_silent_member_that_nobody_missed_goes_on(log: LocalLog) -> None:
    source, keeper = joined(log)
    time.sleep(0.6)
    assert log.committer(source, "a-0").commit(Commit(positions={IN: (0, "")})) is CommitOutcome.LANDED
    time.sleep(0.6)
    source.poll(1, 0)
    assert keeper.events == [("gained", 0), ("gained", 1)]


def test_a_silent_member_is_removed_and_told_so(log: LocalLog) -> None:
    source, keeper = joined(log)
    committer = log.committer(source, "a-0")
    other, _ = joined(log, "b-0")
    assert other.assignment() == frozenset()  # the first has not let go
    until = time.monotonic() + 20
    while len(other.assignment()) < 2:
        other.poll(1, 0.05)
        assert time.monotonic() < until
    assert committer.commit(Commit({"out": [Record(b"never")]}, {IN: (1, "never")})) is CommitOutcome.REJECTED
    for _ in range(2):
        with pytest.raises(FencedError, match=r"evicted after more than 0\.5 s of silence"):
            source.poll(1, 0)
    assert keeper.events == [("gained", 0), ("gained", 1), ("lost", 0), ("lost", 1)]
    source.close()
    assert values(log, OUT) == []


def test_a_hand_over_that_fails_is_tried_again(log: LocalLog) -> None:
    keeper = Keeper()
    failing = True

    def fail_once() -> None:
        if failing:
            raise UnreachableError("no journal")

    keeper.on_gained = fail_once
    source = log.join("in", "g", keeper, "a-0")
    with pytest.raises(UnreachableError):
        source.poll(1, 0)
    assert source.assignment() == frozenset()
    failing = False
    source.poll(1, 0)
    assert len(source.assignment()) == 2


def test_a_partition_whose_release_failed_is_released_later(path: Path) -> None:
    """The lock is taken by somebody else just when the owner has let go."""

    class Clinging(Keeper):
        def leaving(self, partition: Partition) -> None:
            super().leaving(partition)
            if not locks:
                locks.append(sqlite3.connect(path, isolation_level=None))
                locks[0].execute("BEGIN IMMEDIATE")

    locks: list[sqlite3.Connection] = []
    log = LocalLog(path, timeout_s=0.2)
    log.ensure_topic("in", 2)
    first = log.join("in", "g", keeper := Clinging(), "a-0")
    first.poll(1, 0)
    second = log.join("in", "g", Keeper(), "b-0")
    with pytest.raises(UnreachableError):
        first.poll(1, 0)
    locks[0].close()
    for _ in range(5):
        first.poll(1, 0)
        second.poll(1, 0)
    assert [len(first.assignment()), len(second.assignment())] == [1, 1]
    assert len([event for event in keeper.events if event[0] == "leaving"]) == 1
    log.close()


def test_groups_and_topics_do_not_disturb_each_other(log: LocalLog) -> None:
    a, _ = joined(log)
    b = log.join("in", "h", Keeper(), "a-0")
    c = log.join("out", "g", Keeper(), "a-0")
    for source in (a, b, c):
        source.poll(1, 0)
    assert a.assignment() == b.assignment() == {Partition("in", 0), Partition("in", 1)}
    assert c.assignment() == {OUT}


def test_a_closed_source_and_committer_say_so(log: LocalLog) -> None:
    source, _ = joined(log)
    committer = log.committer(source, "a-0")
    source.close()
    source.close()
    committer.close()
    with pytest.raises(PositionError, match="closed"):
        source.poll(1, 0)
    with pytest.raises(TransportError, match="closed"):
        committer.commit(Commit())


def test_metadata_is_cut_off_at_what_kafka_takes(log: LocalLog) -> None:
    source, _ = joined(log)
    committer = log.committer(source, "a-0")
    assert committer.commit(Commit(positions={IN: (0, "x" * 4_096)})) is CommitOutcome.LANDED
    with pytest.raises(ContractError, match="4097"):
        committer.commit(Commit(positions={IN: (1, "x" * 4_097)}))


def test_an_output_topic_that_is_missing_stops_the_whole_commit(log: LocalLog) -> None:
    source, _ = joined(log)
    with pytest.raises(TopicError):
        log.committer(source, "a-0").commit(Commit({"out": [Record(b"v")], "none": []}, {IN: (1, "")}))
    assert values(log, OUT) == []
    assert log.committed("g", IN) is None


# The file


def test_every_sqlite_error_has_a_meaning_here(path: Path) -> None:
    found = {kind for kind in vars(sqlite3).values() if isinstance(kind, type) and issubclass(kind, sqlite3.Error)}
    assert found == set(CLASSES)
    for kind in found:
        error = translate(kind("some\ntext"), path)
        assert type(error) is CLASSES[kind]
        assert str(path) in str(error)


@pytest.mark.parametrize("content", [b"not a database, but a text of some length" * 50, b"\x00" * 4_096])
def test_a_file_that_is_no_database_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(UnreachableError, match=r"notes\.txt") as caught:
        LocalLog(path)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == content


def test_the_database_of_another_program_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite"
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE t (x)")
    other.commit()
    other.close()
    content = path.read_bytes()
    with pytest.raises(UnreachableError, match="another program"):
        LocalLog(path)
    assert path.read_bytes() == content


def test_a_log_of_a_later_format_is_refused(log: LocalLog, path: Path) -> None:
    later = sqlite3.connect(path)
    later.execute("PRAGMA user_version = 2")
    later.close()
    with pytest.raises(UnreachableError, match="expected log format 1, found 2"):
        LocalLog(path)


def test_a_folder_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnreachableError, match="cannot be opened"):
        LocalLog(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only for root")
def test_a_read_only_folder_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UnreachableError, match="cannot be opened or created"):
        LocalLog(tmp_path / "log.sqlite")


@pytest.mark.process
def test_many_processes_may_make_the_same_log(path: Path) -> None:
    code = "import sys; from pathlib import Path; from stream_ad.io.local.log import LocalLog; \
        print(LocalLog(Path(sys.argv[1])).ensure_topic('t', 3).topic_id)"
    runs = [
        subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    answers = [run.communicate(timeout=60)[0] for run in runs]
    assert len(set(answers)) == 1
    assert answers[0].strip()


@contextmanager
def held_lock(path: Path) -> Iterator[None]:
    """Hold the write lock, as a process stopped inside a transaction does."""
    other = LogFile(path, 1, durable=False)
    with other.writing():
        yield
    other.close()


def test_a_held_lock_rejects_a_commit_and_ends_an_append(log: LocalLog, path: Path) -> None:
    source, _ = joined(log)
    committer = log.committer(source, "a-0")
    with held_lock(path):
        assert committer.commit(Commit({"out": [Record(b"never")]}, {IN: (1, "")})) is CommitOutcome.REJECTED
        with pytest.raises(LogBusyError, match="lock"):
            log.append("out", [Record(b"never")])
        assert log.bounds(OUT) == (0, 0)  # readers are not held back
        assert source.poll(1, 0) == []
    assert committer.commit(Commit({"out": [Record(b"v")]}, {IN: (1, "")})) is CommitOutcome.LANDED
    assert values(log, OUT) == [b"v"]


@contextmanager
def no_growth_beyond(size: int) -> Iterator[None]:
    """Make the disk fail for all that is written beyond a size, in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_fails_inside_the_commit_leaves_the_outcome_unknown(log: LocalLog, path: Path) -> None:
    source, _ = joined(log)
    committer = log.committer(source, "a-0")
    large = [Record(os.urandom(900_000)), Record(os.urandom(900_000))]
    wal = Path(f"{path}-wal").stat().st_size
    with no_growth_beyond(wal + 500_000):
        assert committer.commit(Commit({"out": large}, {IN: (7, "m")})) is CommitOutcome.UNKNOWN
        with pytest.raises(CommitInDoubtError):
            log.append("out", large)
    # Here it had not landed, and the log goes on; elsewhere a reader must look, which is what UNKNOWN says.
    assert log.committed("g", IN) is None
    assert committer.commit(Commit({"out": [Record(b"v")]}, {IN: (8, "m")})) is CommitOutcome.LANDED
    assert values(log, OUT) == [b"v"]


def test_a_full_disk_is_told_in_clear_words(log: LocalLog) -> None:
    source, _ = joined(log)
    committer = log.committer(source, "a-0")
    pages = committer._file._connection.execute("PRAGMA page_count").fetchone()[0]
    committer._file._connection.execute(f"PRAGMA max_page_count = {pages}")  # SQLite's own way to run full
    with pytest.raises(UnreachableError, match="the disk is full"):
        committer.commit(Commit({"out": [Record(bytes(900_000))]}, {IN: (7, "m")}))
    committer._file._connection.execute("PRAGMA max_page_count = 1000000")
    assert (values(log, OUT), log.committed("g", IN)) == ([], None)
    assert committer.commit(Commit({"out": [Record(b"v")]}, {IN: (8, "m")})) is CommitOutcome.LANDED


def test_threads_may_share_a_log(log: LocalLog) -> None:
    def write(name: bytes) -> None:
        for i in range(50):
            log.append("in", [Record(b"%s-%d" % (name, i), partition=0)])

    threads = [threading.Thread(target=write, args=(b"%d" % k,)) for k in range(3)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        list(log.read(IN, *log.bounds(IN)))
    for thread in threads:
        thread.join()
    found = values(log, IN)
    assert len(found) == 150
    for k in range(3):
        assert [v for v in found if v.startswith(b"%d-" % k)] == [b"%d-%d" % (k, i) for i in range(50)]


WORKER = """
import sys
from pathlib import Path
from stream_ad.io.local.log import LocalLog
from stream_ad.io.transport import Commit, CommitOutcome, Partition, Record

class Owner:
    def gained(self, position, partition):
        self.at = 0 if position is None else position.offset
    def leaving(self, partition): pass
    def lost(self, partition): pass

log = LocalLog(Path(sys.argv[1]))
owner = Owner()
source = log.join("one", "g", owner, "a-0")
committer = log.committer(source, "a-0")
source.poll(1, 0)
print("up", flush=True)
while True:
    start, stop = owner.at, owner.at + 1 + owner.at % 7
    log.append("one", [Record(b"input")] * (stop - start))
    records = [Record(b"%d" % i + bytes(i % 3_000), partition=i % 2) for i in range(start, stop)]
    commit = Commit({"double": records}, {Partition("one", 0): (stop, f"end={stop}")})
    assert committer.commit(commit) is CommitOutcome.LANDED
    owner.at = stop
"""


def committed(log: LocalLog) -> int:
    position = log.committed("g", Partition("one", 0))
    return 0 if position is None else position.offset


@pytest.mark.process
def test_a_process_killed_at_any_instant_leaves_whole_commits(path: Path) -> None:
    log = LocalLog(path)
    log.ensure_topic("one", 1)
    log.ensure_topic("double", 2)
    reached = 0
    for more in (1, 40, 80, 10, 60):
        process = subprocess.Popen([sys.executable, "-c", WORKER, str(path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        wait_until(lambda goal=reached + more: committed(log) >= goal)  # type: ignore[misc]
        process.send_signal(signal.SIGKILL)
        process.wait(30)
        process.stdout.close()
        position = log.committed("g", Partition("one", 0))
        assert position is not None
        assert position.offset >= reached
        reached = position.offset
        assert position.metadata == f"end={reached}"
        assert log.bounds(Partition("one", 0))[1] >= reached
        found = [[int(v.rstrip(b"\x00")) for v in values(log, Partition("double", p))] for p in (0, 1)]
        assert found == [list(range(0, reached, 2)), list(range(1, reached, 2))]
    assert reached > 0
    log.close()
    check = sqlite3.connect(path)
    assert check.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    check.close()
