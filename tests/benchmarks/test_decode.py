"""The benchmark of decoding can fail: it compares two checkouts, and says which is slower."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.decode import lower_bound

ROOT = Path(__file__).resolve().parents[2]
CHEAP = ("--rounds", "8", "--records", "20", "--case", "single", "--check")
FASTER = """
from types import SimpleNamespace


class Decoder:
    def __init__(self, channels):
        pass

    def decode(self, raw):
        return SimpleNamespace(readings=SimpleNamespace(device=raw.values))
"""


def run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.decode", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def checkout(folder: Path) -> Path:
    """Return a checkout whose decoder does nothing, and so is faster than any."""
    (folder / "stream_ad" / "io").mkdir(parents=True)
    (folder / "stream_ad" / "__init__.py").touch()
    (folder / "stream_ad" / "io" / "__init__.py").touch()
    (folder / "stream_ad" / "io" / "wire.py").write_text(FASTER)
    transport = (
        "from types import SimpleNamespace\n\n"
        "def RawBatch(**fields):\n    return SimpleNamespace(**fields)\n\n"
        "def Partition(*place):\n    return place\n"
    )
    (folder / "stream_ad" / "io" / "transport.py").write_text(transport)
    return folder


def test_a_slower_checkout_fails_the_check(tmp_path: Path) -> None:
    ran = run("--old", str(checkout(tmp_path)), *CHEAP)

    assert ran.returncode == 1, ran.stderr
    assert "below 0.95" in ran.stdout


def test_a_checkout_is_as_fast_as_itself() -> None:
    ran = run("--old", str(ROOT), *CHEAP, "--least", "0.01")

    assert ran.returncode == 0, ran.stderr
    assert "single" in ran.stdout


def test_a_folder_without_the_package_is_no_checkout(tmp_path: Path) -> None:
    ran = run("--old", str(tmp_path), *CHEAP)

    assert ran.returncode == 1
    assert "expected stream_ad in that checkout" in ran.stderr


@pytest.mark.parametrize(
    ("ratios", "bound"),
    [
        ([1.0] * 4, 0.0),  # four pairs cannot tell: all above the median once in sixteen times
        ([3.0, 1.0, 2.0, 5.0, 4.0], 1.0),
        ([float(n) for n in range(1, 61)], 24.0),
    ],
)
def test_the_lower_bound_is_an_order_statistic(ratios: list[float], bound: float) -> None:
    assert lower_bound(ratios) == bound
