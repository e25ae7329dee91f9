"""What training left out on purpose is no unknown channel when devices send it."""

from __future__ import annotations

import json

from stream_ad.fronts.readings import READINGS
from stream_ad.io.bundles import bundles
from stream_ad.io.transport import Partition
from stream_ad.io.wire.encode import ARROW_HEADERS, JSON_HEADERS, encode_arrow, encode_reading, encode_series
from tests.field.plant import Plant
from tests.field.signals import CHANNELS, csv_lines, machine

START_MS = 1_767_225_600_000
EXTRA = {"RECORD": 7.0, "energy_kwh": 8.5, "anomaly": 0.0, "operator": 1.0}


def trained(plant: Plant) -> None:
    rows = list(csv_lines(machine(1_500)))
    more = [f"{row + 10**6},{row * 0.01 + 5:.2f},0,anna" for row in range(1_500)]
    lines = [f"{line},{extra}" for line, extra in zip(rows[1:], more, strict=True)]
    plant.file("r.csv", [rows[0] + ",RECORD,energy_kwh,anomaly,operator", *lines])
    plant.ok("init", "r.csv", "--name", "p")
    plant.ok("train", "r.csv", "--no-baseline")


def test_names_that_were_left_out_are_in_the_bundle_and_not_counted(plant: Plant) -> None:
    import numpy as np

    from stream_ad.io.transport import RawBatch

    trained(plant)
    model = bundles.load(plant.folder / "bundles" / "p")
    assert model.ignored == ("RECORD", "anomaly", "energy_kwh", "operator")
    decoder = READINGS.decoder(plant.settings(), model)
    values = dict.fromkeys(CHANNELS, 1.0) | EXTRA
    many = {name: [value, value] for name, value in values.items()}
    records = [
        (encode_reading("p1", START_MS, values), JSON_HEADERS),
        (encode_series("p1", START_MS, 1_000, many), JSON_HEADERS),
        (encode_arrow(["p1", "p1"], [START_MS, START_MS + 1], many), ARROW_HEADERS),
        (json.dumps({"device": "p1", "ts": "2026-01-01T00:00:00Z", "values": {**values, "press": "bad"}}).encode(), ()),
    ]
    for wrong in (False, True):
        batch = RawBatch(
            partition=Partition("r", 0),
            offset=np.arange(len(records), dtype=np.int64),
            log_ns=np.full(len(records), START_MS * 10**6, np.int64),
            keys=[None] * len(records),
            values=[value.replace(b"RECORD", b"RECORX") if wrong else value for value, _ in records],
            headers=[headers for _, headers in records],
            next_offset=len(records),
        )
        decoded = decoder.decode(batch)

        assert decoded.unknown_channels == (len(records) if wrong else 0)
        assert (decoded.strangers.channel or ("", None))[1] == ("RECORX" if wrong else None)
        assert len(decoded.readings.event_ns) == 6
