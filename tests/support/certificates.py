"""A certificate authority for tests, in plain Python: no tool that a machine may lack.

ECDSA over P-256 with SHA-256 (RFC 5480, RFC 5758), X.509 v3 (RFC 5280), keys as PKCS #8 (RFC 5958), sealed ones with
PBES2 and AES-128-CBC (RFC 8018). Slow and not constant in time: good for a loopback broker and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

# The curve P-256 (FIPS 186-4, D.1.2.3).
PRIME = 2**256 - 2**224 + 2**192 + 2**96 - 1
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
BASE = (
    0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
    0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
)
Point = tuple[int, int]

EC_KEY, P256, ECDSA_SHA256 = "1.2.840.10045.2.1", "1.2.840.10045.3.1.7", "1.2.840.10045.4.3.2"
COMMON_NAME, ALT_NAME, CONSTRAINTS = "2.5.4.3", "2.5.29.17", "2.5.29.19"
PBES2, PBKDF2, HMAC_SHA256, AES128_CBC = (
    "1.2.840.113549.1.5.13",
    "1.2.840.113549.1.5.12",
    "1.2.840.113549.2.9",
    "2.16.840.1.101.3.4.1.2",
)


@dataclass(frozen=True)
class Authority:
    """Signs certificates; `path` is its own, as clients and brokers trust it."""

    name: str
    key: int
    path: Path


@dataclass(frozen=True)
class Identity:
    """A certificate with its key.

    Attributes:
        certificate: PEM file.
        key: PEM file, PKCS #8.
        both: PEM file with the one behind the other, as a broker's keystore of type PEM takes it.
    """

    certificate: Path
    key: Path
    both: Path


def authority(folder: Path, name: str) -> Authority:
    """Make a certificate authority."""
    key = _new_key()
    path = folder / f"{name}.pem"
    path.write_text(_certificate(name, key, name, key, (), timedelta(days=-1), timedelta(days=30), is_authority=True))
    return Authority(name, key, path)


def identity(
    folder: Path,
    signer: Authority,
    name: str,
    hosts: tuple[str, ...] = (),
    valid_from: timedelta = timedelta(days=-1),
    valid_to: timedelta = timedelta(days=30),
    key_password: str | None = None,
) -> Identity:
    """Make a certificate with its key.

    Args:
        folder: where its files go.
        signer: who signs.
        name: common name, and the files' name.
        hosts: host names and addresses it holds for.
        valid_from: begin, from now.
        valid_to: end, from now.
        key_password: seals the key.
    """
    key = _new_key()
    made = Identity(folder / f"{name}.crt", folder / f"{name}.key", folder / f"{name}.pem")
    certificate = _certificate(name, key, signer.name, signer.key, hosts, valid_from, valid_to, is_authority=False)
    key_text = _key_text(key) if key_password is None else _sealed_key_text(key, key_password)
    made.certificate.write_text(certificate)
    made.key.write_text(key_text)
    made.key.chmod(0o600)
    made.both.write_text(key_text + certificate)
    made.both.chmod(0o600)
    return made


def _certificate(
    name: str,
    key: int,
    signer: str,
    signer_key: int,
    hosts: tuple[str, ...],
    valid_from: timedelta,
    valid_to: timedelta,
    *,
    is_authority: bool,
) -> str:
    now = datetime.now(UTC)
    algorithm = _sequence(_oid(ECDSA_SHA256))
    extensions = []
    if is_authority:
        extensions.append(_sequence(_oid(CONSTRAINTS), b"\x01\x01\xff", _tlv(0x04, _sequence(b"\x01\x01\xff"))))
    if hosts:
        extensions.append(_sequence(_oid(ALT_NAME), _tlv(0x04, _sequence(*map(_host, hosts)))))
    body = _sequence(
        _tlv(0xA0, _integer(2)),
        _integer(random.SystemRandom().getrandbits(120)),
        algorithm,
        _name(signer),
        _sequence(_time(now + valid_from), _time(now + valid_to)),
        _name(name),
        _sequence(_sequence(_oid(EC_KEY), _oid(P256)), _bits(_encoded(_times(key, BASE)))),
        *([_tlv(0xA3, _sequence(*extensions))] if extensions else []),
    )
    return _pem("CERTIFICATE", _sequence(body, algorithm, _bits(_signature(signer_key, body))))


def _key_info(key: int) -> bytes:
    public = _tlv(0xA1, _bits(_encoded(_times(key, BASE))))
    inner = _sequence(_integer(1), _tlv(0x04, key.to_bytes(32, "big")), public)
    return _sequence(_integer(0), _sequence(_oid(EC_KEY), _oid(P256)), _tlv(0x04, inner))


def _key_text(key: int) -> str:
    return _pem("PRIVATE KEY", _key_info(key))


def _sealed_key_text(key: int, password: str) -> str:
    salt, start, rounds = b"8 bytes!", b"16 bytes to mix.", 2_048
    derivation = _sequence(
        _oid(PBKDF2),
        _sequence(_tlv(0x04, salt), _integer(rounds), _integer(16), _sequence(_oid(HMAC_SHA256), b"\x05\x00")),
    )
    cipher = _sequence(_oid(AES128_CBC), _tlv(0x04, start))
    secret = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, rounds, 16)
    sealed = _aes_cbc(secret, start, _key_info(key))
    algorithm = _sequence(_oid(PBES2), _sequence(derivation, cipher))
    return _pem("ENCRYPTED PRIVATE KEY", _sequence(algorithm, _tlv(0x04, sealed)))


# ASN.1, distinguished encoding


def _tlv(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content


def _sequence(*parts: bytes) -> bytes:
    return _tlv(0x30, b"".join(parts))


def _integer(number: int) -> bytes:
    return _tlv(0x02, number.to_bytes(number.bit_length() // 8 + 1, "big"))


def _bits(content: bytes) -> bytes:
    return _tlv(0x03, b"\x00" + content)


def _oid(dotted: str) -> bytes:
    first, second, *rest = map(int, dotted.split("."))
    content = bytearray([40 * first + second])
    for number in rest:
        digits = [number & 0x7F]
        while number := number >> 7:
            digits.append(0x80 | number & 0x7F)
        content += bytes(reversed(digits))
    return _tlv(0x06, bytes(content))


def _name(common: str) -> bytes:
    return _sequence(_tlv(0x31, _sequence(_oid(COMMON_NAME), _tlv(0x0C, common.encode()))))


def _time(when: datetime) -> bytes:
    return _tlv(0x17, when.strftime("%y%m%d%H%M%SZ").encode())


def _host(host: str) -> bytes:
    try:
        return _tlv(0x87, ip_address(host).packed)
    except ValueError:
        return _tlv(0x82, host.encode())


def _pem(what: str, content: bytes) -> str:
    return f"-----BEGIN {what}-----\n{base64.encodebytes(content).decode()}-----END {what}-----\n"


# The curve


def _new_key() -> int:
    return random.SystemRandom().randrange(1, ORDER)


def _add(one: Point | None, other: Point | None) -> Point | None:
    if one is None or other is None:
        return one or other
    if one[0] == other[0]:
        if (one[1] + other[1]) % PRIME == 0:
            return None
        slope = (3 * one[0] * one[0] - 3) * pow(2 * one[1], -1, PRIME) % PRIME
    else:
        slope = (other[1] - one[1]) * pow(other[0] - one[0], -1, PRIME) % PRIME
    x = (slope * slope - one[0] - other[0]) % PRIME
    return x, (slope * (one[0] - x) - one[1]) % PRIME


def _times(count: int, point: Point) -> Point:
    total: Point | None = None
    step: Point | None = point
    while count:
        if count & 1:
            total = _add(total, step)
        step = _add(step, step)
        count >>= 1
    if total is None:
        raise ValueError("a multiple of the order")
    return total


def _encoded(point: Point) -> bytes:
    return b"\x04" + point[0].to_bytes(32, "big") + point[1].to_bytes(32, "big")


def _signature(key: int, content: bytes) -> bytes:
    digest = int.from_bytes(hashlib.sha256(content).digest(), "big")
    while True:
        nonce = _new_key()
        r = _times(nonce, BASE)[0] % ORDER
        s = pow(nonce, -1, ORDER) * (digest + r * key) % ORDER
        if r and s:
            return _sequence(_integer(r), _integer(s))


# AES-128 (FIPS 197)


def _doubled(byte: int) -> int:
    return (byte << 1) ^ (0x11B if byte & 0x80 else 0)


def _substitutions() -> list[int]:
    powers, value = [], 1
    for _ in range(255):
        powers.append(value)
        value ^= _doubled(value)  # times 3, which generates the field
    found = []
    for byte in range(256):
        inverse = 0 if byte == 0 else powers[-powers.index(byte) % 255]
        turned = [(inverse << shift | inverse >> 8 - shift) & 0xFF for shift in range(5)]
        found.append(turned[0] ^ turned[1] ^ turned[2] ^ turned[3] ^ turned[4] ^ 0x63)
    return found


SBOX = _substitutions()


def _round_keys(key: bytes) -> list[bytes]:
    words, mark = [key[at : at + 4] for at in range(0, 16, 4)], 1
    for number in range(4, 44):
        word = words[-1]
        if number % 4 == 0:
            word = bytes(SBOX[byte] for byte in word[1:] + word[:1])
            word = bytes([word[0] ^ mark]) + word[1:]
            mark = _doubled(mark)
        words.append(bytes(a ^ b for a, b in zip(words[-4], word, strict=True)))
    return [b"".join(words[at : at + 4]) for at in range(0, 44, 4)]


def _aes_block(keys: list[bytes], block: bytes) -> bytes:
    state = bytes(a ^ b for a, b in zip(block, keys[0], strict=True))
    for number in range(1, 11):
        state = bytes(SBOX[state[(5 * at) % 16]] for at in range(16))  # bytes substituted, rows shifted
        if number < 10:
            mixed = bytearray()
            for at in range(0, 16, 4):
                a = state[at : at + 4]
                mixed += bytes(
                    _doubled(a[k]) ^ _doubled(a[(k + 1) % 4]) ^ a[(k + 1) % 4] ^ a[(k + 2) % 4] ^ a[(k + 3) % 4]
                    for k in range(4)
                )
            state = bytes(mixed)
        state = bytes(a ^ b for a, b in zip(state, keys[number], strict=True))
    return state


def _aes_cbc(key: bytes, start: bytes, content: bytes) -> bytes:
    keys, sealed, before = _round_keys(key), bytearray(), start
    content += bytes([16 - len(content) % 16] * (16 - len(content) % 16))
    for at in range(0, len(content), 16):
        before = _aes_block(keys, bytes(a ^ b for a, b in zip(content[at : at + 16], before, strict=True)))
        sealed += before
    return bytes(sealed)
