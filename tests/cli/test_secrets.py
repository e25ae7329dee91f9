"""A secret of the settings is in nothing that comes out: neither where all is well nor where something fails."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import time
import traceback
from pathlib import Path

import psutil
import pytest

from stream_ad.assembly import kafka_security, open_transport
from stream_ad.config import KafkaTransport, Settings, load
from stream_ad.errors import ConfigError
from stream_ad.identity import config_digest
from stream_ad.inspection.checking import findings
from stream_ad.io.kafka.clients import KafkaClients
from tests.support import certificates

SECRET = "Xyzzy-plugh-6502"
PASSWORD = {"STREAM_AD__TRANSPORT__PASSWORD": SECRET}
BASE = """
[stream]
name = "s"
bundle = "none"
[store]
scores = "scores"
checkpoints = "checkpoints"
[service]
http_port = 0
log_level = "debug"
[transport]
kind = "kafka"
servers = ["127.0.0.1:1"]
request_timeout_s = 0.5
"""


def write(folder: Path, more: str = 'username = "u"') -> Path:
    path = folder / "stream.toml"
    path.write_text(BASE + more + "\n")
    return path


def secret_file(folder: Path, mode: int = 0o600, text: str = SECRET + "\n") -> Path:
    path = folder / "secret"
    path.write_text(text)
    path.chmod(mode)
    return path


def run(config: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "stream_ad.cli.main", "-c", str(config), *words]
    surroundings = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(command, env=surroundings, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.process
@pytest.mark.parametrize(
    "words", [("check",), ("check", "--json"), ("run", "scorer"), ("run", "archiver"), ("alerts",)]
)
def test_no_output_has_it(words: tuple[str, ...], tmp_path: Path) -> None:
    answer = run(write(tmp_path), *words, **PASSWORD)
    assert answer.returncode != 0  # nobody listens there
    assert SECRET not in answer.stdout + answer.stderr
    assert "127.0.0.1:1" in answer.stdout + answer.stderr or "none" in answer.stderr


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ("", "a password needs username"),
        ('username = "u"\npassword_file = "x"', "found both"),
        ('username = "u"\nsasl_mechanism = "PLAIN"', "needs tls = true"),
        ('username = "u"\nservers2 = 1', "unknown key"),
        ('username = "u"\nsession_timeout_s = -1', "greater than 0"),
    ],
)
def test_no_error_of_settings_has_it(more: str, expected: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=expected) as caught:
        load(write(tmp_path, more), PASSWORD)
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    assert SECRET not in repr(caught.value)


@pytest.mark.parametrize("key", ["password", "key_password"])
def test_the_file_of_settings_is_no_place_for_it(key: str, tmp_path: Path) -> None:
    path = write(tmp_path, f'{key} = "{SECRET}"')
    with pytest.raises(
        ConfigError, match=rf"transport\.{key}: secrets are not allowed in this file.*{key}_file.*__{key.upper()}"
    ) as caught:
        load(path, {})
    assert SECRET not in str(caught.value)
    for name in ("sasl_plain_password", "ssl_password"):
        path = write(tmp_path, f'client_options = {{{name} = "{SECRET}"}}')
        with pytest.raises(ConfigError, match="secrets are not allowed in the file") as caught:
            load(path, {})
        assert SECRET not in "".join(traceback.format_exception(caught.value))


def shown(settings: Settings) -> str:
    return repr(settings) + str(settings) + settings.model_dump_json() + json.dumps(settings.model_dump(mode="json"))


def test_no_form_of_the_settings_shows_it(tmp_path: Path) -> None:
    settings = load(write(tmp_path), PASSWORD)
    assert isinstance(settings.transport, KafkaTransport)
    assert settings.transport.password is not None
    assert settings.transport.password.get_secret_value() == SECRET
    security = kafka_security(settings.transport)
    assert security.password == SECRET
    log = open_transport(settings)
    for text in (shown(settings), repr(security), str(security), repr(log), repr(vars(log)), config_digest(settings)):
        assert SECRET not in text
    other = load(write(tmp_path), {"STREAM_AD__TRANSPORT__PASSWORD": "another"})
    assert config_digest(other) == config_digest(settings)


def test_a_file_holds_it_and_is_named_from_the_settings_folder(tmp_path: Path) -> None:
    secret_file(tmp_path)
    settings = load(write(tmp_path, 'username = "u"\npassword_file = "secret"'), {})
    assert isinstance(settings.transport, KafkaTransport)
    assert kafka_security(settings.transport).password == SECRET
    assert SECRET not in shown(settings)


@pytest.mark.parametrize(
    ("mode", "text", "expected"),
    [
        (0o620, SECRET, "writable only by its owner, found mode 0620"),
        (0o602, SECRET, "writable only by its owner"),
        (0o600, "", "expected exactly one non-empty line"),
        (0o600, f"{SECRET}\n{SECRET}\n", "expected exactly one non-empty line"),
        (0o600, SECRET * 10_000, "expected exactly one non-empty line"),
        (0o600, f"{SECRET}\udcff", "expected UTF-8 text"),
    ],
)
def test_a_file_that_cannot_hold_it_is_refused(mode: int, text: str, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    path.chmod(mode)
    settings = load(write(tmp_path, 'username = "u"\npassword_file = "secret"'), {})
    with pytest.raises(ConfigError, match=f"transport.password_file: .*{expected}") as caught:
        open_transport(settings)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_no_file_or_another_thing_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    settings = load(write(tmp_path, 'username = "u"\npassword_file = "secret"'), {})
    with pytest.raises(ConfigError, match=r"password_file: .*secret: cannot be read: No such file"):
        open_transport(settings)
    os.mkfifo(tmp_path / "secret", 0o600)
    with pytest.raises(ConfigError, match="expected a regular file"):
        open_transport(settings)


@pytest.mark.process
def test_a_file_that_all_may_read_is_used_and_told(tmp_path: Path) -> None:
    secret_file(tmp_path, 0o644)
    config = write(tmp_path, 'username = "u"\npassword_file = "secret"')
    (told,) = [finding.text for finding in findings(config) if finding.what == "secrets"]
    assert told == f"{tmp_path / 'secret'}: readable by all users; chmod 600 it"
    ran = run(config, "--log-format", "json", "run", "scorer")
    (warning,) = [line for line in map(json.loads, ran.stderr.splitlines()) if line["event"] == "readable_by_all"]
    assert warning["path"] == str(tmp_path / "secret")
    assert SECRET not in ran.stdout + ran.stderr

    (tmp_path / "secret").chmod(0o600)
    assert not [finding for finding in findings(config) if finding.what == "secrets"]


@pytest.mark.process
def test_no_command_line_has_it(tmp_path: Path) -> None:
    """The supervisor hands it on by the environment."""
    command = [sys.executable, "-m", "stream_ad.cli.main", "-c", str(write(tmp_path)), "run"]
    surroundings = {**os.environ, "OMP_NUM_THREADS": "1", **PASSWORD}
    with subprocess.Popen(command, env=surroundings, stderr=subprocess.PIPE, text=True) as process:
        try:
            found: set[str] = set()
            deadline = time.monotonic() + 30
            while time.monotonic() < deadline and len(found) < 2 and process.poll() is None:
                for child in psutil.Process(process.pid).children(recursive=True):
                    try:
                        found.add(" ".join(child.cmdline()))
                    except psutil.NoSuchProcess:
                        continue
                time.sleep(0.02)
        finally:
            process.terminate()
            _, err = process.communicate(timeout=60)
    assert any("scorer" in line for line in found)
    assert SECRET not in " ".join(found) + err


# What does not go together, and what cannot be used


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ('ca_file = "x"', "ca_file needs tls = true"),
        ('certificate_file = "x"', "certificate_file needs tls = true"),
        ('tls = true\nkey_file = "x"', "key_file needs certificate_file"),
        ('tls = true\nkey_password_file = "x"', "key_password_file needs certificate_file"),
        ('username = "u"', r"username needs password_file, or STREAM_AD__TRANSPORT__PASSWORD"),
        ('sasl_mechanism = "SCRAM-SHA-256"', "sasl_mechanism needs username"),
        (
            'tls = true\nclient_options = {ssl_cafile = "x"}',
            r"client_options\.ssl_cafile: conflicts with tls or username",
        ),
        (
            'tls = true\nclient_options = {security_protocol = "SSL"}',
            r"client_options\.security_protocol: conflicts with tls or username",
        ),
        (
            'username = "u"\npassword_file = "x"\nclient_options = {sasl_mechanism = "GSSAPI"}',
            r"client_options\.sasl_mechanism: conflicts with tls or username",
        ),
        ('username = ""\npassword_file = "x"', "username"),
        ('username = "u"\npassword_file = "x"\nsasl_mechanism = "GSSAPI"', "sasl_mechanism"),
    ],
)
def test_what_does_not_go_together_is_refused(more: str, expected: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=expected) as caught:
        load(write(tmp_path, more), {})
    assert len(str(caught.value).splitlines()) == 1


def test_what_the_keys_do_not_say_goes_by_the_clients_options(tmp_path: Path) -> None:
    more = 'client_options = {security_protocol = "SASL_SSL", sasl_mechanism = "GSSAPI", ssl_check_hostname = false}'
    assert load(write(tmp_path, more), {}).transport


def test_the_clients_options_are_those_of_the_keys(tmp_path: Path) -> None:
    ca = certificates.authority(tmp_path, "ca")
    mine = certificates.identity(tmp_path, ca, "mine")
    files = f'ca_file = "ca.pem"\ncertificate_file = "{mine.certificate.name}"\nkey_file = "{mine.key.name}"'
    settings = load(write(tmp_path, f'tls = true\nusername = "u"\n{files}'), PASSWORD)
    assert isinstance(settings.transport, KafkaTransport)
    options = kafka_security(settings.transport).options()
    assert options["security_protocol"] == "SASL_SSL"
    assert options["sasl_mechanism"] == "SCRAM-SHA-512"
    assert (options["sasl_plain_username"], options["sasl_plain_password"]) == ("u", SECRET)
    context = options["ssl_context"]
    assert context.check_hostname
    assert context.verify_mode.name == "CERT_REQUIRED"
    assert context.minimum_version.name == "TLSv1_2"
    assert [entry["subject"] for entry in context.get_ca_certs()] == [((("commonName", "ca"),),)]


def test_without_keys_nothing_is_said_to_the_client() -> None:
    settings = KafkaTransport(kind="kafka", servers=["h:1"])
    assert kafka_security(settings).options() == {}
    assert KafkaClients(["h:1"], 1.0, 1_000, {}).servers == ("h:1",)


def test_certificates_that_cannot_be_used_are_said_before_anything_is_connected(tmp_path: Path) -> None:
    ca = certificates.authority(tmp_path, "ca")
    one, other = (certificates.identity(tmp_path, ca, name) for name in ("one", "other"))
    sealed = certificates.identity(tmp_path, ca, "sealed", key_password=SECRET)
    (tmp_path / "junk").write_bytes(pickle.dumps("junk"))
    for more, expected in (
        ('ca_file = "nowhere"', r"transport\.ca_file: .*nowhere: No such file"),
        ('ca_file = "junk"', r"transport\.ca_file: .*junk: "),
        (f'certificate_file = "{one.certificate}"', "expected a PEM certificate and its key"),
        (f'certificate_file = "{one.certificate}"\nkey_file = "{other.key}"', "expected the key of .*found another"),
        (f'certificate_file = "{one.certificate}"\nkey_file = "junk"', "expected a PEM certificate and its key"),
        (f'certificate_file = "{sealed.certificate}"\nkey_file = "{sealed.key}"', "needs key_password_file"),
    ):
        settings = load(write(tmp_path, f"tls = true\n{more}"), {})
        with pytest.raises(ConfigError, match=expected) as caught:
            open_transport(settings)
        assert len(str(caught.value).splitlines()) == 1
    more = f'tls = true\ncertificate_file = "{sealed.certificate}"\nkey_file = "{sealed.key}"'
    with pytest.raises(ConfigError, match="check the password") as caught:
        open_transport(load(write(tmp_path, more), {"STREAM_AD__TRANSPORT__KEY_PASSWORD": SECRET + "x"}))
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    open_transport(load(write(tmp_path, more), {"STREAM_AD__TRANSPORT__KEY_PASSWORD": SECRET})).close()
