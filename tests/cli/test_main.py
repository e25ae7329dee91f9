from __future__ import annotations

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import IO

import pytest

from stream_ad import __version__
from stream_ad.cli.main import COMMANDS, build_parser, main

CONFIG = """
[stream]
name = "pumps"
bundle = "bundle"
[transport]
kind = "local"
path = "log.sqlite"
[store]
scores = "scores"
checkpoints = "checkpoints"
"""


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"stream-ad {__version__}\n"


@pytest.mark.process
def test_the_frame_is_light() -> None:
    heavy = "torch kafka pyarrow numpy sklearn rich matplotlib pydantic prometheus_client"
    code = f"import sys, stream_ad.cli.main; print([n for n in '{heavy}'.split() if n in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == "[]\n"


@pytest.mark.process
@pytest.mark.parametrize("verb", COMMANDS)
def test_every_verb_is_there_and_light(verb: str) -> None:
    code = (
        "import sys; from stream_ad.cli.main import main; "
        f"code = main(['{verb}', '--help']); "
        "heavy = {'torch', 'kafka', 'pyarrow', 'sklearn', 'matplotlib'} & set(sys.modules); "
        "print('HEAVY', heavy) if heavy else None; sys.exit(code)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert out.returncode == 0, out.stderr
    assert f"usage: stream-ad {verb}" in out.stdout
    assert "--config" in out.stdout
    assert "HEAVY" not in out.stdout


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ([], [], "stream.toml"),
        (["-c", "a.toml"], [], "a.toml"),
        ([], ["-c", "a.toml"], "a.toml"),
        (["--config=b.toml"], ["--config", "a.toml"], "a.toml"),
        (["--log-format", "text", "-c", "a.toml"], [], "a.toml"),
    ],
)
def test_the_settings_file_may_stand_on_both_sides(before: list[str], after: list[str], expected: str) -> None:
    parser = build_parser({"run": import_module("stream_ad.cli.run")})
    args = parser.parse_args([*before, "run", "scorer", *after])
    assert args.config == Path(expected)


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["run", "nobody"], ["run", "--scorers", "0"]])
def test_wrong_usage_is_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert "usage: stream-ad" in capsys.readouterr().err


def test_wrong_settings_are_2_with_their_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "stream.toml"
    path.write_text(CONFIG + "retention = 3\n[stram]\nname = 'x'\n")
    assert main(["run", "-c", str(path)]) == 2
    err = capsys.readouterr().err.splitlines()
    assert err == [
        f"stream-ad: {path}: store.retention: unknown key",
        f"stream-ad: {path}: stram: unknown key",
    ]


def test_a_missing_file_is_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-c", str(tmp_path / "none.toml"), "run"]) == 2
    assert "none.toml: cannot be read" in capsys.readouterr().err


ABORTING = """
import atexit, sys, threading, time
import stream_ad.cli.main as frame

class Loud:
    def __del__(self):
        print("THE INTERPRETER ENDED", file=sys.stderr)

kept = Loud()
atexit.register(print, "THE INTERPRETER ENDED", file=sys.stderr)
threading.Thread(target=time.sleep, args=(600,)).start()
sys.argv = ["stream-ad", *sys.argv[1:]]
frame.entry()
"""
"""A verb in a process whose end by the interpreter would not go unnoticed, as with the threads of a C++ library."""


def ended(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", ABORTING, *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.process
@pytest.mark.parametrize(
    ("words", "code", "out"),
    [(["--version"], 0, f"stream-ad {__version__}\n"), (["nonsense"], 2, ""), (["-c", "none.toml", "status"], 2, "")],
)
def test_the_process_ends_without_the_end_of_the_interpreter(words: list[str], code: int, out: str) -> None:
    found = ended(*words)
    assert (found.returncode, found.stdout) == (code, out)
    assert "THE INTERPRETER ENDED" not in found.stderr
    assert "Traceback" not in found.stderr


@pytest.mark.process
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_is_lost_is_a_failure(unbuffered: str) -> None:
    with Path("/dev/full").open("w") as full:
        found = printing("print('x' * 9) or 0", full, unbuffered)
    assert found.returncode == 1
    assert "No space left on device" in found.stderr
    assert "Traceback" not in found.stderr


@pytest.mark.process
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_has_had_enough_is_no_failure(unbuffered: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as pipe:
        found = printing("print('x' * 9) or 0", pipe, unbuffered)
    assert (found.returncode, found.stderr) == (0, "")


@pytest.mark.process
def test_an_error_that_is_none_of_ours_is_printed_whole() -> None:
    found = printing("1 // 0", subprocess.PIPE, "")
    assert found.returncode == 1
    assert "ZeroDivisionError" in found.stderr


def printing(main: str, stdout: int | IO[str], unbuffered: str) -> subprocess.CompletedProcess[str]:
    code = f"import stream_ad.cli.main as frame; frame.main = lambda: {main}; frame.entry()"
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, stdout=stdout, stderr=subprocess.PIPE, env=environment, text=True, check=False, timeout=60
    )
