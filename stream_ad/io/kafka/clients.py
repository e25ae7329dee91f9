"""Opens kafka-python's clients with shared settings, and cleans up after clients that fail to open."""

from __future__ import annotations

import importlib
import socket
import ssl
import time
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka import errors as kafka_errors
from kafka.net.compat import KafkaNetClient
from kafka.net.inet import create_connection
from kafka.net.manager import KafkaConnectionManager
from kafka.net.selector import NetworkSelector
from kafka.net.transport import KafkaSSLTransport, KafkaTCPTransport

from stream_ad.errors import AccessError, ConfigError, UnreachableError
from stream_ad.io.kafka.errors import Refusal, translated, translating
from stream_ad.io.kafka.security import Security, fault, ssl_errors

Client = TypeVar("Client", KafkaAdminClient, KafkaConsumer, KafkaProducer)
Option = str | int | float | bool

SASL_DISCONNECTS = 3
"""Consecutive connections closed during SASL that count as a refusal; a broker that stops closes one or two."""
PROBE_S = 2.0
NOT_READY_S = 0.02
"""The producer's thread would otherwise retry a dead broker thousands of times per second."""
PATIENCE_S = 0.5
"""Time without an answer after which the leader may have changed; doubles with each retry."""

FIXED_OPTIONS = frozenset(
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
"""Client options that cannot be overridden: exactly-once delivery depends on them."""


class _KeepsLastData:
    """Delivers data received before a connection closed: the client would drop a refusal with its reason."""

    def _sock_recv(self) -> tuple[bytes, Exception | None]:
        data, error = super()._sock_recv()  # type: ignore[misc]  # of the client's transport mixed in
        return data, None if data else error  # the next read raises it


class PlainTransport(_KeepsLastData, KafkaTCPTransport):  # type: ignore[misc]  # kafka-python is untyped
    """A plaintext connection."""


class TlsTransport(_KeepsLastData, KafkaSSLTransport):  # type: ignore[misc]  # kafka-python is untyped
    """A TLS connection."""


class Manager(KafkaConnectionManager):  # type: ignore[misc]  # kafka-python is untyped
    """Reports errors that retries cannot fix, for which the client would retry until its timeout.

    These are an invalid broker certificate, and a broker that refuses our certificate or password. Several consecutive
    disconnects during SASL count as a refusal.

    Attributes:
        refusal: the last such error.
        was_cut_off: a connection closed during the TLS handshake.
        was_hung_up: an established connection closed before the first answer that the client needs.
    """

    refusal: Refusal | None = None
    was_cut_off = False
    was_hung_up = False
    _sasl_disconnects = 0

    async def _build_transport(self, node: Any, timeout_at: float | None = None) -> Any:
        """Connect as the client does, but close the socket of a failed handshake, which the client leaks."""
        options, proxy = self.config["socket_options"], self.config["proxy_url"]
        sock = await create_connection(self._net, node.host, node.port, options, proxy_url=proxy, timeout_at=timeout_at)
        if not self.ssl_enabled:
            return PlainTransport(self._net, sock, host=node.host)
        tls = {key: value for key, value in self.config.items() if key.startswith("ssl_")}
        transport = TlsTransport(self._net, sock, host=node.host, **tls)
        try:
            await transport.handshake()
        except OSError as error:
            transport.close()
            self._judge(node, error)
            raise kafka_errors.KafkaConnectionError(f"Handshake failed: {error}") from error
        return transport

    async def _connect(self, node: Any, conn: Any, **options: Any) -> None:
        await super()._connect(node, conn, **options)
        if not conn.init_future.is_done or not conn.init_future.failed():
            self._sasl_disconnects = 0
            conn.close_future.add_errback(self._note_hang_up)
            return
        error = conn.init_future.exception
        mechanism = self.config["sasl_mechanism"]
        if isinstance(error, kafka_errors.SaslAuthenticationFailedError):
            reason = error.args[0] if error.args else "no reason given"
            user = self.config["sasl_plain_username"]
            self._refuse(node, f"the broker refused user {user!r} and its password by {mechanism}: {reason}")
        elif isinstance(error, kafka_errors.UnsupportedSaslMechanismError):
            self._refuse(node, f"the broker does not support the SASL mechanism {mechanism} on this port")
        elif isinstance(error, kafka_errors.IllegalSaslStateError):
            self._refuse(node, "the broker does not accept user and password on this port")
        elif conn.broker_version_data is not None and conn.sasl_enabled and "disconnected" in str(error):
            self._sasl_disconnects += 1
            if self._sasl_disconnects >= SASL_DISCONNECTS:
                self._refuse(node, "the broker closed the connection on receiving the credentials")
        else:
            self._judge(node, error)

    def _note_hang_up(self, error: Exception) -> None:
        self.was_hung_up |= not self.bootstrapped

    def _judge(self, node: Any, error: Exception) -> None:
        """Look for a TLS error behind a client error."""
        for cause in ssl_errors(error):
            if text := fault(cause, node.host):
                self._refuse(node, text)
            else:
                self.was_cut_off = True

    def _refuse(self, node: Any, text: str) -> None:
        self.refusal = Refusal(f"{node.host}:{node.port}: {text}")
        # After bootstrap, an error here would hang the client's threads. It keeps retrying, our deadlines end the
        # role, and the next start reports the reason.
        if not self.bootstrapped:
            self._auth_failures[node.node_id] = self.refusal


class NetClient(KafkaNetClient):  # type: ignore[misc]  # kafka-python is untyped
    """Reports a broker that is not ready instead of raising.

    The producer's thread would take such an error for a failed coordinator lookup and drop the transactional request
    that it was about to send; the caller would then wait forever. Commits hung this way when the coordinator's broker
    died.
    """

    def await_ready(self, node_id: Any, timeout_ms: float = 30_000) -> bool:
        """Return whether the broker is ready; waits for a connection that is being established."""
        try:
            return bool(super().await_ready(node_id, timeout_ms))
        except kafka_errors.KafkaConnectionError:
            time.sleep(NOT_READY_S)
            return False


class KafkaClients:
    """Opens clients of one cluster.

    Args:
        servers: `host:port` of one or more brokers.
        request_timeout_s: timeout of a broker's answer.
        max_record_bytes: largest record sent.
        options: kafka-python's own options.
        security: TLS and SASL; None for neither.

    Raises:
        ConfigError: the `crc32c` package is missing, a client option is unknown or cannot be overridden, or a
            certificate is unusable.
    """

    def __init__(
        self,
        servers: Sequence[str],
        request_timeout_s: float,
        max_record_bytes: int,
        options: Mapping[str, Option],
        security: Security | None = None,
    ) -> None:
        try:
            importlib.import_module("crc32c")
        except ImportError as error:
            # kafka-python would silently fall back to checksums in Python, twenty times slower.
            raise ConfigError("the package `crc32c` is missing: install `kafka-python[crc32c]`") from error
        self.servers = tuple(servers)
        self.where = ",".join(servers)
        self._request_timeout_s = request_timeout_s
        self._max_record_bytes = max_record_bytes
        self._options = _checked(options)
        self._security = security or Security()
        self._security.options()

    def open_consumer(self, group: str | None, **own: Any) -> KafkaConsumer:
        """Connect a consumer that reads only committed records and never resets offsets."""
        return self._connect(
            KafkaConsumer,
            {
                "group_id": group,
                "isolation_level": "read_committed",
                "auto_offset_reset": "none",
                "enable_auto_commit": False,
                "allow_auto_create_topics": False,
                # Bounds the memory for unread records.
                "fetch_max_bytes": 8 * 1024 * 1024,
                # About 500 series per poll: fewer cost more each, more exceed the processor's caches.
                "max_partition_fetch_bytes": 2 * 1024 * 1024,
                "retry_backoff_ms": 20,
                **own,
            },
        )

    def open_producer(self, delivery_timeout_s: float, **own: Any) -> KafkaProducer:
        """Connect an idempotent producer; a batch with a sequence number unknown to the broker fails."""
        producer = self._connect(
            KafkaProducer,
            {
                "acks": "all",
                "enable_idempotence": True,
                "allow_auto_create_topics": False,
                # The client's estimate includes key, headers and framing.
                "max_request_size": self._max_record_bytes,
                "batch_size": 256 * 1024,
                "linger_ms": 5,
                "max_block_ms": round(1_000 * self._request_timeout_s),
                "delivery_timeout_ms": round(1_000 * delivery_timeout_s) + 1_000,
                **own,
            },
        )
        # The client would restart the partition's sequence. The broker would then treat new records as duplicates and
        # acknowledge them without writing them.
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
            # Reread on each connect: certificates are replaced while processes run.
            **self._security.options(),
            **self._options,
        }
        with translating(self.where):
            try:
                return kind(**{key: value for key, value in configs.items() if key in kind.DEFAULT_CONFIG})
            except BaseException as error:
                # A client whose constructor fails leaks its thread and sockets.
                for client in made:
                    client.close()
                if made and isinstance(error, kafka_errors.KafkaTimeoutError):
                    self._explain(made[0]._manager, error)
                raise

    def _explain(self, manager: Manager, error: Exception) -> None:
        """Raise an error with the reason behind a client's timeout; return if the reason is unknown.

        Raises:
            AccessError, ConfigError, UnreachableError.
        """
        if manager.refusal is not None:
            raise translated(manager.refusal, self.where) from error
        if manager._sasl_disconnects:
            raise AccessError(f"{self.where}: the broker closed the connection on receiving the credentials") from error
        if manager.was_cut_off:
            raise UnreachableError(
                f"{self.where}: expected TLS, but connections close during the handshake: check whether this is the "
                "plaintext port (then set transport.tls = false) and whether the broker is starting"
            ) from error
        if manager.was_hung_up:
            user = "with" if manager.config["security_protocol"].startswith("SASL") else "without"
            raise UnreachableError(
                f"{self.where}: connections close at the first request, {user} transport.username: check whether the "
                "port expects that, and whether the broker is starting"
            ) from error
        if not manager.ssl_enabled and (server := self._speaks_tls()):
            raise ConfigError(
                f"{server}: expected a port without TLS, found one with TLS; set transport.tls = true"
            ) from error

    def _speaks_tls(self) -> str | None:
        """Return a server that answers a TLS handshake, or None; verifies no certificate and sends nothing."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        for server in self.servers:
            host, _, port = server.rpartition(":")
            try:
                with (
                    socket.create_connection((host.strip("[]"), int(port)), PROBE_S) as plain,
                    context.wrap_socket(plain, server_hostname=host.strip("[]")),
                ):
                    return server
            except (OSError, ValueError):
                continue
        return None

    def _reach(self) -> None:
        """Wait until a server accepts connections: kafka-python leaks a socket per failed attempt."""
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
    """Return a partition's first offset and the offset after its last record, as visible to the consumer.

    When a broker answers that it no longer leads the partition, kafka-python retries it in a busy loop, without looking
    for the new leader, until its metadata are five minutes old. Short timeouts with a metadata refresh avoid this.

    Raises:
        kafka.errors.KafkaError: no answer within `timeout_s`, or a permanent error.
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
        if name in FIXED_OPTIONS:
            raise ConfigError(f"client_options: {name} cannot be overridden: exactly-once delivery depends on it")
        if name not in known:
            raise ConfigError(f"client_options: kafka-python has no option {name}")
    return dict(options)
