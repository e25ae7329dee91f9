"""Faults: each changes its channels inside its span, nothing else, and the more the larger it is."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from simulators.faults import KINDS, NAMES, FaultSpec, Schedule, check, draw_faults, inject
from simulators.randomness import Randomness
from simulators.scenarios import RandomFaults, Scenario
from simulators.signals import Signals
from stream_ad.core.batches import BoolArray, Float64Array
from stream_ad.errors import ConfigError

SEED = 17
FIRST, LAST, SAMPLES = 130, 370, 500
ALL = tuple(KINDS)


def signals() -> Signals:
    return Signals(Randomness(SEED), np.arange(3, dtype=np.int64), 1_000, 1_200.0, 8.0)


def spec(kind: str, magnitude: float | None = None) -> FaultSpec:
    channels = NAMES if kind == "silence" else KINDS[kind].channels[-1:]
    return FaultSpec(1, kind, channels, FIRST, LAST, KINDS[kind].magnitude if magnitude is None else magnitude)


def faulty(*specs: FaultSpec, cuts: tuple[int, ...] = ()) -> Float64Array:
    source, parts = signals(), []
    for begin, end in zip((0, *cuts), (*cuts, SAMPLES), strict=True):
        chunk = source.chunk(begin, end - begin)
        inject(chunk, specs, Randomness(SEED), source)
        parts.append(chunk.values)
    return np.concatenate(parts, axis=2)


def changed(values: Float64Array) -> BoolArray:
    differs: BoolArray = values != faulty()  # NaN differs from everything
    return differs


def test_there_are_at_least_ten_kinds() -> None:
    wanted = {"spike", "level_shift", "slow_drift", "stuck", "drop_out", "noise_up", "noise_down"}
    assert wanted | {"frequency_change", "broken_correlation", "oscillation"} <= set(KINDS)


@pytest.mark.parametrize("kind", ALL)
def test_a_fault_changes_its_label_and_nothing_else(kind: str) -> None:
    label = spec(kind)
    where = changed(faulty(label))
    rows = [NAMES.index(name) for name in label.channels]
    inside = np.zeros_like(where)
    inside[label.device, rows, FIRST:LAST] = True
    assert not where[~inside].any()
    share = where[label.device, rows, FIRST:LAST].mean()
    assert share > (0.04 if kind == "spike" else 0.95)
    if kind != "stuck":  # which holds the true first value
        assert where[label.device, rows, FIRST].all()


@pytest.mark.parametrize("kind", ALL)
def test_a_fault_does_not_depend_on_how_the_run_is_cut(kind: str) -> None:
    whole = faulty(spec(kind))
    np.testing.assert_array_equal(faulty(spec(kind), cuts=(64, 131, 132, 200, 369)), whole)


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"stuck", "silence", "drop_out", "frequency_change"}))
def test_a_larger_magnitude_changes_more_and_none_nothing(kind: str) -> None:
    healthy, sizes = faulty(), (0.0, 0.5, 1.0, 2.0, 8.0)
    change = [float(np.sqrt(np.mean((faulty(spec(kind, size)) - healthy) ** 2))) for size in sizes]
    assert change[0] == pytest.approx(0, abs=1e-12)
    assert (np.diff(change) > 0).all()


def test_a_larger_share_drops_out_more() -> None:
    missing = [int(np.isnan(faulty(spec("drop_out", share))).sum()) for share in (0.0, 0.2, 0.6, 1.0)]
    assert missing[0] == 0
    assert missing[3] == LAST - FIRST
    assert (np.diff(missing) > 20).all()


def test_a_stuck_sensor_holds_its_value_or_one_beside_it() -> None:
    values = faulty(spec("stuck"))[1, NAMES.index("flow"), FIRST:LAST]
    assert np.ptp(values) == 0
    assert values[0] == pytest.approx(faulty()[1, NAMES.index("flow"), FIRST], abs=0.005)
    beside = faulty(spec("stuck", 3.0))[1, NAMES.index("flow"), FIRST]
    assert abs(beside - values[0]) == pytest.approx(3 * 3.5)


def test_a_larger_frequency_change_is_faster() -> None:
    def turn(magnitude: float) -> float:
        label = replace(spec("frequency_change", magnitude), channels=("vibration_drive",))
        segment = faulty(label)[1, NAMES.index("vibration_drive"), FIRST:LAST]
        power = np.abs(np.fft.rfft(segment - segment.mean()))[10:] ** 2
        return float(np.argmax(power)) + 10

    turns = [turn(magnitude) for magnitude in (0.0, 0.5, 1.5)]
    assert turns[1] == pytest.approx(1.5 * turns[0], abs=2)
    assert turns[2] == pytest.approx(2.5 * turns[0], abs=2)


def test_noise_down_calms_and_noise_up_stirs() -> None:
    def roughness(values: Float64Array) -> float:
        return float(np.diff(values[1, NAMES.index("flow"), FIRST:LAST]).std())

    assert roughness(faulty(spec("noise_down"))) < 0.5 * roughness(faulty())
    assert roughness(faulty(replace(spec("noise_up"), channels=("flow",)))) > 3 * roughness(faulty())


def test_a_broken_correlation_is_one() -> None:
    label = replace(spec("broken_correlation"), channels=("current",), first=0, last=SAMPLES)

    def relation(values: Float64Array) -> float:
        current, flow = values[:, NAMES.index("current")], values[:, NAMES.index("flow")]
        return float(np.mean([np.corrcoef(current[row], flow[row])[0, 1] for row in range(3)]))

    assert relation(faulty()) > 0.6
    assert relation(faulty(*(replace(label, device=row) for row in range(3)))) < 0.3


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "gremlin"},
        {"channels": ()},
        {"channels": ("speed",)},
        {"kind": "frequency_change", "channels": ("temperature_motor",)},
        {"kind": "silence", "channels": ("flow",)},
        {"first": 5, "last": 5},
        {"first": -1},
        {"magnitude": -1.0},
        {"magnitude": float("nan")},
        {"kind": "drop_out", "magnitude": 1.5},
    ],
)
def test_faults_that_cannot_be_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="fault"):
        check(replace(spec("level_shift"), **wrong))  # type: ignore[arg-type]  # wrong on purpose


def test_random_faults_grow_with_fleet_and_time_and_hold_all_kinds() -> None:
    schedule = Schedule(per_device_hour=0.5, first_s=600.0, kinds=ALL, strength=1.0)

    def draw(devices: int, samples: int) -> tuple[FaultSpec, ...]:
        source = Signals(Randomness(SEED), np.arange(devices, dtype=np.int64), 1_000, 1_200.0, 8.0)
        return draw_faults(schedule, source, Randomness(SEED), samples)

    few, many = draw(11, 4 * 3_600), draw(22, 8 * 3_600)
    assert set(few) < set(many)
    assert {found.kind for found in many} == set(KINDS)
    assert min(found.first for found in many) >= 600
    assert max(found.last for found in many) <= 8 * 3_600
    assert len(many) == pytest.approx(22 * 4, abs=22)
    assert max(Counter(found.device for found in many).values()) <= 5
    for found in many:
        check(found)
    by_device = sorted((found.device, found.first, found.last) for found in many)
    for one, other in itertools.pairwise(by_device):
        assert one[0] != other[0] or one[2] <= other[1]


def test_random_faults_prefer_running_pumps() -> None:
    scenario = Scenario(devices=30, duration_s=8 * 3_600, seed=5, random_faults=RandomFaults(per_device_hour=0.5))
    source = scenario.signals()
    speed = source.operation.speed(np.arange(scenario.samples_in_all, dtype=np.float64))
    found = scenario.fault_specs(source)
    standing = [label for label in found if speed[label.device, label.first : label.last].min() < 0.3]
    assert len(found) > 60
    assert len(standing) < 0.05 * len(found)
