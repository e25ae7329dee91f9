"""TLS and SASL on Kafka, with secrets from files that are read when a client is opened.

A certificate problem becomes a one-line message: what was expected of the broker, and what was found.
"""

from __future__ import annotations

import os
import re
import ssl
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stream_ad.errors import ConfigError

MAX_SECRET_BYTES = 65_536
READ_BY_OTHERS = stat.S_IROTH
WRITE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH

EXPIRED, NOT_YET, HOST, ADDRESS = 10, 9, 62, 64
UNKNOWN_SIGNER = frozenset({2, 18, 19, 20, 21})
"""Verification codes of OpenSSL (x509_vfy.h)."""

NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "UNEXPECTED_MESSAGE"})
ALERT = re.compile(r"ALERT_(?P<what>[A-Z_]+)$")
PASSING = frozenset({"INTERNAL_ERROR", "USER_CANCELLED", "CLOSE_NOTIFY", "DECODE_ERROR"})
"""Alerts that a broker may also send while it stops."""
OF_CERTIFICATE = ("CERTIFICATE", "UNKNOWN_CA", "ACCESS_DENIED")


@dataclass(frozen=True, slots=True)
class Security:
    """Settings of the connection to the brokers. Secrets are not shown in `repr`.

    Attributes:
        tls: encrypt, and verify each broker's certificate and host name.
        ca_file: PEM file of the authorities trusted to sign broker certificates; None for the system's.
        certificate_file: PEM client certificate, with its chain.
        key_file: its PEM key; None if it is in `certificate_file`.
        key_password: passphrase of the key.
        mechanism: SASL mechanism.
        username: None for no SASL.
        password: the user's password.
    """

    tls: bool = False
    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None
    key_password: str | None = field(default=None, repr=False)
    mechanism: str = ""
    username: str | None = None
    password: str | None = field(default=None, repr=False)

    def options(self) -> dict[str, Any]:
        """Return kafka-python's options; rereads the certificates.

        Raises:
            ConfigError: a file is unusable.
        """
        options: dict[str, Any] = {}
        if self.tls:
            options |= {"security_protocol": "SSL", "ssl_context": self._context()}
        if self.username is not None:
            options |= {
                "security_protocol": "SASL_SSL" if self.tls else "SASL_PLAINTEXT",
                "sasl_mechanism": self.mechanism,
                "sasl_plain_username": self.username,
                "sasl_plain_password": self.password,
            }
        return options

    def _context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies certificate and host name
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.ca_file is None:
            context.load_default_certs()
        else:
            try:
                context.load_verify_locations(self.ca_file)
            except (OSError, ValueError) as error:
                raise ConfigError(f"transport.ca_file: {self.ca_file}: {_why(error)}") from error
        if self.certificate_file is not None:
            self._show_certificate(context, self.certificate_file)
        return context

    def _show_certificate(self, context: ssl.SSLContext, certificate: Path) -> None:
        key = certificate if self.key_file is None else self.key_file
        # Never None: OpenSSL would prompt at the terminal.
        password = self.key_password or ""
        try:
            context.load_cert_chain(certificate, key, password)
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", None)
            if reason == "KEY_VALUES_MISMATCH":
                raise ConfigError(f"transport.key_file: {key}: expected the key of {certificate}, found another") from (
                    error
                )
            fits = "check the password" if self.key_password else "a key with a password needs key_password_file"
            raise ConfigError(
                f"transport.certificate_file, key_file: {certificate}, {key}: expected a PEM certificate and its key, "
                f"found: {_why(error)}; {fits}"
            ) from error


def read_secret(path: Path, setting: str) -> str:
    """Return the single line of a secret file, without its line end.

    Args:
        path: the file.
        setting: the setting that names it, for errors. Errors never contain the content.

    Raises:
        ConfigError: the file is unreadable, writable by others, or not one line of text.
    """
    try:
        # O_NONBLOCK: opening a pipe must not wait for a writer.
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(handle, "rb") as file:
            mode = os.fstat(handle).st_mode
            if not stat.S_ISREG(mode):
                raise ConfigError(f"{setting}: {path}: expected a regular file")
            if mode & WRITE_BY_OTHERS:
                raise ConfigError(
                    f"{setting}: {path}: expected a file writable only by its owner, found mode "
                    f"{stat.S_IMODE(mode):04o}; chmod 600 it"
                )
            content = file.read(MAX_SECRET_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{setting}: {path}: cannot be read: {error.strerror or error}") from error
    try:
        text = content.decode()
    except UnicodeDecodeError:
        # No cause: it would carry the content.
        raise ConfigError(f"{setting}: {path}: expected UTF-8 text") from None
    lines = text.splitlines()
    if len(content) > MAX_SECRET_BYTES or len(lines) != 1 or not lines[0]:
        raise ConfigError(f"{setting}: {path}: expected exactly one non-empty line")
    return lines[0]


def readable_by_others(path: Path) -> bool:
    """Return whether all users of the machine can read a file; False if unknown."""
    try:
        return bool(path.stat().st_mode & READ_BY_OTHERS)
    except OSError:
        return False


def fault(error: ssl.SSLError, host: str) -> str | None:
    """Return what is wrong with a TLS connection to a broker, or None if a retry may succeed.

    Args:
        error: of the handshake or of the first read after it.
        host: the expected host name.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        return _fault_of_certificate(error, host)
    reason = error.reason or ""
    if reason in NO_TLS:
        return "expected TLS, found a port without it: check whether this is the plaintext port (transport.tls = false)"
    alert = ALERT.search(reason)
    if alert is None or alert["what"] in PASSING:
        return None
    what = alert["what"].lower().replace("_", " ")
    if any(part in alert["what"] for part in OF_CERTIFICATE):
        return (
            f"the broker refused our client certificate, or that there is none: {what}; set transport.certificate_file "
            "and key_file to one that it trusts"
        )
    return f"the broker refused the TLS handshake: {what}"


def _fault_of_certificate(error: ssl.SSLCertVerificationError, host: str) -> str:
    code, reason = error.verify_code, error.verify_message
    if code == EXPIRED:
        return f"expected a valid broker certificate, found an expired one ({reason})"
    if code == NOT_YET:
        return f"expected a valid broker certificate, found one not yet valid; check the system clock ({reason})"
    if code in (HOST, ADDRESS):
        return f"expected a broker certificate for host {host!r}, found one for other names ({reason})"
    if code in UNKNOWN_SIGNER:
        return (
            "expected a broker certificate signed by an authority in transport.ca_file or trusted by the system, found "
            f"an unknown signer ({reason})"
        )
    return f"expected a trusted broker certificate, found: {reason}"


def ssl_errors(error: BaseException | None) -> Iterator[ssl.SSLError]:
    """Yield the TLS errors behind a client error, which holds them as context or as arguments."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, ssl.SSLError):
            yield one
        waiting += [one.__cause__, one.__context__, *(part for part in one.args if isinstance(part, BaseException))]


def _why(error: OSError | ValueError) -> str:
    """Return the reason given by OpenSSL or the system, without its source location."""
    if isinstance(error, ssl.SSLError):
        return (error.reason or "one that cannot be opened").lower().replace("_", " ")
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)
