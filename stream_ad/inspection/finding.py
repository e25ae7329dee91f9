"""What `check` finds: one line for each thing that a run needs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the answer."""

    what: str
    good: bool
    text: str
    warns: bool = False

    @property
    def level(self) -> str:
        """`ok`, `warn` or `fail`; only the last one is a failure of the check."""
        return "fail" if not self.good else "warn" if self.warns else "ok"
