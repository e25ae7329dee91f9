"""A small pump model and readings for it, for tests of the whole pipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from stream_ad.core.batches import Float64Array, ReadingBatch
from stream_ad.core.deciding import Deciding
from stream_ad.core.detectors import catalog
from stream_ad.core.detectors.base import no_progress
from stream_ad.core.incidents import IncidentRules
from stream_ad.core.model import Channel, Model, Normaliser, WindowShape
from stream_ad.core.pipeline import PartitionPipeline
from stream_ad.core.readings_front import ReadingsFront
from stream_ad.core.thresholds.base import Calibration
from stream_ad.core.thresholds.catalog import make_threshold
from stream_ad.core.windowing import TimeRules

SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND
CHANNELS = ("current", "flow", "pressure")


def signal(rows: int, seed: int) -> Float64Array:
    """Return float64[rows, 3]: three channels that follow one load, plus noise."""
    rng = np.random.default_rng(seed)
    load = np.sin(np.arange(rows) / 7 + rng.uniform(0, 6))[:, None]
    values: Float64Array = 10 + load * [3.0, 2.0, -1.0] + 0.1 * rng.standard_normal((rows, 3))
    return values


def small_model(samples: int = 8, stride: int = 4, kind: str = "pca") -> Model:
    """Return a model fitted on two thousand rows of `signal`."""
    rows = signal(2_000, seed=1)
    center, scale = rows.mean(axis=0), rows.std(axis=0)
    windows = np.lib.stride_tricks.sliding_window_view((rows - center) / scale, samples, axis=0)[::stride]
    values = np.ascontiguousarray(windows.transpose(0, 2, 1), np.float32)
    detector_kind = catalog.get(kind)
    detector = detector_kind.fit(values, {}, 0, no_progress)
    return Model(
        name="small",
        model_id="0" * 16,
        channels=tuple(Channel(name, always_moves=True) for name in CHANNELS),
        window=WindowShape(SECOND, samples, stride),
        min_coverage=0.5,
        normaliser=Normaliser(center, scale),
        detector=detector,
        kind=kind,
        settings=dict(detector_kind.defaults()),
        smoothing=0.5,
        calibration=Calibration(np.sort(detector.score(values).score)),
    )


def small_pipeline(
    model: Model, threshold: str = "quantile", settings: Mapping[str, Any] | None = None, evict_s: int = 400
) -> PartitionPipeline:
    """Return an empty pipe around the model, with short times."""
    return PartitionPipeline(
        front=ReadingsFront(model, TimeRules(2 * SECOND, 20 * SECOND, 10**6 * SECOND)),
        deciding=Deciding(
            "small",
            CHANNELS,
            model.smoothing,
            make_threshold(threshold, model.calibration, settings or {}),
            IncidentRules(close_after_ns=15 * SECOND, relearn_after_ns=200 * SECOND),
        ),
        evict_after_ns=evict_s * SECOND,
    )


def fleet_log(seed: int, devices: int = 4, records: int = 120, samples: int = 6) -> ReadingBatch:
    """Return a log of series messages: faults, stuck sensors, gaps, silences, late and disordered readings."""
    rng = np.random.default_rng(seed)
    rows: list[tuple[int, int, int, Float64Array]] = []
    record_log = []
    clock = [0] * devices
    data = [signal(4_000, seed=100 + d) for d in range(devices)]
    log = 0
    for record in range(records):
        log += int(rng.choice([0, 1, 2, 5, 25, 450], p=[0.3, 0.3, 0.2, 0.1, 0.08, 0.02]))
        record_log.append(START + log * SECOND)
        device = int(rng.integers(devices))
        start = clock[device] + int(rng.choice([0, 0, 0, 0, 3, 30, -2]))
        clock[device] = max(start + samples, 0)
        for k in rng.permutation(samples) if rng.random() < 0.2 else range(samples):
            at = max(start + int(k), 0)
            values = data[device][at].copy()
            if at % 300 > 270:
                values[at % 3] += 4.0
            if at % 500 > 460:
                values[1] = 10.0
            if rng.random() < 0.05:
                values[int(rng.integers(3))] = np.nan
            rows.append((device, START + at * SECOND, record, values))
    return ReadingBatch(
        ids=tuple(f"pump-{d}" for d in range(devices)),
        device=np.array([r[0] for r in rows], np.int32),
        event_ns=np.array([r[1] for r in rows], np.int64),
        offset=np.array([2 * r[2] for r in rows], np.int64),
        values=np.stack([r[3] for r in rows]),
        record_offset=2 * np.arange(records, dtype=np.int64),
        record_log_ns=np.array(record_log, np.int64),
    )
