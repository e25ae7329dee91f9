"""Valid bytes -> hostile ones: flips, cuts, splices, repeats, and the numbers and tokens that parsers stumble over."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

NUMBERS = (0, 1, -1, 127, 255, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1, 10**400)
TOKENS = (
    b"null",
    b"NaN",
    b"-Infinity",
    b"1e999",
    b"-0.0",
    b'""',
    b'"\\ud800"',
    b"\xff\xfe",
    b"\x00",
    b"{}",
    b"[]",
    b"[" * 300,
    b'{"a":' * 2_000,
    b'"a":1,"a":2',
    b"true",
    b"\xef\xbb\xbf",
    b"../../etc/passwd",
    b"9" * 5_000,
    b"'",
    b"__import__('os').system('touch ran')",
)
DIGITS = re.compile(rb"[0-9]+")
MAX_BYTES = 200_000


def _flip(data: bytearray, chance: random.Random) -> None:
    for _ in range(chance.choice((1, 1, 2, 8, 64))):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def _byte(data: bytearray, chance: random.Random) -> None:
    data[chance.randrange(len(data))] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))


def _cut(data: bytearray, chance: random.Random) -> None:
    del data[chance.randrange(len(data)) :]


def _remove(data: bytearray, chance: random.Random) -> None:
    start = chance.randrange(len(data))
    del data[start : start + chance.choice((1, 2, 4, 8, 100))]


def _repeat(data: bytearray, chance: random.Random) -> None:
    start = chance.randrange(len(data))
    piece = bytes(data[start : start + chance.choice((1, 4, 16, 64, 1_000))])
    data[start:start] = piece * chance.choice((1, 2, 10, 100))


def _insert(data: bytearray, chance: random.Random) -> None:
    start = chance.randrange(len(data) + 1)
    data[start:start] = chance.choice(TOKENS)


def _number(data: bytearray, chance: random.Random) -> None:
    """Put another number where one stands as text."""
    found = list(DIGITS.finditer(bytes(data)))
    if found:
        place = chance.choice(found)
        data[place.start() : place.end()] = str(chance.choice(NUMBERS)).encode()


def _word(data: bytearray, chance: random.Random) -> None:
    """Put a length or another binary number somewhere, aligned or not."""
    size = chance.choice((2, 4, 8))
    start = chance.randrange(len(data)) // chance.choice((1, size)) * chance.choice((1, size)) % len(data)
    number = chance.choice(NUMBERS) & ((1 << 8 * size) - 1)
    data[start : start + size] = number.to_bytes(size, chance.choice(("little", "big")))


CHANGES: Sequence[Callable[[bytearray, random.Random], None]] = (
    _flip,
    _flip,
    _byte,
    _cut,
    _remove,
    _repeat,
    _insert,
    _number,
    _number,
    _word,
)


def mutated(seeds: Sequence[bytes], number: int) -> bytes:
    """Return the mutation of that number: the same for the same seeds."""
    chance = random.Random(number)
    data = bytearray(chance.choice(seeds))
    if chance.random() < 0.1:  # the head of one, the tail of another
        other = chance.choice(seeds)
        data = data[: chance.randrange(len(data) + 1)] + other[chance.randrange(len(other) + 1) :]
    for _ in range(chance.choice((1, 1, 1, 2, 3, 5, 10))):
        if not data:
            data = bytearray(b"0")
        chance.choice(CHANGES)(data, chance)
    return bytes(data[:MAX_BYTES])
