"""A finding of `check`: one line per thing that a run needs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding."""

    what: str
    good: bool
    text: str
    warns: bool = False

    @property
    def level(self) -> str:
        """`ok`, `warn` or `fail`; only `fail` fails the check."""
        return "fail" if not self.good else "warn" if self.warns else "ok"
