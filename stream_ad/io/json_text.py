"""Lenient JSON: accepts documents in which only a value is not valid JSON.

Many producers print numbers with C's `printf` or their language's own words: `nan`, `-nan(ind)`, `Infinity`,
`1.#QNAN`, `None`, `True`, `+5`, `.5`, `007`, `1e999`. Such a token outside of text is read as if it were quoted, and
the cell rule decides; one value must not cost the whole record.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from typing import Any

import orjson

MAX_LENIENT_BRACKETS = 500

# Text first, including unterminated text: its content is unchanged, and every byte is scanned once.
_TOKEN = re.compile(
    rb'"(?:[^"\\]|\\.)*+\\?(?:"|\Z)'
    rb"|(?<![\w.#+-])(?:"
    rb"[+-]?(?:nan|inf(?:inity)?)(?:\(\w*+\))?"
    rb"|[+-]?[0-9]\.#(?:q?nan|snan|ind|inf)[0-9]*+"
    rb"|none|true|false|null|undefined"
    rb"|[+-]?(?:[0-9]++\.?[0-9]*+|\.[0-9]++)(?:e[+-]?[0-9]++)?"
    rb")(?![\w.#+-])",
    re.IGNORECASE | re.DOTALL,
)
_NUMBER = re.compile(rb"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?")
_WORDS = (b"true", b"false", b"null")


def parse(raw: bytes) -> Any:
    """Return a document; its numbers are finite.

    Raises:
        ValueError: not UTF-8, or not JSON even with the leniency above.
    """
    try:
        return orjson.loads(raw)
    except ValueError as error:
        first = error
    text = mended(raw)
    try:
        return orjson.loads(text)
    except ValueError:
        pass
    # Counting brackets bounds the depth, so that the parser's recursion limit never decides.
    if text.count(b"[") + text.count(b"{") <= MAX_LENIENT_BRACKETS:
        try:
            return json.loads(text.decode(), parse_int=_integer)
        except (ValueError, RecursionError):
            pass
    raise ValueError(str(first)) from first


def repeated_names(raw: bytes) -> list[str]:
    """Return the names that stand twice in one object of a document.

    Raises:
        ValueError: not JSON, or too deep.
    """
    twice: set[str] = set()

    def pairs(found: list[tuple[str, object]]) -> None:
        twice.update(name for name, count in Counter(name for name, _ in found).items() if count > 1)

    try:
        # Numbers stay text: Python refuses long ones.
        json.loads(raw, object_pairs_hook=pairs, parse_int=str, parse_float=str)
    except RecursionError as error:
        raise ValueError(str(error)) from error
    return sorted(twice)


def mended(raw: bytes) -> bytes:
    """Return the text with quotes around each token that is not JSON but may be a value."""
    return _TOKEN.sub(_mend, raw)


def _mend(match: re.Match[bytes]) -> bytes:
    token = match[0]
    if token.startswith(b'"') or token in _WORDS:
        return token
    if _NUMBER.fullmatch(token) and math.isfinite(float(token)):
        return token
    return b'"' + token + b'"'


def _integer(text: str) -> float:
    return int(text) if len(text) < 20 else float(text)
