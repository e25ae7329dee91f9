"""The command line, on a real log and real files."""

from __future__ import annotations

from pathlib import Path

import orjson
import pyarrow.csv as pa_csv
import pyarrow.parquet as pa_parquet
import pytest

from simulators.__main__ import main
from simulators.fleet import CHANNELS
from stream_ad.io.local.log import LocalLog
from stream_ad.io.transport import Partition

STREAM = """
[stream]
name = "pumps"
readings_topic = "plant.readings"
bundle = "bundle"
[transport]
kind = "local"
path = "log.sqlite"
[store]
scores = "scores"
checkpoints = "checkpoints"
"""


def contents(path: Path, topic: str) -> list[bytes]:
    log = LocalLog(path)
    found: list[bytes] = []
    for number in range(log.topic(topic).partitions):
        for batch in log.read(Partition(topic, number), 0, log.bounds(Partition(topic, number))[1]):
            found += batch.values
    log.close()
    return found


def test_list_names_the_scenarios(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    assert "demo " in capsys.readouterr().out


def test_run_fills_a_local_log_the_same_way_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("one", "two"):
        options = ["--local", str(tmp_path / f"{name}.sqlite"), "--speed", "max", "--devices", "4", "--duration", "900"]
        assert main(["run", *options, "--start", "2026-01-05T08:00:00Z", "--partitions", "2"]) == 0
    assert "(100%)" in capsys.readouterr().err
    for topic in ("sensor.readings.v1", "sensor.events.v1", "sensor.truth.v1"):
        assert contents(tmp_path / "one.sqlite", topic) == contents(tmp_path / "two.sqlite", topic)
    (label,) = contents(tmp_path / "one.sqlite", "sensor.truth.v1")
    assert orjson.loads(label)["fault"] == "level_shift"
    assert len(contents(tmp_path / "one.sqlite", "sensor.readings.v1")) == 4 * 57


def test_run_takes_log_and_topic_from_a_streams_file(tmp_path: Path) -> None:
    (tmp_path / "stream.toml").write_text(STREAM)
    options = ["-c", str(tmp_path / "stream.toml"), "--scenario", "quiet", "--devices", "2", "--duration", "60"]
    assert main(["run", *options, "--rate", "1000", "--format", "single"]) == 0
    assert len(contents(tmp_path / "log.sqlite", "plant.readings")) == 120


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_record_writes_the_same_file_twice(suffix: str, tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}.{suffix}" for name in ("one", "two")]
    for path in paths:
        assert main(["record", "--devices", "3", "--duration", "120", "--out", str(path)]) == 0
    assert paths[0].read_bytes() == paths[1].read_bytes()
    table = pa_parquet.read_table(paths[0]) if suffix == "parquet" else pa_csv.read_csv(paths[0])
    assert table.column_names == ["device", "time", *CHANNELS]
    assert table.num_rows == 360
    if suffix == "parquet":
        units = {field.name: field.metadata[b"unit"].decode() for field in table.schema if field.metadata}
        assert units == dict(CHANNELS)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["record", "--out", "fleet.xlsx"], ".parquet or .csv"),
        (["record", "--scenario", "nonsense", "--out", "a.csv"], "nonsense"),
        (["run", "--local", "log.sqlite", "--start", "yesterday"], "start"),
        (["run", "-c", "missing.toml"], "missing.toml"),
    ],
)
def test_errors_are_one_line_and_exit_1(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_wrong_call_exits_2() -> None:
    for arguments in (["run"], ["run", "--local", "a", "--rate", "0"], ["run", "--local", "a", "--kafka", "b:1"]):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2
