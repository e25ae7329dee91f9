"""The demo as its user starts it: a short run of the whole pipe, and what it says when it cannot go on."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from simulators import scenarios
from simulators.demo_stage import SETTINGS, DemoError, Program, as_toml, fresh_folder
from stream_ad import config
from stream_ad.io.score_log import log as score_log

SHORT = ("--devices", "12", "--duration", "1300", "--speed", "130")
"""Level shift, drop-out and noise of pumps 4, 7 and 9, in ten seconds."""


def demo(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "simulators.demo", "--folder", str(folder), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)


def check_run(answer: subprocess.CompletedProcess[str], folder: Path) -> None:
    assert answer.returncode == 0, answer.stderr
    alerts = re.findall(r"^\d\d:\d\d:\d\d ▲ (pump-\d{4}) +(process|sensor) +(\S.*)$", answer.stdout, re.MULTILINE)
    assert ("pump-0004", "process") in {alert[:2] for alert in alerts}
    assert ("pump-0007", "sensor") in {alert[:2] for alert in alerts}
    assert re.search(r"drop out +│ +1 │ +1 │ +0 │", answer.stdout)
    assert re.search(r"all, and \d+ false alarms │ +3 │ +[23] │ +[01] │", answer.stdout)
    first = re.search(r"First alert ([\d.]+) s", answer.stdout)
    assert first is not None
    assert float(first[1]) < 60

    settings = config.load(folder / SETTINGS)
    scores = score_log.read(settings.store.scores)
    keys = set(zip(scores.column("device").to_pylist(), scores.column("end").to_pylist(), strict=True))
    assert len(keys) == scores.num_rows > 12 * 1_300 // 16 - 12 * 5
    assert {device for device, _ in keys} == {f"pump-{number:04d}" for number in range(1, 13)}

    page = (folder / "report.html").read_text(encoding="utf-8")
    assert page.count("<svg") >= 3
    assert "prefers-color-scheme: dark" in page
    assert not re.search(r"https?://|<script|<link|@import|url\(", page)
    assert "level shift" in page
    assert "drop out" in page


@pytest.mark.process
def test_a_short_demo_on_the_local_log(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    answer = demo(folder, *SHORT)
    check_run(answer, folder)
    command = next(line for line in answer.stdout.splitlines() if "import duckdb" in line)
    pasted = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60, check=False)
    assert pasted.returncode == 0, pasted.stderr
    assert "pump-0007" in pasted.stdout
    assert "peak_over_limit" in pasted.stdout


@pytest.mark.broker
def test_a_short_demo_on_a_running_kafka(tmp_path: Path, kafka_broker: list[str]) -> None:
    folder = tmp_path / "demo"
    check_run(demo(folder, *SHORT, "--broker", "kafka", "--kafka", kafka_broker[0]), folder)


@pytest.mark.process
def test_a_run_without_an_alert_is_a_failure_with_one_clear_line(tmp_path: Path) -> None:
    answer = demo(tmp_path / "demo", "--devices", "2", "--duration", "160", "--speed", "160")
    assert answer.returncode == 1
    assert re.fullmatch(r"demo: all 20 messages were scored without any alert; see \S+\n", answer.stderr)


@pytest.mark.process
def test_what_is_no_demo_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    answer = demo(tmp_path)
    assert answer.returncode == 1
    what = "expected a folder of a demo, found other files; choose another --folder"
    assert answer.stderr == f"demo: {tmp_path}: {what}\n"
    assert (tmp_path / "thesis.txt").exists()


def test_the_last_demo_is_kept_once(tmp_path: Path) -> None:
    folder, old = tmp_path / "demo", tmp_path / "demo.old"
    assert fresh_folder(folder) is None
    for number in range(3):
        (folder / SETTINGS).write_text(str(number))
        assert fresh_folder(folder) == old
        assert not list(folder.iterdir())
        assert (old / SETTINGS).read_text() == str(number)


def test_the_scenario_that_is_written_is_the_one_that_was_meant(tmp_path: Path) -> None:
    scenario = scenarios.load("demo").changed(devices=17, speed=33.5)
    path = tmp_path / "scenario.toml"
    path.write_text(as_toml(scenario))
    assert scenarios.load(str(path)) == scenario


@pytest.mark.process
def test_a_role_that_keeps_ending_stops_the_demo(tmp_path: Path) -> None:
    said = '{"level":"error","event":"failed","error":"bundle: wrong digest"}\n' + 3 * '{"event":"role_ended"}\n'
    code = f"import sys, time; sys.stderr.write({said!r}); sys.stderr.flush(); time.sleep(60)"
    with Program("the pipe", ["-c", code], tmp_path / "log") as program:
        deadline = time.monotonic() + 30
        while program.log.read_text().count("role_ended") < 3 and time.monotonic() < deadline:
            time.sleep(0.02)
        with pytest.raises(DemoError, match=r"a role keeps restarting \(3 times\): bundle: wrong digest; see .*log"):
            program.expect_running()


@pytest.mark.process
def test_a_program_that_fails_says_why(tmp_path: Path) -> None:
    with Program("the simulator", ["-c", "raise SystemExit('no such scenario')"], tmp_path / "log") as program:
        deadline = time.monotonic() + 30
        while program.ended() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        with pytest.raises(DemoError, match="the simulator exited with 1: no such scenario"):
            program.finished()
