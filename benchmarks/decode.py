"""Cost of decoding a record, compared with only parsing it: `python -m benchmarks.decode`.

`--old PATH` compares with another checkout: two processes decode the same bytes in turn, and their best turns give a
ratio of throughputs, new to old. Each ratio uses two new processes, because the memory layout of a process alone
changes its speed by up to a tenth. `--check` exits with 1 if the lower 95 % bound of a case's median ratio is below
`--least`.
"""

from __future__ import annotations

import argparse
import math
import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
import orjson

from stream_ad.io.transport import Partition, RawBatch
from stream_ad.io.wire.encode import ARROW_HEADERS, encode_arrow, encode_reading, encode_series
from stream_ad.io.wire.readings import Decoder

CHANNELS = [f"channel_{number}" for number in range(8)]
SAMPLES = 64
RECORDS = 300
T0 = 1_700_000_000_000
HERE = Path(__file__).resolve().parent
LEAST = 0.95
TURNS = 15
"""Turns of each of the two processes; the best one counts."""
Case: TypeAlias = tuple[list[bytes], list[str]]


def raw_batch(values: list[bytes], is_arrow: bool) -> RawBatch:
    n = len(values)
    return RawBatch(
        partition=Partition("readings", 0),
        offset=np.arange(n, dtype=np.int64),
        log_ns=np.arange(n, dtype=np.int64),
        keys=[None] * n,
        values=values,
        headers=[ARROW_HEADERS if is_arrow else ()] * n,
        next_offset=n,
    )


def naive_series(values: list[bytes]) -> None:
    for value in values:
        document = orjson.loads(value)
        columns = document["values"]
        np.array([columns[channel] for channel in CHANNELS], np.float32).T.copy()


def naive_single(values: list[bytes]) -> None:
    for value in values:
        document = orjson.loads(value)
        columns = document["values"]
        np.array([columns[channel] for channel in CHANNELS], np.float32)


def parse(values: list[bytes]) -> None:
    for value in values:
        orjson.loads(value)


def best_s(works: list[Callable[[], object]], rounds: int) -> list[float]:
    """Return each function's processor seconds: the best of several rounds, run in turn."""
    best = [float("inf")] * len(works)
    for _ in range(rounds):
        for number, work in enumerate(works):
            start = time.process_time()
            work()
            best[number] = min(best[number], time.process_time() - start)
    return best


def cases(records: int) -> dict[str, Case]:
    """Return the payloads of each case with the channels to decode."""
    random = np.random.default_rng(0)
    devices = [f"pump-{number:04d}" for number in random.integers(0, 500, records)]
    samples = np.round(random.normal(50, 5, (SAMPLES, len(CHANNELS))), 3)
    table = {channel: samples[:, number] for number, channel in enumerate(CHANNELS)}
    gaps = {channel: np.where(random.random(SAMPLES) < 0.02, np.nan, column) for channel, column in table.items()}
    row = dict(zip(CHANNELS, samples[0].tolist(), strict=True))
    ts = np.arange(T0, T0 + SAMPLES * 1_000, 1_000)
    few = CHANNELS[:4]
    return {
        "series": ([encode_series(device, T0, 1_000, table) for device in devices], CHANNELS),
        "series with nulls": ([encode_series(device, T0, 1_000, gaps) for device in devices], CHANNELS),
        "single": ([encode_reading(device, T0, row) for device in devices], CHANNELS),
        "single, 4 channels": ([encode_reading(device, T0, {c: row[c] for c in few}) for device in devices], few),
        "arrow": ([encode_arrow([device] * SAMPLES, ts, table) for device in devices], CHANNELS),
    }


def lower_bound(ratios: Sequence[float]) -> float:
    """Return the lower 95 % bound of the median: an order statistic, for any distribution; 0 for too few values."""
    n, chance, place = len(ratios), 0.0, 0
    for k in range(n):
        chance += math.comb(n, k) / 2**n
        if chance > 0.05:
            break
        place = k + 1
    return sorted(ratios)[place - 1] if place else 0.0


def paired(old: Path, payloads: Mapping[str, Case], pairs: int) -> dict[str, list[float]]:
    """Return throughput ratios of this checkout to another per case, one per pair of processes."""
    ratios: dict[str, list[float]] = {name: [] for name in payloads}
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "cases"
        headers = {name: ARROW_HEADERS if name == "arrow" else () for name in payloads}
        file.write_bytes(pickle.dumps({name: (*case, headers[name]) for name, case in payloads.items()}))
        for number in range(pairs):
            # Cores of a virtual machine differ in speed: both sides run on the same one, in turn.
            os.sched_setaffinity(0, {cores[number % len(cores)]})
            checkouts = [HERE.parent, old.resolve()]
            order = (0, 1) if number % 2 else (1, 0)
            sides = {side: _worker(checkouts[side], file, seed=number) for side in order}
            try:
                for name, found in ratios.items():
                    best = [math.inf, math.inf]
                    for turn in range(TURNS + 1):
                        took = {side: _turn(sides[side], name) for side in order}
                        if took[0][1] != took[1][1]:
                            raise SystemExit(f"{name}: {took[0][1]} readings here, {took[1][1]} there")
                        if turn:  # the first is warm-up
                            best = [min(best[side], took[side][0]) for side in (0, 1)]
                    found.append(best[1] / max(best[0], 1e-9))
            finally:
                for worker in sides.values():
                    worker.kill()
                    worker.wait()
    return ratios


def _worker(checkout: Path, file: Path, seed: int) -> subprocess.Popen[str]:
    env = os.environ | {"PYTHONPATH": str(checkout), "PYTHONHASHSEED": str(seed)}
    env |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, str(HERE / "decode_worker.py"), str(file)]
    worker = subprocess.Popen(command, env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    found = (worker.stdout.readline() if worker.stdout else "").strip()
    if not Path(found).is_relative_to(checkout):
        worker.kill()
        raise SystemExit(f"{checkout}: expected stream_ad in that checkout, found {found or 'none'}")
    return worker


def _turn(worker: subprocess.Popen[str], name: str) -> tuple[float, int]:
    if worker.stdin is None or worker.stdout is None:
        raise SystemExit("a worker without pipes")
    worker.stdin.write(f"{name}\n")
    worker.stdin.flush()
    took, readings = worker.stdout.readline().split()
    return float(took), int(readings)


def compare(old: Path, payloads: Mapping[str, Case], pairs: int, least: float) -> bool:
    """Print throughput ratios to another checkout; return whether each lower bound reaches `least`."""
    print(f"{'':20} median  lower 95 % bound, of {pairs} pairs: throughput here / at {old}")
    is_enough = True
    for name, ratios in paired(old, payloads, pairs).items():
        bound = lower_bound(ratios)
        is_enough &= bound >= least
        print(f"{name:20} {np.median(ratios):6.3f}  {bound:6.3f}{'' if bound >= least else f'  below {least:g}'}")
    return is_enough


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old", type=Path, metavar="PATH", help="another checkout to compare with")
    parser.add_argument("--check", action="store_true", help="exit with 1 if this checkout is slower")
    parser.add_argument("--least", type=float, default=LEAST, help=f"smallest accepted ratio ({LEAST})")
    parser.add_argument("--rounds", type=int, default=30, help="rounds, or pairs of processes with --old (30)")
    parser.add_argument("--records", type=int, default=RECORDS, help=f"records per round ({RECORDS:,})")
    parser.add_argument("--case", action="append", metavar="NAME", help="only this case; repeatable")
    args = parser.parse_args()
    payloads = {name: case for name, case in cases(args.records).items() if name in (args.case or (name,))}
    if args.old is not None:
        is_enough = compare(args.old, payloads, args.rounds, args.least)
        return 1 if args.check and not is_enough else 0
    if args.check:
        parser.error("--check needs --old")
    print(f"{'':20} bytes  decode   parse   naive (us per record)")
    for name, (values, channels) in payloads.items():
        decoder, batch = Decoder(channels), raw_batch(values, name == "arrow")
        works: list[Callable[[], object]] = [partial(decoder.decode, batch)]
        if name != "arrow":
            works.append(partial(parse, values))
            if "nulls" not in name and channels is CHANNELS:
                works.append(partial(naive_series if name == "series" else naive_single, values))
        us = [took / args.records * 1e6 for took in best_s(works, args.rounds)]
        print(f"{name:20} {len(values[0]):5} " + " ".join(f"{cost:7.2f}" for cost in us))
    return 0


if __name__ == "__main__":
    sys.exit(main())
