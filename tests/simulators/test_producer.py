"""Messages: the bytes, their order, their pace, and what is said beside the readings."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pytest

from simulators import scenarios
from simulators.faults import KINDS, NAMES
from simulators.fleet import CHANNELS
from simulators.producer import CATCH_UP, Message, ensure_topics, message_count, paced, recording, send, simulate
from simulators.producer import unpaced as unpaced_batches
from simulators.scenarios import Scenario
from stream_ad.errors import ConfigError, TopicError
from stream_ad.io.local.log import LocalLog
from stream_ad.io.transport import Partition
from stream_ad.io.wire.encode import ARROW, CONTENT_TYPE

START_MS = 1_767_600_000_000
SMALL = Scenario(
    name="small",
    devices=3,
    duration_s=600,
    seed=3,
    start="2026-01-05T08:00:00Z",
    faults=(
        scenarios.FaultSettings(device="pump-0002", kind="silence", start_s=100, duration_s=100),
        scenarios.FaultSettings(device="pump-0003", kind="drop_out", channels=("flow",), start_s=50, duration_s=20),
        scenarios.FaultSettings(device="pump-0001", kind="level_shift", start_s=300, duration_s=60, magnitude=4),
    ),
)


def readings(scenario: Scenario) -> list[Message]:
    return [message for message in simulate(scenario, START_MS) if message.topic == scenario.readings_topic]


def table(scenario: Scenario) -> dict[tuple[str, int, str], float | None]:
    """Every value that is sent, by device, time and channel."""
    found: dict[tuple[str, int, str], float | None] = {}
    for message in readings(scenario):
        if dict(message.headers)[CONTENT_TYPE].decode() == ARROW:
            rows = pa.ipc.open_stream(message.value).read_all().to_pylist()
            for row in rows:
                found |= {(row["device"], row["ts"], name): row[name] for name in CHANNELS}
            continue
        body = orjson.loads(message.value)
        if isinstance(body["ts"], int):
            found |= {(body["device"], body["ts"], name): value for name, value in body["values"].items()}
            continue
        for name, values in body["values"].items():
            times = [body["ts"]["start"] + i * body["ts"]["step_ms"] for i in range(len(values))]
            found |= {(body["device"], ts, name): value for ts, value in zip(times, values, strict=True)}
    return found


@pytest.mark.process
def test_the_same_seed_gives_the_same_bytes_in_another_process() -> None:
    program = (
        "import hashlib, sys; from simulators import scenarios, producer; "
        "s = scenarios.load('demo').changed(devices=12, duration_s=900); h = hashlib.sha256(); "
        "[h.update(repr(m).encode()) for m in producer.simulate(s, 1767600000000)]; print(h.hexdigest())"
    )
    root = Path(__file__).parents[2]
    other = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
    here = hashlib.sha256()
    for message in simulate(scenarios.load("demo").changed(devices=12, duration_s=900), START_MS):
        here.update(repr(message).encode())
    assert other.stdout.strip() == here.hexdigest()


def test_messages_come_in_time_order_after_their_last_sample() -> None:
    messages = list(simulate(SMALL, START_MS))
    times = [message.at_ms for message in messages]
    assert times == sorted(times)
    for message in readings(SMALL):
        body = orjson.loads(message.value)
        last_ms = body["ts"]["start"] + (len(body["values"]["flow"]) - 1) * body["ts"]["step_ms"]
        assert message.at_ms > last_ms
        assert message.key == body["device"].encode()
        assert list(body["values"]) == list(CHANNELS)


def test_all_formats_hold_the_same_readings() -> None:
    series = table(SMALL)
    single = table(SMALL.changed(format="single"))
    arrow = table(SMALL.changed(format="arrow"))
    assert series.keys() == arrow.keys()
    # a single reading of a silent pump is not sent; a series that began before is, with nulls
    assert {key for key in series if series[key] is not None} <= single.keys()
    for key, value in series.items():
        assert single.get(key) == value
        expected = None if value is None else pytest.approx(value, rel=1e-6)
        assert arrow[key] == expected


def test_a_silent_pump_sends_nothing_and_a_dropped_channel_null() -> None:
    found = table(SMALL.changed(format="single"))
    quiet = {ts for device, ts, _ in found if device == "pump-0002"}
    assert not quiet & set(range(START_MS + 100_000, START_MS + 200_000, 1_000))
    assert len(quiet) == 500
    missing = {key for key, value in found.items() if value is None}
    assert missing == {("pump-0003", START_MS + 1_000 * k, "flow") for k in range(50, 70)}
    assert len(readings(SMALL)) < message_count(SMALL)


def test_a_message_with_64_samples_stays_below_3400_bytes() -> None:
    load = scenarios.load("load").changed(devices=20)
    sizes = [len(message.value) for message in simulate(load, START_MS)]
    assert len(sizes) == message_count(load) == 200
    assert max(sizes) < 3_400


def test_values_do_not_depend_on_start_or_fleet() -> None:
    few = table(SMALL.changed(devices=2))
    many = table(SMALL)
    assert few.items() <= many.items()
    later = [orjson.loads(m.value)["values"] for m in simulate(SMALL, START_MS + 86_400_000) if m.topic.count("read")]
    assert later == [orjson.loads(m.value)["values"] for m in readings(SMALL)]


def test_the_truth_is_what_was_injected() -> None:
    healthy, faulty = table(SMALL.changed(faults=())), table(SMALL)
    labels = [orjson.loads(m.value) for m in simulate(SMALL, START_MS) if m.topic == SMALL.truth_topic]
    assert [label["fault"] for label in labels] == ["drop_out", "silence", "level_shift"]
    told = {
        (label["device"], ts, channel)
        for label in labels
        for channel in label["channels"]
        for ts in range(label["start"], label["end"], SMALL.period_ms)
    }
    assert told == {key for key in healthy if faulty.get(key) != healthy[key]}


def test_events_tell_of_modes_visits_and_faults() -> None:
    demo = scenarios.load("demo")
    messages = [message for message in simulate(demo, START_MS) if message.topic == demo.events_topic]
    events = [orjson.loads(message.value) for message in messages]
    for event, message in zip(events, messages, strict=True):
        assert set(event) == {"device", "ts", "code", "severity", "text"}
        assert event["ts"] == message.at_ms
        assert event["severity"] in ("info", "warning")
        assert START_MS <= event["ts"] < START_MS + 3_600_000
    codes = Counter(event["code"] for event in events)
    assert set(codes) >= {"pump.started", "pump.stopped", "mode.changed", "maintenance.visit", "maintenance.repair"}
    assert codes["operator.remark"] == len(demo.faults)
    assert not [m for m in simulate(demo.changed(events=False, duration_s=60), START_MS) if "event" in m.topic]


def test_a_start_is_told_when_the_flow_begins() -> None:
    demo = scenarios.load("demo").changed(faults=(), period_ms=4_000)
    flow = {(d, ts): value for (d, ts, name), value in table(demo).items() if name == "flow" and value is not None}
    starts = [
        event
        for m in simulate(demo, START_MS)
        if m.topic == demo.events_topic and (event := orjson.loads(m.value))["code"] == "pump.started"
    ]
    for event in starts:
        begin = event["ts"] - event["ts"] % 4_000
        assert abs(flow[event["device"], begin - 4_000]) < 2
        assert flow[event["device"], begin + 100_000] > 40


def test_a_recording_is_the_healthy_fleet() -> None:
    columns = list(recording(SMALL, START_MS))
    device = [name for part in columns for name in part["device"]]
    time = np.concatenate([part["time"] for part in columns])
    sent = table(SMALL.changed(faults=()))
    for name in NAMES:
        values = np.concatenate([part[name] for part in columns])
        assert len(values) == len(device) == 3 * 600
        assert {(d, int(t), name): v for d, t, v in zip(device, time, values, strict=True)}.items() <= sent.items()
    assert (np.diff(time) >= 0).all()


class Clock:
    """Time that only passes when somebody sleeps or works."""

    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds


def numbered(count: int) -> list[Message]:
    return [Message("t", b"", b"", (), number) for number in range(count)]


def test_the_rate_is_kept() -> None:
    clock, sent = Clock(), []
    for batch in paced(numbered(5_000), lambda number, _: number / 500, clock, clock.sleep):
        sent += [(clock.now - 50.0, message.at_ms) for message in batch]
    assert [number for _, number in sent] == list(range(5_000))
    lag = np.array([at - number / 500 for at, number in sent])
    assert lag.min() >= -1e-9
    assert lag.max() < 0.15


def test_a_hiccup_is_caught_up_at_no_more_than_twice_the_rate() -> None:
    clock, sent = Clock(), []
    stalled = False
    for batch in paced(numbered(10_000), lambda number, _: number / 500, clock, clock.sleep):
        if not stalled and batch[-1].at_ms > 2_000:
            clock.now += 3.0
            stalled = True
        sent += [clock.now - 50.0] * len(batch)
    times = np.array(sent)
    assert times[-1] == pytest.approx(20.0, abs=0.3)
    for begin in np.arange(0.0, 20.0, 0.05):
        in_a_second = ((times >= begin) & (times < begin + 1.0)).sum()
        assert in_a_second <= CATCH_UP * 500 * 1.25


def test_messages_are_sent_by_their_times_when_sped_up() -> None:
    clock, late = Clock(), []
    start = START_MS
    for batch in paced(simulate(SMALL, start), lambda _, m: (m.at_ms - start) / 60e3, clock, clock.sleep):
        late += [(clock.now - 50.0) - (message.at_ms - start) / 60e3 for message in batch]
    assert min(late) >= -1e-9
    assert max(late) < 0.15


def test_sending_fills_the_topics_of_a_real_log(tmp_path: Path) -> None:
    log = LocalLog(tmp_path / "log.sqlite")
    ensure_topics(log, SMALL, partitions=2)
    expected = Counter(message.topic for message in simulate(SMALL, START_MS))
    assert send(log, unpaced_batches(simulate(SMALL, START_MS))) == sum(expected.values())
    for topic, count in expected.items():
        info = log.topic(topic)
        assert info.append_time
        found: list[bytes] = []
        for number in range(info.partitions):
            for batch in log.read(Partition(topic, number), 0, log.bounds(Partition(topic, number))[1]):
                found += batch.values
        assert len(found) == count
    ensure_topics(log, SMALL)
    with pytest.raises(TopicError, match="3 partitions, found 2"):
        ensure_topics(log, SMALL, partitions=3)
    with pytest.raises(ConfigError, match="different names"):
        ensure_topics(log, SMALL.changed(truth_topic=SMALL.readings_topic))
    log.close()


def test_every_kind_of_fault_is_in_the_demo() -> None:
    demo = scenarios.load("demo")
    specs = demo.fault_specs(demo.signals())
    assert {spec.kind for spec in specs} == set(KINDS)
    assert len({spec.device for spec in specs}) == len(specs) == len(demo.faults)
