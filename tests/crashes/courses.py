"""Lives of a stream's roles, one after another, each a process; and how they end."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from stream_ad.identity import group
from stream_ad.io.bundles.bundles import load
from stream_ad.io.transport import Partition, Record
from stream_ad.replaying import Marker
from tests.crashes.dying import Life, Lives
from tests.crashes.steps import SCORER_STEPS
from tests.support.e2e import LONG_S, Stream, fleet_records, wait_until
from tests.support.roles import ask_for

PIECE = 40
"""Readings sent before each life of a scorer."""


class Course:
    """Lives of a stream's roles.

    Attributes:
        sent: readings so far.
    """

    def __init__(self, lives: Lives, stream: Stream, bundles: Sequence[Path] = ()) -> None:
        """Begin.

        Args:
            lives: starts processes.
            stream: whose roles live.
            bundles: two, between which swaps go; none where no step needs one.
        """
        self._lives, self._stream = lives, stream
        self._bundles = {load(bundle).model_id: bundle for bundle in bundles}
        self._records: Iterator[Record] = fleet_records(duration_s=7_200)
        self._count = 0
        self.sent = 0

    @property
    def kind(self) -> str:
        """The transport's."""
        return self._stream.settings.transport.kind

    def send(self, count: int = PIECE) -> None:
        """Send more readings."""
        self._stream.send(list(islice(self._records, count)))
        self.sent += count

    def start(self, role: str, at: str = "") -> Life:
        """Start a life, one that dies at a step if one is named."""
        self._count += 1
        log = self._stream.folder / f"{self._count:03d}-{role}.log"
        return self._lives.start(self._stream.config, role, log, at)

    def die(self, role: str, step: str, times: int) -> None:
        """Let a role die at a step again and again."""
        for _ in range(times):
            if role == "scorer":
                self.send()
                if step in SCORER_STEPS and SCORER_STEPS[step].swap:
                    self._ask_for_another()
                if step in SCORER_STEPS and SCORER_STEPS[step].rereads:
                    shutil.rmtree(self._stream.settings.store.checkpoints, ignore_errors=True)
            life = self.start(role, step)
            assert life.end(LONG_S) == -signal.SIGKILL, f"{role} at {step!r}: {life.text()[-3_000:]}"

    def _ask_for_another(self) -> None:
        """Give the command to swap to the bundle that is not in force."""
        settings = self._stream.settings
        readings = Partition(settings.stream.readings_topic, 0)
        position = self._stream.log.committed(group(settings, "scorer"), readings)
        assert position is not None
        in_force = Marker.from_text(position.metadata).model_id
        ask_for(self._stream, next(bundle for model_id, bundle in self._bundles.items() if model_id != in_force))

    def live(self, role: str) -> Life:
        """Let a role live until its work is done, then stop it in order; return the life that was."""
        life = self.start(role)
        done = self._stream.scored if role == "scorer" else self._stream.archived
        try:
            wait_until(lambda: life.has_ended() or done())
        finally:
            code = life.stop(LONG_S)
        assert code == 0, life.text()[-3_000:]
        return life
