"""What cannot be used is in `status`, `check`, the log and the metrics, from the log of the stream alone."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from stream_ad.inspection.intake import gathered
from stream_ad.inspection.split_devices import SplitDevices
from stream_ad.service.roles import scorer
from stream_ad.service.roles.catalog import RoleContext
from tests.field.plant import Plant
from tests.field.seen import trained_folder
from tests.field.signals import CHANNELS, START, machine
from tests.support.roles import kill

START_MS = int(START.timestamp() * 1000) + 100_000_000
ROWS = 600

Change = Callable[[dict[str, Any]], Any]


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small model, the pages of roles turned off."""
    return trained_folder(tmp_path_factory.mktemp("trained"))


@pytest.fixture
def trained(plant: Plant, once: Path) -> Plant:
    shutil.copytree(once, plant.folder, dirs_exist_ok=True)
    return plant


def readings(rows: int = ROWS, device: str = "p1", first: int = 0) -> Iterator[dict[str, Any]]:
    for row, values in enumerate(machine(rows, seed=3).tolist(), first):
        yield {"device": device, "ts": START_MS + 1_000 * row, "values": dict(zip(CHANNELS, values, strict=True))}


def changed(share: float, change: Change, rows: int = ROWS) -> Iterator[Any]:
    """Yield readings of which a share, spread evenly, is changed."""
    done = 0
    for row, document in enumerate(readings(rows), 1):
        if row * share >= done + 1:
            done += 1
            yield change(document)
        else:
            yield document


def with_values(document: dict[str, Any], **values: Any) -> dict[str, Any]:
    return document | {"values": document["values"] | values}


def bad_cells(document: dict[str, Any]) -> dict[str, Any]:
    """A reading without a number, as an OPC gateway writes it."""
    return document | {"values": dict.fromkeys(CHANNELS, "Bad Input")}


def bad_numbers(document: dict[str, Any]) -> str:
    """A reading without a finite number, as a gateway in C writes it."""
    numbers = ", ".join(f'"{name}": NaN' for name in CHANNELS)
    return f'{{"device": "p1", "ts": {document["ts"]}, "values": {{{numbers}}}}}'


def renamed(document: dict[str, Any]) -> dict[str, Any]:
    values = dict(document["values"])
    values["tempp"] = values.pop("temp")
    return document | {"values": values}


CASES: dict[str, tuple[Change, str, str]] = {
    "bad_value": (bad_cells, "p1", "'Bad Input' as current"),
    "undecodable": (lambda document: f'{{"device": "p1", "ts": {document["ts"]}, "val', "", "JSON"),
    "missing_field": (lambda document: {"device": "p1", "values": document["values"]}, "p1", "ts"),
    "wrong_type": (lambda document: document | {"device": 7}, "7", "expected text"),
    "bad_time": (lambda document: document | {"ts": "yesterday"}, "p1", "yesterday"),
    "late": (lambda document: document | {"ts": document["ts"] - 3_600_000}, "p1", "2026-03-0"),
    "future": (lambda document: document | {"ts": 4_000_000_000_000}, "p1", "2096-10-02"),
    "unknown_channel": (lambda document: with_values(document, tempp=1.0), "p1", "tempp"),
    "unknown_device": (lambda document: document | {"device": "x9"}, "x9", ""),
}


def looked_at(plant: Plant) -> dict[str, Any]:
    found: dict[str, Any] = plant("status", "--json").json()
    return found


def causes(plant: Plant) -> dict[str, Mapping[str, Any]]:
    return {cause["cause"]: cause for cause in looked_at(plant)["intake"]["causes"]}


def about(plant: Plant) -> list[str]:
    """The lines of `status` that are not about who runs: nobody does here."""
    return [
        line
        for line in looked_at(plant)["warnings"]
        if not line.startswith(("no owner", "partition 0: the newest checkpoint"))
    ]


def checked(plant: Plant, what: str = "intake") -> Mapping[str, Any]:
    lines = map(json.loads, plant("check", "--json").out.splitlines())
    return next((dict(line) for line in lines if line["check"] == what), {})


@pytest.mark.parametrize("cause", CASES)
def test_a_cause_is_named_with_its_share_and_an_example(trained: Plant, cause: str) -> None:
    change, device, value = CASES[cause]
    if cause == "unknown_device":
        only_devices(trained, "p*")
    trained.append(changed(0.05, change))
    trained.drain()

    (line,) = about(trained)
    found = causes(trained)[cause]
    assert found["share"] == pytest.approx(0.05, rel=0.02)
    assert found["example"]["device"] == device
    assert value in found["example"]["value"]
    assert "5 %" in line
    assert device in line
    assert value in line
    assert checked(trained)["level"] == "warn"
    assert trained("check").code == 0
    assert line in trained("check").out


@pytest.mark.parametrize("cause", ["bad_value", "late", "unknown_channel", "unknown_device"])
def test_a_fifth_fails_the_check(trained: Plant, cause: str) -> None:
    change, _, _ = CASES[cause]
    if cause == "unknown_device":
        only_devices(trained, "p*")
    trained.append(changed(0.3, change))
    trained.drain()

    assert checked(trained)["level"] == "fail"
    assert trained("check").code == 1


def only_devices(plant: Plant, pattern: str) -> None:
    path = plant.folder / "stream.toml"
    lines = [line for line in path.read_text().splitlines() if not line.startswith("devices")]
    at = lines.index("[stream]") + 1
    path.write_text("\n".join([*lines[:at], f'devices = "{pattern}"', *lines[at:]]) + "\n")


@pytest.mark.parametrize("cause", ["bad_value", "late", "unknown_channel"])
def test_less_than_one_in_a_hundred_is_counted_and_not_reported(trained: Plant, cause: str) -> None:
    trained.append(changed(0.006, CASES[cause][0]))
    trained.drain()

    assert about(trained) == []
    assert causes(trained)[cause]["count"] in (3, 12)
    assert checked(trained)["level"] == "ok"


def test_reasons_that_are_rare_each_are_reported_together(trained: Plant) -> None:
    kinds = ["undecodable", "late", "bad_time"]
    documents = list(readings())
    for number, kind in enumerate(kinds * 3):
        row = 50 + 40 * number
        documents[row] = CASES[kind][0](documents[row])
    trained.append(documents)
    trained.drain()

    (line,) = about(trained)
    assert "1.5 % of the readings were refused (9 of 600" in line


def test_clean_input_is_not_talked_about(trained: Plant) -> None:
    trained.append(readings())
    trained.drain()

    found = looked_at(trained)["intake"]
    assert about(trained) == []
    assert (found["readings"], found["cells"], found["causes"]) == (600, 2_400, [])
    assert checked(trained)["level"] == "ok"


def test_nulls_and_channels_left_out_are_no_bad_cells(trained: Plant) -> None:
    trained.append(changed(0.3, lambda document: with_values(document, temp=None)))
    trained.drain()

    assert about(trained) == []
    assert looked_at(trained)["intake"]["cells"] == 2_400 - 180


def test_numbers_that_are_not_finite_are_bad_values(trained: Plant) -> None:
    trained.append(changed(0.05, bad_numbers))
    trained.drain()

    (line,) = about(trained)
    assert causes(trained)["bad_value"]["count"] == 120
    assert "5 % of the values are not finite numbers" in line


def test_a_bad_cell_costs_the_reading_nothing_else(trained: Plant) -> None:
    trained.append(changed(0.5, lambda document: with_values(document, temp="#N/A")))
    trained.drain()

    found = causes(trained)
    assert list(found) == ["bad_value"]
    assert found["bad_value"]["share"] == pytest.approx(0.125)
    assert found["bad_value"]["example"] == {"device": "p1", "value": "'#N/A' as temp"}


def test_a_renamed_channel_is_named(trained: Plant) -> None:
    trained.append(changed(0.5, renamed))
    trained.drain()

    assert causes(trained)["unknown_channel"]["example"] == {"device": "p1", "value": "tempp"}


def test_input_that_was_refused_wholly_is_reported(trained: Plant) -> None:
    trained.append("no json" for _ in range(50))
    trained.drain()

    (line,) = about(trained)
    assert line.startswith("100 % of the readings were refused as undecodable")
    assert checked(trained)["level"] == "fail"


def test_only_unknown_devices_are_reported_without_any_output(trained: Plant) -> None:
    only_devices(trained, "q*")
    trained.append(readings())
    trained.drain()

    assert causes(trained)["unknown_device"]["share"] == 1.0


def test_devices_of_other_streams_are_not_reported_once_they_are_named(trained: Plant) -> None:
    only_devices(trained, 'p*"\nother_devices = ["x*", "q1"]  # "')
    trained.append(changed(0.4, lambda document: document | {"device": "x9"}))
    trained.append(readings(12, device="q2"))
    trained.append(readings(12, device="q1"))
    trained.drain()

    assert causes(trained)["unknown_device"]["count"] == 12
    assert causes(trained)["unknown_device"]["example"]["device"] == "q2"


def test_series_count_by_their_readings(trained: Plant) -> None:
    rows = machine(640, seed=3).T.tolist()
    for first in range(0, 640, 64):
        part = {name: column[first : first + 64] for name, column in zip(CHANNELS, rows, strict=True)}
        ts = {"start": START_MS + 1_000 * first, "step_ms": 1000}
        other = {"spare": [0.0] * 64} if first == 0 else {}
        trained.append([{"device": "p1", "ts": ts, "values": part | other}])
    trained.drain()

    assert looked_at(trained)["intake"]["readings"] == 640
    assert causes(trained)["unknown_channel"]["count"] == 64


def test_another_host_sees_the_same(trained: Plant, tmp_path: Path) -> None:
    trained.append(changed(0.05, CASES["late"][0]))
    trained.drain()
    here = looked_at(trained)["intake"]

    settings = trained.settings()
    text = (trained.folder / "stream.toml").read_text()
    for folder in (settings.store.scores, settings.store.checkpoints):
        text = text.replace(str(folder), f"elsewhere/{folder}")
    trained.file("elsewhere.toml", text)
    there = trained("status", "--json", "-c", "elsewhere.toml").json()["intake"]
    assert there == here
    assert there["causes"]


def test_counts_go_on_over_kills_as_if_nothing_had_happened(trained: Plant) -> None:
    """Killed between commits, after a checkpoint or before one: each reading counts once."""
    documents = list(changed(0.05, CASES["late"][0]))
    settings = trained.settings()
    for first in range(0, len(documents), 150):
        trained.append(documents[first : first + 150])
        role = scorer.build(RoleContext(settings, 0, lambda: None))
        role.open()
        for _ in range(40):
            role.turn(0.0)
        kill(role)
    trained.drain()

    found = looked_at(trained)["intake"]
    assert found["readings"] == 600
    assert causes(trained)["late"]["count"] == 30


def test_the_log_has_one_line_per_minute(trained: Plant, caplog: pytest.LogCaptureFixture) -> None:
    trained.append(changed(0.05, CASES["late"][0]))
    with caplog.at_level(logging.INFO, logger="stream_ad"):
        trained.drain()

    (record,) = [one for one in caplog.records if getattr(one, "event", "") == "readings_not_used"]
    fields: dict[str, Any] = record.fields  # type: ignore[attr-defined]
    assert record.levelno == logging.WARNING
    assert fields["late"] >= 1
    assert fields["example_device"] == "p1"


def test_metrics_count_by_cause(trained: Plant) -> None:
    trained.append(changed(0.05, CASES["late"][0]))
    settings = trained.settings()
    role = scorer.build(RoleContext(settings, 0, lambda: None))
    role.open()
    for _ in range(40):
        role.turn(0.0)
    page = role.metrics.render()[0].decode()
    role.close()

    assert 'stream_ad_readings_unused_total{reason="late"} 30.0' in page
    assert "stream_ad_cells_total 2400.0" in page
    assert "stream_ad_cells_bad_total 0.0" in page


def test_a_position_of_an_older_version_has_nothing_to_tell() -> None:
    found = gathered({0: {}, 1: {"at": "x"}, 2: {"at": 1, "counts": [], "examples": {}}}, SplitDevices())

    assert (found.until_ns, found.readings, found.causes) == (None, 0, ())
