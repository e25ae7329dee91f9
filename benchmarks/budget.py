"""How many incidents open on streams without anomalies, as a multiple of the stated budget.

Six kinds of null streams, each with the given number of devices, run through the real decision loop, without smoothing,
so that only the thresholds are judged. It prints openings per normal row divided by the target. All devices start
from a calibration on the first rows of one device of their kind. Scale: noise of variance 1; seasonal adds a sine of
amplitude 1 and period 200 to half the noise, regime jumps by 1.5 about every 1,000 rows, drift rises by 3 in 10,000
rows.

    python -m benchmarks.budget [--devices 60] [--rows 6000] [--target 1e-3]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np

from stream_ad.core.batches import Float64Array, Keys, ScoreBatch
from stream_ad.core.deciding import Deciding
from stream_ad.core.incidents import IncidentRules
from stream_ad.core.thresholds.base import Calibration
from stream_ad.core.thresholds.catalog import make_threshold

SECOND_NS = 1_000_000_000
CALIBRATION_ROWS = 2_000
RULES = IncidentRules(close_after_ns=5 * SECOND_NS, exit_ratio=0.5)
Maker = Callable[[np.random.Generator, int, int], Float64Array]


def white(rng: np.random.Generator, rows: int, devices: int) -> Float64Array:
    return rng.standard_normal((rows, devices))


def autoregressive(rng: np.random.Generator, rows: int, devices: int) -> Float64Array:
    noise = rng.standard_normal((rows, devices)) * np.sqrt(1 - 0.9**2)
    out: Float64Array = np.empty((rows, devices))
    level = rng.standard_normal(devices)
    for at in range(rows):
        level = np.asarray(0.9 * level + noise[at])
        out[at] = level
    return out


def seasonal(rng: np.random.Generator, rows: int, devices: int) -> Float64Array:
    phase = rng.uniform(0, 2 * np.pi, devices)
    return np.asarray(np.sin(2 * np.pi * np.arange(rows)[:, None] / 200 + phase) + 0.5 * white(rng, rows, devices))


def heavy(rng: np.random.Generator, rows: int, devices: int) -> Float64Array:
    return np.asarray(rng.standard_t(3, (rows, devices)), np.float64)


def regime(rng: np.random.Generator, rows: int, devices: int) -> Float64Array:
    flips = np.cumsum(rng.random((rows, devices)) < 1 / 1_000, axis=0)
    return np.asarray(1.5 * (flips % 2) + white(rng, rows, devices))


def drift(rng: np.random.Generator, rows: int, devices: int) -> Float64Array:
    return np.asarray(3e-4 * np.arange(rows)[:, None] + white(rng, rows, devices))


STREAMS: Mapping[str, Maker] = {
    "white": white,
    "AR(1) .9": autoregressive,
    "seasonal": seasonal,
    "t3": heavy,
    "regime": regime,
    "drift": drift,
}


def thresholds(target: float) -> Mapping[str, tuple[str, Mapping[str, Any]]]:
    """Return the thresholds to compare, by printed name."""
    q = 1 - target
    return {
        "fixed": ("fixed", {"quantile": q}),
        "quantile": ("quantile", {"quantile": q, "feedback": 0.0}),
        "quantile + feedback": ("quantile", {"quantile": q}),
        "spot": ("spot", {"risk": target}),
    }


def ratio_of(job: tuple[str, Mapping[str, Any], str, argparse.Namespace]) -> float:
    """Return realised / target for one threshold and one kind of stream."""
    kind, settings, name, asked = job
    rng = np.random.default_rng([asked.seed, list(STREAMS).index(name)])
    opened, quiet = realised(kind, settings, STREAMS[name](rng, asked.rows, asked.devices))
    return float(opened / quiet / asked.target)


def realised(kind: str, settings: Mapping[str, Any], logs: Float64Array) -> Float64Array:
    """Return openings and normal rows of one stream; device 0 is the calibration's.

    Args:
        kind: the threshold's name.
        settings: its arguments.
        logs: float64[rows, devices], standardised; the log score is 0.3 times this.
    """
    rows, devices = logs.shape
    scores = np.exp(0.3 * logs)
    threshold = make_threshold(kind, Calibration(np.ascontiguousarray(scores[:CALIBRATION_ROWS, 0])), settings)
    deciding = Deciding("null", ("x",), 1.0, threshold, RULES)
    deciding.grow(devices)
    slots = np.arange(devices, dtype=np.int32)
    opened = quiet = 0
    block = 500
    for start in range(0, rows, block):
        part = scores[start : start + block]
        end = np.repeat(np.arange(start, start + len(part), dtype=np.int64), devices)
        keys = Keys(np.tile(slots, len(part)), (end + 1) * SECOND_NS, end, end)
        coverage = np.ones((len(end), 1), np.float32)
        batch = ScoreBatch(keys, np.zeros(len(end), np.uint32), coverage, part.reshape(-1), None, "null")
        verdicts, _ = deciding.decide(batch, str)
        first = verdicts.incident == keys.end_ns
        opened += int(first.sum())
        quiet += int((~verdicts.is_anomaly).sum() + first.sum())
    return np.array([opened, quiet], np.float64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--devices", type=int, default=60)
    parser.add_argument("--rows", type=int, default=6_000)
    parser.add_argument("--target", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    began = time.perf_counter()
    print(f"{asked.devices} devices x {asked.rows} rows, target {asked.target:g}; realised / target\n")
    print(f"{'':20}" + "".join(f"{name:>10}" for name in STREAMS) + f"{'worst':>10}")
    jobs = [(*named, stream, asked) for named in thresholds(asked.target).values() for stream in STREAMS]
    with ProcessPoolExecutor() as pool:
        found = np.array(list(pool.map(ratio_of, jobs))).reshape(-1, len(STREAMS))
    for name, ratios in zip(thresholds(asked.target), found, strict=True):
        worst = np.maximum(ratios, 1 / np.maximum(ratios, 1e-9)).max()
        print(f"{name:20}" + "".join(f"{ratio:10.2f}" for ratio in ratios) + f"{worst:10.2f}")
    print(f"\n{time.perf_counter() - began:.0f} s; worst: the larger of ratio and 1 / ratio")


if __name__ == "__main__":
    main()
