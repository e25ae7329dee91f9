"""kafka-python's clients with the settings that hold for all of them, closed where they fail to open."""

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

TURNED_AWAY = 3
"""Connections in a row that end at the password: a broker that stops ends one or two there."""
PROBE_S = 2.0
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
"""Client options that cannot be overridden: exactly-once delivery depends on them."""


class _LastWords:
    """Hands on what was received before an end of the connection: the client would drop a refusal with its reason."""

    def _sock_recv(self) -> tuple[bytes, Exception | None]:
        data, error = super()._sock_recv()  # type: ignore[misc]  # of the client's transport beside us
        return data, None if data else error  # which the next read meets again


class PlainTransport(_LastWords, KafkaTCPTransport):  # type: ignore[misc]  # kafka-python is untyped
    """A connection as it is."""


class TlsTransport(_LastWords, KafkaSSLTransport):  # type: ignore[misc]  # kafka-python is untyped
    """A connection with TLS."""


class Manager(KafkaConnectionManager):  # type: ignore[misc]  # kafka-python is untyped
    """Tells what no further try can mend, where the client would try until its time is over.

    That is a certificate that does not hold, or a broker that refuses ours or our password. Several hang-ups in a row
    at the password count as an answer.

    Attributes:
        refusal: the last of these.
        was_cut_off: a connection ended during the TLS handshake.
        was_hung_up: a connection that was ready ended before the first answer that the client needs.
    """

    refusal: Refusal | None = None
    was_cut_off = False
    was_hung_up = False
    _turned_away = 0

    async def _build_transport(self, node: Any, timeout_at: float | None = None) -> Any:
        """Connect as the client does, and close the socket of a handshake that fails, which the client leaves open."""
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
            self._turned_away = 0
            conn.close_future.add_errback(self._note_hang_up)
            return
        error = conn.init_future.exception
        mechanism = self.config["sasl_mechanism"]
        if isinstance(error, kafka_errors.SaslAuthenticationFailedError):
            said = error.args[0] if error.args else "no reason given"
            user = self.config["sasl_plain_username"]
            self._refuse(node, f"the broker refused the user {user!r} and its password by {mechanism}: {said}")
        elif isinstance(error, kafka_errors.UnsupportedSaslMechanismError):
            self._refuse(node, f"the broker takes no SASL mechanism {mechanism} at this port")
        elif isinstance(error, kafka_errors.IllegalSaslStateError):
            self._refuse(node, "the broker takes no user and password at this port")
        elif conn.broker_version_data is not None and conn.sasl_enabled and "disconnected" in str(error):
            self._turned_away += 1
            if self._turned_away >= TURNED_AWAY:
                self._refuse(node, "the broker ended the connection when it saw the credentials")
        else:
            self._judge(node, error)

    def _note_hang_up(self, error: Exception) -> None:
        self.was_hung_up |= not self.bootstrapped

    def _judge(self, node: Any, error: Exception) -> None:
        """Look for a TLS error behind one of the client's."""
        for cause in ssl_errors(error):
            if text := fault(cause, node.host):
                self._refuse(node, text)
            else:
                self.was_cut_off = True

    def _refuse(self, node: Any, text: str) -> None:
        self.refusal = Refusal(f"{node.host}:{node.port}: {text}")
        # Once it has started, the client's threads would hang on it: it tries on, our deadlines end the role, and the
        # next start tells the reason.
        if not self.bootstrapped:
            self._auth_failures[node.node_id] = self.refusal


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
        security: TLS and who we are; None for neither.

    Raises:
        ConfigError: the `crc32c` package is missing, a client option is unknown or cannot be overridden, or a
            certificate cannot be used.
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
            # kafka-python would fall back to checksums in Python, twenty times slower, without a word.
            raise ConfigError("the package `crc32c` is missing: install `kafka-python[crc32c]`") from error
        self.servers = tuple(servers)
        self.where = ",".join(servers)
        self._request_timeout_s = request_timeout_s
        self._max_record_bytes = max_record_bytes
        self._options = _checked(options)
        self._security = security or Security()
        self._security.options()

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
            # Read anew: certificates are replaced while processes run.
            **self._security.options(),
            **self._options,
        }
        with translating(self.where):
            try:
                return kind(**{key: value for key, value in configs.items() if key in kind.DEFAULT_CONFIG})
            except BaseException as error:
                # The client leaves its thread and sockets behind when its constructor fails.
                for client in made:
                    client.close()
                if made and isinstance(error, kafka_errors.KafkaTimeoutError):
                    self._explain(made[0]._manager, error)
                raise

    def _explain(self, manager: Manager, error: Exception) -> None:
        """Raise for a reason that the client's time-out leaves unsaid; return where there is none to tell.

        Raises:
            AccessError, ConfigError, UnreachableError.
        """
        if manager.refusal is not None:
            raise translated(manager.refusal, self.where) from error
        if manager._turned_away:
            raise AccessError(f"{self.where}: the broker ended the connection when it saw the credentials") from error
        if manager.was_cut_off:
            raise UnreachableError(
                f"{self.where}: expected TLS, found connections that end during the handshake; is it the port without "
                "(transport.tls = false), or is the broker starting?"
            ) from error
        if manager.was_hung_up:
            user = "with" if manager.config["security_protocol"].startswith("SASL") else "without"
            raise UnreachableError(
                f"{self.where}: found connections that end at the first request, {user} transport.username: is it the "
                "port for that, or is the broker starting?"
            ) from error
        if not manager.ssl_enabled and (server := self._speaks_tls()):
            raise ConfigError(
                f"{server}: expected a port without TLS, found one with it: set transport.tls = true"
            ) from error

    def _speaks_tls(self) -> str | None:
        """Return a server that answers a TLS handshake, or None; no certificate is checked and nothing is sent."""
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
            raise ConfigError(f"client_options: {name} cannot be overridden: exactly-once delivery depends on it")
        if name not in known:
            raise ConfigError(f"client_options: kafka-python has no option {name}")
    return dict(options)
