"""An audit agrees with what was published, and finds whatever somebody has changed."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from stream_ad.cli.main import main
from stream_ad.io.local.log import LocalLog
from stream_ad.io.score_log import log as score_log
from stream_ad.io.score_log.parts import PartInfo
from stream_ad.io.state import journal
from stream_ad.io.state.journal import StartEntry
from stream_ad.io.transport import Partition, Position, Record
from stream_ad.proof.audit import Audit, AuditRange, Outcome
from stream_ad.proof.ledger import AlertLedger
from stream_ad.replaying.reconciling import REASON
from tests.support.e2e import Stream, fleet_records, train_bundle, wait_until
from tests.support.roles import archive_all, ask_for, open_archiver, open_scorer, work_off
from tests.support.score_logs import rewrite

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def two_bundles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("bundles")
    return train_bundle(folder / "first"), train_bundle(folder / "second", "mahalanobis")


def life(stream: Stream, records: Iterator[Record], swap: Path | None = None) -> None:
    """Score a stretch of input in one life of a scorer, with a swap in its middle."""
    role = open_scorer(stream)
    stream.send(list(islice(records, 200)))
    work_off(role, stream)
    if swap is not None:
        model_id = ask_for(stream, swap)
        lineages = [owned.replay for owned in role._owned.values()]
        wait_until(
            lambda: all(replay.lineage.model_id == model_id for replay in lineages), each=lambda: role.turn(0.02)
        )
    stream.send(list(islice(records, 200)))
    work_off(role, stream)
    role.close()


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, two_bundles: tuple[Path, Path]) -> Iterator[Stream]:
    """A stream with a swap, closes by the clock, and settings that changed; its tail is in the scores topic only."""
    stream = Stream(
        tmp_path_factory.mktemp("stream"),
        two_bundles[0],
        commit={"every_s": 0.01},
        time={"idle_close_s": 2.0},
        store={"checkpoint_every_s": 0.05, "checkpoints_kept": 3},
    )
    records = fleet_records(duration_s=900)
    life(stream, records)
    life(stream, records, two_bundles[1])
    stream.change("threshold", kind="quantile", quantile=0.995)
    life(stream, records)
    archive_all(stream)
    life(stream, records)
    yield stream
    stream.close()


def audited(stream: Stream, audited_range: AuditRange | None = None, alerts: bool = False) -> list[Outcome]:
    audit = Audit(stream.settings, stream.log)
    ledger = AlertLedger(stream.settings, stream.log) if alerts else None
    found = [audit.compare(number, audited_range or AuditRange(), ledger) for number in audit.partitions()]
    return [outcome for outcome in found if outcome is not None]


def test_everything_is_computed_again_to_the_last_bit(published: Stream) -> None:
    rows = sum(1 for _ in published.outcome().rows)
    outcomes = audited(published, alerts=True)
    assert [outcome.failed for outcome in outcomes] == ["", ""]
    assert [outcome.examples for outcome in outcomes] == [[], []]
    assert all(outcome.agrees and outcome.worst == 0.0 and outcome.begun == 0 for outcome in outcomes)
    assert sum(outcome.rows for outcome in outcomes) == rows > 500
    assert sum(outcome.alerts for outcome in outcomes) > 0


def test_a_stretch_begins_at_the_nearest_checkpoint(published: Stream) -> None:
    table = score_log.read(published.settings.store.scores)
    device = table["device"][0].as_py()
    newest = pc.max(table["end"]).as_py()
    assert newest is not None
    end_ns = int(newest.timestamp()) * 1_000_000_000
    (outcome,) = audited(published, AuditRange(device, end_ns - 60_000_000_000, end_ns))
    assert outcome.agrees
    assert outcome.begun > 0
    assert outcome.rows > 0
    whole = audited(published, AuditRange(device))[0]
    assert whole.agrees
    assert whole.rows > outcome.rows


def test_nothing_published_is_nothing_to_audit(published: Stream) -> None:
    assert audited(published, AuditRange("nobody")) == []


@pytest.fixture
def tampered(published: Stream, tmp_path: Path) -> Stream:
    """A copy of the stream that a test may change."""
    shutil.copytree(published.folder, tmp_path / "copy")
    return Stream.at(tmp_path / "copy" / "stream.toml")


def edit(stream: Stream, change: Callable[[pa.Table], pa.Table]) -> None:
    """Write another content into the largest file of the score log."""
    part = max(score_log.parts(stream.settings.store.scores, 0), key=lambda part: part.rows)
    table = pq.read_table(part.path)
    metadata = dict(table.schema.metadata)
    edited = change(table)
    metadata[b"stream_ad.rows"] = str(edited.num_rows).encode()
    pq.write_table(edited.replace_schema_metadata(metadata), part.path)


def with_value(table: pa.Table, name: str, row: int, value: Any) -> pa.Table:
    column = table[name].to_pylist()
    column[row] = value(column[row])
    at = table.schema.get_field_index(name)
    return table.set_column(at, table.schema.field(at), pa.array(column, table.schema.field(at).type))


def drop(stream: Stream, rows: pc.Expression) -> int:
    """Take rows out of the files of partition 0; return how many."""
    dropped = 0
    for part in score_log.parts(stream.settings.store.scores, 0):
        dropped += pq.read_table(pa.BufferReader(part.path.read_bytes())).filter(rows).num_rows
        rewrite(part.path, lambda table: table.filter(~rows))
    return dropped


def in_the_middle(stream: Stream) -> tuple[str, list[datetime]]:
    """Return a device of partition 0, and the ends of its windows but for the outer ones."""
    table = score_log.read(stream.settings.store.scores)
    table = table.filter(pc.field("partition") == 0)
    device = table["device"][0].as_py()
    ends = table.filter(pc.field("device") == device)["end"].to_pylist()
    return device, ends[len(ends) // 3 : -len(ends) // 3]


@pytest.mark.parametrize("edge", [0, -1])
@pytest.mark.parametrize("is_of_a_device", [True, False])
def test_a_row_lost_at_the_edge_of_a_stretch_is_found(tampered: Stream, edge: int, is_of_a_device: bool) -> None:
    archive_all(tampered)
    device, ends = in_the_middle(tampered)
    audited_range = between(ends[0] - timedelta(seconds=1), ends[-1], device if is_of_a_device else None)
    assert audited(tampered, audited_range)[0].agrees
    assert drop(tampered, (pc.field("device") == device) & (pc.field("end") == pa.scalar(ends[edge]))) == 1
    outcome = audited(tampered, audited_range)[0]
    assert (outcome.missing, outcome.surplus, outcome.different) == (1, 0, 0)
    tampered.close()


def test_a_partition_without_any_row_of_a_stretch_is_computed_too(tampered: Stream) -> None:
    archive_all(tampered)
    _, ends = in_the_middle(tampered)
    audited_range = between(ends[0], ends[-1])
    before = audited(tampered, audited_range)[0]
    rows = (pc.field("end") > pa.scalar(ends[0])) & (pc.field("end") <= pa.scalar(ends[-1]))
    assert drop(tampered, rows) == before.rows > 0
    assert audited(tampered, audited_range)[0].missing == before.rows
    tampered.close()


def test_an_open_stretch_reaches_to_the_first_and_the_last(tampered: Stream) -> None:
    archive_all(tampered)
    device, ends = in_the_middle(tampered)
    whole = audited(tampered, AuditRange(device))[0]
    outer = (pc.field("end") <= pa.scalar(ends[0])) | (pc.field("end") > pa.scalar(ends[-1]))
    dropped = drop(tampered, (pc.field("device") == device) & outer)
    assert 0 < dropped < whole.rows
    assert audited(tampered, AuditRange(device))[0].missing == dropped
    assert audited(tampered, between(None, ends[-1], device))[0].missing > 0
    assert audited(tampered, between(ends[-1], None, device))[0].missing > 0
    tampered.close()


def between(start: datetime | None, end: datetime | None, device: str | None = None) -> AuditRange:
    start_ns, end_ns = (None if time is None else round(time.timestamp() * 1_000) * 1_000_000 for time in (start, end))
    return AuditRange(device, start_ns, end_ns)


CHANGES: dict[str, tuple[Callable[[pa.Table], pa.Table], str]] = {
    "a score's last bit": (lambda t: with_value(t, "score", 3, lambda v: v * (1 + 2**-52)), "different"),
    "a limit": (lambda t: with_value(t, "limit", 3, lambda v: v * 2), "different"),
    "a decision": (lambda t: with_value(t, "is_anomaly", 3, lambda v: not v), "different"),
    "a flag": (lambda t: with_value(t, "quality", 3, lambda v: v ^ 1), "different"),
    "a row less": (lambda t: t.slice(1), "missing"),
    "a row twice": (lambda t: pa.concat_tables([t, t.slice(5, 1)]), "surplus"),
    "a device's name": (lambda t: with_value(t, "device", 3, lambda _: "pump-9999"), "surplus"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_somebody_changed_is_found(tampered: Stream, change: str) -> None:
    how, kind = CHANGES[change]
    edit(tampered, how)
    outcomes = audited(tampered)
    assert not outcomes[0].agrees
    assert getattr(outcomes[0], kind) == 1
    assert outcomes[0].examples
    assert outcomes[1].agrees
    tampered.close()


def test_a_lost_and_a_strange_alert_are_found(tampered: Stream) -> None:
    topic = tampered.settings.stream.alerts_topic
    log = tampered.log
    assert isinstance(log, LocalLog)
    records = [(value, headers) for _, _, value, headers in tampered.read(topic)]
    value = json.loads(records[-1][0])
    log.append(topic, [Record(json.dumps(value | {"id": "f" * 32}).encode())])
    place = Partition(topic, 0)
    first = next(iter(log.read(place, *log.bounds(place))))
    log.trim(place, int(first.offset[0]) + 1)
    outcomes = audited(tampered, alerts=True)
    assert sum(outcome.alerts_surplus for outcome in outcomes) == 1
    assert sum(outcome.alerts_missing for outcome in outcomes) == 1
    tampered.close()


def public_alerts(stream: Stream) -> list[dict[str, Any]]:
    return [json.loads(value) for _, _, value, _ in stream.read(stream.settings.stream.alerts_topic)]


def edit_alert(stream: Stream, alert: dict[str, Any], to: bytes) -> None:
    """Write another content into a message of the alerts topic; one that is no alert takes it out."""
    with contextlib.closing(sqlite3.connect(stream.folder / "log.sqlite")) as log, log:
        value = json.dumps(alert, separators=(",", ":"), ensure_ascii=False).encode()
        assert log.execute("UPDATE records SET value = ? WHERE value = ?", (to, value)).rowcount == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [("limit", 1.0), ("score", 2.0), ("peak", 3.0), ("kind", "regime"), ("device", "pump-9"), ("reason", "none")],
)
def test_an_alert_with_another_content_is_named(tampered: Stream, name: str, value: object) -> None:
    alert = next(alert for alert in public_alerts(tampered) if alert["phase"] == "opened")
    edit_alert(tampered, alert, json.dumps(alert | {name: value}).encode())
    outcomes = audited(tampered, alerts=True)
    assert sum(outcome.alerts_different for outcome in outcomes) == 1
    (example,) = [example for outcome in outcomes for example in outcome.examples]
    assert example == f"alert {alert['id']} opened (0): published {name} {value!r}, computed {alert[name]!r}"
    tampered.close()


@pytest.mark.parametrize("is_whole", [True, False])
def test_the_endings_of_a_start_over_are_expected(
    tmp_path: Path, two_bundles: tuple[Path, Path], is_whole: bool
) -> None:
    """Also where what was open has to be taken from the topic, because computing begins with the start over."""
    stream = Stream(tmp_path / "stream", two_bundles[0], commit={"every_s": 0.01})
    records = fleet_records(duration_s=900)
    role = open_scorer(stream)
    stream.send(list(islice(records, 600)))
    work_off(role, stream)
    role.close()
    stream.change("threshold", kind="quantile", quantile=0.995)
    stream.change("store", warm_up_records=50)
    life(stream, records)
    ended = [alert for alert in public_alerts(stream) if alert["reason"] == REASON]
    assert ended
    if not is_whole:
        journal_place = Partition(stream.settings.stream.journal_topic, ended[0]["input"]["partition"])
        starts = [one for one in journal.read(stream.log, journal_place) if isinstance(one, StartEntry)]
        place = Partition(stream.settings.stream.readings_topic, journal_place.number)
        assert isinstance(stream.log, LocalLog)
        stream.log.trim(place, starts[-1].read_from)
        shutil.rmtree(stream.settings.store.checkpoints)
    sound = audited(stream, alerts=True)
    assert [(outcome.failed, outcome.examples) for outcome in sound] == [("", [])] * 2
    edit_alert(stream, ended[0], b"{}")
    outcomes = audited(stream, alerts=True)
    assert [outcome.alerts_missing for outcome in outcomes].count(1) == 1
    stream.close()


def test_parts_that_were_merged_since_they_were_listed_are_listed_again(
    published: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    list_parts, listings = score_log.parts, [0, 0]

    def listed_before(folder: Path, partition: int) -> list[PartInfo]:
        found = list_parts(folder, partition)
        listings[partition] += 1
        if listings[partition] <= 2:
            found[-1] = replace(found[-1], path=found[-1].path.with_name("part-0-merged.parquet"))
        return found

    monkeypatch.setattr(score_log, "parts", listed_before)
    outcomes = audited(published, alerts=True)
    assert [(outcome.failed, outcome.agrees) for outcome in outcomes] == [("", True)] * 2
    assert listings == [3, 3]


def test_input_that_is_gone_is_said(tampered: Stream) -> None:
    log = tampered.log
    assert isinstance(log, LocalLog)
    shutil.rmtree(tampered.settings.store.checkpoints)
    for partition, end in tampered.ends().items():
        log.trim(partition, end - 1)
    outcomes = audited(tampered)
    assert all("retained" in outcome.failed and not outcome.agrees for outcome in outcomes)
    tampered.close()


def test_the_verb_says_it_in_a_line(published: Stream, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", "-c", str(published.config)]) == 0
    out = capsys.readouterr().out
    assert "same decisions, score difference 0" in out
    assert main(["audit", "-c", str(published.config), "--json", "--device", "pump-0001"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert all(one["agrees"] and one["worst"] == 0 for one in found)
    assert main(["audit", "-c", str(published.config), "--device", "nobody"]) == 2
    assert main(["audit", "-c", str(published.config), "--from", "yesterday"]) == 2


# -- verify --topics -------------------------------------------------------------------------------


def verified(stream: Stream, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    code = main(["verify", "--topics", "--json", "-c", str(stream.config)])
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return code, found


def test_files_and_topics_agree(published: Stream, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = verified(published, capsys)
    assert (code, found["ok"]) == (0, True)
    tails = found["topics"]["tails"]
    assert sum(tail["rows"] for tail in tails) > 0
    assert [tail["gap"] for tail in tails] == ["", ""]
    assert sum(one["rows"] for one in found["topics"]["partitions"]) == len(published.outcome().rows)
    assert main(["verify", "--topics", "-c", str(published.config)]) == 0
    assert "proven" in capsys.readouterr().out


@pytest.mark.parametrize("goes_on", ["records", "closes by the clock"])
def test_what_scorers_do_meanwhile_is_no_finding(
    tmp_path: Path,
    two_bundles: tuple[Path, Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    goes_on: str,
) -> None:
    """After each look at a position a scorer commits more, and an archiver places it."""
    is_silent = goes_on != "records"
    stream = Stream(
        tmp_path / "stream",
        two_bundles[0],
        commit={"every_s": 0.01},
        time={"idle_close_s": 0.8 if is_silent else 60.0},
        store={"checkpoint_every_s": 0.5, "part_max_age_s": 0.05},
    )
    records = fleet_records(duration_s=3600)
    scorer, archiver = open_scorer(stream), open_archiver(stream)
    stream.send(list(islice(records, 400)))
    work_off(scorer, stream)
    wait_until(lambda: bool(list(score_log.parts(stream.settings.store.scores, 0))), each=lambda: archiver.turn(0.02))
    committed = LocalLog.committed
    is_ours, positions = threading.local(), []

    def go_on() -> None:
        closes = scorer.metrics.wall_closes._value.get()
        if is_silent and not closes:
            both = stream.partitions
            wait_until(lambda: scorer.metrics.wall_closes._value.get() >= closes + both, each=lambda: scorer.turn(0.02))
        else:
            stream.send(list(islice(records, 40)))
        work_off(scorer, stream)
        archiver.turn(0.02)

    def look(log: LocalLog, group: str, partition: Partition) -> Position | None:
        found = committed(log, group, partition)
        if not getattr(is_ours, "busy", False):
            is_ours.busy = True
            go_on()
            is_ours.busy = False
            positions.append(found)
        return found

    monkeypatch.setattr(LocalLog, "committed", look)
    code, found = verified(stream, capsys)
    monkeypatch.undo()
    assert len({position.offset for position in positions if position is not None}) > 2
    assert [tail["gap"] for tail in found["topics"]["tails"]] == ["", ""]
    assert [one["examples"] for one in found["topics"]["partitions"]] == [[], []]
    assert (code, found["ok"]) == (0, True)
    assert verified(stream, capsys)[0] == 0
    scorer.close()
    archiver.close()
    stream.close()


def test_input_that_was_lost_is_named(
    tmp_path: Path, two_bundles: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    stream = Stream(tmp_path / "stream", two_bundles[0], partitions=1, commit={"every_s": 0.05})
    records = fleet_records(duration_s=600)
    life(stream, records)
    partition = Partition(stream.settings.stream.readings_topic, 0)
    scored_to = stream.ends()[partition]
    stream.send(list(islice(records, 100)))
    lost_to = stream.ends()[partition] - 20
    assert isinstance(stream.log, LocalLog)
    stream.log.trim(partition, lost_to)
    life(stream, records)
    archive_all(stream)
    code, found = verified(stream, capsys)
    (outcome,) = found["topics"]["partitions"]
    assert (code, outcome["lost"]) == (0, lost_to - scored_to)
    assert main(["verify", "--topics", "-c", str(stream.config)]) == 0
    out = capsys.readouterr().out
    assert f"note: input {scored_to}..{lost_to - 1} was deleted before it was scored" in out
    assert f"; {lost_to - scored_to:,} input offsets were deleted before they were scored" in out.splitlines()[-1]
    stream.close()


def test_a_message_that_is_missing_in_the_tail_is_found(tampered: Stream, capsys: pytest.CaptureFixture[str]) -> None:
    place = Partition(tampered.settings.stream.scores_topic, 0)
    last = score_log.last_part(tampered.settings.store.scores, 0)
    assert last is not None
    messages = [int(at) for raw in tampered.log.read(place, last.span.end, 10**9) for at in raw.offset]
    assert messages
    assert isinstance(tampered.log, LocalLog)
    tampered.log.trim(place, messages[0] + 1)
    code, found = verified(tampered, capsys)
    assert code == 1
    assert "deleted" in found["topics"]["tails"][0]["gap"]
    assert found["topics"]["partitions"][0]["missing"] > 0
    tampered.close()


@pytest.mark.parametrize("is_idle", [True, False])
def test_records_without_scores_that_were_deleted_are_no_gap(
    tampered: Stream, capsys: pytest.CaptureFixture[str], is_idle: bool
) -> None:
    log, place = tampered.log, Partition(tampered.settings.stream.scores_topic, 0)
    assert isinstance(log, LocalLog)
    last = score_log.last_part(tampered.settings.store.scores, 0)
    assert last is not None
    if is_idle:
        archive_all(tampered)
        last = score_log.last_part(tampered.settings.store.scores, 0)
        assert last is not None
    # As if the newest part had ended two records earlier, and those had been the log's own.
    rewrite(last.path, footer={"end": last.span.end - 2})
    log.trim(place, last.span.end)
    code, found = verified(tampered, capsys)
    assert [tail["gap"] for tail in found["topics"]["tails"]] == ["", ""]
    assert (code, found["ok"]) == (0, True)
    tampered.close()


def test_a_repeated_message_is_found(tampered: Stream, capsys: pytest.CaptureFixture[str]) -> None:
    scores = tampered.settings.stream.scores_topic
    place = Partition(scores, 0)
    newest = [
        (value, headers)
        for raw in tampered.log.read(place, *tampered.log.bounds(place))
        for value, headers in zip(raw.values, raw.headers, strict=True)
    ][-1]
    tampered.log.append(scores, [Record(newest[0], headers=newest[1], partition=0)])
    code, found = verified(tampered, capsys)
    assert code == 1
    assert "expected input and journal from" in found["topics"]["tails"][0]["gap"]
    assert found["topics"]["partitions"][0]["surplus"] > 0
    tampered.close()
