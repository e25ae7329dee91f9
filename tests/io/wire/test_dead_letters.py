"""Dead letters: the original bytes with where from and why."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_ad.core.batches import Reason, Refused
from stream_ad.errors import ContractError
from stream_ad.io.transport import Headers, Partition
from stream_ad.io.wire import dead_letters

SOURCE = Partition("sensor.readings.v1", 4)


@given(
    refused=st.builds(
        Refused,
        offset=st.integers(0, 2**62),
        reason=st.sampled_from(Reason),
        detail=st.text(st.characters(exclude_categories=["Cs"]), max_size=100),
        rows=st.integers(0, 1_000),
        first_event_ns=st.none() | st.integers(0, 2**62),
    ),
    value=st.binary(),
    key=st.none() | st.binary(),
)
def test_a_letter_comes_back(refused: Refused, value: bytes, key: bytes | None) -> None:
    headers: Headers = (("content-type", b"application/json"),)
    record = dead_letters.encode(refused, value, key, headers, SOURCE, 123)
    letter = dead_letters.decode(record.value, record.headers)

    assert record.key == key
    assert letter.is_whole
    assert (letter.source, letter.refused, letter.log_ns) == (SOURCE, refused, 123)
    assert (letter.value, letter.size, letter.headers) == (value, len(value), headers)


@given(
    size=st.integers(0, 300_000),
    key=st.integers(0, 20_000),
    header=st.integers(0, 20_000),
    detail=st.text(st.characters(exclude_categories=["Cs"]), max_size=3_000),
)
def test_a_letter_fits_whatever_the_record_was(size: int, key: int, header: int, detail: str) -> None:
    refused = Refused(7, Reason.TOO_LARGE, detail)
    value = b"x" * size
    record = dead_letters.encode(refused, value, b"k" * key, (("h", b"h" * header),), SOURCE, 1, 65_536)
    total = len(record.value) + len(record.key or b"") + sum(len(n.encode()) + len(v) for n, v in record.headers)
    letter = dead_letters.decode(record.value, record.headers)

    assert total <= 65_536
    assert value.startswith(letter.value)
    assert letter.size == size
    assert letter.digest == hashlib.blake2b(value, digest_size=32).hexdigest()
    assert letter.is_whole or total > 60_000


def test_tools_for_kafka_connect_find_their_headers() -> None:
    record = dead_letters.encode(Refused(9, Reason.BAD_TIME, "ts: what"), b"{}", None, (), SOURCE, 1)
    headers = dict(record.headers)
    assert headers["__connect.errors.topic"] == b"sensor.readings.v1"
    assert headers["__connect.errors.partition"] == b"4"
    assert headers["__connect.errors.offset"] == b"9"
    assert headers["__connect.errors.exception.message"] == b"ts: what"
    assert headers["stream-ad-reason"] == b"bad_time"


def test_a_letter_of_a_letter_names_its_own_source() -> None:
    first = dead_letters.encode(Refused(9, Reason.BAD_TIME, "ts"), b"{}", None, (), SOURCE, 1)
    again = dead_letters.encode(
        Refused(3, Reason.UNDECODABLE, "x"), first.value, None, first.headers, Partition("other", 0), 2
    )
    assert dead_letters.decode(again.value, again.headers).source == Partition("other", 0)


def test_other_records_are_no_letters() -> None:
    with pytest.raises(ContractError, match="dead letter: expected its headers"):
        dead_letters.decode(b"", ())
    with pytest.raises(ContractError, match="at least 65536"):
        dead_letters.encode(Refused(9, Reason.LATE, ""), b"", None, (), SOURCE, 1, max_bytes=10)
