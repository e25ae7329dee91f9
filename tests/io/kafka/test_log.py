"""What KafkaLog refuses before it needs a broker."""

from __future__ import annotations

import sys

import pytest

from stream_ad.errors import ConfigError, UnreachableError
from stream_ad.io.kafka.log import KafkaLog


def test_without_fast_checksums_it_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "crc32c", None)
    with pytest.raises(ConfigError, match=r"kafka-python\[crc32c\]"):
        KafkaLog(["127.0.0.1:9092"])


@pytest.mark.parametrize("option", ["isolation_level", "acks", "enable_auto_commit", "group_instance_id"])
def test_what_exactly_once_hangs_on_is_not_to_be_chosen(option: str) -> None:
    with pytest.raises(ConfigError, match=option):
        KafkaLog(["127.0.0.1:9092"], client_options={option: "x"})


def test_an_unknown_client_option_is_refused() -> None:
    with pytest.raises(ConfigError, match="security_protokoll"):
        KafkaLog(["127.0.0.1:9092"], client_options={"security_protokoll": "SSL"})


def test_a_server_without_a_port_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected host:port"):
        KafkaLog(["localhost"]).topic("t")


def test_nobody_there_is_said_with_the_servers() -> None:
    with pytest.raises(UnreachableError, match=r"127\.0\.0\.1:1,127\.0\.0\.1:2"):
        KafkaLog(["127.0.0.1:1", "127.0.0.1:2"], request_timeout_s=1.0).topic("t")
