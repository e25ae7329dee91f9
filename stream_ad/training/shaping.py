"""Chooses windows that fit a recording, and explains why others do not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from stream_ad.core.batches import BoolArray
from stream_ad.core.model import WindowShape
from stream_ad.io.recordings.recordings import Recording
from stream_ad.training.rates import Rates, hold_age_ns, holding, span_text
from stream_ad.training.training import TrainingPlan
from stream_ad.training.windows import (
    MAX_TRAINING_BYTES,
    MIN_CALIBRATION,
    Windows,
    blocks,
    cut_windows,
    independent,
    usable,
)

SAMPLES = 64
"""Samples per window if the recording is long enough."""
LADDER = (SAMPLES, 32, 16, 8, 4, 2, 1)
INDEPENDENT = 50
"""Minimum number of windows without common samples that a shorter window must give."""
TRUSTED = 100
"""Windows without common samples below which a limit at the 99th percentile rests on less than one of them."""
LEFT_OUT = 0.2
"""Share of incomplete windows above which a note is printed."""
NAMED = 5


@dataclass(frozen=True, slots=True)
class Choice:
    """Windows that can be trained on.

    Attributes:
        plan: the plan with their shape.
        windows: those with enough data.
        notes: notes to print, one line each.
    """

    plan: TrainingPlan
    windows: Windows
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why a recording cannot be trained on as requested.

    Attributes:
        reason: what was expected and found.
        options: options to add or change (name and value, None to remove it), verified on this recording; empty if
            nothing helps.
    """

    reason: str
    options: tuple[tuple[str, str | None], ...] = ()


def choose(recording: Recording, plan: TrainingPlan, samples: int | None, stride: int | None) -> Choice | Obstacle:
    """Choose samples and stride if not given, so that enough windows remain for fit and calibration.

    Uses 64 samples with a quarter as stride if that gives enough, else the longest window of which the recording has
    50 without common samples, with a stride down to 1.

    Args:
        recording: of normal operation.
        plan: what to train; only the period of its shape is used.
        samples: samples per window, or None.
        stride: samples between windows, or None.

    Raises:
        RecordingError: a channel is missing.
    """
    plan = replace(plan, channels=tuple(sorted(plan.channels, key=lambda channel: channel.name)))
    rates = Rates.of(recording, plan.channels, plan.shape.period_ns)
    found = _first_fit(recording, plan, rates, samples, stride, waits_for_slow=True)
    if isinstance(found, Choice):
        return replace(found, notes=(*found.notes, *_unused_devices(recording, rates, found)))
    slow = [plan.channels[number].name for number in rates.slow_channels(plan.min_coverage)]
    slow = [name for name in slow if name not in _held(plan)]
    if slow:
        return _name_slow_channels(recording, plan, slow, samples, stride)
    return _name_causes(recording, plan, rates, found, samples, stride)


def _first_fit(
    recording: Recording,
    plan: TrainingPlan,
    rates: Rates,
    samples: int | None,
    stride: int | None,
    waits_for_slow: bool = False,
) -> Choice | int:
    """Return the first shape that can be trained on, or the number of windows of the first one."""
    cells = int(rates.cells.sum())
    found = None
    for shape in _shapes(plan.shape.period_ns, samples, stride, cells):
        tried = replace(plan, shape=shape)
        size = shape.samples * len(plan.channels) * recording.values.itemsize
        every = max(cells // shape.stride * size // MAX_TRAINING_BYTES, 1)
        cut = cut_windows(recording, tried.channels, shape, every)
        windows = usable(cut, plan.min_coverage)
        if len(windows) >= MIN_CALIBRATION and blocks(windows, shape, plan.folds):
            notes = (*_notes(recording, tried, windows, samples, stride), *_left_out(tried, cut))
            return Choice(tried, windows, notes)
        found = len(windows) if found is None else found
        if waits_for_slow and _is_grid_wrong(plan, rates):
            break  # a shorter window would train on the few cells in which all channels have a value
    return found or 0


def _shapes(period_ns: int, samples: int | None, stride: int | None, cells: int) -> Iterator[WindowShape]:
    """Yield the shapes to try, in order of preference."""
    if samples is not None:
        strides = [stride] if stride else _strides(samples)
        yield from (WindowShape(period_ns, samples, step) for step in strides)
        return
    yield WindowShape(period_ns, SAMPLES, stride or SAMPLES // 4)
    for length in sorted(LADDER[1:], key=lambda length: cells // length < INDEPENDENT):
        for step in [stride] if stride else _strides(length):
            yield WindowShape(period_ns, length, step)


def _strides(samples: int) -> list[int]:
    """Return a quarter of a window, its half, …, 1."""
    step = max(samples // 4, 1)
    return [step >> k for k in range(step.bit_length())]


def _is_grid_wrong(plan: TrainingPlan, rates: Rates) -> bool:
    """Return whether channels or all devices report too rarely for the period."""
    held = {number for number, channel in enumerate(plan.channels) if channel.hold_max_age_ns}
    if set(rates.slow_channels(plan.min_coverage).tolist()) - held:
        return True
    slow = rates.slow_devices(plan.shape.period_ns, plan.min_coverage)
    return len(slow) == int((rates.cells > 1).sum()) and len(held) < len(plan.channels)


def _held(plan: TrainingPlan) -> set[str]:
    return {channel.name for channel in plan.channels if channel.hold_max_age_ns}


def _notes(
    recording: Recording, plan: TrainingPlan, windows: Windows, samples: int | None, stride: int | None
) -> Iterator[str]:
    shape = plan.shape
    usual = WindowShape(shape.period_ns, samples or SAMPLES, stride or max((samples or SAMPLES) // 4, 1))
    if shape != usual:
        yield (
            f"{len(recording):,} rows are too few for windows of {usual.samples} samples with stride {usual.stride}: "
            f"using {shape.samples} samples with stride {shape.stride}"
        )
    apart = independent(windows, shape)
    if apart < TRUSTED:
        times = -(-TRUSTED // apart)
        yield (
            f"the limit rests on about {apart} independent windows, so it is rough: use a recording "
            f"{'twice' if times == 2 else f'{times} times'} as long"
        )


def _left_out(plan: TrainingPlan, cut: Windows) -> Iterator[str]:
    """Yield a note if many windows were discarded because only some channels had enough values."""
    has: BoolArray = np.asarray(cut.coverage >= plan.min_coverage)
    some: BoolArray = np.asarray(has.any(axis=1))
    partial = some & ~has.all(axis=1)
    if partial.sum() <= LEFT_OUT * some.sum():
        return
    lacking = (~has[partial]).sum(axis=0)
    names = [plan.channels[number].name for number in np.argsort(-lacking, kind="stable")[:NAMED] if lacking[number]]
    yield (
        f"{int(partial.sum()):,} of {int(some.sum()):,} windows were discarded because channels had too few values "
        f"(mostly {', '.join(names)}): exclude such channels (--channels) or hold their values (--hold)"
    )


def _unused_devices(recording: Recording, rates: Rates, choice: Choice) -> Iterator[str]:
    """Yield a note per group of devices without windows, with the reason."""
    unused = np.setdiff1d(np.arange(len(recording.devices)), choice.windows.device)
    if not len(unused):
        return
    plan = choice.plan
    slow = np.intersect1d(unused, rates.slow_devices(plan.shape.period_ns, plan.min_coverage))
    if len(slow):
        age = hold_age_of_devices(rates, slow)
        yield (
            f"{_names(recording, slow)}: a reading every {_steps(rates, slow)}, but the period is "
            f"{span_text(plan.shape.period_ns)}: cannot be trained or scored. Use --hold '*={span_text(age)}' to hold "
            "the values, or --period for another step for all devices"
        )
    rest = np.setdiff1d(unused, slow)
    lacking = [number for number in rest.tolist() if (rates.filled[number] == 0).any()]
    for number in lacking[:NAMED]:
        missing = [plan.channels[k].name for k in np.flatnonzero(rates.filled[number] == 0).tolist()]
        yield f"{recording.devices[number]}: no values of {', '.join(missing[:NAMED])}: not used for training"
    short = np.setdiff1d(rest, lacking)
    if len(short):
        yield f"{_names(recording, short)}: too few consecutive readings for a window: not used for training"


def _name_slow_channels(
    recording: Recording, plan: TrainingPlan, slow: Sequence[str], samples: int | None, stride: int | None
) -> Obstacle:
    ages = {name: hold_age_ns(recording, name) for name in slow}
    held = replace(plan, channels=holding(plan.channels, ages))
    rates = Rates.of(recording, plan.channels, plan.shape.period_ns)
    found = _first_fit(recording, held, rates, samples, stride)
    shown = ", ".join(slow[:NAMED]) + (f" and {len(slow) - NAMED} more" if len(slow) > NAMED else "")
    reason = (
        f"{shown}: values are too rare for a step of {span_text(plan.shape.period_ns)}; "
        "state how long the last value is valid"
    )
    options = [("hold", f"{name}={span_text(age)}") for name, age in ages.items()]
    if isinstance(found, Choice):
        return Obstacle(reason, tuple(options))
    free = _first_fit(recording, held, rates, None, None)
    if isinstance(free, Choice):
        return Obstacle(reason, (*options, *_shape_options(free.plan.shape)))
    return Obstacle(f"{reason} (--hold), and record longer: even then too few windows have enough data")


def _name_causes(
    recording: Recording, plan: TrainingPlan, rates: Rates, found: int, samples: int | None, stride: int | None
) -> Obstacle:
    reason = (
        f"expected at least {MIN_CALIBRATION} windows with enough data, some of them outside each of the "
        f"{plan.folds} calibration blocks, found {found} of "
        f"{samples or SAMPLES} samples"
    )
    for kept in {(samples, None): None, (None, stride): None, (None, None): None}:
        free = _first_fit(recording, plan, rates, *kept) if kept != (samples, stride) else None
        if isinstance(free, Choice):
            return Obstacle(reason, _shape_options(free.plan.shape))
    fast = _other_period(recording, plan, rates)
    if fast is not None:
        return Obstacle(
            f"{reason}: readings come every {span_text(fast)}, the period is {span_text(plan.shape.period_ns)}",
            (("period", span_text(fast)), ("samples", None), ("stride", None)),
        )
    cells = int(rates.cells.sum())
    if cells < MIN_CALIBRATION:
        return Obstacle(
            f"expected at least {MIN_CALIBRATION} readings at different times, found {cells}: record longer; "
            "reliable limits need some thousand"
        )
    return Obstacle(f"{reason}: record longer")


def _other_period(recording: Recording, plan: TrainingPlan, rates: Rates) -> int | None:
    """Return the devices' own interval if the grid is finer and this interval works."""
    steps = rates.step_ns[rates.step_ns > 0]
    if not len(steps):
        return None
    own = int(np.median(steps))
    if own <= plan.shape.period_ns:
        return None
    coarser = replace(plan, shape=WindowShape(own, 1, 1))
    found = _first_fit(recording, coarser, Rates.of(recording, plan.channels, own), None, None)
    return own if isinstance(found, Choice) else None


def _shape_options(shape: WindowShape) -> tuple[tuple[str, str | None], ...]:
    return (("samples", str(shape.samples)), ("stride", str(shape.stride)))


def hold_age_of_devices(rates: Rates, devices: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> int:
    """Return how long slow devices' values must be held: twice their longest usual interval."""
    return 2 * int(rates.step_ns[devices].max())


def _steps(rates: Rates, devices: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> str:
    low, high = int(rates.step_ns[devices].min()), int(rates.step_ns[devices].max())
    return span_text(low) if low == high else f"{span_text(low)} to {span_text(high)}"


def _names(recording: Recording, devices: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> str:
    shown = ", ".join(recording.devices[number] for number in devices[:NAMED].tolist())
    return shown + (f" and {len(devices) - NAMED} more" if len(devices) > NAMED else "")
