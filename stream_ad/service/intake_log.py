"""A scorer's log line about unusable input, at most once per minute."""

from __future__ import annotations

import math

from stream_ad.replaying.intake import CAUSES, Example, Intake, largest_share, share_of
from stream_ad.service.logs import EventLog

log = EventLog(__name__)

EVERY_S = 60.0
LOUD = 0.01
"""Above this share the line is a warning."""


class IntakeLog:
    """Accumulates counts between two lines."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._examples: dict[str, Example] = {}
        self._next_s = -math.inf

    def add(self, intake: Intake) -> None:
        """Add the counts of a piece of input."""
        for name, count in intake.counts.items():
            self._counts[name] = self._counts.get(name, 0) + count
        self._examples.update(intake.examples)

    def write(self, now_s: float) -> None:
        """Write a line if input was unusable and a minute has passed since the last line.

        Args:
            now_s: seconds on the monotonic clock.
        """
        found = {name: count for name in CAUSES if (count := self._counts.get(name, 0))}
        if not found or now_s < self._next_s:
            return
        worst = largest_share(self._counts)
        write = log.warning if share_of(self._counts, worst) > LOUD else log.info
        example = self._examples.get(worst, Example("", ""))
        write(
            "readings_not_used",
            readings=self._counts.get("readings", 0),
            cells=self._counts.get("cells", 0),
            **found,
            largest_share=worst,
            example_device=example.device,
            example_value=example.value,
            advice="`stream-ad status` shows shares and causes, `stream-ad dead-letters` the refused records",
        )
        self._next_s = now_s + EVERY_S
        self._counts.clear()
        self._examples.clear()
