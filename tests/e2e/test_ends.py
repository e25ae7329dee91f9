"""A verb that has done its work ends with 0, however often it is run: no thread of a library aborts it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.score_logs import varied


@pytest.mark.parametrize("runs", [3, pytest.param(600, marks=pytest.mark.thorough)])
def test_verify_ends_cleanly(tmp_path: Path, runs: int) -> None:
    varied(tmp_path / "scores", hours=1)
    command = [sys.executable, "-m", "tests.support.ends", str(tmp_path / "scores"), str(runs)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=1_200, check=True)
    assert found.stdout.strip() == f"{{0: {runs}}}"
