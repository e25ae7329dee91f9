"""The short form of `make chaos`: three brokers, at least ten kills, one of a broker, and all of its proofs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

KILLS = 10
READINGS, RATE = 160_000, 60
LIMIT_S = 540.0


def run(folder: Path, *arguments: object) -> dict[str, Any]:
    """Run the command as a person would; return its summary."""
    command = [sys.executable, "-m", "tests.chaos", "--folder", folder / "run", "--json", folder / "summary.json"]
    root = Path(__file__).parents[2]
    with (folder / "log").open("w") as log:
        text = [str(part) for part in (*command, *arguments)]
        process = subprocess.Popen(text, cwd=root, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"})
        try:
            code = process.wait(LIMIT_S)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)  # it ends what it started
                process.wait(60.0)
    assert code == 0, (folder / "log").read_text()[-6_000:]
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return summary


@pytest.mark.broker
@pytest.mark.thorough
@pytest.mark.timeout(660)
def test_nothing_is_lost_or_repeated_in_a_short_chaos(tmp_path: Path) -> None:
    limits = {"seed": 7, "kills": KILLS, "broker-kills": 1, "readings": READINGS, "rate": RATE, "swaps": 2}
    found = run(tmp_path, *(part for name, value in limits.items() for part in (f"--{name}", value)))
    assert found["proven"]
    assert found["problems"] == []
    assert sum(found["kills"].values()) == KILLS
    assert sum(found["broker_kills"].values()) == 1
    assert set(found["done"]) >= {"kill", "stop", "join", "leave", "disk", "swap"}
    assert found["readings"] >= READINGS
    assert (found["missing"], found["repeated"]) == (0, 0)
    assert found["rows"] > found["messages"]
    assert found["alerts"] > 0
    assert found["dead_letters"] > 0
    assert found["journal"]["swap"] > 0
