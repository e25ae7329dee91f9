from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_ad.core.batches import Alert, AlertKind, AlertPhase, ScoreBatch
from stream_ad.core.deciding import Deciding
from stream_ad.core.incidents import IncidentRules
from stream_ad.core.quality import Quality
from stream_ad.core.thresholds.base import Threshold
from stream_ad.core.thresholds.fixed import Fixed
from stream_ad.core.thresholds.quantile import Quantile
from stream_ad.core.thresholds.spot import Spot
from stream_ad.errors import ConfigError, ContractError
from tests.core.judged import (
    CHANNELS,
    SECOND_NS,
    PlainDevice,
    assert_same_arrays,
    calibration,
    rows_of,
    score_batch,
)

RULES = IncidentRules(close_after_ns=3 * SECOND_NS, relearn_after_ns=12 * SECOND_NS, sensor_windows=2)
THRESHOLDS: dict[str, Callable[[], Threshold]] = {
    "fixed": lambda: Fixed(calibration(), 2.0),
    "quantile": lambda: Quantile(calibration(), 0.99, memory_rows=150, seed_rows=120),
    "spot": lambda: Spot(calibration(), 1e-3),
}


def deciding(threshold: Threshold | None = None, rules: IncidentRules = RULES, smoothing: float = 1.0) -> Deciding:
    chosen = Fixed(calibration(), 2.0) if threshold is None else threshold
    made = Deciding("pumps", CHANNELS, smoothing, chosen, rules)
    made.grow(8)
    return made


def name_of(slot: int) -> str:
    return f"pump-{slot}"


def run(made: Deciding, batch: ScoreBatch) -> tuple[list[float], list[bool], tuple[Alert, ...]]:
    verdicts, alerts = made.decide(batch, name_of)
    return verdicts.smoothed.tolist(), verdicts.is_anomaly.tolist(), alerts


@st.composite
def fleets(draw: st.DrawFn) -> ScoreBatch:
    n = draw(st.integers(1, 80))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    device = rng.integers(0, draw(st.integers(1, 5)), n)
    base = np.where(rng.random(n) < draw(st.sampled_from([0.1, 0.5, 0.9])), 6.0, 1.0)
    score = base * np.exp(0.5 * rng.standard_normal(n))
    score[rng.random(n) < 0.05] = 0.0
    score[rng.random(n) < draw(st.sampled_from([0.0, 0.2]))] = np.nan
    fault = draw(st.sampled_from([0.0, 0.3, 0.8]))
    quality = np.where(rng.random(n) < fault, int(Quality.CHANNEL_STUCK), 0)
    end_s = np.cumsum(rng.choice([0.5, 1.0, 4.0], n))
    return score_batch(device.tolist(), score, end_s.tolist(), quality.tolist(), rng.random((n, 3)).tolist())


rules_sets = st.builds(
    IncidentRules,
    open_after_windows=st.integers(1, 3),
    close_after_ns=st.sampled_from([0, 2 * SECOND_NS, 10 * SECOND_NS]),
    exit_ratio=st.sampled_from([0.0, 0.5, 0.9]),
    update_factor=st.sampled_from([1.1, 2.0]),
    relearn_after_ns=st.sampled_from([0, 5 * SECOND_NS, 1_000 * SECOND_NS]),
    sensor_windows=st.integers(1, 3),
    step_ns=st.sampled_from([SECOND_NS // 2, SECOND_NS, 3 * SECOND_NS]),
)


@pytest.mark.parametrize("kind", THRESHOLDS)
@settings(max_examples=30, deadline=None)
@given(batch=fleets(), rules=rules_sets, smoothing=st.sampled_from([0.3, 1.0]))
def test_equals_the_rules_written_out_row_by_row(
    kind: str, batch: ScoreBatch, rules: IncidentRules, smoothing: float
) -> None:
    plain = {}
    for slot in range(8):
        threshold = THRESHOLDS[kind]()
        threshold.grow(1)
        plain[slot] = PlainDevice(rules, smoothing, threshold)
    keys = batch.keys
    expected = [
        plain[int(keys.device[row])].step(float(batch.score[row]), int(keys.end_ns[row]), int(batch.quality[row]))
        for row in range(len(batch))
    ]

    verdicts, alerts = deciding(THRESHOLDS[kind](), rules, smoothing).decide(batch, name_of)

    smoothed, limit, is_anomaly, incident = (np.array(column) for column in zip(*expected, strict=True))
    np.testing.assert_array_equal(verdicts.smoothed, smoothed)
    np.testing.assert_array_equal(verdicts.limit, limit)
    np.testing.assert_array_equal(verdicts.is_anomaly, is_anomaly)
    np.testing.assert_array_equal(verdicts.incident, incident)
    for slot, device in plain.items():
        told = [a for a in alerts if a.device == name_of(slot)]
        assert [(a.phase, a.kind, a.version, a.opened_end_ns, a.end_ns) for a in told] == device.messages
    assert [a.offset for a in alerts] == sorted(a.offset for a in alerts)


@pytest.mark.parametrize("kind", THRESHOLDS)
@settings(max_examples=25, deadline=None)
@given(batch=fleets(), cuts=st.lists(st.integers(0, 80), max_size=4), moved=st.booleans())
def test_where_a_batch_is_cut_changes_no_bit(kind: str, batch: ScoreBatch, cuts: list[int], moved: bool) -> None:
    whole = deciding(THRESHOLDS[kind](), smoothing=0.3)
    verdicts, alerts = whole.decide(batch, name_of)

    part = deciding(THRESHOLDS[kind](), smoothing=0.3)
    pieces = []
    told: list[Alert] = []
    for rows in np.split(np.arange(len(batch)), sorted(min(cut, len(batch)) for cut in cuts)):
        if moved:
            state = part.snapshot()
            part = Deciding("pumps", CHANNELS, 0.3, THRESHOLDS[kind](), RULES)
            part.restore(state)
        piece, some = part.decide(rows_of(batch, rows), name_of)
        pieces.append(piece)
        told.extend(some)

    for column in ("smoothed", "limit", "is_anomaly", "incident"):
        cut = np.concatenate([getattr(piece, column) for piece in pieces])
        assert cut.tobytes() == getattr(verdicts, column).tobytes(), column
    assert list(map(repr, told)) == list(map(repr, alerts))
    assert_same_arrays(part.snapshot(), whole.snapshot())


def test_smoothing_is_a_moving_average_of_log_scores_that_skips_unscored_rows() -> None:
    smoothed, _, _ = run(deciding(smoothing=0.3), score_batch([0] * 4, [1.0, np.nan, np.e, 0.0]))

    assert smoothed[0] == pytest.approx(1.0)
    assert np.isnan(smoothed[1])
    assert smoothed[2] == pytest.approx(np.exp(0.3))
    assert smoothed[3] == pytest.approx(np.exp(0.7 * 0.3 + 0.3 * np.log(1e-12)))


def test_an_incident_opens_grows_and_ends_with_one_alert_each() -> None:
    scores = [1, 3, 4, 7, 3.4, 1, 1, 1, 1]
    _, is_anomaly, alerts = run(deciding(), score_batch([2] * 9, scores, contribution=[[1, 0, 3]] * 9))

    assert is_anomaly == [False, True, True, True, True, True, False, False, False]
    assert [(a.phase, a.version, a.end_ns // SECOND_NS) for a in alerts] == [
        (AlertPhase.OPENED, 0, 2),
        (AlertPhase.UPDATED, 1, 4),
        (AlertPhase.RESOLVED, 2, 7),
    ]
    assert len({a.id for a in alerts}) == 1
    opened = alerts[0]
    assert opened.channels == (("vibration", 0.75), ("current", 0.25))
    assert opened.reason == "score 3 is 1.5 times its limit 2; vibration 75 %, current 25 %"
    assert alerts[2].reason == "below its exit level for 3 s; the peak 7 was 3.5 times its limit 2"
    assert (opened.device, opened.stream, opened.kind, opened.model_id) == ("pump-2", "pumps", AlertKind.PROCESS, "abc")


def test_the_incident_column_names_the_opening_window_while_it_is_open() -> None:
    verdicts, _ = deciding().decide(score_batch([0] * 6, [1, 3, 1, 1, 1, 1]), name_of)

    assert (verdicts.incident // SECOND_NS).tolist() == [0, 2, 2, 2, 0, 0]


@pytest.mark.parametrize("kind", ["quantile", "spot"])
def test_a_level_that_stays_is_learned_where_asked_for_and_the_incident_goes_on(kind: str) -> None:
    made = deciding(THRESHOLDS[kind]())
    scores = 9.0 * np.exp(0.05 * np.random.default_rng(0).standard_normal(600))
    scores[500:] = 1.0

    verdicts, alerts = made.decide(score_batch([0] * 600, scores), name_of)

    opened, learned, ended = alerts
    assert [a.kind for a in alerts] == [AlertKind.PROCESS, AlertKind.REGIME, AlertKind.PROCESS]
    assert [a.phase for a in alerts] == [AlertPhase.OPENED, AlertPhase.UPDATED, AlertPhase.RESOLVED]
    assert {a.id for a in alerts} == {opened.id}
    assert learned.end_ns == 13 * SECOND_NS
    assert verdicts.limit[400] > 5
    assert learned.reason.startswith(
        "incident open for 12 s: its level is learned from now on, and it stays open until the score is "
        f"below {opened.limit:.3g}, its limit at opening; score "
    )
    assert verdicts.is_anomaly[:502].all()
    assert not verdicts.is_anomaly[502:].any()
    assert ended.reason.startswith(f"below {opened.limit:.3g}, its limit at opening, for 3 s; the peak ")


@pytest.mark.parametrize("kind", THRESHOLDS)
def test_a_lasting_level_leaves_no_trace_in_the_limit(kind: str) -> None:
    made = deciding(THRESHOLDS[kind](), IncidentRules(close_after_ns=3 * SECOND_NS))
    noise = np.exp(0.05 * np.random.default_rng(0).standard_normal(2_100))
    scores = np.concatenate([[9.0] * 2_000, [1.0] * 100]) * noise

    verdicts, alerts = made.decide(score_batch([0] * 2_100, scores), name_of)

    assert [a.phase for a in alerts] == [AlertPhase.OPENED, AlertPhase.RESOLVED]
    assert len(set(verdicts.limit[1:2_000].tolist())) == 1
    assert verdicts.is_anomaly[:2_000].all()


def test_a_limit_that_learns_nothing_is_told_of_no_learning() -> None:
    _, is_anomaly, alerts = run(deciding(), score_batch([0] * 60, [9.0] * 50 + [1.0] * 10))

    assert [a.kind for a in alerts] == [AlertKind.PROCESS] * 2
    assert all(is_anomaly[:50])


def test_time_without_a_score_is_said_apart() -> None:
    scores = [9.0] * 6 + [np.nan] * 60 + [9.0] * 20
    _, _, alerts = run(deciding(Quantile(calibration(), 0.999)), score_batch([0] * 86, scores))

    assert alerts[1].kind is AlertKind.REGIME
    assert alerts[1].reason.startswith("incident open for 72 s, 12 s of it judged: its level is learned")


def test_a_stuck_channel_opens_a_sensor_incident_and_names_missing_channels() -> None:
    flags = [0, int(Quality.CHANNEL_MISSING), int(Quality.CHANNEL_MISSING), 0, 0, 0, 0]
    batch = score_batch([0] * 7, [1.0] * 7, quality=flags, coverage=[[1, 0.2, 1]] * 7)

    _, is_anomaly, alerts = run(deciding(), batch)

    assert is_anomaly == [False, False, True, True, True, False, False]
    assert [a.kind for a in alerts] == [AlertKind.SENSOR] * 2
    assert alerts[0].channels == (("pressure", 1.0),)
    assert alerts[0].reason == "channel reports no data in 2 windows in a row; pressure 100 %"


def test_an_evicted_devices_incident_is_resolved_and_its_slot_starts_anew() -> None:
    made = deciding()
    _, opened = made.decide(score_batch([0, 1, 2], [5, 1, 7]), name_of)

    resolved = made.resolve(np.array([2, 1, 0], np.int32), 9 * SECOND_NS, 77, name_of, "abc")
    made.reset(np.array([2, 1, 0], np.int32))

    assert [(a.device, a.version, a.phase) for a in resolved] == [
        ("pump-2", 1, AlertPhase.RESOLVED),
        ("pump-0", 1, AlertPhase.RESOLVED),
    ]
    assert {a.id for a in resolved} == {a.id for a in opened}
    assert {(a.end_ns, a.offset, a.reason) for a in resolved} == {(9 * SECOND_NS, 77, "device silent")}
    assert [a.peak for a in resolved] == pytest.approx([7, 5])
    assert_same_arrays(made.snapshot(), deciding().snapshot())


def test_ids_may_be_a_sequence() -> None:
    _, alerts = deciding().decide(score_batch([1], [9]), ["a", "b"])

    assert alerts[0].device == "b"


def test_an_empty_batch_gives_nothing() -> None:
    verdicts, alerts = deciding().decide(score_batch([], []), name_of)

    assert len(verdicts) == 0
    assert alerts == ()


def test_unknown_slots_other_channels_and_foreign_state_are_refused() -> None:
    made = deciding()
    with pytest.raises(ContractError, match=r"slots in 0\.\.7, found 8\.\.8"):
        made.decide(score_batch([8], [1]), name_of)
    with pytest.raises(ContractError, match="3 channels, found 1"):
        made.decide(score_batch([0], [1], coverage=[[1]]), name_of)
    state = made.snapshot()
    with pytest.raises(ContractError, match="one length"):
        made.restore({**state, "level": state["level"][:-1]})
    with pytest.raises(ContractError, match="expected arrays"):
        made.restore({name: array for name, array in state.items() if name != "incident.peak"})
    with pytest.raises(ConfigError, match="smoothing"):
        deciding(smoothing=0.0)
