"""Scenario files and the times at which a run starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from simulators import scenarios
from simulators.scenarios import Scenario
from stream_ad.errors import ConfigError

NOW_MS = 1_800_000_000_123


def test_every_scenario_that_comes_along_can_be_simulated() -> None:
    assert set(scenarios.names()) >= {"demo", "quiet", "load", "faulty"}
    for name in scenarios.names():
        scenario = scenarios.load(name)
        assert scenario.name == name
        assert scenario.title
        scenario.changed(devices=2, duration_s=4_000).fault_specs(scenario.changed(devices=2).signals())


@pytest.mark.parametrize("speed", [0.5, 1.0, 60.0, "max"])
def test_ending_now_sends_no_reading_from_the_future(speed: float | str) -> None:
    scenario = Scenario(duration_s=3_600, speed=speed)
    start_ms = scenario.start_ms(NOW_MS)
    factor = 1e12 if speed == "max" else float(speed)
    for event_s in range(0, 3_600, 60):
        assert start_ms + event_s * 1e3 <= NOW_MS + event_s * 1e3 / factor
    if factor >= 1:
        last_event, sent = start_ms + 3_600e3, NOW_MS + 3_600e3 / factor
        assert sent - last_event <= scenario.period_ms
    assert start_ms % scenario.period_ms == 0


def test_now_is_refused_when_readings_would_run_ahead() -> None:
    assert Scenario(start="now", speed=1.0).start_ms(NOW_MS) == NOW_MS - NOW_MS % 1_000
    with pytest.raises(ConfigError, match="ending-now"):
        Scenario(start="now", speed=60.0).start_ms(NOW_MS)
    with pytest.raises(ConfigError, match="ending-now"):
        Scenario(start="now").start_ms(NOW_MS, sending_s=10.0)


def test_a_stated_start_is_taken_with_its_offset() -> None:
    assert Scenario(start="2026-01-05T10:00:00+02:00").start_ms(NOW_MS) == 1_767_600_000_000
    for text in ("2026-01-05T10:00:00", "soon"):
        with pytest.raises(ConfigError, match="start"):
            Scenario(start=text).start_ms(NOW_MS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("devices = 0", "devices"),
        ("pumps = 3", "pumps: unknown key"),
        ("[random_faults]\nkinds = ['gremlin']", "gremlin"),
        ("[[faults]]\ndevice = 'pump-0001'\nkind = 'gremlin'\nstart_s = 1", "gremlin"),
        ("[[faults]]\ndevice = 'pump-0000'\nkind = 'spike'\nstart_s = 1", "pump-0000"),
        ("[[faults]]\ndevice = 'pump-0001'\nkind = 'spike'\nstart_s = 1\nduration_s = 0.1", "expected last > first"),
        ("[[faults]]\ndevice = 'pump-0001'\nkind = 'spike'\nstart_s = 1\nchannels = ['speed']", "speed"),
        ("devices = ", "not TOML"),
    ],
)
def test_wrong_files_are_refused_with_what_is_wrong(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        scenarios.load(str(path))


def test_an_unknown_scenario_names_those_there_are() -> None:
    with pytest.raises(ConfigError, match="demo"):
        scenarios.load("nonsense")


def test_a_scenario_of_ones_own_is_read_from_its_path(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text("devices = 2\nspeed = 'max'\n")
    assert scenarios.load(str(path)).devices == 2
    assert scenarios.load(str(path)).name == "own"


def test_faults_beyond_a_shortened_run_are_left_out() -> None:
    demo = scenarios.load("demo")
    short = demo.changed(duration_s=1_000)
    assert len(short.fault_specs(short.signals())) == 2
    few = demo.changed(devices=4)
    assert [spec.device for spec in few.fault_specs(few.signals())] == [3]
