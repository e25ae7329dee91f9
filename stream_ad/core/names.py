"""Names of channels and devices as a person types them: literally first, as a shell pattern second."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

SHOWN = 12


def matches(name: str, pattern: str) -> bool:
    """Return whether a name is the text itself, whatever characters it has, or matches it as a shell pattern."""
    return name == pattern or fnmatchcase(name, pattern)


def matching(pattern: str, names: Iterable[str]) -> list[str]:
    """Return the name that the text is, alone; where none is, those that match it as a shell pattern."""
    found = list(names)
    return [pattern] if pattern in found else [name for name in found if fnmatchcase(name, pattern)]


def listed(text: str, names: Sequence[str], separator: str = ",") -> list[str]:
    """Split a list as typed, in which a name may hold the separator.

    Of the ways to split, the longest literal names win, from the left; what is left between separators is a
    pattern or an unknown name and comes back as it is, without the spaces around it.

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
    """Split `NAME=VALUE`, where a name may hold `=`: at a literal name, the longest, else at the last `=`.

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
    """Return some of the names for an error, those that resemble `near` first."""
    close = get_close_matches(near, names, 3, 0.5) if near else []
    order = [*close, *(name for name in names if name not in close)]
    return ", ".join(map(repr, order[:SHOWN])) + (f", … ({len(names):,} in all)" if len(names) > SHOWN else "")
