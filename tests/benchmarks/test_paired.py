"""The paired benchmark of the scorer can fail, and measures what it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.paired import NAME, main, make_bundle, prepare, report, worked_off

ROOT = Path(__file__).resolve().parents[2]


def test_a_scorer_works_off_the_log(tmp_path: Path) -> None:
    make_bundle(ROOT, tmp_path / "here")
    prepare(tmp_path / "stream", "series", 60, 20)
    seconds, megabytes = worked_off(ROOT, tmp_path / "stream", tmp_path / "here" / "bundle", seed=0)

    assert seconds > 0
    assert 20 < megabytes < 4_000
    assert not (tmp_path / "stream" / NAME).exists()  # it worked on a copy


@pytest.mark.parametrize(
    ("throughput", "memory", "is_enough"), [(1.0, 1.0, True), (0.9, 1.0, False), (1.0, 0.9, False)]
)
def test_a_bound_below_the_least_is_a_miss(throughput: float, memory: float, is_enough: bool) -> None:
    assert report({"throughput": [throughput] * 9, "memory": [memory] * 9}, 0.97) is is_enough


def test_a_check_that_is_missed_exits_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("prepare", "make_bundle"):
        monkeypatch.setattr(f"benchmarks.paired.{name}", lambda *_: None)
    monkeypatch.setattr("benchmarks.paired.compared", lambda *_: {"throughput": [0.5] * 9, "memory": [1.0] * 9})

    assert main(["--old", str(ROOT), "--check"]) == 1
    assert main(["--old", str(ROOT), "--check", "--least", "0.4"]) == 0
