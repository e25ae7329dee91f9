"""Estimates the time and peak memory of a training before it starts."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stream_ad.core.batches import Float32Array
from stream_ad.core.detectors import axes, catalog
from stream_ad.core.detectors.multiscale_pca import lags
from stream_ad.core.scoring import CHUNK, normalise
from stream_ad.io.recordings.recordings import Recording
from stream_ad.training import sensitivity
from stream_ad.training.normalising import fit
from stream_ad.training.training import TrainingPlan
from stream_ad.training.windows import Windows

TRIAL_S = 1.0
"""How long a fit is run for timing if its number of operations is unknown."""
LINEAR = ("pca", "mahalanobis", "multiscale_pca")
EIGEN = 9.0
"""Approximate cost of an eigendecomposition with vectors, in m x m matrix products (Golub & Van Loan, section 8.3)."""
CGROUP = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


@dataclass(frozen=True, slots=True)
class Cost:
    """A rough estimate.

    Attributes:
        seconds: duration of the whole training.
        memory: peak memory in bytes, including the recording.
    """

    seconds: float
    memory: int


@dataclass(frozen=True, slots=True)
class _Speed:
    """Floating-point operations per second of this machine, measured on small matrices."""

    product: float
    eigen: float


class _EnoughSeenError(Exception):
    pass


def estimate(recording: Recording, windows: Windows, plan: TrainingPlan) -> Cost:
    """Count operations for linear detectors; time about one second of the fit of others.

    Args:
        recording: the recording, in memory.
        windows: the windows to fit on.
        plan: what to train.

    Raises:
        ConfigError: the detector or a setting is unknown.
    """
    speed = _measure()
    kinds = {plan.kind: plan.settings}
    if plan.baseline:
        kinds.setdefault(plan.baseline, {})
    seconds, fit_bytes = 0.0, 0
    for kind, settings in kinds.items():
        chosen = {**catalog.get(kind).defaults(), **settings}
        if kind in LINEAR:
            each, scored, held = _linear(kind, windows, chosen, speed)
        else:
            each, scored, held = _timed(kind, windows, plan), 0.0, 0
        seconds += each * (plan.folds + 1) + scored
        fit_bytes = max(fit_bytes, held)
    # A fold holds all windows, its share of them, and these normalised.
    return Cost(seconds, recording.values.nbytes + int(windows.values.nbytes * 2.5) + fit_bytes)


def _linear(kind: str, windows: Windows, settings: dict[str, object], speed: _Speed) -> tuple[float, float, int]:
    """Return seconds per fit, seconds of all scoring, and bytes per fit."""
    n, samples, channels = windows.values.shape
    stated = settings.get("lags")
    scales = [stated if isinstance(stated, int) else samples]
    members = settings.get("members")
    if isinstance(members, int):
        scales = lags(samples, members)
    sizes = [scale * channels for scale in scales]
    fit, row, held = 0.0, 0.0, 0
    for size in sizes:
        used = n if min(n, size) * size <= axes.MOST_VALUES else max(axes.MOST_VALUES // size, axes.LEAST_ROWS)
        side = min(used, size)
        fit += 2.0 * side * used * size / speed.product + EIGEN * side**3 / speed.eigen
        row += 4.0 * side * size
        held = max(held, 4 * 8 * side * size)
    shifted = len(sensitivity.SIZES) * min(
        sensitivity.SAMPLE * channels, max(sensitivity.MOST_VALUES // (samples * channels), CHUNK)
    )
    return fit, (n + shifted) * row / speed.product, held


def _timed(kind: str, windows: Windows, plan: TrainingPlan) -> float:
    """Return seconds per fit, extrapolated from the progress of about one second."""
    values: Float32Array = normalise(windows.values, fit(windows, (), plan.clip, 1.0).normaliser)
    seen: list[tuple[float, float]] = []  # times and shares; anything before the first is loading, not fitting

    def watch(what: str, done: int, total: int) -> None:
        seen.append((time.monotonic(), done / max(total, 1)))
        if seen[-1][0] - seen[0][0] > TRIAL_S and seen[-1][1] > seen[0][1]:
            raise _EnoughSeenError

    begun = time.monotonic()
    for _ in range(2):  # a short fit is repeated: the first one may have loaded a library midway
        seen.clear()
        begun = time.monotonic()
        try:
            catalog.get(kind).fit(values, plan.settings, plan.seed, watch)
        except _EnoughSeenError:
            (first_s, first), (last_s, last) = seen[0], seen[-1]
            if last < 1.0:
                return (last_s - first_s) / (last - first)
    return time.monotonic() - begun


def _measure() -> _Speed:
    """Time small pieces of the work, for some hundredths of a second."""
    matrix = np.random.default_rng(0).standard_normal((256, 256))
    square = matrix @ matrix.T

    def seconds(work: Callable[[], object]) -> float:
        begun = time.perf_counter()
        work()
        return max(time.perf_counter() - begun, 1e-6)

    product = min(seconds(lambda: matrix @ matrix) for _ in range(5))
    eigen = min(seconds(lambda: np.linalg.eigh(square)) for _ in range(2))
    return _Speed(2.0 * 256**3 / product, EIGEN * 256**3 / eigen)


def memory_of_this_machine() -> int:
    """Return the bytes available to a process here: the machine's memory or a container's limit."""
    found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in CGROUP:
        try:
            found = min(found, int(Path(path).read_text(encoding="ascii")))
        except (OSError, ValueError):
            continue
    return found
