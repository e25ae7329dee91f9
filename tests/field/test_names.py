"""Channels and devices with any characters in their names: found literally first, as a pattern second."""

from __future__ import annotations

from pathlib import Path

import pytest

from stream_ad.io.bundles.manifest import ChannelPart, read_manifest
from stream_ad.io.recordings.layouts import Layout
from stream_ad.io.recordings.recordings import read
from tests.field.plant import Plant
from tests.field.signals import csv_lines, machine, stamp

CHANNELS = ("Temp [°C]", '"Druck, innen [bar]"', "Flow [l/min]", "I*t")
TEMP, PRESSURE, FLOW, INTEGRAL = "Temp [°C]", "Druck, innen [bar]", "Flow [l/min]", "I*t"
DEVICES = ("Linie [1]", "Linie [2]", "Linie 2")


def record(plant: Plant, name: str, rows: int, first: int = 0, fault: int | None = None) -> None:
    lines: list[str] = []
    for number, device in enumerate(DEVICES):
        values = machine(rows, seed=number + first)
        if fault is not None:
            values[fault:, 1] *= 0.6
        lines += csv_lines(values, device, CHANNELS, first=first, header=not number)
    plant.file(name, lines)


@pytest.fixture
def trained(plant: Plant) -> Plant:
    record(plant, "normal.csv", 1_200)
    plant.ok("init", "normal.csv", "--name", "b")
    plant.quiet()
    return plant


def channels_after(plant: Plant, *options: str) -> dict[str, ChannelPart]:
    plant.ok("train", "normal.csv", *options, "--replace", "--no-baseline")
    return {channel.name: channel for channel in read_manifest(plant.folder / "bundles" / "b").channels}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (TEMP, {TEMP}),
        (f"{TEMP},{FLOW}", {TEMP, FLOW}),
        (PRESSURE, {PRESSURE}),
        (f"{FLOW}, {PRESSURE} ,{TEMP}", {TEMP, PRESSURE, FLOW}),
        (INTEGRAL, {INTEGRAL}),
        ("*bar*,I?t", {PRESSURE, INTEGRAL}),
        ("Temp*", {TEMP}),
        ("*", {TEMP, PRESSURE, FLOW, INTEGRAL}),
    ],
)
def test_channels_are_chosen(text: str, wanted: set[str], trained: Plant) -> None:
    assert set(channels_after(trained, "--channels", text)) == wanted


def test_held_channels_and_units_are_named(trained: Plant) -> None:
    options = ["--hold", f"{TEMP}=60s", "--hold", f"{PRESSURE}=2m", "--unit", f"{TEMP}=K", "--unit", "I*t=A=s"]
    channels = channels_after(trained, *options)

    assert {name: channel.hold_max_age_ns for name, channel in channels.items()} == {
        TEMP: 60 * 10**9,
        PRESSURE: 120 * 10**9,
        FLOW: 0,
        INTEGRAL: 0,
    }
    assert (channels[TEMP].unit, channels[INTEGRAL].unit) == ("K", "A=s")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--channels", "Temp [C]"], "found 'Temp [C]'; channels: 'Temp [°C]', "),
        (["--hold", "Pressure=60s"], "--hold: expected the name or pattern of a channel, found 'Pressure'"),
        (["--unit", "Flow=l"], "--unit: expected the name or pattern of a channel, found 'Flow'"),
        (["--unit", "=l"], "--unit: expected NAME=VALUE"),
    ],
)
def test_unknown_names_are_answered_with_those_there_are(options: list[str], message: str, trained: Plant) -> None:
    ran = trained("train", "normal.csv", *options)

    assert ran.code in (1, 2)
    assert message in ran.err


def test_a_literal_channel_wins_over_what_its_pattern_matches(plant: Plant) -> None:
    columns = ("T[12]", "T1", "T2", "a=b")
    plant.file("normal.csv", csv_lines(machine(1_200), channels=columns))
    plant.ok("init", "normal.csv", "--name", "b")

    assert set(channels_after(plant, "--channels", "T[12]")) == {"T[12]"}
    assert set(channels_after(plant, "--channels", "T[1]")) == {"T1"}
    channels = channels_after(plant, "--hold", "a=b=5s", "--unit", "a=b=°C", "--hold", "T[12]=7s")
    assert {name: channel.hold_max_age_ns for name, channel in channels.items() if channel.hold_max_age_ns} == {
        "a=b": 5 * 10**9,
        "T[12]": 7 * 10**9,
    }
    assert channels["a=b"].unit == "°C"


def test_devices_are_found_by_their_names(trained: Plant) -> None:
    channels_after(trained)
    record(trained, "today.csv", 500, first=100_000, fault=250)
    trained.ok("send", "today.csv")
    trained.drain()

    def alerted(*options: str) -> set[str]:
        found = trained.ok("alerts", "--json", *options).out
        return {device for device in DEVICES if f'"device":"{device}"' in found}

    assert alerted() == set(DEVICES)
    assert alerted("--device", "Linie [2]") == {"Linie [2]"}
    assert alerted("--device", "Linie 2") == {"Linie 2"}
    assert alerted("--device", "Linie*") == set(DEVICES)
    assert alerted("--device", "Linie [[]*") == {"Linie [1]", "Linie [2]"}
    trained.ok("scores", "Linie [2]", "--rows", "0")
    assert "agree" in trained.ok("audit", "--device", "Linie [2]").out


def test_a_stream_of_one_device_takes_it_by_its_name(trained: Plant) -> None:
    channels_after(trained)
    record(trained, "today.csv", 500, first=100_000)
    settings = trained.folder / "stream.toml"
    settings.write_text(settings.read_text().replace('devices = "*" ', 'devices = "Linie [1]" '))

    sent = trained.ok("send", "today.csv")
    trained.drain()

    assert "will be skipped by the scorer: Linie [2], Linie 2" in sent.err
    assert set(trained.scores()["device"].to_pylist()) == {"Linie [1]"}


@pytest.mark.parametrize(
    ("columns", "layout", "labels"),
    [
        (("Zeit, UTC", "x", "y"), "wide,time=Zeit, UTC", []),
        (("t=0", "x", "a+b"), "wide,time=t=0,labels=a+b", ["a+b"]),
        (("t", "x", "Druck, innen"), "wide,time=t,labels=Druck, innen", ["Druck, innen"]),
        (("t", "x", "a,b", "c+d", "e"), "wide,labels=a,b+c+d+e,time=t", ["a,b", "c+d", "e"]),
        (("t", "x", "time=y"), "wide,time=t,labels=time=y", None),
    ],
)
def test_a_layout_names_any_column(
    columns: tuple[str, ...], layout: str, labels: list[str] | None, plant: Plant
) -> None:
    head = ",".join(f'"{name}"' for name in columns)
    rows = [",".join((stamp(n), *("0" for _ in columns[1:]))) for n in range(5)]
    path: Path = plant.file("r.csv", [head, *rows])

    if labels is not None:
        found = read(path, Layout.parse(layout))
        assert sorted(found.labels) == sorted(labels)
        assert set(found.channels) == {*columns[1:]} - {*labels}
    plant.ok("init", "r.csv", "--layout", layout)
