"""Events: strict, each either read or refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_ad.core.batches import Reason, Refused
from stream_ad.io.wire import events as event_messages
from stream_ad.io.wire.events import Event, Severity

GOOD = {"device": "p1", "ts": 1_700_000_000_000, "code": "E42", "severity": "warning", "text": "seal leaks"}


@given(
    device=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=50),
    ms=st.integers(10**12, 2 * 10**12),
    code=st.text("ABC123", min_size=1, max_size=9),
    severity=st.sampled_from(Severity),
    text=st.text(st.characters(exclude_categories=["Cs"]), max_size=50),
)
def test_an_event_comes_back(device: str, ms: int, code: str, severity: Severity, text: str) -> None:
    value = event_messages.encode(device, ms, code, severity, text)
    assert event_messages.decode(value, 1) == Event(device, ms * 1_000_000, code, severity, text)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"device": 1}, Reason.WRONG_TYPE),
        ({"ts": "2026-01-01T00:00:00"}, Reason.BAD_TIME),
        ({"ts": None}, Reason.BAD_TIME),
        ({"code": ""}, Reason.WRONG_TYPE),
        ({"code": "x" * 65}, Reason.WRONG_TYPE),
        ({"severity": "bad"}, Reason.WRONG_TYPE),
        ({"severity": ["info"]}, Reason.WRONG_TYPE),
        ({"text": None}, Reason.WRONG_TYPE),
        ({"text": "x" * 2_001}, Reason.WRONG_TYPE),
    ],
)
def test_a_wrong_field_refuses_the_event(change: dict[str, Any], reason: Reason) -> None:
    found = event_messages.decode(json.dumps(GOOD | change).encode(), 9)
    assert isinstance(found, Refused)
    assert (found.offset, found.reason) == (9, reason)
    assert found.detail.startswith(next(iter(change)))


@pytest.mark.parametrize("name", sorted(GOOD))
def test_every_field_is_required(name: str) -> None:
    value = json.dumps({key: value for key, value in GOOD.items() if key != name}).encode()
    found = event_messages.decode(value, 9)
    assert isinstance(found, Refused)
    assert found.reason is Reason.MISSING_FIELD


@pytest.mark.parametrize("value", [b"", b"{", b"\xff", b"[" * 5_000, b'"x"'])
def test_other_bytes_are_refused(value: bytes) -> None:
    assert isinstance(event_messages.decode(value, 0), Refused)


def test_lone_surrogates_cannot_enter() -> None:
    value = json.dumps(GOOD | {"text": "\ud800", "more": float("nan")}).encode()
    assert isinstance(event_messages.decode(value, 0), Refused)
    assert isinstance(event_messages.decode(json.dumps(GOOD | {"more": float("nan")}).encode(), 0), Event)


@given(value=st.binary(max_size=80))
def test_nothing_raises(value: bytes) -> None:
    assert isinstance(event_messages.decode(value, 0), Refused)
