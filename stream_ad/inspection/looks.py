"""Looks at a stream: one, or again and again; a log that does not answer is one of them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from stream_ad.assembly import open_transport
from stream_ad.config import LocalTransport, Settings
from stream_ad.errors import TransportError, UnreachableError
from stream_ad.inspection.facts import Status
from stream_ad.inspection.judging import Limits, is_lagging, warnings
from stream_ad.inspection.status import take
from stream_ad.io.transport import Transport

AGAIN_S = 2.0
"""Where something waits, a second look after this long tells whether the lag grows."""
REQUEST_S = 5.0
"""A person waits; the roles' own time-out may be longer."""


def looks(settings: Settings, limits: Limits, every_s: float | None) -> Iterator[tuple[Status | None, list[str]]]:
    """Yield what was seen and what of it needs a look; one look, or without end every `every_s` seconds.

    With `every_s` a log that does not answer is a look without a status.
    """
    before: Status | None = None
    with contextlib.ExitStack() as stack:
        transport: Transport | None = None
        while True:
            due = time.monotonic() + (every_s or 0.0)
            try:
                if transport is None:
                    transport = stack.enter_context(contextlib.closing(open_for_a_look(settings)))
                status = take(settings, transport)
                if every_s is None and is_lagging(status, limits):
                    time.sleep(AGAIN_S)
                    before, status = status, take(settings, transport)
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


def open_for_a_look(settings: Settings) -> Transport:
    """Open the log; makes nothing.

    Raises:
        UnreachableError: it does not answer, or there is none yet.
    """
    transport = settings.transport
    if isinstance(transport, LocalTransport):
        if not transport.path.exists():
            raise UnreachableError(f"{transport.path}: there is no log yet; it is made with its first topic")
        return open_transport(settings)
    shorter = transport.model_copy(update={"request_timeout_s": min(REQUEST_S, transport.request_timeout_s)})
    return open_transport(settings.model_copy(update={"transport": shorter}))
