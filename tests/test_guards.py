"""What keeps the test suite quick and sound can fail a test."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest


@pytest.mark.parametrize(
    "start", [lambda: subprocess.run([sys.executable, "-c", ""], check=False), lambda: os.system("true"), os.fork]
)
def test_a_unit_test_starts_no_process(start: Callable[[], object]) -> None:
    with pytest.raises(RuntimeError, match="a unit test starts no process; mark it `process`"):
        start()
