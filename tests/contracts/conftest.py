"""The transports that the contract suite runs on."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest

from stream_ad.io.local.log import LocalLog
from stream_ad.io.transport import Partition, Transport

if TYPE_CHECKING:
    from stream_ad.io.kafka.log import KafkaLog


@dataclass(frozen=True, slots=True)
class Backend:
    """How to open one kind of transport, also from another process.

    Attributes:
        kind: which one.
        address: the file of the local log, or the broker's servers with commas.
        session_timeout_s: a stopped member loses its partitions after this.
        deadline_s: how long a test waits for what must come.
    """

    kind: Literal["local", "kafka"]
    address: str
    session_timeout_s: float
    deadline_s: float

    def open(self) -> LocalLog | KafkaLog:
        if self.kind == "local":
            return LocalLog(Path(self.address), session_timeout_s=self.session_timeout_s, timeout_s=5.0)
        from stream_ad.io.kafka.log import KafkaLog

        return KafkaLog(self.address.split(","), session_timeout_s=self.session_timeout_s, request_timeout_s=5.0)

    def unreachable(self) -> Backend:
        """The same kind where nothing answers: a file below a file, a port without a server."""
        nowhere = f"{__file__}/log.sqlite" if self.kind == "local" else "127.0.0.1:1"
        return replace(self, address=nowhere)

    def trim(self, partition: Partition, before_offset: int) -> None:
        """Do what retention does."""
        log = self.open()
        try:
            log.trim(partition, before_offset)
        finally:
            log.close()


@pytest.fixture(params=["local", pytest.param("kafka", marks=pytest.mark.broker)])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    """A running log, of each kind in turn."""
    if request.param == "local":
        return Backend("local", str(tmp_path / "log.sqlite"), session_timeout_s=2.0, deadline_s=20.0)
    servers: list[str] = request.getfixturevalue("kafka_broker")
    return Backend("kafka", ",".join(servers), session_timeout_s=6.0, deadline_s=60.0)


@pytest.fixture
def transport_factory(backend: Backend) -> Iterator[Callable[[], Transport]]:
    """Opens another transport on the same log, as another process would; all are closed after the test."""
    with ExitStack() as stack:

        def open_one() -> Transport:
            transport = backend.open()
            stack.callback(transport.close)
            return transport

        yield open_one


@pytest.fixture
def transport(transport_factory: Callable[[], Transport]) -> Transport:
    """One open transport."""
    return transport_factory()


@pytest.fixture
def name() -> str:
    """A topic (and group) name that no other test uses."""
    return f"contract-{uuid.uuid4().hex[:12]}"
