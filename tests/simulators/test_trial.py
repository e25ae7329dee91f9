"""How faults and incidents are matched: the rule by which the demo counts."""

from __future__ import annotations

from simulators import scenarios, trial
from simulators.trial import NS, Fault, Incident
from stream_ad.core.batches import AlertKind


def fault(start_s: int, end_s: int, device: str = "a") -> Fault:
    return Fault(device, "spike", ("flow",), start_s * NS, end_s * NS, 1.0)


def incident(opened_s: int, resolved_s: int | None, device: str = "a") -> Incident:
    resolved_ns = None if resolved_s is None else resolved_s * NS
    return Incident(f"{device}-{opened_s}", device, AlertKind.PROCESS, opened_s * NS, resolved_ns, 2.0, 1.0, (), "")


def match(faults: list[Fault], incidents: list[Incident]) -> trial.Match:
    return trial.match(faults, incidents, grace_ns=10 * NS)


def test_an_incident_that_opens_in_the_fault_or_its_grace_finds_it() -> None:
    for opened in (100, 150, 200, 210):
        result = match([fault(100, 200)], [incident(opened, opened + 5)])
        assert (result.found, result.false_alarms, result.delay_s(0)) == (1, 0, opened - 100)


def test_an_incident_after_the_grace_or_of_another_device_is_a_false_alarm() -> None:
    for wrong in (incident(211, 220), incident(150, 160, "b"), incident(50, 99)):
        result = match([fault(100, 200)], [wrong])
        assert (result.found, result.false_alarms, result.median_delay_s) == (0, 1, None)


def test_an_incident_that_was_open_before_finds_nothing_and_is_not_held_against_the_model() -> None:
    for resolved in (120, None):
        result = match([fault(100, 200)], [incident(90, resolved)])
        assert (result.found, result.false_alarms) == (0, 0)


def test_the_first_of_several_incidents_gives_the_delay() -> None:
    result = match([fault(100, 200), fault(400, 500)], [incident(180, 190), incident(120, 130), incident(450, None)])
    assert (result.found, result.false_alarms, result.median_delay_s) == (2, 0, 35)


def test_a_trial_counts_by_kind_and_repeats_itself() -> None:
    from stream_ad import pretrained
    from stream_ad.io.bundles import bundles

    scenario = scenarios.load("demo").changed(devices=9, duration_s=1_250)
    model = bundles.load(pretrained.path("pump-autoencoder"))
    card = trial.run(model, scenario).card()
    assert card == trial.run(model, scenario).card()
    assert card["faults"] == 3
    assert card["by_kind"]["drop_out"] == {"injected": 1, "found": 1}
    assert card["windows"] > 600
