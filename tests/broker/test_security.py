"""TLS, passwords and rights on a real Apache Kafka: what works, and that what does not is said in one line, in time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from kafka.admin import ACLOperation, ResourceType

from deploy.kafka.broker import first_of_free_ports
from stream_ad.cli.main import main
from stream_ad.errors import AccessError, ConfigError, StreamAdError, UnreachableError
from stream_ad.identity import group
from stream_ad.inspection.checking import findings
from stream_ad.inspection.finding import Finding
from stream_ad.io.kafka import clients as kafka_clients
from stream_ad.io.kafka.clients import Manager
from stream_ad.io.kafka.log import KafkaLog
from stream_ad.io.kafka.rights import Right
from stream_ad.io.kafka.security import Security
from stream_ad.io.transport import Record
from stream_ad.role_table import role as role_of
from stream_ad.service.role import Exit
from tests.crashes.conftest import pump_bundle
from tests.support.e2e import Process, Stream, fleet_records, wait_until
from tests.support.secure_broker import KEY_PASSWORD, PASSWORD, USERS, SecureBroker, secure_broker

__all__ = ["pump_bundle"]

pytestmark = pytest.mark.broker

WAIT_S = 2.0
"""`request_timeout_s` of what shall fail."""
IN_TIME_S = 60.0
"""A deadline, with room for a busy machine: nothing may hang."""


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureBroker]:
    """One broker with a listener for each case."""
    made = secure_broker(tmp_path_factory.mktemp("secure"))
    with made.cluster:
        yield made


def names_no_topic(log: KafkaLog) -> bool:
    """Say whether the broker answers: that there is no such topic."""
    try:
        with pytest.raises(StreamAdError, match="UnknownTopicOrPartition"):
            log.topic(f"none-{uuid4().hex}")
    finally:
        log.close()
    return True


WORKS: dict[str, tuple[str, Callable[[SecureBroker], Security]]] = {
    "TLS": ("tls", lambda b: Security(tls=True, ca_file=b.ca)),
    "SASL_SSL": (
        "scram",
        lambda b: Security(tls=True, ca_file=b.ca, mechanism="SCRAM-SHA-512", username="alice", password=PASSWORD),
    ),
    "mutual TLS": (
        "mutual",
        lambda b: Security(tls=True, ca_file=b.ca, certificate_file=b.client.certificate, key_file=b.client.key),
    ),
    "mutual TLS, one file": (
        "mutual",
        lambda b: Security(tls=True, ca_file=b.ca, certificate_file=b.client.both),
    ),
    "mutual TLS, a sealed key": (
        "mutual",
        lambda b: Security(
            tls=True,
            ca_file=b.ca,
            certificate_file=b.sealed.certificate,
            key_file=b.sealed.key,
            key_password=KEY_PASSWORD,
        ),
    ),
}


@pytest.mark.parametrize("case", WORKS)
def test_it_connects(case: str, broker: SecureBroker) -> None:
    listener, security = WORKS[case]
    assert names_no_topic(KafkaLog(broker.servers(listener), security=security(broker)))


# What does not work, through `stream-ad check`, as a user meets it


def stream_file(folder: Path, servers: list[str], **transport: Any) -> Path:
    """Write settings; no bundle is needed to see what the broker says."""
    lines = ['[stream]\nname = "s"\nbundle = "none"', '[store]\nscores = "scores"\ncheckpoints = "checkpoints"']
    lines += ["[service]\nhttp_port = 0", '[transport]\nkind = "kafka"']
    values = {"servers": servers, "request_timeout_s": WAIT_S, **transport}
    lines += [
        f"{key} = {json.dumps(str(value) if isinstance(value, Path) else value)}" for key, value in values.items()
    ]
    path = folder / "stream.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


def stream_ad(config: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a process."""
    command = [sys.executable, "-m", "stream_ad.cli.main", "-c", str(config), "--log-format", "json", *words]
    surroundings = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(
        command, capture_output=True, text=True, env=surroundings, timeout=IN_TIME_S + 30, check=False
    )


def check(config: Path) -> dict[str, Finding]:
    """Return what `stream-ad check` finds, by line."""
    return {finding.what: finding for finding in findings(config)}


def user(broker: SecureBroker, name: str, password: str = PASSWORD) -> dict[str, Any]:
    """Return the settings of a user."""
    return {"tls": True, "ca_file": broker.ca, "username": name, "password_file": broker.password_file(password)}


REFUSED: dict[str, tuple[str, Callable[[SecureBroker], dict[str, Any]], type[StreamAdError], str]] = {
    "wrong password": (
        "scram",
        lambda b: user(b, "alice", "WRONG-4711"),
        AccessError,
        "the broker refused user 'alice' and its password by SCRAM-SHA-512",
    ),
    "unknown user": ("scram", lambda b: user(b, "nobody"), AccessError, "the broker refused user 'nobody'"),
    "mechanism that the broker lacks": (
        "scram",
        lambda b: {**user(b, "alice"), "sasl_mechanism": "SCRAM-SHA-256"},
        AccessError,
        "does not support the SASL mechanism SCRAM-SHA-256",
    ),
    "no user": (
        "scram",
        lambda b: {"tls": True, "ca_file": b.ca},
        UnreachableError,
        "without transport.username",
    ),
    "a user where none is taken": (
        "tls",
        lambda b: user(b, "alice"),
        AccessError,
        "does not accept user and password on this port",
    ),
    "unknown authority": (
        "tls",
        lambda b: {"tls": True, "ca_file": b.other_ca},
        AccessError,
        "expected a broker certificate signed by an authority in transport.ca_file or trusted by the system",
    ),
    "an authority of the system": ("tls", lambda b: {"tls": True}, AccessError, "found an unknown signer"),
    "expired certificate": (
        "expired",
        lambda b: {"tls": True, "ca_file": b.ca},
        AccessError,
        "expected a valid broker certificate, found an expired one",
    ),
    "certificate for another host": (
        "misnamed",
        lambda b: {"tls": True, "ca_file": b.ca},
        AccessError,
        "for host 'localhost', found one for other names",
    ),
    "no certificate of ours": (
        "mutual",
        lambda b: {"tls": True, "ca_file": b.ca},
        AccessError,
        "the broker refused our client certificate, or that there is none",
    ),
    "certificate of ours by a stranger": (
        "mutual",
        lambda b: {
            "tls": True,
            "ca_file": b.ca,
            "certificate_file": b.stranger.certificate,
            "key_file": b.stranger.key,
        },
        AccessError,
        "the broker refused our client certificate",
    ),
    "plain to a TLS port": ("tls", lambda b: {}, ConfigError, "set transport.tls = true"),
    "sealed key without its password": (
        "mutual",
        lambda b: {
            "tls": True,
            "ca_file": b.ca,
            "certificate_file": b.sealed.certificate,
            "key_file": b.sealed.key,
        },
        ConfigError,
        "a key with a password needs key_password_file",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_is_one_line(
    case: str, broker: SecureBroker, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    listener, settings, kind, expected = REFUSED[case]
    server = broker.servers(listener)[0]
    config = stream_file(tmp_path, [server], **settings(broker))
    code = main(["-c", str(config), "check", "--json"])

    out, err = capfd.readouterr()
    (log,) = [entry for entry in map(json.loads, out.splitlines()) if entry["check"] == "log"]
    assert code == 1
    assert not log["ok"]
    assert expected in log["text"]
    assert len(log["text"].splitlines()) == 1
    assert "Traceback" not in out + err
    if "sealed" not in case:
        assert server in log["text"]
    if kind is not UnreachableError:
        assert "KafkaTimeoutError" not in log["text"]


def test_tls_to_a_plain_port_is_one_line(broker: SecureBroker) -> None:
    security = Security(tls=True, ca_file=broker.ca)
    log = KafkaLog(broker.cluster.servers, security=security, request_timeout_s=WAIT_S)
    with pytest.raises(UnreachableError, match=r"expected TLS, but connections close during the handshake"):
        log.topic("any")


def test_a_running_client_ends_when_a_certificate_no_longer_holds(
    broker: SecureBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client's own way to give up at once would hang its threads."""
    managers: list[Manager] = []

    class Noted(Manager):
        def __init__(self, *given: Any, **configs: Any) -> None:
            super().__init__(*given, **configs)
            managers.append(self)

    monkeypatch.setattr(kafka_clients, "Manager", Noted)
    security = Security(tls=True, ca_file=broker.ca)
    log = KafkaLog(broker.servers("tls"), security=security, request_timeout_s=WAIT_S)
    topic = f"t-{uuid4().hex[:8]}"
    log.ensure_topic(topic, 1)
    log.append(topic, [Record(b"1")])
    other = Security(tls=True, ca_file=broker.other_ca).options()["ssl_context"]
    for manager in managers:
        manager.config["ssl_context"] = other
        for conn in list(manager._conns.values()):
            manager.call_soon(partial(conn.close, ConnectionResetError("cut by the test")))
    with pytest.raises(UnreachableError, match=topic):
        log.append(topic, [Record(b"2")])
    log.close()


@pytest.mark.parametrize(
    ("case", "kind", "code"),
    [
        ("wrong password", "AccessError", Exit.CONFIGURATION),
        ("plain to a TLS port", "ConfigError", Exit.CONFIGURATION),
        ("no user", "UnreachableError", Exit.BROKEN),
    ],
)
def test_a_role_ends_with_the_code_that_the_page_tells(
    case: str, kind: str, code: Exit, broker: SecureBroker, tmp_path: Path, pump_bundle: Path
) -> None:
    listener, settings, _, expected = REFUSED[case]
    config = stream_file(tmp_path, broker.servers(listener), **settings(broker))
    config.write_text(config.read_text().replace('"none"', json.dumps(str(pump_bundle))))
    answer = stream_ad(config, "run", "scorer")

    assert answer.returncode == code
    (failed,) = [line for line in map(json.loads, answer.stderr.splitlines()) if line["event"] == "failed"]
    assert failed["error"] == kind
    assert expected in failed["message"]
    assert "Traceback" not in answer.stderr


# A whole pipe, by a user with the rights of the table and no others


class Secured:
    """A stream whose roles come in as a user; this process comes in by the plain listener."""

    def __init__(self, broker: SecureBroker, folder: Path, bundle: Path, name: str) -> None:
        self.broker, self.name = broker, name
        self.stream = Stream(folder, bundle, broker.cluster.servers, partitions=1)
        stream = self.stream.settings.stream
        own = (stream.scores_topic, stream.alerts_topic, stream.dead_letters_topic, stream.journal_topic)
        for topic in (*own, stream.control_topic):
            self.stream.log.ensure_topic(topic, 1)

    def grant(self, *roles: str, but: tuple[str, ACLOperation] | None = None) -> None:
        """Give the user what the table says for some roles, but for an operation on what a name begins."""
        for role in roles:
            for right in role_of(self.stream.settings, role).rights(self.stream.settings):
                self._grant(right, but)

    def _grant(self, right: Right, but: tuple[str, ACLOperation] | None) -> None:
        operations = {ACLOperation[name] for name in right.operations}
        if but is not None and right.name == but[0]:
            operations.discard(but[1])
        if operations:
            self.broker.grant(self.name, ResourceType[right.resource.value], right.name, *operations)

    def come_in_as_user(self) -> None:
        """Write the settings of the roles."""
        values = {**user(self.broker, self.name), "servers": self.broker.servers("scram"), "request_timeout_s": WAIT_S}
        self.stream.change("transport", **{key: str(v) if isinstance(v, Path) else v for key, v in values.items()})


@pytest.fixture
def secured(broker: SecureBroker, tmp_path: Path, pump_bundle: Path) -> Iterator[Callable[[str], Secured]]:
    """Make streams of users."""
    made: list[Secured] = []

    def make(name: str) -> Secured:
        assert name in USERS
        made.append(Secured(broker, tmp_path / name, pump_bundle, name))
        return made[-1]

    yield make
    for one in made:
        one.stream.close()


def test_a_pipe_works_by_sasl_ssl_with_the_rights_of_the_table_alone(secured: Callable[[str], Secured]) -> None:
    one = secured("bob")
    one.grant("scorer", "archiver")
    stream = one.stream
    stream.send(list(fleet_records(40, 3, rubbish_every=5)))
    one.come_in_as_user()
    port = first_of_free_ports(1, 2)
    stream.change("service", http_port=port, log_level="debug")
    assert {name: one.text for name, one in check(stream.config).items() if not one.good} == {}
    roles = [Process(stream, "scorer"), Process(stream, "archiver")]
    try:
        wait_until(lambda: stream.scored() and stream.archived(), 90, roles[0].expect_alive)
        with urllib.request.urlopen(f"http://127.0.0.1:{port + 1}/metrics", timeout=10) as answer:
            page = answer.read().decode()
        assert [role.stop() for role in roles] == [0, 0]
    finally:
        for role in roles:
            role.end()
    found = stream.prove(at_least_alerts=0)
    assert found.rows
    assert found.letters
    assert "stream_ad_committed_rows_total" in page
    assert not [text for text in (page, *(role.path.read_text() for role in roles)) if PASSWORD in text]


def test_a_pipe_works_by_mutual_tls(broker: SecureBroker, tmp_path: Path, pump_bundle: Path) -> None:
    stream = Stream(
        tmp_path / "mutual",
        pump_bundle,
        broker.servers("mutual"),
        partitions=1,
        transport={
            "tls": True,
            "ca_file": str(broker.ca),
            "certificate_file": str(broker.client.certificate),
            "key_file": str(broker.client.key),
        },
    )
    stream.send(list(fleet_records(40, 3)))
    role = Process(stream, "scorer")
    try:
        wait_until(stream.scored, 90, role.expect_alive)
        assert role.stop() == 0
    finally:
        role.end()
        stream.close()
    assert "Traceback" not in role.path.read_text()


def lacking_case(one: Secured, case: str) -> tuple[str, ACLOperation]:
    """Return the resource and the operation that a case takes away."""
    settings = one.stream.settings
    return {
        "carol": (settings.stream.readings_topic, ACLOperation.READ),
        "dave": (settings.stream.scores_topic, ACLOperation.WRITE),
        "erin": (group(settings, "scorer"), ACLOperation.READ),
        "frank": (f"{group(settings, 'scorer')}.", ACLOperation.WRITE),
        "reader": (settings.stream.alerts_topic, ACLOperation.DESCRIBE_CONFIGS),
    }[case]


@pytest.mark.parametrize("case", ["carol", "dave", "erin", "frank", "reader"])
def test_a_right_that_lacks_is_named(case: str, secured: Callable[[str], Secured]) -> None:
    one = secured(case)
    name, operation = lacking_case(one, case)
    one.grant("scorer", but=(name, operation))
    one.stream.send(list(fleet_records(40, 3)))
    one.come_in_as_user()
    answer = stream_ad(one.stream.config, "run", "scorer")

    assert answer.returncode == Exit.CONFIGURATION
    (failed,) = [line for line in map(json.loads, answer.stderr.splitlines()) if line["event"] == "failed"]
    assert failed["error"] == "RightsError"
    assert name in failed["message"]
    assert "grants too few rights" in failed["message"]
    assert "Traceback" not in answer.stderr

    told = check(one.stream.config)["rights"]
    assert not told.good
    lines = [line for line in told.text.splitlines() if name in line]
    assert any("not allowed" in line and operation.name in line for line in lines), told.text


def test_without_the_right_to_alter_topics_a_stream_goes_on_when_partitions_are_added(
    secured: Callable[[str], Secured],
) -> None:
    one = secured("bob")
    one.grant("scorer", "archiver")
    stream = one.stream
    stream.send(list(fleet_records(40, 3)))
    one.come_in_as_user()
    role = Process(stream, "scorer")
    try:
        wait_until(stream.scored, 90, role.expect_alive)
        stream.log.extend_topic(stream.settings.stream.readings_topic, 2)
        role.await_event("partition_not_taken")
        assert "`stream-ad check --create`" in check(stream.config)["topics"].text
        for topic in (stream.settings.stream.scores_topic, stream.settings.stream.journal_topic):
            stream.log.extend_topic(topic, 2)
        role.await_event("outputs_extended")
        assert role.stop() == 0
    finally:
        role.end()
