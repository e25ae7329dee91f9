from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stream_ad.cli.main import main
from stream_ad.io.bundles import bundles
from stream_ad.io.local.log import LocalLog
from stream_ad.io.transport import Record
from stream_ad.io.wire.encode import ARROW_HEADERS, encode_arrow, encode_reading, encode_series
from tests.support.pipelines import CHANNELS, signal, small_model

READINGS, SCORES = "sensor.readings.v1", "sensor.scores.v1.pumps"
T = 1_767_225_600_000


def add_bundle(folder: Path) -> None:
    rows = signal(80, seed=5).reshape(10, 8, 3)
    bundles.save(small_model(), folder / "bundle", rows)


def checked(config: Path, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, dict[str, Any]]:
    code = main(["check", "--json", "-c", str(config), *options])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return code, {line["check"]: line for line in lines}


def test_all_is_well_after_create(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add_bundle(config.parent)
    code, found = checked(config, capsys)
    assert (code, found["topics"]["ok"]) == (1, False)
    assert not (config.parent / "log.sqlite").exists()  # looking makes nothing

    code, found = checked(config, capsys, "--create", "--partitions", "2")
    assert code == 0, found
    assert list(found) == ["config", "log", "topics", "readings", "bundle", "folders", "ports"]
    assert found["readings"]["text"] == "none yet"
    assert found["topics"]["text"].startswith(
        f"{READINGS}: 2 partitions, append times; {SCORES}, sensor.journal.v1.pumps: the same"
    )
    assert "small" in found["bundle"]["text"]
    assert "3 channels, window 8 x 1 s, stride 4; probe scores match" in found["bundle"]["text"]
    assert "disabled" in found["ports"]["text"]
    assert checked(config, capsys)[0] == 0


def test_a_bundle_that_is_not_for_these_devices_is_a_finding(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add_bundle(config.parent)
    stated = ", ".join(f'"{name}" = "V"' for name in CHANNELS[1:])
    config.write_text(config.read_text().replace("[transport]", f"channels = {{ {stated} }}\n[transport]"))
    found = checked(config, capsys)[1]["bundle"]
    assert not found["ok"]
    assert f"does not match the stream: channel {CHANNELS[0]!r} is missing" in found["text"]


def test_a_line_each_for_people(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "-c", str(config), "--create"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("ok   config ")
    assert next(line for line in lines if " bundle " in line).startswith("FAIL bundle")


def test_wrong_settings_are_a_finding(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config.write_text(config.read_text() + "colour = 1\n")
    code, found = checked(config, capsys)
    assert (code, list(found)) == (1, ["config"])
    assert found["config"]["text"].endswith("service.colour: unknown key")


def test_producers_times_are_refused_unless_trusted(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = LocalLog(config.parent / "log.sqlite")
    log.ensure_topic(READINGS, 2, {"message.timestamp.type": "CreateTime"})
    log.close()
    _, found = checked(config, capsys, "--create")
    assert found["topics"]["text"] == (
        f"{READINGS} has producers' times; set message.timestamp.type=LogAppendTime "
        "or time.trust_producer_clocks = true"
    )
    monkeypatch.setenv("STREAM_AD__TIME__TRUST_PRODUCER_CLOCKS", "true")
    _, found = checked(config, capsys)
    assert found["topics"]["ok"]
    assert "producers' times, trusted" in found["topics"]["text"]


def test_unequal_partitions_and_missing_topics_are_told(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = LocalLog(config.parent / "log.sqlite")
    log.ensure_topic(READINGS, 2)
    _, found = checked(config, capsys)
    assert SCORES in found["topics"]["text"]
    assert "check --create" in found["topics"]["text"]
    log.ensure_topic(SCORES, 3)
    log.close()
    _, found = checked(config, capsys, "--create")
    assert f"{SCORES} has 3 partitions, {READINGS} has 2: they must be equal" in found["topics"]["text"]


@pytest.mark.parametrize(
    ("records", "good", "text"),
    [
        ([encode_reading("a", T, dict.fromkeys(CHANNELS, 1.0))], True, "the newest 1 record of"),
        ([encode_reading("a", T, dict.fromkeys(CHANNELS, 1.0))], True, ": all channels of the bundle"),
        ([encode_reading("a", T, {"flow": 1.0}), b"?"], True, ": no value of current, pressure; 1 record refused: "),
        (
            [encode_reading("a", T, {"load": 1.0, "heat": 2.0}), encode_series("a", T, 1, {"load": [1.0]}), b""],
            False,
            "no channel of the bundle: expected current, flow, pressure, found heat, load",
        ),
        ([b"?", b'{"values":1}'], False, "cannot be decoded; the last: "),
    ],
)
def test_the_newest_readings_are_held_against_the_bundle(
    config: Path, capsys: pytest.CaptureFixture[str], records: list[bytes], good: bool, text: str
) -> None:
    add_bundle(config.parent)
    log = LocalLog(config.parent / "log.sqlite")
    log.ensure_topic(READINGS, 2)
    log.append(READINGS, [Record(record) for record in records])
    log.close()
    code, found = checked(config, capsys, "--create")
    assert (found["readings"]["ok"], code) == (good, 0 if good else 1)
    assert text in found["readings"]["text"]


def test_channels_of_arrow_readings_are_told(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add_bundle(config.parent)
    log = LocalLog(config.parent / "log.sqlite")
    log.ensure_topic(READINGS, 1)
    log.append(READINGS, [Record(encode_arrow(["a"], [T], {"heat": [1.0]}), headers=ARROW_HEADERS)])
    log.close()
    _, found = checked(config, capsys, "--create")
    assert found["readings"]["text"].endswith("expected current, flow, pressure, found heat")


def test_devices_that_are_all_left_out_are_told(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    add_bundle(config.parent)
    log = LocalLog(config.parent / "log.sqlite")
    log.ensure_topic(READINGS, 1)
    log.append(READINGS, [Record(encode_reading("fan-1", T, {"flow": 1.0}))])
    log.close()
    monkeypatch.setenv("STREAM_AD__STREAM__DEVICES", "pump-*")
    _, found = checked(config, capsys, "--create")
    assert found["readings"]["text"].endswith("are all from devices that stream.devices = 'pump-*' excludes")


def test_a_log_that_is_none_is_told(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (config.parent / "log.sqlite").write_text("this is no database" * 100)
    code, found = checked(config, capsys)
    assert (code, found["log"]["ok"]) == (1, False)
    assert "topics" not in found
