from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_ad.core.batches import Alert, AlertKind, AlertPhase, ReadingBatch
from stream_ad.core.model import Model
from stream_ad.core.pipeline import PartitionPipeline, StepResult, _cut
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
        for row, slot in enumerate(keys.device.tolist()):
            contribution = () if scores.contribution is None else scores.contribution[row].tobytes()
            rows.append((part.ids[slot], *(column[row].tobytes() for column in columns), contribution))
    return rows


def alerts_of(results: list[StepResult]) -> list[str]:
    return [repr(alert) for result in results for alert in result.alerts]


def refused_of(results: list[StepResult]) -> list[tuple[int, str, int]]:
    return [(r.offset, str(r.reason), r.rows) for result in results for r in result.refused]


def run(pipeline: PartitionPipeline, log: ReadingBatch, cuts: list[int]) -> list[StepResult]:
    edges = sorted({0, *cuts, len(log.record_offset)})
    return [pipeline.step(_cut(log, None, a, b)[0]) for a, b in itertools.pairwise(edges)]


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), threshold=st.sampled_from(["fixed", "quantile", "spot"]), data=st.data())
def test_poll_boundaries_do_not_change_results(seed: int, threshold: str, data: st.DataObject) -> None:
    log = fleet_log(seed)
    cuts = data.draw(st.lists(st.integers(1, len(log.record_offset) - 1), max_size=12))
    whole = run(small_pipeline(MODEL, threshold), log, [])
    parts = run(small_pipeline(MODEL, threshold), log, cuts)
    assert rows_of(parts) == rows_of(whole)
    assert alerts_of(parts) == alerts_of(whole)
    assert sorted(refused_of(parts)) == sorted(refused_of(whole))


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), threshold=st.sampled_from(["fixed", "quantile", "spot"]), data=st.data())
def test_a_restored_pipe_goes_on_bit_for_bit(seed: int, threshold: str, data: st.DataObject) -> None:
    log = fleet_log(seed)
    at = data.draw(st.integers(1, len(log.record_offset) - 1))
    whole = run(small_pipeline(MODEL, threshold), log, [])
    first = small_pipeline(MODEL, threshold)
    head = first.step(_cut(log, None, 0, at)[0])
    second = small_pipeline(MODEL, threshold)
    second.restore({name: array.copy() for name, array in first.snapshot().items()})
    tail = second.step(_cut(log, None, at, len(log.record_offset))[0])
    assert rows_of([head, tail]) == rows_of(whole)
    assert alerts_of([head, tail]) == alerts_of(whole)


def test_since_drops_exactly_what_is_public() -> None:
    log = fleet_log(3)
    whole = small_pipeline(MODEL).step(log)
    public = int(log.record_offset[60])
    rest = whole.since(public)
    again = small_pipeline(MODEL)
    again.step(_cut(log, None, 0, 60)[0])
    tail = again.step(_cut(log, None, 60, len(log.record_offset))[0])
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


@pytest.mark.parametrize(("frozen", "said"), [(np.float32(10.0), "does not move"), (np.nan, "gives no values")])
def test_a_sensor_incident_names_the_channel_that_is_faulty(frozen: float, said: str) -> None:
    rows = signal(400, seed=5)
    rows[200:260, CHANNELS.index("flow")] = frozen
    event = START + np.arange(len(rows), dtype=np.int64) * SECOND
    log = ReadingBatch(
        ids=("pump-0",),
        device=np.zeros(len(rows), np.int32),
        event_ns=event,
        log_ns=event,
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
            for slot, sequence in zip(
                part.verdicts.keys.device.tolist(), part.verdicts.keys.sequence.tolist(), strict=True
            ):
                sequences.setdefault(part.ids[slot], []).append(sequence)
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
                log_ns=log_ns,
                offset=np.array([k]),
                values=np.zeros((1, 3), np.float32),
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
        small_pipeline(MODEL).restore({name: a for name, a in state.items() if name != "windowing.floor"})
    with pytest.raises(ContractError):
        small_pipeline(MODEL).restore({"elsewhere.x": np.zeros(1)})


def test_a_snapshot_changes_nothing() -> None:
    log = fleet_log(5)
    plain, watched = small_pipeline(MODEL), small_pipeline(MODEL)
    a = run(plain, log, [40, 80])
    b = []
    for part in ((0, 40), (40, 80), (80, len(log.record_offset))):
        b.append(watched.step(_cut(log, None, *part)[0]))
        watched.snapshot()
    assert rows_of(a) == rows_of(b)
