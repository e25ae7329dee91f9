"""Follows the control topic; loads and probes the requested bundle in the background."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from stream_ad.assembly import Models
from stream_ad.config import Settings
from stream_ad.core.model import Model
from stream_ad.errors import (
    BundleDigestError,
    BundleMismatchError,
    ContractError,
    DeadlineError,
    StreamAdError,
    TransportError,
)
from stream_ad.fronts.table import front
from stream_ad.io.following import records
from stream_ad.io.transport import Partition, Transport
from stream_ad.io.wire import control as control_messages
from stream_ad.io.wire.control import SwapCommand
from stream_ad.service.logs import EventLog
from stream_ad.service.metrics import ScorerMetrics

log = EventLog(__name__)

POLL_S = 1.0
AFTER_TROUBLE_S = 5.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """The newest swap command.

    Attributes:
        command: its content.
        control: the control topic's offset after it.
    """

    command: SwapCommand
    control: int


class CommandFollower:
    """Reads a stream's commands.

    Args:
        settings: the stream's settings.
        transport: the log.
        models: receives the loaded models.
        metrics: counts refused commands.
    """

    def __init__(self, settings: Settings, transport: Transport, models: Models, metrics: ScorerMetrics) -> None:
        self._metrics = metrics
        self._stream = settings.stream.name
        self._front = front(settings)
        self._topic = Partition(settings.stream.control_topic, 0)
        self._transport = transport
        self._models = models
        self._next = 0
        self._poll_at = 0.0
        self._wanted: Wanted | None = None
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="bundle")
        self._loading: tuple[Wanted, Future[Model]] | None = None
        self._ready = self._failed = 0

    def wanted(self) -> Wanted | None:
        """Return this stream's newest command; reads the topic at most once per second."""
        if time.monotonic() >= self._poll_at:
            self._poll_at = time.monotonic() + POLL_S
            try:
                self._read()
            except (TransportError, DeadlineError) as error:
                self._poll_at = time.monotonic() + AFTER_TROUBLE_S
                log.warning("control_not_read", topic=self._topic.topic, message=str(error))
        return self._wanted

    def _read(self) -> None:
        earliest, end = self._transport.bounds(self._topic)
        start = max(self._next, earliest)
        for record in records(self._transport, self._topic, start, end):
            try:
                command = control_messages.decode(record.value)
            except ContractError as error:
                log.warning("command_not_known", topic=self._topic.topic, offset=record.offset, message=str(error))
                continue
            if command.stream == self._stream:
                self._wanted = Wanted(command, record.offset + 1)
        self._next = max(start, end)

    def model(self, wanted: Wanted) -> Model | None:
        """Return a command's model once it is loaded and probed; None before that, and if it is refused.

        The first call starts loading it in the background.
        """
        if self._ready == wanted.control:
            return self._models.get(wanted.command.bundle, wanted.command.model_id)
        if self._loading is None:
            if self._failed != wanted.control:
                self._loading = wanted, self._pool.submit(self._load, wanted.command)
            return None
        begun, loading = self._loading
        if not loading.done():
            return None
        self._loading = None
        try:
            model = loading.result()
        except StreamAdError as error:
            self._refuse(begun, error)
            return None
        if begun.control != wanted.control:
            return None  # superseded by a newer command, which is next
        self._models.add(model)
        self._ready = wanted.control
        return model

    def is_refused(self, wanted: Wanted) -> bool:
        """Return whether a command was refused here."""
        return self._failed == wanted.control

    def close(self) -> None:
        """Release the thread."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _load(self, command: SwapCommand) -> Model:
        model = self._models.load(command.bundle)
        if model.model_id != command.model_id:
            raise BundleDigestError(
                f"{command.bundle}: expected bundle {command.model_id[:16]}, found {model.model_id[:16]}"
            )
        if differences := self._front.differences(self._models.configured, model):
            raise BundleMismatchError(
                f"{command.bundle}: expected the windows of {self._models.configured.name}, found "
                f"{'; '.join(differences)}; set stream.bundle to it and restart"
            )
        return model

    def _refuse(self, wanted: Wanted, error: StreamAdError) -> None:
        self._failed = wanted.control
        self._metrics.swap_refused()
        log.error("swap_refused", bundle=wanted.command.bundle, error=type(error).__name__, message=str(error))
