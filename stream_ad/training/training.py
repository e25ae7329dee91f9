"""Recording -> model: windows, normaliser, detector, leave-block-out calibration, training card."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import Any

import numpy as np

from stream_ad import __version__
from stream_ad.core.batches import BoolArray, Float32Array, Float64Array, Int64Array, Keys, ScoreBatch
from stream_ad.core.deciding import Deciding
from stream_ad.core.detectors import catalog
from stream_ad.core.detectors.base import Progress, no_progress
from stream_ad.core.incidents import IncidentRules
from stream_ad.core.model import Channel, Model, Normaliser, WindowShape
from stream_ad.core.overrange import LEAST_REACH, Overrange
from stream_ad.core.scoring import Scoring, normalise
from stream_ad.core.thresholds.base import Calibration
from stream_ad.core.thresholds.fixed import Fixed
from stream_ad.errors import TrainingError
from stream_ad.io.recordings.recordings import Recording
from stream_ad.training.normalising import Fitted, completed, fit, in_frame
from stream_ad.training.sensitivity import sensitivity
from stream_ad.training.windows import MIN_CALIBRATION, Windows, blocks, cut_windows, independent, usable

MAX_CALIBRATION = 20_000
PROBE_WINDOWS = 16
REPORT_QUANTILE = 0.99
FLOOR_WINDOWS = 64
FLOOR_SHIFT = 0.5
"""Shift, in scales, of all channels that never moved in training at once; it must stay below the lowest limit."""
BLOCK_WINDOWS = 1_024


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """What to train.

    Attributes:
        name: the bundle's name.
        kind: the detector's name in the catalogue.
        shape: window, stride and period.
        channels: the channels to use, in any order; training determines `always_moves`.
        settings: overrides of the detector's defaults.
        smoothing: weight of the newest log score, 0 < a <= 1.
        min_coverage: share of filled cells below which a channel counts as missing.
        clip: limit of normalised values.
        folds: contiguous blocks of the leave-block-out calibration, >= 2.
        seed: the same seed and data give the same model on the same machine.
        baseline: detector trained for comparison and reported in the card, or "" for none.
        per_device: each training device gets its own centre and scale. False for a model of devices not seen in
            training.
    """

    name: str
    kind: str
    shape: WindowShape
    channels: Sequence[Channel]
    settings: Mapping[str, Any] = field(default_factory=dict)
    smoothing: float = 0.3
    min_coverage: float = 0.5
    clip: float = 10.0
    folds: int = 5
    seed: int = 0
    baseline: str = "pca"
    per_device: bool = True


@dataclass(frozen=True, slots=True)
class Trained:
    """A trained model with its probe and card.

    Attributes:
        model: without an id; `bundles.save` sets it.
        probe: float64[k, t, c], raw windows for the bundle's probe.
        card: the training card.
    """

    model: Model
    probe: Float64Array
    card: dict[str, Any]


def train(
    recording: Recording, plan: TrainingPlan, progress: Progress = no_progress, windows: Windows | None = None
) -> Trained:
    """Train a model on a recording of normal operation.

    The scores that calibrate the thresholds come from models that have not seen the window: the recording is cut into
    contiguous blocks, each scored by a model fitted on the others.

    Args:
        recording: of normal operation.
        plan: what to train.
        progress: called during long work.
        windows: the recording's usable windows for this plan, if already cut.

    Raises:
        ConfigError: the detector or a setting is unknown.
        RecordingError: a channel is missing.
        TrainingError: there are too few usable windows.
    """
    channels = sorted(plan.channels, key=lambda channel: channel.name)
    if windows is None:
        windows = usable(cut_windows(recording, channels, plan.shape), plan.min_coverage)
    if len(windows) < MIN_CALIBRATION or not blocks(windows, plan.shape, plan.folds):
        raise TrainingError(
            f"expected at least {MIN_CALIBRATION} windows of {plan.shape.samples} samples with enough data, and half "
            f"of them outside each of {plan.folds} blocks of time, found {len(windows)}: record longer, or use a "
            "shorter window or stride"
        )
    ids = recording.devices
    model, held_out = _fit(windows, ids, channels, plan, progress)
    report = {plan.kind: _report(model, windows, ids, held_out)}
    if plan.baseline and plan.baseline != plan.kind:
        baseline, scores = _fit(windows, ids, channels, replace(plan, kind=plan.baseline, settings={}), progress)
        report[plan.baseline] = _report(baseline, windows, ids, scores)
    card = {
        "name": plan.name,
        "detector": plan.kind,
        "seed": plan.seed,
        "folds": plan.folds,
        "recording": {
            **_describe(recording, windows, channels),
            "independent_windows": independent(windows, plan.shape),
        },
        "held_out": report,
        "held_out_note": "leave-block-out on the training recording; a limit at a quantile of these scores",
        "versions": {"stream_ad": __version__, "numpy": version("numpy"), "python": platform.python_version()},
        "limits": "fitted on one recording of normal running; scores mean nothing outside of its operating range",
    }
    rows = np.linspace(0, len(windows) - 1, min(PROBE_WINDOWS, len(windows))).astype(np.int64)
    probe = in_frame(model, windows.take(rows), ids)
    return Trained(replace(model, card=card), np.ascontiguousarray(probe), card)


def _fit(
    windows: Windows, ids: Sequence[str], channels: Sequence[Channel], plan: TrainingPlan, progress: Progress
) -> tuple[Model, Float64Array]:
    """Return the model fitted on all windows, and each window's held-out smoothed score.

    Args:
        windows: n of them, in order of time.
        ids: names of their devices.
        channels: sorted by name.
        plan: what to train.
        progress: called during long work.
    """
    kind = catalog.get(plan.kind)
    moves = _moves(windows.values, [channel.counter for channel in channels])
    known = tuple(replace(channel, always_moves=bool(m)) for channel, m in zip(channels, moves, strict=True))

    def fitted(rows: Int64Array, scaling: Fitted, step: int) -> Model:
        label = f"{plan.kind} {step}/{plan.folds + 1}"
        detector = kind.fit(
            _normalised(windows, rows, scaling, ids),
            plan.settings,
            plan.seed,
            lambda what, done, total: progress(f"{label}: {what}", done, total),
        )
        return Model(
            name=plan.name,
            model_id="",
            channels=known,
            window=plan.shape,
            min_coverage=plan.min_coverage,
            normaliser=scaling.normaliser,
            detector=detector,
            kind=plan.kind,
            settings={**kind.defaults(), **plan.settings},
            smoothing=plan.smoothing,
            calibration=Calibration(np.ones(1)),
            scales=scaling.scales,
        )

    apart = independent(windows, plan.shape) / len(windows)
    whole = fit(windows, ids, plan.clip, apart, plan.per_device)
    held_out, single = np.full(len(windows), np.nan), np.full(len(windows), np.nan)
    for fold, (inside, outside) in enumerate(blocks(windows, plan.shape, plan.folds)):
        scaling = completed(fit(windows.take(outside), ids, plan.clip, apart, plan.per_device), whole)
        block = windows.take(inside)
        model = fitted(outside, scaling, fold + 1)
        single[inside] = Scoring(model).score_values(scaling.framed(block, ids)).score
        held_out[inside] = smoothed_scores(model, block, single[inside])
    model = fitted(np.arange(len(windows)), whole, plan.folds + 1)
    sample = held_out[np.linspace(0, len(held_out) - 1, min(len(held_out), MAX_CALIBRATION)).astype(np.int64)]
    floor = _floor(model, windows, whole.is_still)
    values = whole.framed(windows, ids)
    seen = np.maximum(Scoring(model).score_values(values).score, floor)
    highest = np.maximum(np.maximum(single, held_out), seen)
    overrange = Overrange.of(highest, reach_of(values, model.normaliser))
    return replace(model, calibration=Calibration(sample, floor), overrange=overrange), held_out


def _normalised(windows: Windows, rows: Int64Array, scaling: Fitted, ids: Sequence[str]) -> Float32Array:
    """Return some windows normalised for a detector, float32[n, t, c]; block by block, to limit memory."""
    found = np.empty((len(rows), *windows.values.shape[1:]), np.float32)
    for start in range(0, len(rows), BLOCK_WINDOWS):
        part = slice(start, start + BLOCK_WINDOWS)
        found[part] = normalise(scaling.framed(windows.take(rows[part]), ids), scaling.normaliser)
    return found


def _floor(model: Model, windows: Windows, is_still: BoolArray) -> float:
    """Return the score when all channels that never moved shift by half of their scale; 0 if there are none."""
    if not is_still.any():
        return 0.0
    rows = np.linspace(0, len(windows) - 1, min(FLOOR_WINDOWS, len(windows))).astype(np.int64)
    values = np.broadcast_to(model.normaliser.center, windows.values[rows].shape).copy()
    values[:, :, is_still] += FLOOR_SHIFT * model.normaliser.scale[is_still]
    return float(np.median(Scoring(model).score_values(values).score))


def smoothed_scores(model: Model, windows: Windows, score: Float64Array) -> Float64Array:
    """Return float64[n], the smoothed scores that the live pipeline would compute for windows in order of time.

    Args:
        model: its smoothing is used.
        windows: n of them, in order of time.
        score: float64[n], the model's scores.
    """
    n = len(windows)
    deciding = Deciding(
        model.name,
        [channel.name for channel in model.channels],
        model.smoothing,
        Fixed(model.calibration, limit=1e300),
        IncidentRules(),
    )
    deciding.grow(int(windows.device.max(initial=0)) + 1)
    row = np.arange(n)
    batch = ScoreBatch(
        keys=Keys(windows.device, windows.end_ns, row, row),
        quality=np.zeros(n, np.uint32),
        coverage=windows.coverage,
        score=score,
        contribution=None,
        model_id="",
    )
    return deciding.decide(batch, lambda slot: str(slot))[0].smoothed


def reach_of(values: Float64Array, normaliser: Normaliser) -> Float32Array:
    """Return float32[c], the largest distance of each channel from its centre in training, at least `LEAST_REACH`.

    Args:
        values: float64[n, t, c], in the fleet's frame.
        normaliser: the fleet's.
    """
    low, high = np.fmin.reduce(values, axis=(0, 1)), np.fmax.reduce(values, axis=(0, 1))
    distance = np.fmax(high - normaliser.center, normaliser.center - low) / normaliser.scale
    found: Float32Array = np.clip(np.fmax(distance, LEAST_REACH), None, 1e30).astype(np.float32)
    return found


def _moves(values: Float64Array, counters: Sequence[bool]) -> list[bool]:
    """Return per channel whether it had several values in every window; for a counter, whether it rose."""
    with np.errstate(invalid="ignore"):
        still = (values == values[:, :1]).all(axis=1) & (~np.array(counters) | (values[:, 0] == 0))
    return (~still.any(axis=0)).tolist() if values.shape[1] > 1 else [False] * values.shape[2]


def _report(model: Model, windows: Windows, ids: Sequence[str], held_out: Float64Array) -> dict[str, Any]:
    """Return statistics of the held-out scores, and which injected shifts exceed their limit."""
    limit = max(float(np.quantile(held_out, REPORT_QUANTILE)), model.calibration.floor)
    return {
        "score_median": float(np.median(held_out)),
        "limit": limit,
        "limit_quantile": REPORT_QUANTILE,
        "shift_found": sensitivity(model, windows, ids, limit),
    }


def _describe(recording: Recording, windows: Windows, channels: Sequence[Channel]) -> dict[str, Any]:
    """Return the data that the model was fitted on, for the card."""
    ranges = {}
    for channel in channels:
        column = recording.values[:, recording.channels.index(channel.name)]
        known = column[np.isfinite(column)]
        low, high = (float(known.min()), float(known.max())) if len(known) else (None, None)
        ranges[channel.name] = {"unit": channel.unit, "min": low, "max": high}
    return {
        "rows": len(recording),
        "devices": len(recording.devices),
        "windows": len(windows),
        "start_ns": int(recording.event_ns[0]),
        "end_ns": int(recording.event_ns[-1]),
        "channels": ranges,
    }
