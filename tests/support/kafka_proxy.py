"""A proxy between Kafka's clients and a real broker that injects errors: cuts, lost answers, error codes.

It reads the frames of the protocol, so that a rule can speak of "the second EndTxn that commits" and not of bytes.
The broker must advertise the proxy (`behind_proxy`); a second listener of it leads around the proxy.
"""

from __future__ import annotations

import contextlib
import io
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from pathlib import Path
from typing import Any
from uuid import UUID

from kafka.protocol.admin import DescribeConfigsRequest, DescribeConfigsResponse
from kafka.protocol.consumer import (
    HeartbeatRequest,
    HeartbeatResponse,
    OffsetFetchRequest,
    OffsetFetchResponse,
)
from kafka.protocol.metadata import (
    FindCoordinatorRequest,
    FindCoordinatorResponse,
    MetadataRequest,
    MetadataResponse,
)
from kafka.protocol.producer import (
    AddOffsetsToTxnRequest,
    AddOffsetsToTxnResponse,
    AddPartitionsToTxnRequest,
    AddPartitionsToTxnResponse,
    EndTxnRequest,
    EndTxnResponse,
    InitProducerIdRequest,
    InitProducerIdResponse,
    ProduceRequest,
    ProduceResponse,
    TxnOffsetCommitRequest,
    TxnOffsetCommitResponse,
)

from deploy.kafka.broker import KafkaCluster, free_ports

EVER = 1_000_000
"""For rules that hold until they are taken away."""


class Api(IntEnum):
    """The requests that rules can speak of."""

    PRODUCE = 0
    METADATA = 3
    OFFSET_FETCH = 9
    FIND_COORDINATOR = 10
    HEARTBEAT = 12
    INIT_PRODUCER_ID = 22
    ADD_PARTITIONS = 24
    ADD_OFFSETS = 25
    END_TXN = 26
    TXN_OFFSET_COMMIT = 28
    DESCRIBE_CONFIGS = 32


CLASSES: dict[Api, tuple[Any, Any]] = {
    Api.PRODUCE: (ProduceRequest, ProduceResponse),
    Api.METADATA: (MetadataRequest, MetadataResponse),
    Api.OFFSET_FETCH: (OffsetFetchRequest, OffsetFetchResponse),
    Api.FIND_COORDINATOR: (FindCoordinatorRequest, FindCoordinatorResponse),
    Api.HEARTBEAT: (HeartbeatRequest, HeartbeatResponse),
    Api.INIT_PRODUCER_ID: (InitProducerIdRequest, InitProducerIdResponse),
    Api.ADD_PARTITIONS: (AddPartitionsToTxnRequest, AddPartitionsToTxnResponse),
    Api.ADD_OFFSETS: (AddOffsetsToTxnRequest, AddOffsetsToTxnResponse),
    Api.END_TXN: (EndTxnRequest, EndTxnResponse),
    Api.TXN_OFFSET_COMMIT: (TxnOffsetCommitRequest, TxnOffsetCommitResponse),
    Api.DESCRIBE_CONFIGS: (DescribeConfigsRequest, DescribeConfigsResponse),
}


class Act(Enum):
    """What is done with a request."""

    ANSWER = "answered with the error instead of the broker"
    REPLACE = "done by the broker, then answered with the error"
    CUT_BEFORE = "connection cut before the broker heard of it"
    CUT_AFTER = "connection cut after the broker has done it"
    SWALLOW = "never forwarded, never answered"
    SILENCE = "done by the broker, never answered"


@dataclass
class Rule:
    """Some requests of one kind meet something.

    Attributes:
        api: which kind.
        act: what happens.
        error: Kafka's error code, for ANSWER and REPLACE.
        first: the first matching request that it happens to, counted from 1.
        times: how many in a row.
        where: which requests of the kind are counted.
        hits: how many it has happened to.
    """

    api: Api
    act: Act
    error: int = 0
    first: int = 1
    times: int = 1
    where: Callable[[Any], bool] = lambda request: True
    hits: int = 0
    _seen: int = field(default=0, repr=False)

    def takes(self, request: Any) -> bool:
        """Count a request; return whether it is one of those."""
        if not self.where(request):
            return False
        self._seen += 1
        if not self.first <= self._seen < self.first + self.times:
            return False
        self.hits += 1
        return True


@dataclass
class _Pending:
    """A request whose answer the client waits for; answers leave in the order of the requests."""

    correlation: int
    api: int
    version: int
    rule: Rule | None
    answer: bytes | None = None


class KafkaProxy:
    """Listens on a port and passes all on to a broker, but for what rules say.

    Args:
        port: to listen on, loopback.
        broker_port: to pass on to.
    """

    def __init__(self, port: int, broker_port: int) -> None:
        """Begin to listen."""
        self.server = f"127.0.0.1:{port}"
        self._broker_port = broker_port
        self._lock = threading.Lock()
        self._rules: list[Rule] = []
        self._lines: set[_Line] = set()
        self._listener = socket.create_server(("127.0.0.1", port))
        self._is_closed = False
        self._thread = threading.Thread(target=self._accept, name="kafka-proxy", daemon=True)
        self._thread.start()

    @contextmanager
    def rules(self, *rules: Rule) -> Iterator[None]:
        """Let rules hold inside the block; the first that takes a request decides."""
        with self._lock:
            self._rules += rules
        try:
            yield
        finally:
            self.forget(*rules)

    def forget(self, *rules: Rule) -> None:
        """Take rules away, and with them the connections that they left without an answer."""
        with self._lock:
            self._rules = [rule for rule in self._rules if not any(rule is gone for gone in rules)]
            lines = list(self._lines)
        for line in lines:
            if line.waits_for(rules):
                line.cut()

    def close(self) -> None:
        """Cut everything."""
        self._is_closed = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)
        for line in list(self._lines):
            line.cut()

    def rule_for(self, api: int, version: int, frame: bytes) -> tuple[Rule, Any] | None:
        """Return the rule that takes a request, with the request decoded; None for most."""
        with self._lock:
            for rule in self._rules:
                if rule.api == api:
                    request = CLASSES[rule.api][0][version].decode(frame, header=True)
                    if rule.takes(request):
                        return rule, request
        return None

    def _accept(self) -> None:
        while not self._is_closed:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                broker = socket.create_connection(("127.0.0.1", self._broker_port), 5)
            except OSError:
                client.close()
                continue
            broker.settimeout(None)
            line = _Line(self, client, broker)
            with self._lock:
                self._lines.add(line)
            line.start()

    def over(self, line: _Line) -> None:
        """Forget a connection that has ended."""
        with self._lock:
            self._lines.discard(line)


class _Line:
    """A client's connection and the one to the broker that serves it."""

    def __init__(self, proxy: KafkaProxy, client: socket.socket, broker: socket.socket) -> None:
        self._proxy, self._client, self._broker = proxy, client, broker
        self._pending: deque[_Pending] = deque()
        self._lock = threading.Lock()
        self._ended = 0
        for one in (client, broker):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def start(self) -> None:
        for pump in (self._requests, self._answers):
            threading.Thread(target=self._run, args=(pump,), name="kafka-proxy-line", daemon=True).start()

    def waits_for(self, rules: tuple[Rule, ...]) -> bool:
        with self._lock:
            return any(one.rule is rule for one in self._pending for rule in rules)

    def cut(self) -> None:
        for one in (self._client, self._broker):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _run(self, pump: Callable[[], None]) -> None:
        try:
            with contextlib.suppress(OSError):
                pump()
        finally:
            self.cut()
            with self._lock:
                self._ended += 1
                is_last = self._ended == 2
            if is_last:
                self._client.close()
                self._broker.close()
                self._proxy.over(self)

    def _requests(self) -> None:
        while (frame := _read(self._client)) is not None:
            api, version, correlation = struct.unpack_from(">hhi", frame)
            taken = self._proxy.rule_for(api, version, frame)
            rule = None if taken is None else taken[0]
            if rule is not None and rule.act is Act.CUT_BEFORE:
                return
            pending = _Pending(correlation, api, version, rule)
            with self._lock:
                self._pending.append(pending)
            if taken is not None and taken[0].act is Act.ANSWER:
                pending.answer = _encoded(_refusal(Api(api), version, taken[1], taken[0].error), correlation)
                self._send_ready()
            elif rule is None or rule.act is not Act.SWALLOW:
                self._broker.sendall(struct.pack(">i", len(frame)) + frame)

    def _answers(self) -> None:
        while (frame := _read(self._broker)) is not None:
            (correlation,) = struct.unpack_from(">i", frame)
            with self._lock:
                pending = next(one for one in self._pending if one.correlation == correlation and one.answer is None)
            act = None if pending.rule is None else pending.rule.act
            if act is Act.CUT_AFTER:
                return
            if act is Act.SILENCE:
                continue
            if act is Act.REPLACE and pending.rule is not None:
                response = _decoded(pending.api, pending.version, frame)
                _set_errors(response, pending.rule.error)
                pending.answer = _encoded(response, correlation)
            else:
                pending.answer = struct.pack(">i", len(frame)) + frame
            self._send_ready()

    def _send_ready(self) -> None:
        with self._lock:
            while self._pending and (answer := self._pending[0].answer) is not None:
                self._pending.popleft()
                self._client.sendall(answer)


def _read(connection: socket.socket) -> bytes | None:
    """Return the next frame without its size, or None at the end."""
    size = _exactly(connection, 4)
    return None if size is None else _exactly(connection, int(struct.unpack(">i", size)[0]))


def _exactly(connection: socket.socket, count: int) -> bytes | None:
    content = bytearray()
    while len(content) < count:
        piece = connection.recv(count - len(content))
        if not piece:
            return None
        content += piece
    return bytes(content)


def _decoded(api: int, version: int, frame: bytes) -> Any:
    """Return an answer without its header, which could not be encoded again."""
    kind, content = CLASSES[Api(api)][1][version], io.BytesIO(frame)
    kind.parse_header(content)
    return kind.decode(content)


def _encoded(response: Any, correlation: int) -> bytes:
    response.with_header(correlation_id=correlation)
    return bytes(response.encode(header=True, framed=True))


def _set_errors(part: Any, error: int) -> None:
    """Set every error code in an answer, however deep, and tell no identity of a topic."""
    for name in part.fields:
        value = getattr(part, name)
        if name.endswith("error_code"):
            setattr(part, name, error)
        elif name == "topic_id":
            setattr(part, name, UUID(int=0))
        elif isinstance(value, list):
            for entry in value:
                if hasattr(entry, "fields"):
                    _set_errors(entry, error)


def _refusal(api: Api, version: int, request: Any, error: int) -> Any:
    """Return the answer of a broker that refuses a request with an error."""
    kind = CLASSES[api][1][version]
    if api is Api.PRODUCE:
        topic, part = kind.TopicProduceResponse, kind.TopicProduceResponse.PartitionProduceResponse
        return kind(
            responses=[
                topic(
                    name=sent.name,
                    partition_responses=[
                        part(index=one.index, error_code=error, base_offset=-1) for one in sent.partition_data
                    ],
                )
                for sent in request.topic_data
            ]
        )
    if api is Api.ADD_PARTITIONS:
        topic = kind.AddPartitionsToTxnTopicResult
        part = topic.AddPartitionsToTxnPartitionResult
        results = [
            topic(
                name=one.name,
                results_by_partition=[part(partition_index=k, partition_error_code=error) for k in one.partitions],
            )
            for one in request.v3_and_below_topics
        ]
        return kind(results_by_topic_v3_and_below=results)
    if api is Api.TXN_OFFSET_COMMIT:
        topic = kind.TxnOffsetCommitResponseTopic
        part = topic.TxnOffsetCommitResponsePartition
        return kind(
            topics=[
                topic(
                    name=one.name,
                    partitions=[part(partition_index=k.partition_index, error_code=error) for k in one.partitions],
                )
                for one in request.topics
            ]
        )
    if api is Api.FIND_COORDINATOR and version >= 4:
        entries = [
            kind.Coordinator(key=key, node_id=-1, host="", port=-1, error_code=error)
            for key in request.coordinator_keys
        ]
        return kind(coordinators=entries)
    if api is Api.OFFSET_FETCH and version >= 8:
        group = kind.OffsetFetchResponseGroup
        return kind(groups=[group(group_id=one.group_id, topics=[], error_code=error) for one in request.groups])
    if api is Api.DESCRIBE_CONFIGS:
        result = kind.DescribeConfigsResult
        return kind(
            results=[
                result(
                    error_code=error,
                    error_message=None,
                    resource_type=one.resource_type,
                    resource_name=one.resource_name,
                    configs=[],
                )
                for one in request.resources
            ]
        )
    if api is Api.INIT_PRODUCER_ID:
        return kind(error_code=error, producer_id=-1, producer_epoch=-1)
    return kind(error_code=error)


@dataclass(frozen=True)
class Proxied:
    """A broker behind a proxy.

    Attributes:
        proxy: the proxy.
        servers: the way through the proxy.
        direct: the way around it.
    """

    proxy: KafkaProxy
    direct: list[str]

    @property
    def servers(self) -> list[str]:
        """The way through the proxy."""
        return [self.proxy.server]


@contextmanager
def behind_proxy(folder: Path) -> Iterator[Proxied]:
    """Start a broker of its own behind a proxy."""
    ports = free_ports()
    front, back, side, control = (next(ports) for _ in range(4))
    options = {
        "listeners": f"PLAINTEXT://127.0.0.1:{back},DIRECT://127.0.0.1:{side},CONTROLLER://127.0.0.1:{control}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{front},DIRECT://127.0.0.1:{side}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,DIRECT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "inter.broker.listener.name": "DIRECT",
        "controller.quorum.voters": f"0@127.0.0.1:{control}",
    }
    with KafkaCluster(folder, options=options):
        proxy = KafkaProxy(front, back)
        try:
            yield Proxied(proxy, [f"127.0.0.1:{side}"])
        finally:
            proxy.close()
