"""Bad records through a real scorer: each is a dead letter or a counted skip, and nothing else is lost."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import time
from collections.abc import Callable
from operator import itemgetter
from pathlib import Path

import numpy as np
import orjson
import pytest

from simulators.fleet import CHANNELS
from stream_ad.assembly import ensure_topics, max_payload_bytes
from stream_ad.cli.main import main
from stream_ad.core.batches import Reason
from stream_ad.core.model import Channel
from stream_ad.core.quality import Quality
from stream_ad.errors import ConfigError, PositionError, TopicError
from stream_ad.io.bundles import bundles
from stream_ad.io.local.log import LocalLog
from stream_ad.io.transport import Headers, Partition, Record
from stream_ad.io.wire import dead_letters
from stream_ad.io.wire import scores as score_messages
from stream_ad.io.wire.dead_letters import DeadLetter
from stream_ad.io.wire.encode import ARROW_HEADERS, encode_arrow, encode_reading, encode_series, encode_series_at
from tests.support.e2e import SEPARATOR, START_MS, STRIDE, Process, Stream, digest_of
from tests.support.pipelines import signal, small_model
from tests.support.roles import archive_all, open_scorer, work_off

NAMES = sorted(CHANNELS)
GOOD, OTHER = "pump-0001", "pump-0002"
QUIET = {"idle_close_s": 3_600.0}
"""No window closes by silence, so that rows do not depend on how long the test takes."""


def values(samples: int, seed: int) -> dict[str, list[float | None]]:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(10.0, 1.0, samples).tolist() for name in NAMES}


def series(device: str, start_s: int, seed: int = 0) -> bytes:
    return encode_series(device, START_MS + start_s * 1_000, 1_000, values(16, seed))


def reading(**changes: object) -> bytes:
    """Return a reading with fields changed or, where None, left out."""
    fields = {"device": OTHER, "ts": START_MS, "values": dict.fromkeys(NAMES, 1.0)} | changes
    return orjson.dumps({name: value for name, value in fields.items() if value is not None})


BIG = b'{"device":"pump-0002","padding":"' + b"x" * 1_500_000 + b'"}'

REFUSED: dict[str, tuple[bytes, Headers, Reason, str]] = {
    "not UTF-8": (b"\xff\xfe\x00", (), Reason.UNDECODABLE, "expected JSON"),
    "not JSON": (b'{"device"', (), Reason.UNDECODABLE, "expected JSON"),
    "empty": (b"", (), Reason.UNDECODABLE, "found an empty one"),
    "no Arrow": (b"junk", ARROW_HEADERS, Reason.UNDECODABLE, ""),
    "no known format": (b"a,b", (("content-type", b"text/csv"),), Reason.UNDECODABLE, "text/csv"),
    "an array": (b"[1,2]", (), Reason.WRONG_TYPE, "expected an object"),
    "a number": (b"17", (), Reason.WRONG_TYPE, "expected an object"),
    "no device": (reading(device=None), (), Reason.MISSING_FIELD, "device"),
    "no time": (reading(ts=None), (), Reason.MISSING_FIELD, "ts"),
    "no values": (reading(values=None), (), Reason.MISSING_FIELD, "values"),
    "a device that is a number": (reading(device=7), (), Reason.WRONG_TYPE, "device"),
    "values that are text": (reading(values="12"), (), Reason.WRONG_TYPE, "values"),
    "arrays of two lengths": (
        encode_series(OTHER, START_MS, 1_000, {NAMES[0]: [1.0, 2.0], NAMES[1]: [1.0]}),
        (),
        Reason.WRONG_TYPE,
        "samples",
    ),
    "a naive time": (reading(ts="2026-01-01T00:00:00"), (), Reason.BAD_TIME, "with an offset"),
    "a time that is none": (reading(ts="yesterday"), (), Reason.BAD_TIME, "yesterday"),
    "a time before 1990": (reading(ts=12), (), Reason.BAD_TIME, "1990"),
    "a time after 2261": (reading(ts="2300-01-01T00:00:00Z"), (), Reason.BAD_TIME, "2261"),
    "a future time": (reading(ts=int(time.time() * 1e3) + 86_400_000), (), Reason.FUTURE, "ahead"),
    "an Arrow table without a device": (
        encode_arrow([OTHER], [START_MS], {NAMES[0]: [1.0]}).replace(b"device", b"gadget"),
        ARROW_HEADERS,
        Reason.MISSING_FIELD,
        "device",
    ),
    "above the size limit": (BIG, (), Reason.TOO_LARGE, "1000000"),
}

SKIPPED: dict[str, bytes] = {
    "unknown device": series("fan-0001", 0),
    "unknown channel": encode_reading(OTHER, START_MS, {"colour": 1.0}),
}


def letters_of(stream: Stream) -> dict[int, DeadLetter]:
    """Return the dead letters by offset of the record."""
    topic = stream.settings.stream.dead_letters_topic
    found = [dead_letters.decode(value, headers) for _, _, value, headers in stream.read(topic)]
    assert len({letter.refused.offset for letter in found}) == len(found)
    return {letter.refused.offset: letter for letter in found}


def rows_of_device(stream: Stream, device: str) -> list[str]:
    """Return a device's rows but for the input offset, which is the last column."""
    rows = [row.split(SEPARATOR) for row in stream.outcome().rows]
    return [SEPARATOR.join(row[:-1]) for row in rows if row[0] == repr(device)]


def score_all(stream: Stream) -> None:
    role = open_scorer(stream)
    work_off(role, stream)
    role.close()


def test_each_bad_record_is_a_letter_or_a_skip_and_nothing_else_is_lost(make_stream: Callable[..., Stream]) -> None:
    stream = make_stream(partitions=0, stream={"devices": "pump-*"}, time=QUIET)
    stream.partitions = 1
    topic = stream.settings.stream.readings_topic
    stream.log.ensure_topic(topic, 1, {"max.message.bytes": "3000000"})
    bad: dict[str, tuple[bytes, Headers]] = {name: case[:2] for name, case in REFUSED.items()}
    bad |= {name: (value, ()) for name, value in SKIPPED.items()}
    goods, sent = [], {}
    for number, (name, (value, headers)) in enumerate(bad.items()):
        goods.append(Record(series(GOOD, 16 * number, number), GOOD.encode()))
        stream.send([goods[-1], Record(value, b"key", (*headers, ("trace", b"1")))])
        sent[2 * number + 1] = name
    goods.append(Record(series(GOOD, 16 * len(bad), 99), GOOD.encode()))
    stream.send(goods[-1:])

    role = open_scorer(stream)
    work_off(role, stream)
    assert role.metrics.skipped_readings._value.get() == len(SKIPPED)
    role.close()

    letters = letters_of(stream)
    assert {sent[offset] for offset in letters} == set(REFUSED)
    for offset, letter in letters.items():
        value, _, reason, text = REFUSED[sent[offset]]
        assert (letter.refused.reason, text in letter.refused.detail) == (reason, True), (sent[offset], letter.refused)
        assert letter.source == Partition(topic, 0)
        assert ("trace", b"1") in letter.headers
        assert letter.size == len(value)
        assert letter.digest == digest_of(value)
        assert value.startswith(letter.value)
        assert letter.is_whole is (sent[offset] != "above the size limit")
    for reason in {case[2] for case in REFUSED.values()}:
        wanted = sum(case[2] is reason for case in REFUSED.values())
        assert role.metrics.registry.get_sample_value("stream_ad_refused_total", {"reason": reason.value}) == wanted

    clean = make_stream(partitions=1, time=QUIET)
    clean.send(goods)
    score_all(clean)
    assert rows_of_device(stream, GOOD) == rows_of_device(clean, GOOD)
    last = 16 * len(goods) - 1
    assert len(rows_of_device(stream, GOOD)) == (last - 5) // STRIDE  # all windows below the lateness
    archive_all(stream)
    stream.prove(at_least_alerts=0)


def test_bad_values_are_missing_and_flagged(make_stream: Callable[..., Stream]) -> None:
    stream = make_stream(partitions=1, time=QUIET)
    texts = ("NaN", "Infinity", "-Infinity", "1e999", "1e39")
    for number, text in enumerate(texts):
        good = series(f"pump-{number:04d}", 0).decode()
        first = good.index('"values"')
        first = good.index("[", first) + 1  # the first sample of the first channel
        bad = good[:first] + text + good[good.index(",", first) :]
        stream.send([Record(bad.encode())])
        stream.send([Record(series(f"pump-{number:04d}", start)) for start in (16, 32)])
    score_all(stream)
    assert letters_of(stream) == {}
    quality: dict[str, list[Quality]] = {}
    for _, _, value, headers in stream.read(stream.settings.stream.scores_topic):
        for row in sorted(score_messages.decode(value, headers).table.to_pylist(), key=itemgetter("sequence")):
            quality.setdefault(row["device"], []).append(Quality(row["quality"]))
            assert row["score"] is not None or Quality.UNSCORABLE in quality[row["device"]][-1]
    assert len(quality) == len(texts)
    for flags in quality.values():
        assert [Quality.BAD_VALUE in one for one in flags] == [True, True, *[False] * (len(flags) - 2)]


def test_late_readings_are_a_letter_and_the_rest_of_their_record_counts(make_stream: Callable[..., Stream]) -> None:
    stream = make_stream(partitions=1, time=QUIET)
    times = [START_MS + 1_000 * k for k in (100, 20, 101, 102)]
    late = encode_series_at(OTHER, times, {NAMES[0]: [1.0, 2.0, 3.0, 4.0]})
    stream.send([Record(series(OTHER, 84)), Record(late), Record(series(OTHER, 0)), Record(series(OTHER, 103))])
    score_all(stream)
    letters = letters_of(stream)
    assert {offset: (one.refused.reason, one.refused.rows) for offset, one in letters.items()} == {
        1: (Reason.LATE, 1),
        2: (Reason.LATE, 16),
    }
    assert letters[2].is_whole


# -- settings, bundles and topics ------------------------------------------------------------------


def test_an_unknown_key_is_named(make_stream: Callable[..., Stream], capsys: pytest.CaptureFixture[str]) -> None:
    stream = make_stream()
    stream.change("time", latness_s=3)
    assert main(["-c", str(stream.config), "run", "scorer"]) == 2
    assert capsys.readouterr().err == f"stream-ad: {stream.config}: time.latness_s: unknown key\n"


def test_a_bundle_for_another_fleet_is_told(
    make_stream: Callable[..., Stream],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    channels = tuple(Channel(name) for name in ("belt_load", "belt_speed", "motor_heat"))
    other = dataclasses.replace(small_model(), name="belts", channels=channels)
    bundles.save(other, tmp_path / "belts", signal(80, seed=5).reshape(10, 8, 3))
    stream = make_stream(partitions=1, time=QUIET)
    stream.change("stream", bundle=str(tmp_path / "belts"))
    stream.send([Record(series(GOOD, 16 * k), GOOD.encode()) for k in range(120)])
    score_all(stream)
    warned = [entry for entry in caplog.records if entry.levelname == "WARNING"]
    assert [entry.message for entry in warned] == ["nothing_scored"]
    assert warned[0].__dict__["fields"]["bundle_channels"] == ["belt_load", "belt_speed", "motor_heat"]
    assert stream.outcome().rows == []
    assert main(["-c", str(stream.config), "check"]) == 1
    text = " ".join(capsys.readouterr().out.split())
    assert "FAIL readings" in text
    assert f"expected belt_load, belt_speed, motor_heat, found {', '.join(NAMES)}" in text


def test_a_missing_topic_is_told(make_stream: Callable[..., Stream]) -> None:
    stream = make_stream(partitions=0)
    process = Process(stream, "scorer")
    assert process.process.wait(60) == 78
    (last,) = [line for line in process.lines() if line["event"] == "failed"]
    assert last["error"] == "TopicError"
    assert stream.settings.stream.readings_topic in last["message"]


def test_producers_times_are_refused_unless_trusted(make_stream: Callable[..., Stream]) -> None:
    stream = make_stream(partitions=0, time=QUIET)
    stream.partitions = 1
    stream.log.ensure_topic(stream.settings.stream.readings_topic, 1, {"message.timestamp.type": "CreateTime"})
    with pytest.raises(ConfigError, match=r"expected message.timestamp.type=LogAppendTime, found producers' times"):
        open_scorer(stream)
    stream.change("time", trust_producer_clocks=True)
    stream.send([Record(series(GOOD, 16 * k), GOOD.encode()) for k in range(4)])
    score_all(stream)
    assert len(stream.outcome().rows) > 3


def test_the_scores_topic_must_be_partitioned_as_the_readings(make_stream: Callable[..., Stream]) -> None:
    stream = make_stream(partitions=2)
    stream.log.ensure_topic(stream.settings.stream.scores_topic, 3)
    with pytest.raises(TopicError, match=r"expected 2 partitions, found 3; the count must equal that of .*\.readings"):
        open_scorer(stream)


def test_streams_share_alerts_and_letters_whatever_their_partitions(make_stream: Callable[..., Stream]) -> None:
    stream = make_stream(partitions=2)
    stream.log.ensure_topic(stream.settings.stream.alerts_topic, 5)
    stream.log.ensure_topic(stream.settings.stream.dead_letters_topic, 1)
    stream.send([Record(b"rubbish", b"b"), Record(b"rubbish", b"a")])
    score_all(stream)
    assert len(letters_of(stream)) >= 1


def test_topics_too_small_for_a_letter_are_refused_at_the_start(make_stream: Callable[..., Stream]) -> None:
    stream = make_stream(partitions=1)
    letters = stream.settings.stream.dead_letters_topic
    stream.log.ensure_topic(letters, 1, {"max.message.bytes": "20000"})
    with pytest.raises(ConfigError, match=f"{letters}: expected room for records of 100000 bytes, found 20000"):
        open_scorer(stream)


def test_small_readings_topics_do_not_limit_what_is_sent(make_stream: Callable[..., Stream]) -> None:
    stream = make_stream(partitions=0)
    stream.log.ensure_topic(stream.settings.stream.readings_topic, 1, {"max.message.bytes": "20000"})
    assert max_payload_bytes(stream.settings, ensure_topics(stream.settings, stream.log)) == 900_000


def test_a_readings_topic_made_anew_is_refused(make_stream: Callable[..., Stream]) -> None:
    stream = make_stream(partitions=1, time=QUIET)
    readings = [Record(series(GOOD, 16 * k), GOOD.encode()) for k in range(4)]
    stream.send(readings)
    score_all(stream)
    assert isinstance(stream.log, LocalLog)
    topic = stream.settings.stream.readings_topic
    stream.log.delete_topic(topic)
    stream.log.ensure_topic(topic, 1)
    stream.send(readings)
    role = open_scorer(stream)
    with pytest.raises(PositionError, match=r"nothing is committed, although .* has records"):
        role.turn(0.1)
    role._transport.close()
    stream.log.delete_topic(topic)
    stream.log.ensure_topic(topic, 4)
    with pytest.raises(TopicError, match="expected 4 partitions, found 1"):
        open_scorer(stream)


@pytest.mark.parametrize("verb", [("check",), ("run", "scorer"), ("run", "archiver")])
def test_a_broker_that_does_not_answer_is_told_in_time(
    tmp_path: Path, pump_bundle: Path, verb: tuple[str, ...]
) -> None:
    config = tmp_path / "stream.toml"
    config.write_text(
        f'[stream]\nname = "pumps"\nbundle = "{pump_bundle}"\n'
        '[transport]\nkind = "kafka"\nservers = ["127.0.0.1:9"]\nrequest_timeout_s = 2.0\n'
        '[store]\nscores = "scores"\ncheckpoints = "checkpoints"\n[service]\nhttp_port = 0\n'
    )
    command = [sys.executable, "-m", "stream_ad.cli.main", "-c", str(config), "--log-format", "json", *verb]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if verb == ("check",):
        assert ended.returncode == 1
        (line,) = [line for line in ended.stdout.splitlines() if line.startswith("FAIL")]
        assert "127.0.0.1:9" in line
        assert ended.stderr == ""
    else:
        assert ended.returncode == 70
        lines = ended.stderr.splitlines()
        assert [('"failed"' in line, "UnreachableError" in line) for line in lines[-1:]] == [(True, True)]
        assert "127.0.0.1:9" in lines[-1]
        assert len(lines) <= 3
