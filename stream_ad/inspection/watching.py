"""Reads a stream's status once or repeatedly; with repetition, a log that does not answer is reported and retried."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from stream_ad.assembly import open_transport
from stream_ad.config import LocalTransport, Settings
from stream_ad.errors import TransportError, UnreachableError
from stream_ad.inspection.facts import Status
from stream_ad.inspection.judging import Limits, is_lagging, warnings
from stream_ad.inspection.status import read_status
from stream_ad.io.transport import Transport

AGAIN_S = 2.0
"""If something waits, a second status after this time shows whether the lag grows."""
REQUEST_S = 5.0
"""Someone is waiting for the answer; the roles' own timeout may be longer."""


def watch(settings: Settings, limits: Limits, every_s: float | None) -> Iterator[tuple[Status | None, list[str]]]:
    """Yield status and warnings, once or, with `every_s`, repeatedly.

    With `every_s`, a log that does not answer yields None and the error.
    """
    before: Status | None = None
    with contextlib.ExitStack() as stack:
        transport: Transport | None = None
        while True:
            due = time.monotonic() + (every_s or 0.0)
            try:
                if transport is None:
                    transport = stack.enter_context(contextlib.closing(open_read_only(settings)))
                status = read_status(settings, transport)
                if every_s is None and is_lagging(status, limits):
                    time.sleep(AGAIN_S)
                    before, status = status, read_status(settings, transport)
            except TransportError as error:
                if every_s is None:
                    raise
                stack.close()
                transport = before = None
                yield None, [str(error)]
            else:
                yield status, warnings(status, before, limits)
                before = status
            if every_s is None:
                return
            time.sleep(max(0.0, due - time.monotonic()))


def open_read_only(settings: Settings) -> Transport:
    """Open the log for reading; creates nothing.

    Raises:
        UnreachableError: it does not answer or does not exist yet.
    """
    transport = settings.transport
    if isinstance(transport, LocalTransport):
        if not transport.path.exists():
            raise UnreachableError(f"{transport.path}: the log does not exist yet; it is created with its first topic")
        return open_transport(settings)
    shorter = transport.model_copy(update={"request_timeout_s": min(REQUEST_S, transport.request_timeout_s)})
    return open_transport(settings.model_copy(update={"transport": shorter}))
