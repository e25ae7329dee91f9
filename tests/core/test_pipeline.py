from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_ad.core.batches import Alert, AlertKind, AlertPhase, ReadingBatch
from stream_ad.core.model import Model
from stream_ad.core.pipeline import PartitionPipeline, StepResult
from stream_ad.core.quality import Quality
from stream_ad.core.thresholds.catalog import make_threshold
from stream_ad.errors import ContractError
from tests.support.pipelines import CHANNELS, SECOND, START, fleet_log, signal, small_model, small_pipeline

MODEL = small_model()
COLUMNS = ("smoothed", "limit", "is_anomaly", "incident")


def rows_of(results: list[StepResult]) -> list[tuple[object, ...]]:
    """Return each verdict as a tuple whose floats are shown by their bits."""
    rows = []
    for part in (part for result in results for part in result.judged):
        verdicts = part.verdicts
        keys, scores = verdicts.keys, verdicts.scores
        columns = [getattr(verdicts, name) for name in COLUMNS]
        columns += [keys.end_ns, keys.offset, keys.sequence, scores.score, scores.quality]
        for row, code in enumerate(part.device.tolist()):
            contribution = () if scores.contribution is None else scores.contribution[row].tobytes()
            rows.append((part.ids[code], *(column[row].tobytes() for column in columns), contribution))
    return rows


def alerts_of(results: list[StepResult]) -> list[str]:
    return [repr(alert) for result in results for alert in result.alerts]


def refused_of(results: list[StepResult]) -> list[tuple[int, str, int]]:
    return [(r.offset, str(r.reason), r.rows) for result in results for r in result.refused]


def run(pipeline: PartitionPipeline, log: ReadingBatch, cuts: list[int]) -> list[StepResult]:
    edges = sorted({0, *cuts, len(log.record_offset)})
    return [pipeline.step(log.cut(a, b)) for a, b in itertools.pairwise(edges)]


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), threshold=st.sampled_from(["fixed", "quantile", "spot"]), data=st.data())
def test_poll_boundaries_do_not_change_results(seed: int, threshold: str, data: st.DataObject) -> None:
    log = fleet_log(seed)
    cuts = data.draw(st.lists(st.integers(1, len(log.record_offset) - 1), max_size=12))
    whole = run(small_pipeline(MODEL, threshold), log, [])
    parts = run(small_pipeline(MODEL, threshold), log, cuts)
    assert rows_of(parts) == rows_of(whole)
    assert alerts_of(parts) == alerts_of(whole)
    assert sorted(refused_of(parts)) == sorted(refused_of(whole))


@settings(max_examples=15)
@given(seed=st.integers(0, 10**6), threshold=st.sampled_from(["fixed", "quantile", "spot"]), data=st.data())
def test_a_restored_pipe_goes_on_bit_for_bit(seed: int, threshold: str, data: st.DataObject) -> None:
    log = fleet_log(seed)
    at = data.draw(st.integers(1, len(log.record_offset) - 1))
    whole = run(small_pipeline(MODEL, threshold), log, [])
    first = small_pipeline(MODEL, threshold)
    head = first.step(log.cut(0, at))
    second = small_pipeline(MODEL, threshold)
    second.restore({name: array.copy() for name, array in first.snapshot().items()})
    tail = second.step(log.cut(at, len(log.record_offset)))
    assert rows_of([head, tail]) == rows_of(whole)
    assert alerts_of([head, tail]) == alerts_of(whole)


def test_since_drops_exactly_what_is_public() -> None:
    log = fleet_log(3)
    whole = small_pipeline(MODEL).step(log)
    public = int(log.record_offset[60])
    rest = whole.since(public)
    again = small_pipeline(MODEL)
    again.step(log.cut(0, 60))
    tail = again.step(log.cut(60, len(log.record_offset)))
    assert rows_of([rest]) == rows_of([tail])
    assert alerts_of([rest]) == alerts_of([tail])
    assert refused_of([rest]) == refused_of([tail])


def all_alerts(model: Model, seeds: range) -> list[list[Alert]]:
    return [[a for r in run(small_pipeline(model), fleet_log(seed), []) for a in r.alerts] for seed in seeds]


def test_faults_open_incidents_that_name_their_channel_and_every_story_is_whole() -> None:
    runs = all_alerts(MODEL, range(6))
    assert sum(len(alerts) for alerts in runs) > 10
    for alerts in runs:
        stories: dict[str, list[Alert]] = {}
        for alert in alerts:
            stories.setdefault(alert.id, []).append(alert)
        for story in stories.values():
            assert [alert.version for alert in story] == list(range(len(story)))
            assert story[0].phase is AlertPhase.OPENED
            assert AlertPhase.RESOLVED not in [alert.phase for alert in story[:-1]]


@pytest.mark.parametrize(("frozen", "said"), [(10.0, "does not move"), (np.nan, "reports no data")])
def test_a_sensor_incident_names_the_channel_that_is_faulty(frozen: float, said: str) -> None:
    rows = signal(400, seed=5)
    rows[200:260, CHANNELS.index("flow")] = frozen
    event = START + np.arange(len(rows), dtype=np.int64) * SECOND
    log = ReadingBatch(
        ids=("pump-0",),
        device=np.zeros(len(rows), np.int32),
        event_ns=event,
        offset=np.arange(len(rows)),
        values=rows,
        record_offset=np.arange(len(rows)),
        record_log_ns=event,
    )
    alerts = small_pipeline(MODEL, "fixed", {"limit": 1e9}).step(log).alerts
    assert [(alert.kind, alert.phase) for alert in alerts] == [
        (AlertKind.SENSOR, AlertPhase.OPENED),
        (AlertKind.SENSOR, AlertPhase.RESOLVED),
    ]
    assert alerts[0].channels == (("flow", 1.0),)
    assert said in alerts[0].reason


def test_an_evicted_device_starts_afresh_and_its_incident_ends() -> None:
    log = fleet_log(11)
    results = run(small_pipeline(MODEL, evict_s=60), log, [])
    assert sum(result.evicted for result in results) > 0
    sequences: dict[str, list[int]] = {}
    for result in results:
        for part in result.judged:
            for code, sequence in zip(part.device.tolist(), part.verdicts.keys.sequence.tolist(), strict=True):
                sequences.setdefault(part.ids[code], []).append(sequence)
    assert any(run.count(0) > 1 for run in sequences.values())
    for counted in sequences.values():
        assert all(b in (0, a + 1) for a, b in itertools.pairwise(counted))


def test_devices_that_only_come_from_the_future_give_their_slots_back() -> None:
    pipeline = small_pipeline(MODEL, evict_s=100)
    for k in range(20):
        log_ns = np.array([START + 200 * k * SECOND])
        pipeline.step(
            ReadingBatch(
                ids=(f"pump-{k}",),
                device=np.zeros(1, np.int32),
                event_ns=log_ns + 10**7 * SECOND,
                offset=np.array([k]),
                values=np.zeros((1, 3)),
                record_offset=np.array([k]),
                record_log_ns=log_ns,
            )
        )
    assert pipeline.devices <= 1


def test_a_snapshot_of_another_pipe_is_refused() -> None:
    pipeline = small_pipeline(MODEL)
    pipeline.step(fleet_log(1))
    state = pipeline.snapshot()
    with pytest.raises(ContractError):
        small_pipeline(small_model(samples=12)).restore(state)
    with pytest.raises(ContractError):
        small_pipeline(MODEL).restore({name: a for name, a in state.items() if name != "front.windowing.floor"})
    with pytest.raises(ContractError):
        small_pipeline(MODEL).restore({"elsewhere.x": np.zeros(1)})


def test_a_snapshot_changes_nothing() -> None:
    log = fleet_log(5)
    plain, watched = small_pipeline(MODEL), small_pipeline(MODEL)
    a = run(plain, log, [40, 80])
    b = []
    for part in ((0, 40), (40, 80), (80, len(log.record_offset))):
        b.append(watched.step(log.cut(*part)))
        watched.snapshot()
    assert rows_of(a) == rows_of(b)


# -- what does not come from the input -------------------------------------------------------------


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), after=st.integers(1, 119), silence_s=st.integers(1, 1_000))
def test_moving_log_time_on_is_a_record_without_readings(seed: int, after: int, silence_s: int) -> None:
    log = fleet_log(seed)
    log_ns = int(log.record_log_ns[after - 1]) + silence_s * SECOND
    head = log.cut(0, after)
    offset = int(log.record_offset[after - 1]) + 1
    nothing = ReadingBatch(
        ids=(),
        device=np.empty(0, np.int32),
        event_ns=np.empty(0, np.int64),
        offset=np.empty(0, np.int64),
        values=np.empty((0, len(CHANNELS))),
        record_offset=np.array([offset], np.int64),
        record_log_ns=np.array([log_ns], np.int64),
    )
    by_record, by_clock = small_pipeline(MODEL), small_pipeline(MODEL)
    expected, found = [by_record.step(head)], [by_clock.step(head)]
    due_ns = by_clock.silence_ends_ns()
    assert due_ns is not None
    expected.append(by_record.step(nothing))
    found.append(by_clock.advance(log_ns, offset))
    assert rows_of(found) == rows_of(expected)
    assert alerts_of(found) == alerts_of(expected)
    if log_ns < due_ns:
        assert found[-1].rows == found[-1].evicted == 0
    elif log_ns == due_ns:
        assert found[-1].rows or found[-1].evicted
    if after < len(log.record_offset):
        tail = log.cut(after, len(log.record_offset))
        assert rows_of([by_clock.step(tail)]) == rows_of([by_record.step(tail)])


def test_silence_is_over_at_the_moment_that_was_told() -> None:
    for seed in range(20):
        pipe = small_pipeline(MODEL)
        pipe.step(fleet_log(seed).cut(0, 40))
        for _ in range(100):  # every close and eviction in turn, until nothing is left
            due_ns = pipe.silence_ends_ns()
            if due_ns is None:
                break
            before, log_ns = pipe.snapshot(), pipe.log_ns
            if due_ns - 1 > log_ns:
                early = pipe.advance(due_ns - 1, 99)
                assert early.rows == early.evicted == 0
            result = pipe.advance(due_ns, 99)
            changed = any(not np.array_equal(before[name], array) for name, array in pipe.snapshot().items())
            assert changed
            assert result.evicted >= 0
        assert pipe.silence_ends_ns() is None
        assert pipe.devices == 0


def test_a_swap_keeps_windows_ends_incidents_and_begins_with_new_limits() -> None:
    other = small_model(kind="mahalanobis")
    seeds = [seed for seed in range(30) if open_after(seed)]
    assert len(seeds) >= 3
    for seed in seeds:
        log = fleet_log(seed)
        head, tail = log.cut(0, 60), log.cut(60, 120)
        plain, swapped = small_pipeline(MODEL), small_pipeline(MODEL)
        plain.step(head)
        said = [swapped.step(head)]
        threshold = make_threshold("quantile", other.calibration, {})
        said.append(swapped.swap(other, threshold, 77, "another took over"))
        assert {alert.phase for alert in said[-1].alerts} == {AlertPhase.RESOLVED}
        assert {alert.offset for alert in said[-1].alerts} == {77}
        assert open_ids(said) == set()
        same, new = plain.step(tail), swapped.step(tail)
        assert windows_of(new) == windows_of(same)  # none lost, none twice, however the scores differ
        fresh = small_pipeline(other)
        assert first_limits(new) == first_limits(fresh.step(log))


def open_ids(results: list[StepResult]) -> set[str]:
    found: set[str] = set()
    for alert in (alert for result in results for alert in result.alerts):
        (found.discard if alert.phase is AlertPhase.RESOLVED else found.add)(alert.id)
    return found


def open_after(seed: int) -> set[str]:
    return open_ids([small_pipeline(MODEL).step(fleet_log(seed).cut(0, 60))])


def windows_of(result: StepResult) -> list[tuple[str, int, int, int]]:
    return [
        (part.ids[code], end, offset, sequence)
        for part in result.judged
        for code, end, offset, sequence in zip(
            part.device.tolist(),
            part.verdicts.keys.end_ns.tolist(),
            part.verdicts.keys.offset.tolist(),
            part.verdicts.keys.sequence.tolist(),
            strict=True,
        )
    ]


def first_limits(result: StepResult) -> set[float]:
    found: dict[str, float] = {}
    for part in result.judged:
        for code, limit in zip(part.device.tolist(), part.verdicts.limit.tolist(), strict=True):
            found.setdefault(part.ids[code], limit)
    return set(found.values())


def test_after_a_loss_the_first_windows_of_each_device_are_flagged() -> None:
    log = fleet_log(4)
    pipe = small_pipeline(MODEL)
    pipe.mark_afresh()
    half = pipe.step(log.cut(0, 60))
    restored = small_pipeline(MODEL)
    restored.restore(pipe.snapshot())
    for result in (half, restored.step(log.cut(60, 120))):
        assert all((part.verdicts.scores.quality & Quality.AFRESH).all() for part in result.judged)
    plain = small_pipeline(MODEL).step(log)
    assert not any((part.verdicts.scores.quality & Quality.AFRESH).any() for part in plain.judged)
