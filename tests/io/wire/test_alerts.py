"""Alert messages: CloudEvents in binary mode whose body fits the published schema."""

from __future__ import annotations

import json
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_ad.core.batches import Alert, AlertKind, AlertPhase
from stream_ad.errors import ContractError
from stream_ad.io.transport import Partition
from stream_ad.io.wire import alerts as alert_messages

SOURCE = Partition("sensor.readings.v1", 4)
ALERT = Alert(
    id="0a1b",
    version=2,
    phase=AlertPhase.UPDATED,
    kind=AlertKind.PROCESS,
    stream="pumps",
    device="pümp 1",
    opened_end_ns=1_700_000_000_000_000_001,
    end_ns=1_700_000_064_000_000_000,
    opened_offset=1,
    offset=77,
    score=4.5,
    limit=3.25,
    peak=5.0,
    channels=(("flow", 0.75), ("temp", 0.25)),
    model_id="m1",
    reason="flow is unlike the training data",
)
finite = st.floats(allow_nan=False, allow_infinity=False)
alerts = st.builds(
    Alert,
    id=st.text("0123456789abcdef", min_size=1, max_size=32),
    version=st.integers(0, 10**6),
    phase=st.sampled_from(AlertPhase),
    kind=st.sampled_from(AlertKind),
    stream=st.just("pumps"),
    device=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20),
    opened_end_ns=st.integers(10**17, 9 * 10**18),
    end_ns=st.integers(10**17, 9 * 10**18),
    opened_offset=st.integers(0, 2**62),
    offset=st.integers(0, 2**62),
    score=finite,
    limit=finite,
    peak=finite,
    channels=st.lists(st.tuples(st.text("abc_", min_size=1), st.floats(0, 1)), max_size=4).map(tuple),
    model_id=st.text("0123456789abcdef", max_size=64),
    reason=st.text(st.characters(exclude_categories=["Cs"]), max_size=60),
)


@given(alert=alerts)
def test_an_alert_comes_back(alert: Alert) -> None:
    record = alert_messages.encode(alert, SOURCE, "cfg")
    message = alert_messages.decode(record.value)

    assert message.alert() == alert
    assert (message.input.topic, message.input.partition, message.config_digest) == ("sensor.readings.v1", 4, "cfg")


def test_the_published_schema_names_every_field_of_the_body() -> None:
    schema = alert_messages.json_schema()
    body = json.loads(alert_messages.encode(ALERT, SOURCE, "cfg").value)

    assert list(schema["properties"]) == list(body)
    assert schema["required"] == list(body)
    assert schema["$id"] == "urn:stream-ad:alert:v1"
    assert schema["properties"]["phase"]["enum"] == [phase.value for phase in AlertPhase]
    assert schema["properties"]["kind"]["enum"] == [kind.value for kind in AlertKind]
    assert re.fullmatch(schema["properties"]["end"]["pattern"], body["end"])
    assert schema["properties"]["score"]["anyOf"] == [{"type": "number"}, {"type": "null"}]
    for name, nested in (("ChannelShare", body["channels"][0]), ("InputPosition", body["input"])):
        assert schema["$defs"][name]["required"] == list(nested)


def test_the_envelope_is_a_cloud_event() -> None:
    record = alert_messages.encode(ALERT, SOURCE, "cfg")
    assert record.key == "pümp 1".encode()
    assert record.partition is None
    assert {name: value.decode() for name, value in record.headers} == {
        "content-type": "application/json",
        "ce_specversion": "1.0",
        "ce_id": "0a1b-2",
        "ce_source": "/stream-ad/pumps",
        "ce_type": "io.github.stream-ad.alert.updated.v1",
        "ce_time": "2023-11-14T22:14:24.000000000Z",
        "ce_subject": "pümp 1",
        "ce_dataschema": "urn:stream-ad:alert:v1",
    }
    assert json.loads(record.value)["opened_end"] == "2023-11-14T22:13:20.000000001Z"


def test_scores_that_are_no_numbers_are_null() -> None:
    alert = Alert(**{f: getattr(ALERT, f) for f in ALERT.__slots__} | {"score": math.nan, "limit": math.inf})
    message = alert_messages.decode(alert_messages.encode(alert, SOURCE, "cfg").value)
    assert (message.score, message.limit) == (None, None)
    assert math.isnan(message.alert().score)


def test_unknown_fields_are_ignored_and_missing_ones_told() -> None:
    body = json.loads(alert_messages.encode(ALERT, SOURCE, "cfg").value)
    assert alert_messages.decode(json.dumps(body | {"new": 1}).encode()).alert() == ALERT
    del body["limit"]
    with pytest.raises(ContractError, match="alert message: limit: Field required"):
        alert_messages.decode(json.dumps(body).encode())
    with pytest.raises(ContractError, match="alert message: body"):
        alert_messages.decode(b"{")


def test_a_share_beyond_one_is_refused() -> None:
    alert = Alert(**{f: getattr(ALERT, f) for f in ALERT.__slots__} | {"channels": (("flow", 1.5),)})
    with pytest.raises(ContractError, match="alert 0a1b: share"):
        alert_messages.encode(alert, SOURCE, "cfg")
