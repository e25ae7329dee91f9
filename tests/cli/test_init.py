"""`init` writes settings that are valid and says what comes next."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stream_ad.cli.init import stream_name
from stream_ad.cli.main import main
from stream_ad.config import LocalTransport, load


def record(path: Path, step_s: int = 1, zone: str = "Z", rows: int = 30) -> Path:
    """Write a recording of two channels."""
    lines = [
        f"2020-03-{9 + n * step_s // 86400:02d}T{n * step_s // 3600 % 24:02d}:{n * step_s // 60 % 60:02d}:"
        f"{n * step_s % 60:02d}{zone},{n},{'' if n % 3 else n}"
        for n in range(rows)
    ]
    path.write_text("\n".join(["time,flow,pressure", *lines]), encoding="utf-8")
    return path


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_settings_are_written_and_the_next_commands_said(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record(here / "Pump 7 (test).csv")

    assert main(["init", "Pump 7 (test).csv"]) == 0

    settings = load(here / "stream.toml", {})
    assert settings.stream.name == "pump-7-test"
    assert settings.stream.bundle == here / "bundles" / "pump-7-test"
    assert isinstance(settings.transport, LocalTransport)
    assert settings.time.idle_close_s == 30
    out = capsys.readouterr().out
    assert "pressure (66.7% missing)" in out
    assert "period    1 s" in out
    assert "stream-ad train 'Pump 7 (test).csv'\n" in out
    assert "stream-ad send 'Pump 7 (test).csv'\n" in out
    assert "stream-ad run\n" in out
    text = (here / "stream.toml").read_text()
    assert "one reading every 1 s" in text
    assert "#   flow, pressure\n" in text


def test_slow_recordings_get_longer_times(here: Path) -> None:
    record(here / "slow.csv", step_s=7200)

    assert main(["init", "slow.csv"]) == 0

    settings = load(here / "stream.toml", {})
    assert settings.time.lateness_s == 14_400
    assert settings.time.idle_close_s == 72_000
    assert settings.time.evict_after_s == 720_000
    assert settings.incident.close_after_s == 216_000


def test_times_without_a_zone_can_be_looked_at(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record(here / "r.csv", zone="")

    assert main(["init", "r.csv", "--name", "pumps", "--out", "conf/pumps.toml"]) == 0

    assert load(here / "conf" / "pumps.toml", {}).stream.name == "pumps"
    out = capsys.readouterr().out
    assert "no zone in the data" in out
    assert "stream-ad train r.csv --zone UTC -c conf/pumps.toml\n" in out


def test_json_for_programs(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record(here / "r.csv", zone="")

    assert main(["init", "r.csv", "--json"]) == 0

    found = json.loads(capsys.readouterr().out)
    assert (found["channels"], found["period_ns"], found["zone_needed"]) == (["flow", "pressure"], 10**9, True)


def test_settings_are_replaced_only_on_purpose(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record(here / "r.csv")
    (here / "stream.toml").write_text("mine")

    assert main(["init", "r.csv"]) == 2
    assert "stream.toml: already exists" in capsys.readouterr().err
    assert (here / "stream.toml").read_text() == "mine"
    assert main(["init", "r.csv", "--force"]) == 0
    assert load(here / "stream.toml", {}).stream.name == "r"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["none.csv"], 1, "no such file"),
        (["r.csv", "--name", "Pumps!"], 2, "stream.name"),
        (["r.csv", "--layout", "tall"], 1, "layout: expected one of"),
        (["r.csv", "--out", "r.csv/x.toml"], 1, "cannot be written"),
        (["one.csv"], 1, "two different times"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    arguments: list[str], code: int, message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record(here / "r.csv")
    record(here / "one.csv", rows=1)

    assert main(["init", *arguments]) == code
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err
    assert not (here / "stream.toml").exists()


@pytest.mark.parametrize(
    ("recording", "name"),
    [("data/Valve 1/", "valve-1"), ("runs/*.csv", "stream"), ("x" * 99 + ".csv", "x" * 64), ("é.csv", "stream")],
)
def test_names_of_streams(recording: str, name: str) -> None:
    assert stream_name(recording) == name
