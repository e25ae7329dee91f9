"""Records made of a recording decode to the same readings, whatever their form."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_ad.errors import RecordingError
from stream_ad.io.recordings.recordings import Recording
from stream_ad.io.transport import Partition, RawBatch
from stream_ad.io.wire.producing import Form, Message, messages
from stream_ad.io.wire.readings import Decoder

START_NS = 1_583_748_873_000_000_000
CHANNELS = ("flow", "pressure")


def make(rows: list[tuple[int, int, float, float]], unit_ns: int = 1_000_000_000) -> Recording:
    """Return a recording of rows of device, time in units and two values."""
    rows = sorted(rows, key=lambda row: row[1])
    return Recording(
        devices=("a", "b", "ü"),
        device=np.array([row[0] for row in rows], np.int32),
        event_ns=np.array([START_NS + row[1] * unit_ns for row in rows], np.int64),
        channels=CHANNELS,
        values=np.array([row[2:] for row in rows], np.float64).reshape(-1, 2),
    )


def decode(sent: list[Message]) -> list[tuple[str, int, float, float]]:
    """Return the readings in the order in which they would be read."""
    n = len(sent)
    raw = RawBatch(
        Partition("t", 0),
        np.arange(n, dtype=np.int64),
        np.full(n, START_NS * 2, np.int64),
        [message.record.key for message in sent],
        [message.record.value for message in sent],
        [message.record.headers for message in sent],
        n,
    )
    decoded = Decoder(CHANNELS).decode(raw)
    assert not decoded.refused
    batch = decoded.readings
    return [
        (batch.ids[device], event_ns, *row)
        for device, event_ns, row in zip(
            batch.device.tolist(), batch.event_ns.tolist(), batch.values.tolist(), strict=True
        )
    ]


def plain(recording: Recording) -> list[tuple[str, int, float, float]]:
    """Return a recording's rows."""
    return [
        (recording.devices[device], event_ns, *row)
        for device, event_ns, row in zip(
            recording.device.tolist(), recording.event_ns.tolist(), recording.values.tolist(), strict=True
        )
    ]


VALUES = st.one_of(st.just(float("nan")), st.floats(-1e6, 1e6, width=32))
ROWS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 50), VALUES, VALUES), max_size=40)


@given(ROWS, st.sampled_from(Form), st.integers(1, 9), st.sampled_from([1_000, 1_000_000, 1_500_000, 10**9]))
@settings(max_examples=150)
def test_every_reading_arrives_once_and_in_order(
    rows: list[tuple[int, int, float, float]], form: Form, samples: int, unit_ns: int
) -> None:
    recording = make(rows, unit_ns)

    sent = list(messages(recording, form, samples))
    found = decode(sent)

    for device in recording.devices:
        mine = [row[1:] for row in found if row[0] == device]
        expected = [row[1:] for row in plain(recording) if row[0] == device]
        np.testing.assert_array_equal(np.array(mine).reshape(-1, 3)[:, 1:], np.array(expected).reshape(-1, 3)[:, 1:])
        assert all(abs(a[0] - b[0]) <= 250 for a, b in zip(mine, expected, strict=True))
    assert [message.due_ns for message in sent] == sorted(message.due_ns for message in sent)
    assert all(message.rows <= samples for message in sent)
    assert sum(message.rows for message in sent) == len(recording)


def test_the_key_is_the_device_and_a_shift_moves_all_times() -> None:
    recording = make([(2, 0, 1.0, 2.0), (2, 1, 1.0, 2.0)])

    (message,) = messages(recording, Form.SERIES, 64, shift_ns=5_000_000_000)

    assert message.record.key == "ü".encode()
    assert message.due_ns == START_NS + 6_000_000_000
    assert [row[1] for row in decode([message])] == [START_NS + 5_000_000_000, START_NS + 6_000_000_000]


def test_even_series_name_their_step_only() -> None:
    even = make([(0, n, 1.0, float("nan")) for n in range(4)])
    uneven = make([(0, n * n, 1.0, float("nan")) for n in range(4)])

    assert b'"step_ms":1000' in next(messages(even, Form.SERIES)).record.value
    assert b"step_ms" not in next(messages(uneven, Form.SERIES)).record.value
    assert b"pressure" not in next(messages(even, Form.SERIES)).record.value


def test_no_samples_are_refused() -> None:
    with pytest.raises(RecordingError, match="at least 1"):
        list(messages(make([]), Form.SERIES, 0))
