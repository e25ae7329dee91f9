"""Sockets that were opened and not closed."""

from __future__ import annotations

import sys
import threading
import weakref
from typing import Any

_opened: list[tuple[weakref.ref[Any], str]] = []


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    """Remember a new socket, unless it is kafka-python's or a thread's, which may close it later."""
    if event != "socket.__new__" or threading.current_thread() is not threading.main_thread():
        return
    frame, where = sys._getframe(1), ""
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        if module.partition(".")[0] == "kafka":
            return
        where = where or ("" if module in {"socket", "ssl"} else f"{frame.f_code.co_filename}:{frame.f_lineno}")
        if frame.f_back is None:
            break
        frame = frame.f_back
    _opened.append((weakref.ref(arguments[0]), where))


sys.addaudithook(_note)


def forget() -> None:
    """Forget the sockets opened so far."""
    _opened.clear()


def left_open() -> list[str]:
    """Return where the sockets were opened that are open still."""
    alive = ((reference(), where) for reference, where in _opened)
    return [where for one, where in alive if one is not None and one.fileno() >= 0]
