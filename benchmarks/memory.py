"""Resident size of a scorer with many devices over a run, on the embedded log. `python -m benchmarks.memory --help`."""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks.load import TOPIC, fill, make_bundle, settings_of, write_settings
from benchmarks.pipeline import running
from stream_ad import assembly
from stream_ad.io.transport import Partition
from stream_ad.role_table import deciding_group

BAR_MB = 700


def measure(folder: Path, devices: int, messages_a_device: int) -> list[tuple[float, float]]:
    """Return (share of the input done, resident MB) over the run."""
    transport = f'kind = "local"\npath = "{folder / "log.sqlite"}"'
    path = write_settings(folder, "memory", transport, TOPIC)
    settings = settings_of(path)
    log = assembly.open_transport(settings)
    fill(log, TOPIC, "series", devices * messages_a_device, devices)
    partition = Partition(TOPIC, 0)
    end = log.bounds(partition)[1]
    curve: list[tuple[float, float]] = []
    with running(path, "archiver", "scorer") as roles:
        scorer: psutil.Process = roles["scorer"]
        deadline = time.monotonic() + 900
        done = 0
        while done < end and time.monotonic() < deadline:
            position = log.committed(deciding_group(settings), partition)
            done = position.offset if position else 0
            curve.append((done / end, scorer.memory_info().rss / 1e6))
            time.sleep(0.25)
    log.close()
    return curve


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, default=10_000)
    parser.add_argument("--messages", type=int, default=12, help="messages per device, of 64 samples")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make_bundle(folder)
        curve = measure(folder, args.devices, args.messages)
    most = max(size for _, size in curve)
    warm = [size for share, size in curve if share >= 0.3]
    half = [size for share, size in curve if 0.3 <= share < 0.65], [size for share, size in curve if share >= 0.65]
    growth = max(half[1]) / max(half[0]) - 1 if all(half) else float("nan")
    for share in (0.1, 0.3, 0.5, 0.7, 0.9, 1.0):
        print(f"  {share:4.0%} {min(curve, key=lambda point: abs(point[0] - share))[1]:7.0f} MB")
    print(
        f"{args.devices:,} devices: at most {most:.0f} MB, after warm-up {min(warm):.0f}–{max(warm):.0f} MB, "
        f"second half over first {growth:+.1%} (target {BAR_MB} MB: {'met' if most < BAR_MB else 'MISSED'})"
    )


if __name__ == "__main__":
    main()
