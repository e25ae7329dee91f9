"""Whatever bytes arrive, a reader of the wire or of a file answers, refuses in its own words, and is quick about it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_ad.errors import PositionError
from stream_ad.io.wire.arrow import decode_table
from stream_ad.io.wire.encode import encode_arrow
from stream_ad.io.wire.json import Unreadable
from stream_ad.replaying import Marker
from tests.fuzz import run
from tests.fuzz.mutations import mutated
from tests.fuzz.targets import CHANNELS, SLOW_S, START_MS, TARGETS, Target


@cache
def target(name: str) -> Target:
    """Return a target, made once."""
    return TARGETS[name]()


WIRE = [name for name in TARGETS if not name.startswith("bundle")]

KEYS = ["device", "ts", "values", "start", "step_ms", "v", "format", *CHANNELS, ""]
JSON_LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.just(10**400), st.just(START_MS)
)
JSON = st.recursive(
    JSON_LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["device", "ts", "values", "start", "step_ms", *CHANNELS, ""]), inner, max_size=4
        )
    ),
    max_leaves=20,
)


def swift(made: Target, data: bytes) -> None:
    begin = time.process_time()
    made.run(data)
    assert time.process_time() - begin < SLOW_S


@pytest.mark.parametrize("name", TARGETS)
def test_the_seeds_are_good(name: str) -> None:
    """A corpus of refused inputs would test the first check alone."""
    for seed in target(name).seeds:
        assert target(name).accepts(seed)


@pytest.mark.parametrize("name", WIRE)
@given(data=st.binary(max_size=200))
def test_any_bytes_are_taken_or_refused(name: str, data: bytes) -> None:
    swift(target(name), data)


@pytest.mark.parametrize("name", WIRE)
@settings(max_examples=15)
@given(numbers=st.lists(st.integers(0, 2**32), min_size=1, max_size=20))
def test_mutated_inputs_are_taken_or_refused(name: str, numbers: list[int]) -> None:
    for number in numbers:
        swift(target(name), mutated(target(name).seeds, number))


@pytest.mark.parametrize("name", [name for name in TARGETS if name.startswith("bundle")])
@settings(max_examples=20)
@given(number=st.integers(0, 2**32))
def test_mutated_files_of_a_bundle_are_taken_or_refused(name: str, number: int) -> None:
    swift(target(name), mutated(target(name).seeds, number))


@pytest.mark.parametrize("name", ["single", "series", "alert", "marker", "manifest"])
@given(document=JSON)
def test_any_json_is_taken_or_refused(name: str, document: object) -> None:
    swift(target(name), json.dumps(document).encode("utf-8", "surrogatepass"))


@pytest.mark.process
def test_no_input_takes_more_memory_than_is_lent_or_hangs() -> None:
    """In a process of its own with a limit on its address space, ended with its stack where an input hangs."""
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "tests.fuzz.run", "--rounds", "60", "--memory-mb", "4096"]
    answer = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=250, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr[-4_000:]
    assert answer.stdout.count("0 findings") == len(TARGETS)
    assert not (root / "ran").exists()


def test_the_runner_finds_what_fails(capsys: pytest.CaptureFixture[str]) -> None:
    def fails(data: bytes) -> None:
        if b"3" in data:
            raise KeyError("three")

    assert run.work("t", Target((b"123",), fails), 0, 50, None)[1] > 0
    assert "KeyError: 'three'" in capsys.readouterr().err


# Found by these


def test_an_arrow_column_whose_name_is_no_text_is_refused() -> None:
    """It raised from the decoder, which would have ended every scorer that met the record."""
    good = encode_arrow(["d"], [START_MS], {"name-to-break": [1.0]})
    assert good.count(b"name-to-break") == 1
    with pytest.raises(Unreadable, match="expected an Arrow IPC stream"):
        decode_table(good.replace(b"name-to-break", b"name\x80to-break"), ["a"], lambda _: True, 10)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"v":1,"checkpoint":"","span_end":Infinity}'])
def test_committed_text_that_no_parser_takes_is_refused(text: str) -> None:
    with pytest.raises(PositionError):
        Marker.from_text(text)
