"""What whoever comes next finds: partitions handed over, checkpoints read again, damaged, gone or of other settings.

Here roles are objects, killed by letting go of their connections without a word to the log, as the kernel does;
`test_matrix.py` kills processes at every step.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

import pytest

from stream_ad.io.state import checkpoints
from stream_ad.service.roles.scorer import Scorer
from tests.support.e2e import SEPARATOR, Stream, assert_same, fleet_records, wait_until
from tests.support.roles import archive_all, kill, open_scorer, work_off


@pytest.fixture(params=["local", pytest.param("kafka", marks=pytest.mark.broker)])
def servers(request: pytest.FixtureRequest) -> Sequence[str]:
    """Brokers of Kafka; none for the local log."""
    found: Sequence[str] = request.getfixturevalue("kafka_broker") if request.param == "kafka" else ()
    return found


def gain_all(role: Scorer, stream: Stream) -> None:
    wait_until(lambda: len(role._owned) == stream.partitions, each=lambda: role.turn(0.0))


def test_dying_while_checkpoints_are_read_again_costs_nothing(make_stream: Callable[..., Stream]) -> None:
    """Killed again and again before it has caught up, a scorer publishes nothing meanwhile."""
    stream = make_stream(commit={"every_s": 0.001, "poll_records": 20}, store={"checkpoint_every_s": 1_000.0})
    records = fleet_records(duration_s=600)
    stream.send(list(islice(records, 500)))
    first = open_scorer(stream)
    work_off(first, stream)
    kill(first)
    before = stream.outcome()
    for _ in range(3):
        role = open_scorer(stream)
        for _ in range(3):
            role.turn(0.02)
        assert not role.ready()[0]
        kill(role)
    assert stream.outcome() == before
    stream.send(list(islice(records, 100)))
    last = open_scorer(stream)
    work_off(last, stream)
    last.close()
    archive_all(stream)
    stream.prove()


def test_partitions_are_handed_over_once(make_stream: Callable[..., Stream], servers: Sequence[str]) -> None:
    stream = make_stream(servers=servers, partitions=3, commit={"every_s": 0.01, "poll_records": 60})
    records = fleet_records(duration_s=600)
    first = open_scorer(stream)
    stream.send(list(islice(records, 200)))
    gain_all(first, stream)
    for _ in range(3):
        first.turn(0.02)
    second = open_scorer(stream, index=1)
    stream.send(list(islice(records, 200)))
    wait_until(lambda: bool(second._owned), each=lambda: (first.turn(0.01), second.turn(0.01)))
    assert all(recovered.public.offset == recovered.replay.offset for recovered in second._owned.values())
    wait_until(stream.scored, each=lambda: (first.turn(0.01), second.turn(0.01)))
    assert {len(first._owned), len(second._owned)} == {1, 2}
    stream.send(list(islice(records, 150)))
    second.turn(0.02)
    first.close()
    stream.send(list(islice(records, 50)))
    work_off(second, stream)
    assert len(second._owned) == 3
    second.close()
    archive_all(stream)
    stream.prove()


def test_a_planned_hand_over_reads_nothing_again(make_stream: Callable[..., Stream], servers: Sequence[str]) -> None:
    stream = make_stream(servers=servers, store={"checkpoint_every_s": 1_000.0})
    records = fleet_records(duration_s=600)
    stream.send(list(islice(records, 900)))
    first = open_scorer(stream)
    gain_all(first, stream)
    first.turn(0.02)
    first.turn(0.02)
    first.close()
    second = open_scorer(stream)
    gain_all(second, stream)
    assert second.metrics.replayed_records._value.get() == 0
    work_off(second, stream)
    second.turn(0.0)
    second.close()  # nothing pending: the commit only names the checkpoint
    third = open_scorer(stream)
    stream.send(list(islice(records, 20)))
    work_off(third, stream)
    assert third.metrics.replayed_records._value.get() == 0
    third.close()
    archive_all(stream)
    stream.prove()


# -- checkpoints -----------------------------------------------------------------------------------


def scored_twice(stream: Stream, between: Callable[[Path], None]) -> tuple[list[str], dict[int, str]]:
    """Score, kill, do something to the checkpoints' folder, score on.

    Returns:
        the checkpoints of partition 0 before it, newest first, and the one used, by partition.
    """
    records = fleet_records(duration_s=600)
    first = open_scorer(stream)
    for _ in range(4):  # a few checkpoints
        stream.send(list(islice(records, 120)))
        work_off(first, stream)
        for owned in first._owned.values():
            first._checkpointer.take_now(owned.partition, first._topic_id, owned.replay)
    stream.send(list(islice(records, 60)))
    work_off(first, stream)
    kill(first)
    folder = stream.settings.store.checkpoints
    before = checkpoints.names(folder, stream.settings.stream.name, 0)
    between(folder)
    stream.send(list(islice(records, 100)))
    second = open_scorer(stream)
    second.turn(0.0)
    used = {partition.number: owned.checkpoint for partition, owned in second._owned.items()}
    work_off(second, stream)
    second.close()
    archive_all(stream)
    return before, used


def without_limits(rows: list[str]) -> list[str]:
    """Return device, start, end, score, smoothed score, quality, …, offset of each row, not what the limit decides."""
    kept = (*range(5), *range(8, 16))
    return sorted(SEPARATOR.join(row.split(SEPARATOR)[k] for k in kept) for row in rows)


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [entry for entry in caplog.records if entry.levelno == logging.WARNING]


def test_a_damaged_checkpoint_is_passed_over(
    make_stream: Callable[..., Stream], caplog: pytest.LogCaptureFixture
) -> None:
    stream = make_stream(store={"checkpoint_every_s": 1_000.0})

    def damage_newest(folder: Path) -> None:
        for number in range(2):
            damage(folder / checkpoints.names(folder, stream.settings.stream.name, number)[0])

    before, used = scored_twice(stream, damage_newest)
    assert used[0] in before[1:]
    assert {entry.message for entry in warnings_of(caplog)} == {"partition_gained"}
    stream.prove()


def test_without_checkpoints_all_retained_input_is_read_again(make_stream: Callable[..., Stream]) -> None:
    stream = make_stream()
    _, used = scored_twice(stream, shutil.rmtree)
    assert set(used.values()) == {""}
    stream.prove()


def test_other_settings_do_not_use_the_state_of_the_old(
    make_stream: Callable[..., Stream], caplog: pytest.LogCaptureFixture
) -> None:
    stream = make_stream()

    def change(_: Path) -> None:
        stream.change("threshold", kind="quantile", quantile=0.99)

    _, used = scored_twice(stream, change)
    assert set(used.values()) == {""}
    # Windows and scores depend on the bundle alone, so all rows are there once; limits differ from here on.
    expected = without_limits(stream.reference().rows)
    assert_same("rows of the topic", without_limits(stream.outcome().rows), expected)
    assert_same("rows of the archive", without_limits(stream.archive_rows()), expected)
    warned = warnings_of(caplog)
    assert {entry.message for entry in warned} == {"partition_gained"}
    assert all("expected fingerprint" in str(entry.__dict__["fields"]["why"]) for entry in warned)
