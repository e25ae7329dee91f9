"""Values that stand for none, named by --missing: taken out of recordings and on the wire, without a flag."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from stream_ad.core.quality import Quality
from stream_ad.io.bundles import bundles
from stream_ad.io.recordings import recordings
from stream_ad.io.transport import Partition, RawBatch
from stream_ad.io.wire.encode import ARROW_HEADERS, encode_arrow, encode_reading, encode_series
from stream_ad.io.wire.readings import Decoder
from tests.field.plant import Plant
from tests.field.signals import CHANNELS, machine, stamp

T0 = 1_772_438_400_000


def lines(rows: int, first: int, sentinel: str, channel: str = "temp", share: float = 0.05) -> Iterator[str]:
    rng = np.random.default_rng(first)
    yield ",".join(("time", "device", *CHANNELS))
    for row, cells in enumerate(machine(rows, seed=first)):
        texts = [f"{cell:.4f}" for cell in cells]
        if rng.random() < share:
            texts[CHANNELS.index(channel)] = sentinel
        yield ",".join((stamp(first + row), "p1", *texts))


@pytest.mark.parametrize(
    ("option", "sentinel"),
    [(("--missing", "-9999"), "-9999"), (("--missing", "temp=-127"), "-127"), (("--missing", "-1e20"), "-1E20")],
)
def test_a_sentinel_is_missing_in_training_and_live(plant: Plant, option: tuple[str, ...], sentinel: str) -> None:
    plant.file("normal.csv", lines(1_200, 0, sentinel))
    plant.ok("init", "normal.csv", "--name", "p", *option)
    plant.quiet()
    plant.ok("train", "normal.csv", "--no-baseline", *option)
    model = bundles.load(plant.settings().stream.bundle)
    temp = [channel.name for channel in model.channels].index("temp")
    assert float(sentinel) in model.channels[temp].missing
    assert (float(sentinel) in model.channels[0].missing) == ("=" not in option[1])
    assert 40 < model.normaliser.center[temp] < 80
    assert model.normaliser.scale[temp] < 20
    assert f"missing if {float(sentinel):g}" in plant.ok("bundle", "show", str(plant.settings().stream.bundle)).out

    plant.file("today.csv", lines(300, 100_000, sentinel))
    plant.ok("send", "today.csv")  # as devices do: with the sentinel on the wire
    plant.drain()
    table = plant.scores()
    quality = np.asarray(table["quality"])
    assert not (quality & int(Quality.BAD_VALUE)).any()
    assert (quality & int(Quality.GAPS)).any()
    assert not np.asarray(table["is_anomaly"]).any()
    assert np.isfinite(table["score"].to_numpy()[3:-3]).all()


def test_send_takes_sentinels_out(plant: Plant) -> None:
    plant.file("normal.csv", lines(1_200, 0, "-9999", share=0.0))
    plant.ok("init", "normal.csv", "--name", "p")
    plant.quiet()
    plant.ok("train", "normal.csv", "--no-baseline")
    plant.file("today.csv", lines(200, 100_000, "-9999"))
    ran = plant.ok("send", "today.csv", "--missing", "-9999")
    assert "cells hold a value of --missing" in ran.err
    plant.drain()

    assert not np.asarray(plant.scores()["is_anomaly"]).any()


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("x=-9999", "expected the name or pattern of a channel, found 'x'"),
        ("temp=none", "expected a number or CHANNEL=NUMBER, found 'temp=none'"),
        ("nan", "expected a number or CHANNEL=NUMBER, found 'nan'"),
        ("1e99", "expected a number or CHANNEL=NUMBER, found '1e99'"),
    ],
)
def test_a_sentinel_that_is_none_is_refused(plant: Plant, option: str, said: str) -> None:
    plant.file("normal.csv", lines(100, 0, "-9999"))

    ran = plant("train", "normal.csv", "--out", "b", "--missing", option)

    assert ran.code != 0
    assert said in ran.said


def test_names_are_literal_first_and_may_hold_an_equals_sign(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text("time,a=b,T [C],T2\n" + "".join(f"{stamp(row)},{-row},-1,-1\n" for row in range(5)))

    values = recordings.read(path, missing=["a=b=-2", "T [C]=-1", "T*=7", "-4"]).values

    assert recordings.read(path, missing=["T [C]=-1"]).channels == ("T2", "a=b")
    np.testing.assert_array_equal(values[:, 1], [0, -1, np.nan, -3, np.nan])


@pytest.mark.parametrize("form", ["single", "series", "arrow", "arrow32"])
def test_on_the_wire_in_every_form(form: str) -> None:
    column = [1.0, -9999.9, 2.0, -127.0]
    times = T0 + 1000 * np.arange(4)
    values, headers = {
        "single": ([encode_reading("d", int(t), {"a": v, "b": v}) for t, v in zip(times, column, strict=True)], ()),
        "series": ([encode_series("d", T0, 1000, {"a": column, "b": column})], ()),
        "arrow": ([encode_arrow(["d"] * 4, times, {"a": column, "b": column})], ARROW_HEADERS),
        "arrow32": ([encode_arrow(["d"] * 4, times, {"a": np.array(column, np.float32), "b": column})], ARROW_HEADERS),
    }[form]
    n = len(values)
    raw = RawBatch(Partition("r", 0), np.arange(n), np.full(n, T0 * 10**6), [b""] * n, values, [headers] * n, n)

    found = Decoder(["a", "b"], missing={"a": (-9999.9,), "b": (-127.0, 5.0)}).decode(raw)

    assert found.bad_cells == 0
    np.testing.assert_allclose(found.readings.values[:, 0], [1, np.nan, 2, -127])
    np.testing.assert_allclose(found.readings.values[:, 1], [1, -9999.9, 2, np.nan])


def test_a_bundle_without_sentinels_keeps_its_id(plant: Plant) -> None:
    plant.file("normal.csv", lines(1_200, 0, "-9999", share=0.0))
    plant.ok("train", "normal.csv", "--no-baseline", "--out", "b")

    manifest = json.loads((plant.folder / "b" / "manifest.json").read_text())

    assert all("missing" not in channel for channel in manifest["channels"])
