"""Run a labelled run through the production roles: bundle, log, scorer, archiver, score log."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from stream_ad import assembly
from stream_ad.config import Settings, parse
from stream_ad.errors import DeadlineError, ScoreLogError, TransportError
from stream_ad.evaluation.configurations import Configuration
from stream_ad.evaluation.datasets import Run, to_send
from stream_ad.evaluation.evaluation import Judged
from stream_ad.io.bundles import bundles
from stream_ad.io.score_log import log as score_log
from stream_ad.io.transport import Partition, Transport
from stream_ad.io.wire.producing import Form, messages
from stream_ad.role_table import ARCHIVER, SCORER, RoleSpec
from stream_ad.service.role import Role
from stream_ad.service.roles.catalog import RoleContext, build
from stream_ad.training.training import Trained

PATIENCE_S = 120.0
"""Deadline for a role to catch up with a run, which has about a thousand rows."""


class LivePipe:
    """Sends each run through a log as its own stream and reads the verdicts back.

    Uses the scorer and archiver that `stream-ad run` starts, but steps them in this process.

    Args:
        folder: root of bundles, score logs and the embedded log, as `<configuration>/<run>/…`.
        kafka: servers, or None for the embedded log.
    """

    def __init__(self, folder: Path, kafka: list[str] | None = None) -> None:
        self._folder = folder
        self._kafka = kafka
        self._token = uuid.uuid4().hex[:8]

    def __call__(self, run: Run, configuration: Configuration, trained: Trained) -> Judged:
        """Return the verdicts on a run.

        Raises:
            TransportError: the log failed.
            DeadlineError: a role did not catch up.
            ScoreLogError: the score log is empty.
        """
        settings = self._settings(run, configuration)
        bundles.save(trained.model, settings.stream.bundle, trained.probe)
        with self._topics(settings) as transport:
            recording = to_send(run, configuration.samples - 1)
            transport.append(
                settings.stream.readings_topic, (message.record for message in messages(recording, Form.JSON))
            )
            self._drain(SCORER, settings, transport)
            self._drain(ARCHIVER, settings, transport)
        return _judged(score_log.read(settings.store.scores, run.name))

    def _settings(self, run: Run, configuration: Configuration) -> Settings:
        """Return the stream's settings.

        All topics are private to the run, even the control topic, which is shared by default: they are deleted
        afterwards.
        """
        folder = self._folder / configuration.name / run.name
        name = f"{configuration.name}-{run.name}".replace("_", "-").lower()
        topic = f"stream-ad.evaluate.{self._token}.{name}"
        transport: dict[str, Any] = {"kind": "local", "path": self._folder / "log.sqlite"}
        if self._kafka is not None:
            transport = {"kind": "kafka", "servers": self._kafka}
        return parse(
            {
                "stream": {
                    "name": f"{name}-{self._token}",
                    "bundle": folder / "bundle",
                    "readings_topic": f"{topic}.readings",
                    "scores_topic": f"{topic}.scores",
                    "alerts_topic": f"{topic}.alerts",
                    "dead_letters_topic": f"{topic}.dlq",
                    "journal_topic": f"{topic}.journal",
                    "control_topic": f"{topic}.control",
                },
                "transport": transport,
                **configuration.judging(),
                "commit": {"every_s": 0.1},
                "store": {
                    "scores": folder / "scores",
                    "checkpoints": folder / "checkpoints",
                    "part_max_age_s": 0.001,
                },
            },
            f"{configuration.name} on {run.name}",
        )

    @contextmanager
    def _topics(self, settings: Settings) -> Iterator[Transport]:
        """Create the stream's topics with one partition; delete them afterwards."""
        stream = settings.stream
        transport = assembly.open_transport(settings)
        try:
            transport.ensure_topic(stream.readings_topic, 1)
            names = assembly.ensure_topics(settings, transport)
            try:
                yield transport
            finally:
                with suppress(TransportError):  # an earlier failure is the error to report
                    for name in names:
                        transport.delete_topic(name)
        finally:
            transport.close()

    def _drain(self, spec: RoleSpec, settings: Settings, transport: Transport) -> None:
        """Step a role until it has caught up, then close it."""
        role: Role = build(spec.name, RoleContext(settings, 0, lambda: None))
        role.open()
        try:
            until = time.monotonic() + PATIENCE_S
            while not _has_caught_up(settings, transport, spec):
                if time.monotonic() > until:
                    late = f"the {spec.name} has not caught up within {PATIENCE_S:g} s"
                    raise DeadlineError(f"{settings.stream.name}: {late}")
                role.turn(0.05)
        finally:
            role.close()


def _has_caught_up(settings: Settings, transport: Transport, spec: RoleSpec) -> bool:
    """Return whether a role has committed up to the end of its topic."""
    partition = Partition(spec.topic(settings), 0)
    position = transport.committed(spec.consumer_group(settings), partition)
    if position is None:
        return False
    _, end = transport.bounds(partition)
    # A log may have offsets without records at its end (Kafka's transaction markers).
    return position.offset >= end or not any(len(batch) for batch in transport.read(partition, position.offset, end))


def _judged(table: pa.Table) -> Judged:
    """Return the verdicts of a device's score log.

    Raises:
        ScoreLogError: it is empty.
    """
    if table.num_rows == 0:
        raise ScoreLogError("evaluate: expected verdicts in the score log, found none")
    end_us = table["end"].cast(pa.int64()).to_numpy()
    is_anomaly = table["is_anomaly"].to_numpy(zero_copy_only=False)
    return Judged(end_us.astype(np.int64) * 1_000, is_anomaly.astype(np.bool_))
