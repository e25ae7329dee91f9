"""Rates of devices and channels, round ages, and windows that a recording can be cut into."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_ad.core.model import Channel, Fill, WindowShape
from stream_ad.io.recordings.recordings import Recording
from stream_ad.training import cost
from stream_ad.training.rates import Rates, hold_age_ns, holding, round_ns, span_text
from stream_ad.training.shaping import Choice, choose
from stream_ad.training.training import TrainingPlan
from stream_ad.training.windows import MIN_CALIBRATION, blocks, cut_windows, usable

SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND


def recording(rows: int, channels: int = 2, devices: int = 1, seed: int = 0) -> Recording:
    rng = np.random.default_rng(seed)
    return Recording(
        devices=tuple(f"d{number}" for number in range(devices)),
        device=np.tile(np.arange(devices, dtype=np.int32), rows),
        event_ns=np.repeat(START + np.arange(rows) * SECOND, devices),
        channels=tuple(f"c{number}" for number in range(channels)),
        values=rng.normal(size=(rows * devices, channels)),
    )


def plan(taken: Recording, kind: str = "pca") -> TrainingPlan:
    return TrainingPlan("t", kind, WindowShape(SECOND, 1, 1), tuple(Channel(c) for c in taken.channels), baseline="")


@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 3), st.integers(1, 3))
def test_rates_equal_a_count_cell_by_cell(seed: int, rows: int, channels: int, devices: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(rows, channels))
    values[rng.random(values.shape) < 0.4] = np.nan
    taken = Recording(
        devices=tuple(f"d{number}" for number in range(devices)),
        device=rng.integers(0, devices, rows).astype(np.int32),
        event_ns=np.sort(START + rng.integers(0, 3 * rows, rows) * SECOND // 2),
        channels=tuple(f"c{number}" for number in range(channels)),
        values=values,
    )
    found = Rates.of(taken, [Channel(name) for name in taken.channels], SECOND)
    for device in range(devices):
        cells: dict[int, set[int]] = {}
        for row in np.flatnonzero(taken.device == device):
            has = np.flatnonzero(np.isfinite(values[row])).tolist()
            if has:
                cells.setdefault((int(taken.event_ns[row]) + SECOND // 2) // SECOND, set()).update(has)
        assert found.cells[device] == len(cells)
        if len(cells) > 1:
            assert found.step_ns[device] == int(np.median(np.diff(sorted(cells)))) * SECOND
        for channel in range(channels):
            share = sum(channel in has for has in cells.values()) / len(cells) if cells else np.nan
            assert found.filled[device, channel] == pytest.approx(share, nan_ok=True)


@given(st.integers(1, 10**16))
def test_a_round_duration_is_no_shorter_and_its_text_is_exact(least_ns: int) -> None:
    found = round_ns(least_ns)
    assert found >= least_ns
    assert found <= max(2.5 * least_ns, 1_000_000, least_ns + 86_400 * SECOND)
    text = span_text(found)
    unit = {"ms": 10**6, "s": SECOND, "m": 60 * SECOND, "h": 3_600 * SECOND, "d": 86_400 * SECOND}
    digits = text.rstrip("msdh")
    assert int(digits) * unit[text[len(digits) :]] == found


def test_holding_keeps_what_else_a_channel_has() -> None:
    one, two = holding((Channel("a", "bar"), Channel("b", always_moves=True)), {"b": 5})
    assert one == Channel("a", "bar")
    assert two == Channel("b", "", Fill.HOLD, 5, always_moves=True)


def test_a_channel_with_one_value_counts_for_the_whole_recording() -> None:
    taken = recording(100)
    taken.values[1:, 1] = np.nan
    assert hold_age_ns(taken, "c1") > 99 * SECOND


@pytest.mark.parametrize("rows", [*range(50, 200, 7), *range(200, 2_000, 150)])
@pytest.mark.parametrize("devices", [1, 3])
def test_what_is_chosen_can_be_trained_on(rows: int, devices: int) -> None:
    taken = recording(rows, devices=devices)
    found = choose(taken, plan(taken), None, None)
    assert isinstance(found, Choice)
    assert len(found.windows) >= MIN_CALIBRATION
    assert blocks(found.windows, found.plan.shape, found.plan.folds)
    again = usable(cut_windows(taken, found.plan.channels, found.plan.shape), found.plan.min_coverage)
    assert len(again) == len(found.windows)


def test_blocks_are_apart() -> None:
    taken = recording(900, devices=2)
    shape = WindowShape(SECOND, 8, 2)
    windows = cut_windows(taken, plan(taken).channels, shape)
    for inside, outside in blocks(windows, shape, 5):
        ends = windows.end_ns
        assert (np.abs(ends[inside][:, None] - ends[outside][None, :]) >= 8 * SECOND).all()


def test_one_of_so_many_windows_is_kept_per_device() -> None:
    taken = recording(500, devices=2)
    shape = WindowShape(SECOND, 8, 2)
    whole, some = (cut_windows(taken, plan(taken).channels, shape, every) for every in (1, 3))
    for device in (0, 1):
        np.testing.assert_array_equal(some.end_ns[some.device == device], whole.end_ns[whole.device == device][::3])


@pytest.mark.parametrize("kind", ["pca", "mahalanobis", "multiscale_pca", "isolation_forest"])
def test_an_estimate_grows_with_the_channels(kind: str) -> None:
    costs = []
    for channels in (2, 40):
        taken = recording(3_000, channels)
        found = choose(taken, plan(taken, kind), None, None)
        assert isinstance(found, Choice)
        costs.append(cost.estimate(taken, found.windows, found.plan))
    assert costs[0].memory < costs[1].memory
    assert all(one.seconds > 0 for one in costs)


def test_the_memory_of_this_machine_is_known() -> None:
    assert cost.memory_of_this_machine() > 1 << 28
