"""What must not mislead a recovery: a checkpoint of a life that never committed, expired offsets, high rates."""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from stream_ad.assembly import Models
from stream_ad.core.quality import Quality
from stream_ad.errors import PositionError
from stream_ad.identity import group
from stream_ad.io.local.log import LocalLog
from stream_ad.io.score_log import log as score_log
from stream_ad.io.state import checkpoints, journal
from stream_ad.io.state.journal import StartEntry, SwapEntry
from stream_ad.io.transport import Partition, Record
from stream_ad.replaying import Recomputing
from stream_ad.service.roles.scorer import Scorer
from tests.support.e2e import LONG_S, Stream, fleet_records, train_bundle, wait_until
from tests.support.roles import archive_all, ask_for, kill, open_scorer, work_off

SECOND = 1_000_000_000


def readings(stream: Stream) -> Partition:
    return Partition(stream.settings.stream.readings_topic, 0)


def committed(stream: Stream) -> int:
    position = stream.log.committed(group(stream.settings, "scorer"), readings(stream))
    return 0 if position is None else position.offset


def files_of(stream: Stream) -> list[str]:
    return checkpoints.names(stream.settings.store.checkpoints, stream.settings.stream.name, 0)


def checkpoint_ahead(stream: Stream) -> str:
    """Let a scorer read all, write a checkpoint and die before it commits; return the file's name."""
    role, before = open_scorer(stream), set(files_of(stream))
    role._commit = lambda moved: None  # type: ignore[method-assign]
    end = stream.ends()[readings(stream)]
    wait_until(lambda: standing(role) == end, LONG_S, each=lambda: role.turn(0.02))
    (owned,) = role._owned.values()
    role._checkpointer.take_now(owned.partition, role._topic_id, owned.replay)
    kill(role)
    (name,) = set(files_of(stream)) - before
    return name


def standing(role: Scorer) -> int:
    return max((owned.replay.offset for owned in role._owned.values()), default=0)


def swaps_of(role: Scorer) -> int:
    return sum(owned.replay.lineage.entries - 1 for owned in role._owned.values())


@pytest.mark.parametrize("others_gone", [False, True])
def test_a_checkpoint_of_a_life_that_never_committed_is_not_used(
    make_stream: Callable[..., Stream], other_bundle: Path, tmp_path: Path, others_gone: bool
) -> None:
    """The next life changes bundles before the offset at which the dead one had written it."""
    stream = make_stream(partitions=1, commit={"every_s": 0.01, "poll_records": 50})
    records = fleet_records(duration_s=900)
    role = open_scorer(stream)
    stream.send(list(islice(records, 300)))
    work_off(role, stream)
    kill(role)
    at = committed(stream)
    stream.send(list(islice(records, 200)))
    stale = checkpoint_ahead(stream)
    kept = shutil.copy(stream.settings.store.checkpoints / stale, tmp_path / stale)
    assert committed(stream) == at
    ask_for(stream, other_bundle)
    role = open_scorer(stream)
    wait_until(lambda: standing(role) >= at, LONG_S, each=lambda: role.turn(0.02))
    wait_until(lambda: swaps_of(role) > 0, LONG_S, each=role._mind_commands)
    work_off(role, stream)
    kill(role)
    (swap,) = (entry for entry in entries_of(stream) if isinstance(entry, SwapEntry))
    assert at <= swap.offset < checkpoints.offset_of(stale) <= committed(stream)
    if others_gone:
        shutil.rmtree(stream.settings.store.checkpoints)
        stream.settings.store.checkpoints.mkdir()
    shutil.copy(kept, stream.settings.store.checkpoints / stale)
    role = open_scorer(stream)
    stream.send(list(islice(records, 200)))
    work_off(role, stream)
    role.close()
    archive_all(stream)
    stream.prove()
    if others_gone:
        shutil.copy(kept, stream.settings.store.checkpoints / stale)
        again = Recomputing(stream.settings, Models(stream.settings), stream.log, readings(stream), 2)
        assert again.first_offset(checkpoints.offset_of(stale)) == 0


def test_offsets_that_expired_do_not_start_the_stream_over(make_stream: Callable[..., Stream]) -> None:
    """Not even where the scores have been deleted since: the journal stays."""
    stream = make_stream(partitions=1, commit={"every_s": 0.01})
    role = open_scorer(stream)
    stream.send(list(islice(fleet_records(duration_s=600), 200)))
    work_off(role, stream)
    role.close()
    log = stream.log
    assert isinstance(log, LocalLog)
    scores = Partition(stream.settings.stream.scores_topic, 0)
    log.trim(scores, log.bounds(scores)[1])
    with sqlite3.connect(stream.folder / "log.sqlite") as file:
        assert file.execute("DELETE FROM positions").rowcount > 0
    role = open_scorer(stream)
    with pytest.raises(
        PositionError, match=r"nothing is committed, although sensor.journal.* has records: .*retention"
    ):
        role.turn(0.0)
    kill(role)


@pytest.mark.parametrize("step_s", [0.0, 0.01, 1.0])
def test_a_warm_up_reaches_back_as_far_as_windows_are_open(make_stream: Callable[..., Stream], step_s: float) -> None:
    """Settings change; however many records a second there are, each window is there once, and whole."""
    tables = []
    for changes in (False, True):
        stream = make_stream(partitions=1, time={"idle_close_s": 4.0}, store={"warm_up_records": 5})
        send = timed(stream, fleet_records(duration_s=900), step_s)
        role = open_scorer(stream)
        send(600)
        work_off(role, stream)
        role.close()
        if changes:
            stream.change("incident", close_after_s=20.0)
        role = open_scorer(stream)
        send(300)
        work_off(role, stream)
        role.close()
        archive_all(stream)
        tables.append(score_log.read(stream.settings.store.scores))
    starts = [entry for entry in entries_of(stream) if isinstance(entry, StartEntry)]
    assert [entry.kind for entry in starts] == ["start", "restart"]
    if step_s == 1.0:
        assert 25 <= starts[1].offset - starts[1].read_from < 100  # lateness, silence and a window: 5 + 4 + 16 s
    assert windows_in(tables[0]) == windows_in(tables[1])


def test_a_bundle_of_other_windows_starts_afresh_after_a_restart(
    make_stream: Callable[..., Stream], tmp_path: Path
) -> None:
    """Up to the change the windows are those of the first bundle, from it on those of the other one, each once."""
    wide = train_bundle(tmp_path / "wide", samples=32)
    tables = []
    for first, second in ((None, None), (wide, None), (None, wide)):
        stream = make_stream(partitions=1, time={"idle_close_s": 1_000.0})
        records = fleet_records(duration_s=900)
        for count, bundle in ((500, first), (400, second)):
            if bundle is not None:
                stream.change("stream", bundle=str(bundle))
            role = open_scorer(stream)
            stream.send(list(islice(records, count)))
            work_off(role, stream)
            role.close()
        archive_all(stream)
        tables.append(score_log.read(stream.settings.store.scores))
    assert [entry.kind for entry in entries_of(stream)] == ["start", "restart"]
    plain, wide_table, changed = tables
    at = entries_of(stream)[1].offset
    before, after = (pc.field("offset") < at, pc.field("offset") >= at)
    assert windows_in(changed.filter(before)) == windows_in(plain.filter(before)) != []
    assert windows_in(changed.filter(after)) == windows_in(wide_table.filter(after)) != []
    assert stream.outcome().rows == stream.reference().rows == stream.archive_rows()


def timed(stream: Stream, records: Iterator[Record], step_s: float) -> Callable[[int], None]:
    """Return what sends so many records; the log's clock moves on by a step with each."""
    log = stream.log
    assert isinstance(log, LocalLog)
    now = [time.time_ns()]

    def send(count: int) -> None:
        for record in islice(records, count):
            now[0] += round(step_s * SECOND)
            stream.send([record])

    log._clock = lambda: now[0]
    return send


def windows_in(table: pa.Table) -> list[str]:
    """Return device, end and coverage of each window; its score is another matter."""
    assert not (np.asarray(table["quality"]) & np.uint32(Quality.AFRESH)).any()
    columns = (table[name].to_pylist() for name in ("device", "start", "end", "coverage"))
    return sorted(" ".join(map(str, row)) for row in zip(*columns, strict=True))


def entries_of(stream: Stream) -> list[journal.Entry]:
    return list(journal.read(stream.log, Partition(stream.settings.stream.journal_topic, 0)))
