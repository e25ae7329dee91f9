"""JSON as devices write it: what is almost JSON is read where one value only is at fault.

Many producers print numbers with C's `printf` or a language's own words: `nan`, `-nan(ind)`, `Infinity`, `1.#QNAN`,
`None`, `True`, `+5`, `.5`, `007`, `1e999`. Such a token outside of text is read as if it stood in quotes, so that the
rule for cells judges it; one value must not cost the record.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

import orjson

MAX_LENIENT_BRACKETS = 500

# Text first, also such as never ends: whatever is in it stays as it is, and no byte is looked at twice.
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
    """Return a document; numbers in it are finite.

    Raises:
        ValueError: not UTF-8, or not JSON in any of the ways above.
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
    # The brackets bound the depth, so that the parser's recursion limit never decides about a record.
    if text.count(b"[") + text.count(b"{") <= MAX_LENIENT_BRACKETS:
        try:
            return json.loads(text.decode(), parse_int=_integer)
        except (ValueError, RecursionError):
            pass
    raise ValueError(str(first)) from first


def mended(raw: bytes) -> bytes:
    """Return the text with quotes around each token that is no JSON and can be a value."""
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
