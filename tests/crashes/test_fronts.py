"""A second front, one row per event and several per nanosecond, through crash, recovery, audit, verify and swap.

Everything behind the front runs as it is: this is what shows that it knows nothing of windows.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import orjson
import pytest

from simulators.fleet import CHANNELS
from simulators.producer import simulate
from stream_ad.cli.main import main
from stream_ad.errors import ConfigError
from stream_ad.fronts.table import front
from stream_ad.inspection.scores import load_device
from stream_ad.io.score_log import log as score_log
from stream_ad.io.transport import Record
from stream_ad.proof.audit import Audit, AuditRange
from stream_ad.proof.chains import DeviceChains, Rows
from stream_ad.proof.ledger import AlertLedger
from stream_ad.proof.verification import verify
from tests.crashes.dying import Lives
from tests.crashes.test_journal import await_model, expect_one_story_each, marker_of
from tests.support.e2e import LONG_S, START_MS, Stream, faulty_fleet, train_bundle
from tests.support.role_package import install
from tests.support.roles import archive_all, ask_for, open_scorer, work_off

TIED = 4
"""So many events of a device share a nanosecond."""
MILLISECOND_NS = 1_000_000


@pytest.fixture(params=["local", pytest.param("kafka", marks=pytest.mark.broker)])
def servers(request: pytest.FixtureRequest) -> list[str]:
    return list(request.getfixturevalue("kafka_broker")) if request.param == "kafka" else []


@pytest.fixture
def events_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_events(tmp_path / "site", monkeypatch)


def install_events(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install the second front as a package would, for this process and its children."""
    entries = {"events": "tests.support.events_front:EVENTS"}
    install(folder, monkeypatch, "acme_events", {"__init__": ""}, entries, group="stream_ad.fronts")


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two models of single samples, for events."""
    folder = tmp_path_factory.mktemp("events")
    return train_bundle(folder / "pca", samples=1), train_bundle(folder / "mahalanobis", "mahalanobis", samples=1)


def event_records(duration_s: float = 600, rubbish_every: int = 97) -> Iterator[Record]:
    """Yield the faulty fleet's samples as events, some far off or late, and records that hold none."""
    names = sorted(CHANNELS)
    fleet = faulty_fleet(duration_s)
    for number, message in enumerate(m for m in simulate(fleet, START_MS) if m.topic == fleet.readings_topic):
        document = orjson.loads(message.value)
        columns = np.nan_to_num(np.array([document["values"][name] for name in names], np.float64)).T
        begin_ns = document["ts"]["start"] * MILLISECOND_NS
        if number % 20 == 7:
            columns[3:6] *= 50.0
        times = begin_ns + np.arange(len(columns)) // TIED * TIED * 1_000 * MILLISECOND_NS
        events = [[document["device"], int(t), row.tolist()] for t, row in zip(times, columns, strict=True)]
        if number % 50 == 49:
            events.append([document["device"], begin_ns - 1, columns[0].tolist()])
        yield Record(orjson.dumps(events), message.key)
        if number % rubbish_every == rubbish_every - 1:
            yield Record(b"rubbish %d" % number, message.key)


@pytest.mark.usefixtures("events_installed")
def test_rows_of_events_hold_what_is_promised(tmp_path: Path, servers: list[str], bundles: tuple[Path, Path]) -> None:
    stream = Stream(tmp_path / "stream", bundles[0], servers, stream={"front": "events"}, commit={"every_s": 0.05})
    lives = Lives()
    try:
        records = event_records()
        for number, step in enumerate(("records sent", "committed", "checkpoint written aside")):
            stream.send(list(islice(records, 150)))
            life = lives.start(stream.config, "scorer", tmp_path / f"life-{number}.log", at=step)
            assert life.end(LONG_S) == -9, life.text()
    finally:
        lives.close()

    role = open_scorer(stream)
    work_off(role, stream)
    await_model(role, stream, ask_for(stream, bundles[1]))
    stream.send(list(islice(records, 300)))
    work_off(role, stream)
    role.close()
    shutil.rmtree(stream.settings.store.checkpoints)  # the next one reads again from where state began
    role = open_scorer(stream)
    stream.send(list(islice(records, 100)))
    work_off(role, stream)
    role.close()
    archive_all(stream)

    stream.prove(at_least_alerts=20)
    expect_one_story_each(stream)
    expect_agreement(stream)
    table = score_log.read(stream.settings.store.scores)
    assert len(set(table["model_id"].to_pylist())) == 2
    moments = set(zip(table["device"].to_pylist(), table["end"].to_pylist(), strict=True))
    assert len(moments) < table.num_rows / 2, "no two rows of a device share an end"
    device = table["device"][0].as_py()
    assert len(load_device(stream.settings.store.scores, device, None)) == table["device"].to_pylist().count(device)

    stream.close()


def expect_agreement(stream: Stream) -> None:
    """Audit everything, then a stretch of one device."""
    audit, ledger = Audit(stream.settings, stream.log), AlertLedger(stream.settings, stream.log)
    whole = [audit.compare(number, AuditRange(), ledger) for number in audit.partitions()]
    assert all(found is not None and found.agrees and found.rows and found.alerts for found in whole), whole
    start_ns = START_MS * MILLISECOND_NS + 100 * 1_000 * MILLISECOND_NS
    stretch = AuditRange("pump-0004", start_ns, start_ns + 60 * 1_000 * MILLISECOND_NS)
    some = [found for number in audit.partitions() if (found := audit.compare(number, stretch)) is not None]
    assert [found.rows for found in some] == [60], some
    assert all(found.agrees for found in some), some


@pytest.mark.usefixtures("events_installed")
def test_a_state_that_warms_up_asks_the_front_how_far_to_read_back(tmp_path: Path, bundles: tuple[Path, Path]) -> None:
    store = {"warm_up_records": 20}
    stream = Stream(tmp_path / "stream", bundles[0], partitions=1, stream={"front": "events"}, store=store)
    records = event_records()
    for turn in range(2):
        role = open_scorer(stream)
        stream.send(list(islice(records, 200)))
        work_off(role, stream)
        role.close()
        if turn == 0:
            shutil.rmtree(stream.settings.store.checkpoints)
    assert marker_of(stream).generation == 1
    (begun,) = stream.restarts()
    # Events look back over nothing; windows of this stream would over 20 s of log time, which is all there is.
    assert begun.read_from == begun.offset - 20
    archive_all(stream)
    assert [str(gap) for gap in verify(stream.settings.store.scores).gaps] == []
    audit = Audit(stream.settings, stream.log)
    outcome = audit.compare(0, AuditRange(), AlertLedger(stream.settings, stream.log))
    assert outcome is not None
    assert outcome.agrees
    stream.close()


def test_ends_may_repeat_only_where_the_part_says_so() -> None:
    zeros, two = np.zeros(2, np.int64), np.arange(2)
    rows = Rows(["a"], zeros, np.array([5, 5]), zeros, two, zeros, zeros, frozenset())
    assert DeviceChains().add(rows, 0, is_whole=True, ends_rise=False) is None
    fault = DeviceChains().add(rows, 0, is_whole=True)
    assert fault is not None
    falling = Rows(["a"], zeros, np.array([5, 4]), zeros, two, zeros, two, frozenset())
    assert DeviceChains().add(falling, 0, is_whole=True, ends_rise=False) is not None
    missing = Rows(["a"], zeros, np.array([5, 5]), zeros, 2 * two, zeros, zeros, frozenset())
    assert DeviceChains().add(missing, 0, is_whole=True, ends_rise=False) is not None


@pytest.mark.parametrize(
    ("name", "entries", "expected"),
    [
        ("sessions", {}, "stream.front: expected one of readings, found 'sessions'"),
        ("events", {"events": "acme_events:GONE"}, "stream.front: acme_events:GONE cannot be loaded"),
        ("events", {"events": "acme_events:NOTHING"}, "stream.front: expected acme_events:NOTHING to be a FrontSpec"),
    ],
)
def test_a_front_that_is_not_installed_is_named(
    make_stream: Callable[..., Stream],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    entries: dict[str, str],
    expected: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    install(
        tmp_path / "site", monkeypatch, "acme_events", {"__init__": "NOTHING = 1"}, entries, group="stream_ad.fronts"
    )
    stream = make_stream(stream={"front": name})
    with pytest.raises(ConfigError) as caught:
        front(stream.settings)
    assert str(caught.value).startswith(expected)
    assert main(["check", "-c", str(stream.config)]) == 1
    assert expected in " ".join(capsys.readouterr().out.split())
