from __future__ import annotations

import numpy as np
import pytest

from stream_ad.core.alerts import alert_id, channel_shares
from stream_ad.core.batches import AlertKind
from stream_ad.core.incidents import Event, IncidentRules, Incidents, Open
from stream_ad.core.thresholds.base import Phase
from stream_ad.errors import ConfigError
from tests.core.judged import SECOND_NS

NAN = float("nan")


def walk(
    rules: IncidentRules, smoothed: list[float], faults: list[bool] | None = None, ends: list[float] | None = None
) -> tuple[str, list[int], list[int]]:
    """One device against limit 2: its states as a picture, the events and the phases."""
    incidents = Incidents(rules)
    incidents.grow(1)
    picture, events, phases = "", [], []
    for at, value in enumerate(smoothed):
        end_s = ends[at] if ends else at + 1
        step = incidents.step(
            np.zeros(1, np.int32),
            np.array([int(end_s * SECOND_NS)], np.int64),
            np.array([value]),
            np.array([2.0]),
            np.array([faults[at] if faults else False]),
        )
        picture += "#" if step.is_open[0] else "."
        events.append(int(step.event[0]))
        phases.append(int(step.phase[0]))
    return picture, events, phases


def rules(close_s: float = 3, relearn_s: float = 1_000, **other: float) -> IncidentRules:
    return IncidentRules(
        close_after_ns=int(close_s * SECOND_NS),
        relearn_after_ns=int(relearn_s * SECOND_NS),
        **other,  # type: ignore[arg-type]  # a shorthand for mixed int and float fields
    )


def test_it_ends_after_the_quiet_time_not_before() -> None:
    assert walk(rules(), [1, 5, 1, 1, 1, 1])[0] == ".###.."
    assert walk(rules(0), [1, 5, 1, 1])[0] == ".#.."


def test_the_quiet_time_is_event_time() -> None:
    assert walk(rules(30), [5, 1, 1, 1], ends=[1, 2, 30.9, 31])[0] == "###."


def test_after_effects_over_the_limit_but_far_below_the_peak_end_it() -> None:
    assert walk(rules(), [10, 4, 4, 4, 4])[0] == "###.#"
    assert walk(rules(exit_ratio=0.0), [10, 4, 4, 4, 4])[0] == "#####"


def test_single_windows_over_the_limit_open_nothing_if_two_are_asked_for() -> None:
    assert walk(rules(open_after_windows=2), [5, 1, 5, NAN, 5, 1])[0] == "....##"


def test_unscored_rows_neither_open_nor_end_and_their_time_does_not_count() -> None:
    assert walk(rules(), [NAN, 5, NAN, NAN, NAN, NAN, 1, 1, 1, 1])[0] == ".#######.."


def test_rows_inside_are_never_learned() -> None:
    picture, events, phases = walk(rules(relearn_s=0), [1, *[5] * 5_000, 1, 1, 1, 1])

    assert picture == "." + "#" * 5_002 + ".."
    assert set(events[2:5_001]) == {Event.NONE}
    assert phases == [0, Phase.OPENED, *[Phase.IN_INCIDENT] * 5_001, 0, 0]


def test_rows_inside_are_learned_once_the_incident_is_old_where_that_is_asked_for() -> None:
    picture, events, phases = walk(rules(3, 4), [1, 5, 5, 5, 5, 5, 5, 1, 1, 1, 1])

    assert picture == ".########.."
    assert events[1] == Event.OPENED
    assert events[5] == Event.REGIME
    assert events[9] == Event.RESOLVED
    assert phases == [0, Phase.OPENED, 2, 2, 2, 0, 0, 0, 0, 0, 0]


def test_an_incident_whose_level_is_learned_ends_under_its_limit_at_opening() -> None:
    incidents = Incidents(rules(1, 3))
    incidents.grow(1)
    events = []
    for at, (smoothed, limit) in enumerate([(5, 2), (5, 2), (5, 2), (5, 2), (5, 9), (3, 9), (3, 9), (1, 9), (1, 9)]):
        step = incidents.step(
            np.zeros(1, np.int32),
            np.array([(at + 1) * SECOND_NS]),
            np.array([smoothed], np.float64),
            np.array([limit], np.float64),
            np.array([False]),
        )
        events.append(Event(int(step.event[0])))
        assert step.opening_limit[0] == 2 or at == 8

    assert events[3] == Event.REGIME
    assert [at for at, event in enumerate(events) if event == Event.RESOLVED] == [7]


def test_only_judged_time_makes_an_incident_old() -> None:
    _, events, _ = walk(rules(3, 3), [5, 5, NAN, NAN, NAN, 5, 5])
    assert events.index(Event.REGIME) == 6

    silent = [1, 2, 50, 51]
    assert Event.REGIME not in walk(rules(3, 4), [5] * 4, ends=[float(end) for end in silent])[1]
    assert walk(rules(3, 3), [5] * 4, ends=[float(end) for end in silent])[1][3] == Event.REGIME
    assert walk(rules(3, 1), [5] * 4, ends=[1.0, 1.25, 1.5, 2.0])[1][3] == Event.REGIME


def test_what_stays_over_the_limit_after_an_incident_is_not_learned_where_the_next_one_opens() -> None:
    picture, events, phases = walk(rules(), [10, 4, 4, 4, 4, 1, 1, 1, 1, 5])

    assert picture == "###.###..#"
    assert events[4] == Event.OPENED
    assert phases == [Phase.OPENED, 2, 2, Phase.IN_INCIDENT, Phase.IN_INCIDENT, 2, 2, 0, 0, Phase.OPENED]


def test_what_lies_between_both_limits_after_an_incident_is_not_learned() -> None:
    incidents = Incidents(rules(1))
    incidents.grow(1)
    phases = []
    for at, (smoothed, limit) in enumerate([(5, 2), (2.5, 3), (2.5, 3), (2.5, 3), (NAN, 3), (1, 3), (2.5, 3)]):
        step = incidents.step(
            np.zeros(1, np.int32),
            np.array([(at + 1) * SECOND_NS]),
            np.array([smoothed], np.float64),
            np.array([limit], np.float64),
            np.array([False]),
        )
        phases.append(int(step.phase[0]))

    assert phases == [Phase.OPENED, 2, 2, 2, 2, Phase.QUIET, Phase.QUIET]


def test_updates_come_when_the_peak_has_doubled() -> None:
    _, events, _ = walk(rules(), [3, 4, 5.9, 6, 11, 3, 12, 100])

    assert [at for at, event in enumerate(events) if event == Event.UPDATED] == [3, 6, 7]


def test_a_sensor_fault_opens_after_its_windows_and_gives_no_feedback() -> None:
    picture, _, phases = walk(rules(2, sensor_windows=3), [1] * 8, [True] * 5 + [False] * 3)

    assert picture == "..####.."
    assert phases[2] == Phase.IN_INCIDENT


def test_a_fault_wins_over_the_process_when_both_are_due() -> None:
    incidents = Incidents(rules(sensor_windows=1))
    incidents.grow(2)
    step = incidents.step(
        np.arange(2, dtype=np.int32),
        np.full(2, 5, np.int64),
        np.array([9.0, 9.0]),
        np.array([2.0, 2.0]),
        np.array([True, False]),
    )

    assert step.kind.tolist() == [Open.SENSOR, Open.PROCESS]
    slots, ended = incidents.resolve(np.array([1, 0], np.int32))
    assert slots.tolist() == [1, 0]
    assert ended.kind.tolist() == [Open.PROCESS, Open.SENSOR]
    assert len(incidents.resolve(np.array([1, 0], np.int32))[0]) == 0


def test_wrong_rules_are_refused() -> None:
    for wrong in (
        {"open_after_windows": 0},
        {"sensor_windows": 0},
        {"close_after_ns": -1},
        {"relearn_after_ns": -1},
        {"step_ns": 0},
        {"exit_ratio": 1.0},
        {"update_factor": 1.0},
    ):
        with pytest.raises(ConfigError):
            IncidentRules(**wrong)


def test_ids_are_stable_and_unambiguous() -> None:
    known = alert_id("pumps", "pump-7", AlertKind.PROCESS, 1_700_000_000_000_000_000)

    assert known == "d9f4ad74e8076154be832df9b09a1a43"
    others = {
        alert_id("pumps", "pump-7", AlertKind.SENSOR, 1_700_000_000_000_000_000),
        alert_id("pumps", "pump-7", AlertKind.PROCESS, 1_700_000_000_000_000_001),
        alert_id("pumpsp", "ump-7", AlertKind.PROCESS, 1_700_000_000_000_000_000),
    }
    assert len(others | {known}) == 4


def test_shares_are_of_the_whole_and_leave_out_the_small() -> None:
    names = tuple("abcdefg")
    part = np.array([1, 50, np.nan, 30, 0.5, 10, 8.5], np.float32)

    assert channel_shares(names, part) == (("b", 0.5), ("d", 0.3), ("f", 0.1), ("g", 0.085), ("a", 0.01))
    assert channel_shares(names, np.zeros(7, np.float32)) == ()
