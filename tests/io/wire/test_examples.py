"""The examples of docs/wire.md and docs/alerts.md mean what the pages say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from stream_ad.core.batches import AlertPhase, Reason
from stream_ad.core.quality import Quality
from stream_ad.io.transport import Partition, RawBatch
from stream_ad.io.wire import alerts as alert_messages
from stream_ad.io.wire import dead_letters, score_rows
from stream_ad.io.wire.readings import Decoded, Decoder
from tests.docs.pages import ROOT, examples, tables

WIRE = (ROOT / "docs" / "wire.md").read_text()
EXAMPLES = examples(WIRE) | examples((ROOT / "docs" / "alerts.md").read_text())
SCORES = "Scores, `sensor.scores.v1.<name>` (output)"
SECOND = 1_000_000_000
START = 1_767_652_560 * SECOND
READINGS = Partition("sensor.readings.v1", 0)


def decode(name: str) -> Decoded[Any]:
    value = EXAMPLES[name].encode()
    raw = RawBatch(READINGS, np.array([7]), np.array([START]), [b"pump-0004"], [value], [()], 8)
    return Decoder(["flow", "pressure", "voltage"], "pump-*").decode(raw)


def test_the_pages_hold_these_examples() -> None:
    assert set(EXAMPLES) == {"reading", "series", "series with times", "refused", "alert"}


def test_a_reading() -> None:
    readings = decode("reading").readings

    assert readings.ids == ("pump-0004",)
    assert readings.event_ns.tolist() == [START]
    assert readings.values[0, :2].tolist() == pytest.approx([82.1, 3.27])
    assert np.isnan(readings.values[0, 2])


@pytest.mark.parametrize(
    ("name", "offsets_ms"), [("series", [0, 1_000, 2_000]), ("series with times", [0, 1_020, 2_010])]
)
def test_a_series(name: str, offsets_ms: list[int]) -> None:
    found = decode(name)

    assert not found.refused
    assert (found.readings.event_ns - START).tolist() == [ms * 1_000_000 for ms in offsets_ms]
    assert found.readings.values[:, 1].tolist() == pytest.approx([3.27, 3.31, 3.29])


def test_a_refused_record_becomes_a_dead_letter_with_the_headers_named() -> None:
    (refused,) = decode("refused").refused
    assert refused.reason is Reason.BAD_TIME

    value = EXAMPLES["refused"].encode()
    letter = dead_letters.encode(refused, value, b"pump-0004", (), READINGS, START)
    assert letter.value == value
    for name, _ in letter.headers:
        assert name in WIRE or name.removeprefix("__connect.errors") in WIRE or name.endswith(("stage", "class.name"))
    assert all(f"`{reason.value}`" in WIRE for reason in Reason)


def test_an_alert() -> None:
    message = alert_messages.decode(EXAMPLES["alert"].encode())

    assert message.alert().phase is AlertPhase.OPENED
    assert message.end_ns == START
    assert alert_messages.decode(message.model_dump_json().encode()) == message


def test_the_columns_of_scores_and_their_flags() -> None:
    named = [name.strip("` ") for row in tables(WIRE)[SCORES] for name in row.split(",")]
    assert named == score_rows.schema(["flow"]).names
    for flag in Quality:
        assert f"| {flag.value:<10} | `{flag.name}`" in WIRE
