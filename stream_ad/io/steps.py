"""Named steps of a role's work, so that a test can end the process at one of them.

A step stands where a crash leaves something that the next process must cope with: a record sent and not committed, a
checkpoint renamed and not named by a commit. Steps are per poll, commit or file, never per row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_watcher: Callable[[str, dict[str, Any]], None] | None = None


def reached(step: str, **facts: Any) -> None:
    """Report a step to the watcher; does nothing without one."""
    if _watcher is not None:
        _watcher(step, facts)


def watch(watcher: Callable[[str, dict[str, Any]], None]) -> None:
    """Have `watcher` called with the name and the facts of each step from now on, on the thread that reaches it."""
    global _watcher
    _watcher = watcher
