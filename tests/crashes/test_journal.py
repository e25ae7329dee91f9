"""Swaps, closes by the clock and states that begin again: what comes out is what the log gives once more."""

from __future__ import annotations

import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from simulators.fleet import CHANNELS
from stream_ad.assembly import Models
from stream_ad.core.batches import AlertPhase
from stream_ad.core.model import Model
from stream_ad.core.quality import Quality
from stream_ad.errors import PositionError
from stream_ad.identity import group
from stream_ad.io.local.log import LocalLog
from stream_ad.io.score_log import log as score_log
from stream_ad.io.state import checkpoints, journal
from stream_ad.io.state.journal import CloseEntry, Entry, StartEntry, SwapEntry
from stream_ad.io.transport import Partition
from stream_ad.io.wire import alerts as alert_messages
from stream_ad.proof.audit import Audit, AuditRange
from stream_ad.proof.ledger import AlertLedger
from stream_ad.replaying import Marker, Recomputing
from stream_ad.service.roles.scorer import Scorer
from tests.support.e2e import LONG_S, Stream, fleet_records, train_bundle, wait_until
from tests.support.roles import archive_all, ask_for, kill, open_scorer, work_off


def entries_of(stream: Stream, number: int = 0) -> list[Entry]:
    return list(journal.read(stream.log, Partition(stream.settings.stream.journal_topic, number)))


def marker_of(stream: Stream, number: int = 0) -> Marker:
    partition = Partition(stream.settings.stream.readings_topic, number)
    position = stream.log.committed(group(stream.settings, "scorer"), partition)
    assert position is not None
    return Marker.from_text(position.metadata)


def turn_until(role: Scorer, what: Callable[[], bool]) -> None:
    wait_until(what, LONG_S, each=lambda: role.turn(0.02))


def closes_of(stream: Stream) -> int:
    return sum(isinstance(entry, CloseEntry) for entry in entries_of(stream))


def await_close(role: Scorer, stream: Stream) -> None:
    """Wait for one more close by the clock to be public."""
    before = closes_of(stream)
    turn_until(role, lambda: closes_of(stream) > before and not any(owned.moved for owned in role._owned.values()))


def await_model(role: Scorer, stream: Stream, model_id: str) -> None:
    """Wait for a bundle to be in force in all partitions."""
    numbers = range(stream.partitions)
    turn_until(role, lambda: {marker_of(stream, number).model_id for number in numbers} == {model_id})


def tables_of(stream: Stream) -> pa.Table:
    return score_log.read(stream.settings.store.scores)


def alerts_in(stream: Stream) -> list[alert_messages.AlertMessage]:
    return [alert_messages.decode(value) for _, _, value, _ in stream.read(stream.settings.stream.alerts_topic)]


def still_open(stream: Stream) -> set[str]:
    found: dict[str, alert_messages.AlertMessage] = {}
    for message in sorted(alerts_in(stream), key=lambda message: (message.id, message.version)):
        found[message.id] = message
    return {message.id for message in found.values() if message.phase != AlertPhase.RESOLVED.value}


def expect_one_story_each(stream: Stream) -> None:
    """Each incident's messages are numbered 0, 1, 2 … and each is there once."""
    counts = Counter((message.id, message.version) for message in alerts_in(stream))
    assert set(counts.values()) <= {1}
    for incident in {message.id for message in alerts_in(stream)}:
        versions = sorted(version for other, version in counts if other == incident)
        assert versions == list(range(len(versions)))


# -- a partition that is silent as a whole ---------------------------------------------------------


@pytest.mark.parametrize("lives", [1, 3])
def test_a_silent_partition_is_closed_by_the_clock(make_stream: Callable[..., Stream], lives: int) -> None:
    stream = make_stream(partitions=1, time={"idle_close_s": 0.6}, commit={"every_s": 0.01})
    records = fleet_records(duration_s=600)
    for life in range(lives):
        role = open_scorer(stream)
        stream.send(list(islice(records, 300)))
        work_off(role, stream)
        before = len(stream.outcome().rows)
        await_close(role, stream)
        assert len(stream.outcome().rows) > before
        assert stream.scored()
        kill(role) if life + 1 < lives else role.close()
    archive_all(stream)
    stream.prove(at_least_alerts=0)
    quality = np.asarray(tables_of(stream)["quality"])
    assert (quality & np.uint32(Quality.IDLE_CLOSED)).any()


def test_no_close_by_the_clock_while_records_wait_unread(make_stream: Callable[..., Stream]) -> None:
    stream = make_stream(partitions=1, time={"idle_close_s": 0.3}, commit={"every_s": 0.01})
    records = fleet_records(duration_s=600)
    role = open_scorer(stream)
    stream.send(list(islice(records, 100)))
    work_off(role, stream)
    time.sleep(0.5)  # a pause of the process, in which records come
    stream.send(list(islice(records, 50)))
    owned = next(iter(role._owned.values()))
    owned.silence_check_at = 0.0
    assert owned.silent_until_ns() is not None
    role._mind_silence()
    assert not any(isinstance(entry, CloseEntry) for entry in owned.pending.entries)
    role.close()


# -- swaps -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dies", [False, True])
def test_a_swap_loses_no_window_and_scores_none_twice(
    make_stream: Callable[..., Stream], pump_bundle: Path, other_bundle: Path, dies: bool
) -> None:
    stream = make_stream(partitions=2, commit={"every_s": 0.01})
    records = fleet_records(duration_s=900)
    role = open_scorer(stream)
    swaps = [other_bundle, pump_bundle, other_bundle]
    for bundle in swaps:
        stream.send(list(islice(records, 400)))
        work_off(role, stream)
        await_model(role, stream, ask_for(stream, bundle))
        if dies:
            kill(role)
            role = open_scorer(stream)
    stream.send(list(islice(records, 400)))
    work_off(role, stream)
    role.close()
    archive_all(stream)
    stream.prove(at_least_alerts=5)
    expect_one_story_each(stream)
    for number in range(2):
        found = [entry for entry in entries_of(stream, number) if isinstance(entry, SwapEntry)]
        assert [entry.bundle for entry in found] == [str(bundle) for bundle in swaps]
    assert len(set(tables_of(stream)["model_id"].to_pylist())) == 2


def test_windows_are_those_of_a_run_without_swaps(
    make_stream: Callable[..., Stream], pump_bundle: Path, other_bundle: Path
) -> None:
    keys = []
    for swaps in (False, True):
        stream = make_stream(partitions=1, time={"idle_close_s": 1_000.0}, commit={"every_s": 0.01})
        records = fleet_records(duration_s=600)
        role = open_scorer(stream)
        for bundle in (other_bundle, pump_bundle):
            stream.send(list(islice(records, 300)))
            work_off(role, stream)
            if swaps:
                await_model(role, stream, ask_for(stream, bundle))
        stream.send(list(islice(records, 300)))
        work_off(role, stream)
        role.close()
        archive_all(stream)
        table = tables_of(stream)
        columns = (table[name].to_pylist() for name in ("device", "end", "sequence", "offset"))
        keys.append(sorted(zip(*columns, strict=True)))
    assert keys[0] == keys[1]


def test_a_swapped_bundle_outlives_a_restart_until_the_settings_name_another(
    make_stream: Callable[..., Stream], pump_bundle: Path, other_bundle: Path, tmp_path: Path
) -> None:
    stream = make_stream(partitions=1, commit={"every_s": 0.01})
    records = fleet_records(duration_s=900)
    role = open_scorer(stream)
    stream.send(list(islice(records, 200)))
    work_off(role, stream)
    swapped = ask_for(stream, other_bundle)
    await_model(role, stream, swapped)
    role.close()

    shutil.rmtree(stream.settings.store.checkpoints)  # also without checkpoints
    role = open_scorer(stream)
    stream.send(list(islice(records, 200)))
    work_off(role, stream)
    assert marker_of(stream).model_id == swapped
    assert marker_of(stream).generation == 0
    role.close()

    stream.change("stream", bundle=str(other_bundle))  # the settings follow: nothing changes
    role = open_scorer(stream)
    stream.send(list(islice(records, 200)))
    work_off(role, stream)
    assert marker_of(stream).generation == 0
    role.close()

    third = train_bundle(tmp_path / "third", "pca", folds=3)
    stream.change("stream", bundle=str(third))  # the newer decision, and older commands are over
    role = open_scorer(stream)
    stream.send(list(islice(records, 200)))
    work_off(role, stream)
    assert marker_of(stream).generation == 1
    assert marker_of(stream).model_id not in (swapped, "")
    role.close()
    archive_all(stream)
    expect_one_story_each(stream)


@pytest.mark.parametrize("fault", ["probe", "other content", "other windows", "other units", "gone"])
def test_a_bundle_that_cannot_be_used_is_refused_and_the_old_one_goes_on(
    make_stream: Callable[..., Stream],
    other_bundle: Path,
    tmp_path: Path,
    fault: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    stream = make_stream(partitions=1, commit={"every_s": 0.01})
    stream.change("stream.channels", **dict.fromkeys(CHANNELS, "mm/s"))
    role = open_scorer(stream)
    records = fleet_records(duration_s=600)
    stream.send(list(islice(records, 200)))
    work_off(role, stream)
    before = marker_of(stream).model_id
    bad = tmp_path / "bad"
    if fault in ("other windows", "other units"):
        train_bundle(bad, **({"samples": 32} if fault == "other windows" else {"unit": "in/s"}))
        ask_for(stream, bad)
    else:
        shutil.copytree(other_bundle, bad)
        ask_for(stream, bad)
        if fault == "probe":
            damage(bad / "probe.safetensors")
        elif fault == "other content":
            damage(bad / "manifest.json")
        else:
            shutil.rmtree(bad)
    refused = role.metrics._swaps_refused
    turn_until(role, lambda: refused._value.get() == 1)
    stream.send(list(islice(records, 200)))
    work_off(role, stream)
    for _ in range(20):
        role.turn(0.01)
    assert refused._value.get() == 1  # not again and again
    assert "swap_refused" in caplog.messages
    assert marker_of(stream).model_id == before
    good = ask_for(stream, other_bundle)  # the next command is obeyed
    await_model(role, stream, good)
    role.close()
    archive_all(stream)
    stream.prove(at_least_alerts=0)


def test_a_command_that_comes_while_a_bad_bundle_loads_is_obeyed(
    make_stream: Callable[..., Stream], other_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What fails is the older command, not the one that has come since."""
    stream = make_stream(partitions=1, commit={"every_s": 0.01})
    role = open_scorer(stream)
    stream.send(list(islice(fleet_records(duration_s=600), 200)))
    work_off(role, stream)
    bad = shutil.copytree(other_bundle, tmp_path / "bad")
    commands, load, go_on = role._commands, role._models.load, threading.Event()

    def load_slowly(bundle: str) -> Model:
        if bundle == str(bad):
            go_on.wait(LONG_S)
        return load(bundle)

    monkeypatch.setattr(role._models, "load", load_slowly)
    ask_for(stream, bad)
    damage(bad / "probe.safetensors")
    turn_until(role, lambda: commands._loading is not None)
    good = ask_for(stream, other_bundle)
    turn_until(role, lambda: commands._wanted is not None and commands._wanted.command.bundle == str(other_bundle))
    go_on.set()
    await_model(role, stream, good)
    assert role.metrics._swaps_refused._value.get() == 1
    role.close()
    archive_all(stream)
    stream.prove(at_least_alerts=0)


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_command_while_nobody_runs_is_obeyed_later(make_stream: Callable[..., Stream], other_bundle: Path) -> None:
    stream = make_stream(partitions=2, commit={"every_s": 0.01})
    role = open_scorer(stream)
    stream.send(list(islice(fleet_records(duration_s=600), 200)))
    work_off(role, stream)
    role.close()
    model_id = ask_for(stream, other_bundle)
    role = open_scorer(stream)
    await_model(role, stream, model_id)
    role.close()


# -- states that begin again -----------------------------------------------------------------------


def test_without_a_checkpoint_recovery_is_exact_where_the_start_lies_near(make_stream: Callable[..., Stream]) -> None:
    """Closes by the clock and all: the journal tells what the input does not."""
    stream = make_stream(partitions=1, time={"idle_close_s": 0.5}, commit={"every_s": 0.01})
    records = fleet_records(duration_s=900)
    for _ in range(3):
        role = open_scorer(stream)
        stream.send(list(islice(records, 250)))
        work_off(role, stream)
        await_close(role, stream)
        kill(role)
        shutil.rmtree(stream.settings.store.checkpoints, ignore_errors=True)
    role = open_scorer(stream)
    stream.send(list(islice(records, 100)))
    work_off(role, stream)
    role.close()
    assert marker_of(stream).generation == 0
    archive_all(stream)
    stream.prove()


def test_after_a_change_of_settings_no_alert_stays_open_for_ever(make_stream: Callable[..., Stream]) -> None:
    stream = make_stream(partitions=2, commit={"every_s": 0.01}, store={"warm_up_records": 50})
    records = fleet_records(duration_s=900)
    role = open_scorer(stream)
    while not still_open(stream):
        stream.send(list(islice(records, 100)))
        work_off(role, stream)
    hanging = still_open(stream)
    kill(role)
    stream.change("threshold", kind="fixed", limit=1e9)  # nothing is over this limit: nobody would end them
    role = open_scorer(stream)
    stream.send(list(islice(records, 300)))
    work_off(role, stream)
    role.close()
    assert not still_open(stream)
    ended = [message for message in alerts_in(stream) if message.id in hanging and message.phase == "resolved"]
    assert len(ended) == len(hanging)
    assert all("the state was reset" in message.reason for message in ended)
    expect_one_story_each(stream)
    restarts = [entry for entry in entries_of(stream) if isinstance(entry, StartEntry) and entry.kind == "restart"]
    assert len(restarts) == 1
    assert restarts[0].config["threshold"]["kind"] == "fixed"
    archive_all(stream)
    stream.archive_rows()  # its chain holds over the change
    check_again(stream)


def check_again(stream: Stream) -> None:
    """Compute everything once more, over all generations, and compare the rows with the archive's."""
    expected, found = stream.reference(), stream.outcome()
    assert found.rows == expected.rows
    assert stream.archive_rows() == expected.rows
    assert found.letters == expected.letters


def test_a_start_over_that_was_not_committed_is_made_again(make_stream: Callable[..., Stream]) -> None:
    stream = make_stream(partitions=1, commit={"every_s": 0.01}, store={"warm_up_records": 250})
    records = fleet_records(duration_s=900)
    role = open_scorer(stream)
    stream.send(list(islice(records, 300)))
    work_off(role, stream)
    kill(role)
    stream.change("incident", close_after_s=20.0)
    for _ in range(3):  # killed while it warms up
        role = open_scorer(stream)
        role.turn(0.0)
        kill(role)
    role = open_scorer(stream)
    stream.send(list(islice(records, 100)))
    work_off(role, stream)
    kill(role)
    shutil.rmtree(stream.settings.store.checkpoints, ignore_errors=True)
    role = open_scorer(stream)  # exactly the state that the start over began
    stream.send(list(islice(records, 100)))
    work_off(role, stream)
    role.close()
    assert marker_of(stream).generation == 1
    archive_all(stream)
    check_again(stream)


def test_lost_input_is_said_and_every_window_is_flagged(
    make_stream: Callable[..., Stream], caplog: pytest.LogCaptureFixture
) -> None:
    stream = make_stream(partitions=1, commit={"every_s": 0.01})
    records = fleet_records(duration_s=900)
    role = open_scorer(stream)
    stream.send(list(islice(records, 400)))
    work_off(role, stream)
    kill(role)
    partition = Partition(stream.settings.stream.readings_topic, 0)
    scored_to = stream.ends()[partition]
    stream.send(list(islice(records, 200)))
    lost_to = stream.ends()[partition] - 50
    log = stream.log
    assert isinstance(log, LocalLog)
    log.trim(partition, lost_to)
    role = open_scorer(stream)
    stream.send(list(islice(records, 300)))
    work_off(role, stream)
    role.close()
    archive_all(stream)
    stream.archive_rows()
    restart = next(e for e in reversed(entries_of(stream)) if isinstance(e, StartEntry))
    assert restart.lost == (scored_to, lost_to)
    assert "deleted before it was scored" in restart.why
    assert any(one.levelname == "WARNING" and one.message == "partition_gained" for one in caplog.records)
    table = tables_of(stream)
    offsets, quality = np.asarray(table["offset"]), np.asarray(table["quality"])
    after = offsets >= lost_to
    assert after.any()
    assert ((quality[after] & np.uint32(Quality.AFRESH)) != 0).all()
    assert not (quality[~after] & np.uint32(Quality.AFRESH)).any()
    expect_one_story_each(stream)


def test_a_topic_made_anew_is_refused_with_a_line_that_says_what_to_do(make_stream: Callable[..., Stream]) -> None:
    stream = make_stream(partitions=1)
    role = open_scorer(stream)
    records = fleet_records(duration_s=600)
    stream.send(list(islice(records, 100)))
    work_off(role, stream)
    role.close()
    stream.log.delete_topic(stream.settings.stream.readings_topic)
    stream.log.ensure_topic(stream.settings.stream.readings_topic, 1)
    stream.send(list(islice(records, 100)))
    role = open_scorer(stream)
    with pytest.raises(PositionError, match=r"recreated|nothing is committed"):
        role.turn(0.0)
    kill(role)


# -- computing again -------------------------------------------------------------------------------


def test_a_stretch_computed_again_from_a_checkpoint_is_that_from_the_start(
    make_stream: Callable[..., Stream], other_bundle: Path
) -> None:
    stream = make_stream(
        partitions=1,
        time={"idle_close_s": 0.6},
        commit={"every_s": 0.01},
        store={"checkpoint_every_s": 0.01, "checkpoints_kept": 50},
    )
    records = fleet_records(duration_s=900)
    role = open_scorer(stream)
    for _ in range(4):
        stream.send(list(islice(records, 150)))
        work_off(role, stream)
    swapped = ask_for(stream, other_bundle)
    await_model(role, stream, swapped)
    for _ in range(4):
        stream.send(list(islice(records, 150)))
        work_off(role, stream)
    role.close()
    partition = Partition(stream.settings.stream.readings_topic, 0)
    end = stream.ends()[partition]
    names = checkpoints.names(stream.settings.store.checkpoints, stream.settings.stream.name, 0)
    assert len(names) > 5
    again = Recomputing(stream.settings, Models(stream.settings), stream.log, partition, marker_of(stream).entries)
    whole = scores_from(again, 0, end, 0)
    assert whole
    for start in (end - 50, end // 2, end // 4):
        assert again.first_offset(start) > 0
        assert scores_from(again, start, end, start) == [row for row in whole if row[0] >= start]


def scores_from(again: Recomputing, start: int, stop: int, first: int) -> list[tuple[int, str, int, bytes, bytes]]:
    rows = []
    for found in again.run(start, stop):
        for part in found.stepped.result.judged:
            keys, scores = part.verdicts.keys, part.verdicts.scores
            for at, code in enumerate(part.device.tolist()):
                if keys.offset[at] >= first:
                    bits = scores.score[at].tobytes(), part.verdicts.limit[at].tobytes()
                    rows.append((int(keys.offset[at]), part.ids[code], int(keys.end_ns[at]), *bits))
    return rows


# -- on Kafka --------------------------------------------------------------------------------------


@pytest.mark.broker
def test_swaps_closes_and_recovery_without_checkpoints_on_kafka(
    make_stream: Callable[..., Stream], kafka_broker: list[str], pump_bundle: Path, other_bundle: Path
) -> None:
    stream = make_stream(servers=kafka_broker, partitions=2, time={"idle_close_s": 1.0}, commit={"every_s": 0.05})
    records = fleet_records(duration_s=900)
    for bundle in (other_bundle, pump_bundle):
        role = open_scorer(stream)
        stream.send(list(islice(records, 300)))
        work_off(role, stream)
        await_model(role, stream, ask_for(stream, bundle))
        stream.send(list(islice(records, 300)))
        work_off(role, stream)
        await_close(role, stream)
        kill(role)
        shutil.rmtree(stream.settings.store.checkpoints, ignore_errors=True)
    role = open_scorer(stream)
    stream.send(list(islice(records, 100)))
    work_off(role, stream)
    role.close()
    archive_all(stream)
    stream.prove(at_least_alerts=5)
    expect_one_story_each(stream)
    audit = Audit(stream.settings, stream.log)
    ledger = AlertLedger(stream.settings, stream.log)
    outcomes = [audit.compare(number, AuditRange(), ledger) for number in audit.partitions()]
    assert all(outcome is not None and outcome.agrees and outcome.worst == 0 for outcome in outcomes), outcomes


@pytest.mark.broker
def test_lost_input_on_kafka(make_stream: Callable[..., Stream], kafka_broker: list[str]) -> None:
    stream = make_stream(servers=kafka_broker, partitions=1, commit={"every_s": 0.05})
    records = fleet_records(duration_s=600)
    role = open_scorer(stream)
    stream.send(list(islice(records, 200)))
    work_off(role, stream)
    kill(role)
    partition = Partition(stream.settings.stream.readings_topic, 0)
    scored_to = stream.ends()[partition]
    stream.send(list(islice(records, 100)))
    lost_to = stream.ends()[partition] - 20
    stream.log.trim(partition, lost_to)  # type: ignore[attr-defined]  # both logs have it, the protocol has not
    role = open_scorer(stream)
    stream.send(list(islice(records, 100)))
    work_off(role, stream)
    role.close()
    archive_all(stream)
    stream.archive_rows()
    (restart,) = [e for e in entries_of(stream) if isinstance(e, StartEntry) and e.kind == "restart"]
    assert restart.lost == (scored_to, lost_to)
    expect_one_story_each(stream)
