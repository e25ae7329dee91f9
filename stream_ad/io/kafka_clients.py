"""kafka-python's clients with the settings that hold for all of them, closed where they fail to open."""

from __future__ import annotations

import importlib
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka import errors as kafka_errors
from kafka.net.compat import KafkaNetClient
from kafka.net.manager import KafkaConnectionManager
from kafka.net.selector import NetworkSelector

from stream_ad.errors import AccessError, ConfigError, UnreachableError
from stream_ad.io.kafka_errors import translating

Client = TypeVar("Client", KafkaAdminClient, KafkaConsumer, KafkaProducer)
Option = str | int | float | bool

NOT_READY_S = 0.02
"""The producer's thread asks again at once, thousands of times a second, whether a dead broker has come back."""
PATIENCE_S = 0.5
"""Without an answer for so long the leader may be another one by now; doubles with each try."""

DECIDED_HERE = frozenset(
    {
        "acks",
        "allow_auto_create_topics",
        "auto_offset_reset",
        "bootstrap_servers",
        "delivery_timeout_ms",
        "enable_auto_commit",
        "enable_idempotence",
        "group_id",
        "group_instance_id",
        "isolation_level",
        "kafka_client",
        "key_deserializer",
        "key_serializer",
        "partition_assignment_strategy",
        "partitioner",
        "session_timeout_ms",
        "transaction_timeout_ms",
        "transactional_id",
        "value_deserializer",
        "value_serializer",
    }
)
"""Client options that exactly-once hangs on."""


class Manager(KafkaConnectionManager):  # type: ignore[misc]  # kafka-python is untyped
    """Notes when a broker ends a connection over its credentials.

    A broker that refuses them says so and hangs up; the client drops an answer that arrives together with the hang-up,
    and tries again until its time is over.
    """

    has_been_turned_away = False

    async def _connect(self, node: Any, conn: Any, **options: Any) -> None:
        await super()._connect(node, conn, **options)
        saw_versions = conn.broker_version_data is not None
        if saw_versions and conn.sasl_enabled and conn.init_future.is_done and conn.init_future.failed():
            self.has_been_turned_away = "disconnected" in str(conn.init_future.exception)


class NetClient(KafkaNetClient):  # type: ignore[misc]  # kafka-python is untyped
    """Says that a broker is not ready instead of raising it.

    The producer's thread would take such an error for a lost search: it forgets the transactional request that it was
    about to send, and whoever waits for its answer waits for ever. That is what happened to commits when the
    coordinator's broker died.
    """

    def await_ready(self, node_id: Any, timeout_ms: float = 30_000) -> bool:
        """Return whether the broker can be asked now; waits for a connection that is being made."""
        try:
            return bool(super().await_ready(node_id, timeout_ms))
        except kafka_errors.KafkaConnectionError:
            time.sleep(NOT_READY_S)
            return False


class KafkaClients:
    """Opens clients of one cluster.

    Args:
        servers: `host:port` of one or more brokers.
        request_timeout_s: how long a broker may take to answer.
        max_record_bytes: largest record sent.
        options: kafka-python's own.

    Raises:
        ConfigError: the `crc32c` package is missing, or a client option is unknown or not to be chosen.
    """

    def __init__(
        self, servers: Sequence[str], request_timeout_s: float, max_record_bytes: int, options: Mapping[str, Option]
    ) -> None:
        try:
            importlib.import_module("crc32c")
        except ImportError as error:
            # kafka-python would fall back to checksums in Python, twenty times slower, without a word.
            raise ConfigError("the package `crc32c` is missing: install `kafka-python[crc32c]`") from error
        self.servers = tuple(servers)
        self.where = ",".join(servers)
        self._request_timeout_s = request_timeout_s
        self._max_record_bytes = max_record_bytes
        self._options = _checked(options)

    def open_consumer(self, group: str | None, **own: Any) -> KafkaConsumer:
        """Connect a consumer that reads committed records only and resets no offset by itself."""
        return self._connect(
            KafkaConsumer,
            {
                "group_id": group,
                "isolation_level": "read_committed",
                "auto_offset_reset": "none",
                "enable_auto_commit": False,
                "allow_auto_create_topics": False,
                # Bounds what waits unread in memory.
                "fetch_max_bytes": 8 * 1024 * 1024,
                # Half a thousand series a poll: with fewer each costs more, with more their arrays leave the caches.
                "max_partition_fetch_bytes": 2 * 1024 * 1024,
                "retry_backoff_ms": 20,
                **own,
            },
        )

    def open_producer(self, delivery_timeout_s: float, **own: Any) -> KafkaProducer:
        """Connect an idempotent producer; a batch whose sequence the broker does not know fails."""
        producer = self._connect(
            KafkaProducer,
            {
                "acks": "all",
                "enable_idempotence": True,
                "allow_auto_create_topics": False,
                # The estimate counts key, headers and framing too.
                "max_request_size": self._max_record_bytes,
                "batch_size": 256 * 1024,
                "linger_ms": 5,
                "max_block_ms": round(1_000 * self._request_timeout_s),
                "delivery_timeout_ms": round(1_000 * delivery_timeout_s) + 1_000,
                **own,
            },
        )
        # The client would begin the partition's sequence anew: the broker then takes the next records for repeated
        # ones and acknowledges them unwritten.
        producer._sender._is_retention_based_unknown_producer_id = _never
        return producer

    def open_admin(self) -> KafkaAdminClient:
        """Connect an admin client."""
        return self._connect(KafkaAdminClient, {})

    def _connect(self, kind: type[Client], own: dict[str, Any]) -> Client:
        self._reach()
        made: list[KafkaNetClient] = []

        def kafka_client(**configs: Any) -> KafkaNetClient:
            net = NetworkSelector(**configs)
            made.append(NetClient(net=net, manager=Manager(net, **configs)))
            return made[0]

        timeout_ms = round(1_000 * self._request_timeout_s)
        configs: dict[str, Any] = {
            "bootstrap_servers": list(self.servers),
            "client_id": "stream-ad",
            "bootstrap_timeout_ms": timeout_ms,
            "request_timeout_ms": timeout_ms,
            "reconnect_backoff_max_ms": 1_000,
            "metrics_enabled": False,
            "kafka_client": kafka_client,
            **own,
            **self._options,
        }
        with translating(self.where):
            try:
                return kind(**{key: value for key, value in configs.items() if key in kind.DEFAULT_CONFIG})
            except BaseException as error:
                # The client leaves its thread and sockets behind when its constructor fails.
                for client in made:
                    client.close()
                if made and made[0]._manager.has_been_turned_away:
                    raise AccessError(
                        f"{self.where}: the broker ended the connection when it saw the credentials"
                    ) from error
                raise

    def _reach(self) -> None:
        """See that some server takes connections: kafka-python leaks a socket at each try at one that does not."""
        if self._options.get("proxy_url"):
            return
        deadline = time.monotonic() + self._request_timeout_s
        while True:
            for server in self.servers:
                host, _, port = server.rpartition(":")
                try:
                    with socket.create_connection((host.strip("[]"), int(port)), self._request_timeout_s):
                        return
                except OSError as error:
                    failure = error
                except ValueError as error:
                    raise ConfigError(f"servers: expected host:port, found {server!r}") from error
            if time.monotonic() > deadline:
                raise UnreachableError(f"{self.where}: {failure}") from failure
            time.sleep(0.2)


def ask_offsets(consumer: KafkaConsumer, tp: TopicPartition, timeout_s: float) -> tuple[int, int]:
    """Return a partition's first offset and the one after its last record, as far as the consumer may see it.

    A broker that leads the partition no more says so; kafka-python then asks it again and again, without a pause and
    without looking for the new leader, until its metadata are five minutes old.

    Raises:
        kafka.errors.KafkaError: no answer within `timeout_s`, or one that another try does not change.
    """
    deadline = time.monotonic() + timeout_s
    patience_s = PATIENCE_S
    while True:
        left_s = deadline - time.monotonic()
        timeout_ms = 1_000 * max(0.0, min(patience_s, left_s))
        try:
            return consumer.beginning_offsets([tp], timeout_ms)[tp], consumer.end_offsets([tp], timeout_ms)[tp]
        except kafka_errors.KafkaTimeoutError:
            if left_s <= patience_s:
                raise
            patience_s *= 2
            consumer._manager.cluster.request_update()


def _never(*_: object) -> bool:
    return False


def _checked(options: Mapping[str, Option]) -> dict[str, Option]:
    known = {*KafkaConsumer.DEFAULT_CONFIG, *KafkaProducer.DEFAULT_CONFIG, *KafkaAdminClient.DEFAULT_CONFIG}
    for name in options:
        if name in DECIDED_HERE:
            raise ConfigError(f"client_options: {name} is not to be chosen, exactly-once hangs on it")
        if name not in known:
            raise ConfigError(f"client_options: kafka-python has no option {name}")
    return dict(options)
