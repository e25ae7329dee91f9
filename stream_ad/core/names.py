"""Names of channels and devices as typed by a user: first literally, then as a shell pattern."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

SHOWN = 12


def matches(name: str, pattern: str) -> bool:
    """Return whether a name equals the text, or matches it as a shell pattern."""
    return name == pattern or fnmatchcase(name, pattern)


def matching(pattern: str, names: Iterable[str]) -> list[str]:
    """Return only the name that equals the text; if there is none, those that match it as a shell pattern."""
    found = list(names)
    return [pattern] if pattern in found else [name for name in found if fnmatchcase(name, pattern)]


def listed(text: str, names: Sequence[str], separator: str = ",") -> list[str]:
    """Split a list as typed, in which a name may contain the separator.

    Among the ways to split, the longest literal names win, from the left; the rest between separators is a pattern or
    an unknown name and is returned unchanged, without surrounding spaces.

    Args:
        text: `temp,"flow"`'s content: `temp,Druck, innen [bar]`.
        names: what may be named.
        separator: between two entries.
    """
    known, parts = set(names), text.split(separator)
    found: list[str] = []
    at = 0
    while at < len(parts):
        for stop in range(len(parts), at, -1):
            joined = separator.join(parts[at:stop])
            name = joined if joined in known else joined.strip()
            if name in known or stop == at + 1:
                found.append(name)
                at = stop
                break
    return [name for name in found if name]


def paired(text: str, names: Iterable[str] = ()) -> tuple[str, str]:
    """Split `NAME=VALUE`, in which a name may contain `=`: after the longest literal name, else at the last `=`.

    Returns:
        name and value; the value is "" where there is no `=`.
    """
    literal = [name for name in names if text.startswith(f"{name}=")]
    if literal:
        name = max(literal, key=len)
        return name, text[len(name) + 1 :]
    name, equals, value = text.rpartition("=")
    return (name, value) if equals else (text, "")


def shown(names: Sequence[str], near: str = "") -> str:
    """Return some of the names for an error, similar to `near` first."""
    close = get_close_matches(near, names, 3, 0.5) if near else []
    order = [*close, *(name for name in names if name not in close)]
    return ", ".join(map(repr, order[:SHOWN])) + (f", … ({len(names):,} in all)" if len(names) > SHOWN else "")
