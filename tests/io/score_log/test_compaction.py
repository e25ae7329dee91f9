"""Compaction: few files in the place of many, each row visible once at every instant, names stay taken."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pytest

from stream_ad.errors import BusyError, PartExistsError, PartMovedError, ScoreLogError, StorageError
from stream_ad.io import durable
from stream_ad.io.score_log import compaction as score_compaction
from stream_ad.io.score_log import exchange as score_exchange
from stream_ad.io.score_log import log as score_log
from stream_ad.io.score_log.compaction import HourReport, compact
from stream_ad.io.score_log.exchange import finish, is_unfinished
from stream_ad.io.score_log.parts import part_info
from stream_ad.io.spans import Span
from stream_ad.io.wire import contributions
from stream_ad.io.wire.score_rows import schema
from stream_ad.proof.verification import verify
from tests.support.e2e import rows_of
from tests.support.score_logs import DAY_NS, HOUR_NS, T0, Fleet, varied

LATER = T0 + DAY_NS
ROWS = 1_000_000
SCHEMA = contributions.as_map(schema(("flow", "temp")).empty_table()).schema


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("template") / "scores"
    varied(folder, 0)
    varied(folder, 1)
    return folder


@pytest.fixture
def folder(tmp_path: Path, template: Path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "data" / "scores"))


def done(folder: Path, closed_before_ns: int = LATER, max_rows: int = ROWS) -> list[HourReport]:
    return compact(folder, closed_before_ns, max_rows, grace_s=0.0)


def foreign_rows(folder: Path) -> list[str]:
    """Return all rows as DuckDB reads them, columns by name, from the pattern that the pages give."""
    with duckdb.connect() as connection:
        connection.execute("set TimeZone = 'UTC'")
        pattern = f"'{folder}/**/*.parquet', hive_partitioning = true"
        table = connection.sql(f"select * exclude (log_date, log_hour) from read_parquet({pattern})").to_arrow_table()
    return rows_of([table.cast(SCHEMA)])


def our_rows(folder: Path) -> list[str]:
    return rows_of([score_log.read(folder)])


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.glob("**/*.parquet") if path.is_file())


def content(folder: Path) -> dict[str, tuple[int, int]]:
    """Return inode and time of all that is in a folder."""
    found = {path.as_posix(): path.stat() for path in folder.rglob("*")}
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in found.items()}


def test_rows_stay_and_files_become_few(folder: Path) -> None:
    before, foreign, count = rows_of([score_log.read(folder)]), foreign_rows(folder), len(files(folder))
    assert foreign == before
    infos = score_log.parts(folder)
    reports = done(folder)
    assert [report.hour.as_posix() for report in reports] == [
        "log_date=2026-01-01/log_hour=00",
        "log_date=2026-01-01/log_hour=01",
    ]
    assert (sum(report.before for report in reports), sum(report.after for report in reports)) == (24, 4)
    assert len(files(folder)) == count - 24 + 4
    assert rows_of([score_log.read(folder)]) == before
    assert foreign_rows(folder) == before
    assert not is_unfinished(folder)

    held = [one for part in score_log.parts(folder) for one in part.ranges()]
    assert [(one.span, one.spans, one.rows) for one in held] == [(info.span, info.spans, info.rows) for info in infos]
    proof = verify(folder)
    assert proof.gaps == ()
    assert sum(chain.linked for chain in proof.chains) == count


def test_the_newest_part_and_its_hour_stay(folder: Path) -> None:
    newest = [score_log.last_part(folder, number) for number in (0, 1)]
    done(folder)
    assert [score_log.last_part(folder, number) for number in (0, 1)] == newest
    Fleet(folder, 2).part(["x"], hour=0)  # the newest of its partition, in an hour with others
    assert done(folder) == []


def test_a_second_compaction_changes_nothing(folder: Path) -> None:
    done(folder)
    before = content(folder)
    assert done(folder) == []
    assert content(folder) == before


def test_a_dry_run_changes_nothing_and_says_the_same(folder: Path) -> None:
    before = content(folder)
    planned = compact(folder, LATER, ROWS, is_dry=True)
    assert content(folder) == before
    assert planned == done(folder)


def test_only_hours_that_are_closed(folder: Path) -> None:
    assert done(folder, T0 + HOUR_NS - 1) == []
    assert [report.hour.name for report in done(folder, T0 + HOUR_NS)] == ["log_hour=00"]


def test_merged_parts_are_bounded_by_rows_and_merge_again_with_what_came_late(tmp_path: Path) -> None:
    folder = tmp_path / "scores"
    fleet = Fleet(folder)
    for _ in range(10):
        fleet.part(["a", "b"])
    fleet.part(["a"], hour=1)
    assert [(report.before, report.after) for report in done(folder, max_rows=6)] == [(9, 3)]
    assert [part.rows for part in score_log.parts(folder)] == [6, 6, 6, 2, 1]
    assert done(folder, max_rows=6) == []
    assert [(report.before, report.after) for report in done(folder, max_rows=100)] == [(4, 1)]
    (merged, _) = score_log.parts(folder)
    assert (merged.rows, len(merged.holds)) == (20, 10)
    assert verify(folder).gaps == ()


def test_generations_are_not_mixed_and_channels_may_come_and_go(tmp_path: Path) -> None:
    folder = tmp_path / "scores"
    fleet = Fleet(folder)
    for number in range(9):
        if number == 6:
            fleet.channels = ("flow", "temp", "noise")
        fleet.part(["a", "b"], restart=number == 3)
    fleet.part(["a"], hour=1)
    before = rows_of([score_log.read(folder)])
    done(folder)
    assert [(part.generation, part.rows) for part in score_log.parts(folder)] == [(0, 6), (1, 12), (1, 1)]
    assert rows_of([score_log.read(folder)]) == before
    assert verify(folder).gaps == ()


def test_parts_with_a_hole_between_them_are_not_merged(tmp_path: Path) -> None:
    folder = tmp_path / "scores"
    fleet = Fleet(folder)
    paths = [fleet.part(["a"]) for _ in range(6)]
    fleet.part(["a"], hour=1)
    paths[2].unlink()
    done(folder)
    assert [part.span for part in score_log.parts(folder)] == [Span(0, 2), Span(3, 6), Span(6, 7)]
    assert [gap.what for gap in verify(folder).gaps] == ["a gap in the scores offsets"]


def test_a_name_stays_taken(folder: Path) -> None:
    names = [(part.path, part) for part in score_log.parts(folder)]
    done(folder)
    table = score_log.read(folder)
    for path, part in names:
        with pytest.raises(PartExistsError):
            score_log.write_part(folder, part.partition, part.span, [table], part.first_log_ns, "t", part.spans, {})
        assert path.exists()
    done(folder)
    assert all(path.exists() for path, _ in names)


def test_a_damaged_part_stops_it_and_changes_nothing(folder: Path) -> None:
    part = score_log.parts(folder, 0)[2]
    part.path.write_bytes(part.path.read_bytes()[:-100])
    before = content(folder)
    with pytest.raises(ScoreLogError, match="expected a Parquet file"):
        done(folder)
    assert content(folder) == before
    assert not is_unfinished(folder)


def test_a_full_disk_leaves_all_as_it_was(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = content(folder)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(score_compaction, "write_file", full)
        with pytest.raises(StorageError, match="No space left"):
            done(folder)
    assert content(folder) == before
    assert not is_unfinished(folder)


def test_what_is_no_part_stays_and_strange_folders_stop_an_hour(folder: Path) -> None:
    hour = score_log.hours(folder)[0]
    (hour / "notes.txt").write_text("mine")
    (score_log.hours(folder)[1] / "mine").mkdir()
    first, second = done(folder)
    assert (first.skipped, second.skipped) == ("", "expected parts only, found mine")
    assert (hour / "notes.txt").read_text() == "mine"
    assert (score_log.hours(folder)[1] / "mine").is_dir()
    assert verify(folder).gaps == ()


def test_two_compactions_do_not_meet(folder: Path) -> None:
    before = content(folder)
    with score_exchange.locked(folder.resolve()):
        with pytest.raises(BusyError, match="another compaction is running"):
            done(folder)
        assert finish(folder) is False
    assert content(folder) == before


def test_a_folder_on_a_mount_of_its_own_is_told(tmp_path: Path) -> None:
    shm = Path("/dev/shm")
    if not shm.is_dir() or shm.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs a second file system")
    with pytest.raises(StorageError, match="expected the file system of"):
        # Its parent is the root of another file system.
        compact(shm, LATER, ROWS)


# -- crashes -----------------------------------------------------------------------------------------


class Killed(BaseException):
    """The process ends here."""


@contextmanager
def dies_at(owner: object, name: str, after: bool, call: int = 1) -> Iterator[None]:
    original, calls = getattr(owner, name), 0

    def dying(*args: object, **options: object) -> object:
        nonlocal calls
        calls += 1
        if calls < call:
            return original(*args, **options)
        if after:
            original(*args, **options)
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, dying)
        yield


STEPS = [
    (score_compaction, "_merge", False),
    (score_compaction, "_merge", True),
    (score_exchange, "sync_folder", False),
    (score_exchange.Exchange, "save", False),
    (score_exchange.Exchange, "save", True),
    (durable, "exchange", False),
    (durable, "exchange", True),
    (score_exchange.Exchange, "adopt", True),
    (score_exchange.Exchange, "remove", False),
    (score_exchange.Exchange, "_empty", True),
    (score_exchange, "_discard", False),
]


@pytest.mark.process
@pytest.mark.parametrize("call", [1, 2])
@pytest.mark.parametrize(("owner", "name", "after"), STEPS, ids=lambda value: str(getattr(value, "__name__", value)))
def test_after_a_crash_at_any_step_each_row_is_there_once(
    folder: Path, owner: object, name: str, after: bool, call: int
) -> None:
    before = rows_of([score_log.read(folder)])
    with dies_at(owner, name, after, call), pytest.raises(Killed):
        done(folder)
    assert foreign_rows(folder) == before
    assert rows_of([score_log.read(folder)]) == before
    assert verify(folder).gaps == ()
    done(folder)
    assert not is_unfinished(folder)
    assert foreign_rows(folder) == before
    assert verify(folder).gaps == ()
    assert len(files(folder)) == 18  # the newest hour of two partitions, and three groups each
    assert done(folder) == []


# -- beside others -----------------------------------------------------------------------------------


def late(folder: Path) -> Path:
    """Write a part into the first hour, as an archiver does that is hours behind."""
    return Fleet(folder, 7).part(["late"], hour=0)


@pytest.mark.parametrize("dies", [False, True])
def test_a_part_that_comes_in_between_is_taken_over(folder: Path, monkeypatch: pytest.MonkeyPatch, dies: bool) -> None:
    before = foreign_rows(folder)
    exchange = durable.exchange
    paths: list[Path] = []

    def exchange_late(left: Path, right: Path) -> None:
        if not paths:
            paths.append(late(folder))  # linked into the old folder after it was looked through
        exchange(left, right)
        if dies:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(durable, "exchange", exchange_late)
        if dies:
            with pytest.raises(Killed):
                done(folder)
            assert not paths[0].exists()
            assert foreign_rows(folder) == before
            assert finish(folder)
        else:
            done(folder)
    assert part_info(paths[0]).rows == 1
    assert len(foreign_rows(folder)) == len(before) + 1
    assert verify(folder).gaps == ()


def test_a_part_that_comes_even_later_is_taken_over(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remove = score_exchange.Exchange.remove
    seen: list[Path] = []

    def remove_late(exchange: score_exchange.Exchange) -> None:
        if not seen:
            path = late(folder)
            path.rename(exchange.built / path.name)  # its link was under way when the folders changed places
            seen.append(path)
        remove(exchange)

    monkeypatch.setattr(score_exchange.Exchange, "remove", remove_late)
    done(folder)
    assert part_info(seen[0]).rows == 1
    assert verify(folder).gaps == ()


def test_a_late_part_whose_span_another_wrote_meanwhile_is_dropped(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exchange, inodes = durable.exchange, []

    def exchange_late(left: Path, right: Path) -> None:
        late(folder)
        exchange(left, right)
        inodes.append(late(folder).stat().st_ino)  # which did not see it: its name is free here

    monkeypatch.setattr(durable, "exchange", exchange_late)
    done(folder, T0 + HOUR_NS)
    last = score_log.last_part(folder, 7)
    assert last is not None
    assert [last.path.stat().st_ino] == inodes
    assert verify(folder).gaps == ()


COMPACT_ON_AND_ON = """
import sys
from pathlib import Path
from stream_ad.io.score_log.compaction import compact
for rows in (20, 40, 60, 80, 100, 150, 200, 1_000):
    print("rows", rows, flush=True)
    compact(Path(sys.argv[1]), 2**62, rows, grace_s=0.0)
print("done", flush=True)
"""


@pytest.mark.process
def test_readers_meanwhile_see_each_row_once_or_an_error(folder: Path, template: Path) -> None:
    """Compactions are killed, after ever more looks, while DuckDB and our own functions read."""
    expected = rows_of([score_log.read(template)])
    reads = refused = rounds = 0
    finished = False
    while not finished:
        assert rounds < 100  # each leaves a compaction more time than the one before
        command = [sys.executable, "-c", COMPACT_ON_AND_ON, str(folder)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            try:
                assert process.stdout is not None
                process.stdout.readline()  # it begins
                rounds += 1
                for _ in range(rounds):
                    if process.poll() is not None:
                        break
                    for look in (foreign_rows, our_rows):
                        reads += 1
                        try:
                            assert look(folder) == expected
                        except (duckdb.IOException, PartMovedError):  # with no grace, a slow reader may miss each time
                            refused += 1
                finished = process.poll() == 0
            finally:
                process.kill()
    compact(folder, LATER, ROWS, grace_s=0.0)
    assert reads > refused
    assert foreign_rows(folder) == expected
    assert rows_of([score_log.read(folder)]) == expected
    assert verify(folder).gaps == ()
    assert not is_unfinished(folder)
    assert sorted(os.listdir(folder.parent)) == [".scores.compaction", "scores"]
