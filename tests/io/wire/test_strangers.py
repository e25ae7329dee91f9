"""Unknown devices and channels are counted by readings, alike in every form and however a batch is cut."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest

from stream_ad.io.transport import Headers, Partition, RawBatch
from stream_ad.io.wire.encode import ARROW_HEADERS, JSON_HEADERS
from stream_ad.io.wire.readings import Decoder
from stream_ad.io.wire.rows import Strangers

START_MS = 1_767_652_560_000
DEVICES = ("p1", "x1", "p2", "x2", "y1")
SAMPLES = 3


def batch(values: list[bytes], headers: Headers) -> RawBatch:
    n = len(values)
    offset = np.arange(n, dtype=np.int64)
    return RawBatch(Partition("r", 0), offset, np.full(n, START_MS * 10**6), (None,) * n, values, (headers,) * n, n)


def cells(device: str, samples: int) -> dict[str, list[float]]:
    names = ("a", "b", "spare") if device == "p2" else ("a", "b")
    return {name: [1.0] * samples for name in names}


def singles() -> list[bytes]:
    return [
        json.dumps(
            {"device": device, "ts": START_MS + k, "values": {name: some[0] for name, some in cells(device, 1).items()}}
        ).encode()
        for k in range(SAMPLES)
        for device in DEVICES
    ]


def series() -> list[bytes]:
    ts = {"start": START_MS, "step_ms": 1}
    return [json.dumps({"device": one, "ts": ts, "values": cells(one, SAMPLES)}).encode() for one in DEVICES]


def series_with_times() -> list[bytes]:
    ts = [START_MS + k for k in range(SAMPLES)]
    return [json.dumps({"device": one, "ts": ts, "values": cells(one, SAMPLES)}).encode() for one in DEVICES]


def tables() -> list[bytes]:
    found = []
    for devices in (("p1", "x1", "x2", "y1"), ("p2",)):
        ids = [one for one in devices for _ in range(SAMPLES)]
        columns = {"device": ids, "ts": [START_MS] * len(ids)} | cells(devices[0], len(ids))
        table = pa.table(columns)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        found.append(sink.getvalue().to_pybytes())
    return found


FORMS = {
    "singles": (singles(), JSON_HEADERS),
    "series": (series(), JSON_HEADERS),
    "series with times": (series_with_times(), JSON_HEADERS),
    "Arrow": (tables(), ARROW_HEADERS),
    "the complete way": ([b'{"n": 1, "n": 2, ' + one[1:] for one in series()], JSON_HEADERS),
}


def counted(values: list[bytes], headers: Headers, others: tuple[str, ...] = ()) -> Strangers:
    return Decoder(["a", "b"], "p*", other_devices=others).decode(batch(values, headers)).strangers


@pytest.mark.parametrize("form", FORMS)
def test_readings_are_counted_with_an_example(form: str) -> None:
    found = counted(*FORMS[form])

    assert (found.of_devices, found.with_channels) == (3 * SAMPLES, SAMPLES)
    assert (found.device, found.channel) == ("x1", ("p2", "spare"))


@pytest.mark.parametrize("form", FORMS)
def test_devices_of_other_streams_are_left_out(form: str) -> None:
    found = counted(*FORMS[form], ("x*",))

    assert (found.of_devices, found.device) == (SAMPLES, "y1")
    assert counted(*FORMS[form], ("x1", "x2", "y1")).of_devices == 0


@pytest.mark.parametrize("form", FORMS)
def test_sums_do_not_depend_on_cuts(form: str) -> None:
    values, headers = FORMS[form]
    each = [counted([one], headers) for one in values]

    assert sum(one.of_devices for one in each) == 3 * SAMPLES
    assert sum(one.with_channels for one in each) == SAMPLES
