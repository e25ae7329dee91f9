"""The healthy fleet: random access, determinism, and physics that a person would expect."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulators.fleet import CHANNELS, DECIMALS, SPREAD
from simulators.producer import blocks
from simulators.randomness import Randomness, Stream
from simulators.scenarios import Scenario
from simulators.signals import Signals, rounded
from stream_ad.core.batches import Float64Array

NAMES = list(CHANNELS)
DAY = Scenario(devices=6, duration_s=86_400, period_ms=4_000, seed=3)


def some_signals(numbers: list[int], period_ms: int = 1_000, seed: int = 5) -> Signals:
    return Signals(Randomness(seed), np.array(numbers, np.int64), period_ms, stay_s=600.0, clock_h=8.0)


def a_day() -> Float64Array:
    return np.concatenate([block.values for block in blocks(DAY, DAY.signals(), ())], axis=2)


@settings(deadline=None, max_examples=15)
@given(
    cuts=st.lists(st.integers(1, 400), min_size=1, max_size=4),
    first=st.integers(0, 5_000),
    period_ms=st.sampled_from([20, 1_000, 7_001]),
)
def test_values_do_not_depend_on_how_the_run_is_cut(cuts: list[int], first: int, period_ms: int) -> None:
    signals = some_signals([0, 1], period_ms)
    parts, begin = [], first
    for length in cuts:
        parts.append(signals.chunk(begin, length).values)
        begin += length
    np.testing.assert_array_equal(np.concatenate(parts, axis=2), signals.chunk(first, begin - first).values)


def test_a_pump_does_not_depend_on_the_others() -> None:
    fleet = some_signals([0, 1, 2, 3, 9]).chunk(100, 300).values
    alone = some_signals([3]).chunk(100, 300).values
    np.testing.assert_array_equal(fleet[3], alone[0])
    assert not np.array_equal(fleet[3], fleet[4])


def test_another_seed_gives_other_values() -> None:
    one, other = some_signals([0], seed=1).chunk(0, 50).values, some_signals([0], seed=2).chunk(0, 50).values
    assert (one != other).all()


def test_random_numbers_are_uniform_normal_and_unrelated() -> None:
    random, device, index = Randomness(9), np.arange(50, dtype=np.int64), np.arange(-500, 500, dtype=np.int64)
    uniform = random.uniform(Stream.MODE, device, index)
    assert uniform.min() >= 0.0
    assert uniform.max() < 1.0
    assert np.histogram(uniform, 10, (0, 1))[0] == pytest.approx(5_000, rel=0.06)
    lanes = random.normals(Stream.NOISE, device, index).reshape(4, -1)
    assert np.mean(lanes, axis=1) == pytest.approx(0.0, abs=0.02)
    assert np.std(lanes, axis=1) == pytest.approx(1.0, abs=0.02)
    related = np.corrcoef(np.vstack([lanes, random.normal(Stream.DEMAND, device, index).ravel()]))
    assert np.abs(related - np.eye(5)).max() < 0.02
    neighbours = lanes[0].reshape(50, 1_000)
    assert abs(np.corrcoef(neighbours[:, 1:].ravel(), neighbours[:, :-1].ravel())[0, 1]) < 0.02
    assert abs(np.corrcoef(neighbours[1:].ravel(), neighbours[:-1].ravel())[0, 1]) < 0.02


def test_running_pumps_obey_their_physics() -> None:
    values = a_day()
    flow = values[:, NAMES.index("flow")]
    running = flow > 40
    rows = [values[:, channel][running] for channel in range(len(NAMES))]
    related: Float64Array = np.asarray(np.corrcoef(np.stack(rows)), np.float64)

    def between(one: str, other: str) -> float:
        return float(related[NAMES.index(one), NAMES.index(other)])

    assert between("current", "flow") > 0.8
    assert between("pressure", "flow") > 0.7
    assert between("vibration_drive", "vibration_pump") > 0.8
    assert between("temperature_motor", "current") > 0.4
    assert between("voltage", "current") < 0


def test_a_standing_pump_neither_pumps_nor_heats_and_all_modes_occur() -> None:
    values = a_day()
    flow, current = values[:, NAMES.index("flow")], values[:, NAMES.index("current")]
    standing = flow < 2
    assert 0.005 < standing.mean() < 0.2
    assert np.abs(current[standing]).max() < 2
    motor = values[:, NAMES.index("temperature_motor")]
    assert motor[standing].mean() < motor[~standing].mean() - 5
    for level in (65, 84, 100):  # idle, normal, high duty
        assert (np.abs(flow - level) < 6).mean() > 0.05


def test_the_temperature_lags_behind_a_change_of_mode() -> None:
    signals = some_signals([0, 1, 2, 3], period_ms=5_000)
    values = signals.chunk(0, 4_000).values
    speed = signals.operation.speed(np.arange(0.0, 20_000.0, 5.0))
    motor = values[:, NAMES.index("temperature_motor")]

    def relation(lag: int) -> float:
        return float(np.corrcoef(speed[:, : 4_000 - 200].ravel(), motor[:, lag : 4_000 - 200 + lag].ravel())[0, 1])

    assert relation(60) > relation(0)
    assert relation(60) > relation(199)


def test_the_day_is_seen_in_the_demand() -> None:
    signals = Signals(Randomness(2), np.arange(30, dtype=np.int64), 60_000, 1_200.0, clock_h=0.0)
    flow = signals.chunk(0, 1_440).values[:, NAMES.index("flow")].mean(axis=0)
    afternoon, night = flow[14 * 60 : 17 * 60].mean(), flow[2 * 60 : 5 * 60].mean()
    assert afternoon > night * 1.03


def test_the_spread_is_what_a_channel_does_in_one_mode() -> None:
    signals = Signals(Randomness(4), np.arange(10, dtype=np.int64), 1_000, 1_200.0, clock_h=8.0)
    values, speed = signals.chunk(0, 12_000).values, signals.operation.speed(np.arange(12_000.0))
    stretches = [
        values[row, :, begin : begin + 600].std(axis=1)
        for row in range(10)
        for begin in range(0, 12_000, 600)
        if np.ptp(speed[row, begin : begin + 600]) == 0 and speed[row, begin] > 0.7
    ]
    assert len(stretches) > 50
    ratio = np.mean(stretches, axis=0) / np.array(list(SPREAD.values()))
    assert (ratio > 0.6).all(), ratio
    assert (ratio < 1.6).all(), ratio


def test_a_sensor_of_a_healthy_pump_is_never_stuck() -> None:
    values = rounded(a_day())
    windows = np.lib.stride_tricks.sliding_window_view(values, 64, axis=2)[:, :, ::32]
    assert (np.ptp(windows, axis=3) > 0).all()


def test_rounding_keeps_the_resolution_and_nan() -> None:
    values = np.full((1, len(NAMES), 2), 123.456789)
    values[0, 0, 1] = np.nan
    rounded(values)
    assert [str(value) for value in values[0, :, 0]] == [str(round(123.456789, n)) for n in DECIMALS.values()]
    assert np.isnan(values[0, 0, 1])
