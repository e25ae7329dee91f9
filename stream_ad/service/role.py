"""A role and the loop that runs it: heartbeats, deadlines, signals, exit codes."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from enum import IntEnum
from types import FrameType
from typing import Protocol, TypeAlias

from stream_ad.errors import (
    AccessError,
    BundleError,
    ConfigError,
    FencedError,
    OffsetsError,
    PartsGoneError,
    StreamAdError,
    TopicError,
)
from stream_ad.io.steps import reached
from stream_ad.service.logs import EventLog
from stream_ad.service.metrics import RoleMetrics
from stream_ad.service.probes import Probes

log = EventLog(__name__)

HEARTBEAT_FD = "STREAM_AD_HEARTBEAT_FD"
PARENT_PID = "STREAM_AD_PARENT_PID"
OPENED, MOVED = b"o", b"."

ECHO_S = 1.0
"""Signals closer together count as one: service managers signal the group and its parent at once."""

STALLED_S = 10.0
"""A role in a call that takes longer (a commit while the broker is down) is not ready."""

Plain: TypeAlias = str | int | float | bool | None


class Exit(IntEnum):
    """Exit codes of a role, after sysexits.h."""

    DONE = 0
    BROKEN = 70
    """Something failed; restart with back-off."""
    FENCED = 75
    """A newer owner took over; do not restart at once."""
    CONFIGURATION = 78
    """An operator must act first; an immediate restart would fail again."""


class Role(Protocol):
    """A long-running part of a stream. All methods except `ready` and `health` are called on one thread.

    Attributes:
        name: unique in its stream, for example `scorer-0`; used in logs.
        metrics: served on the metrics page.
    """

    name: str
    metrics: RoleMetrics

    def open(self) -> None:
        """Load state and join the group; long work calls the heartbeat."""
        ...

    def turn(self, wait_s: float) -> bool:
        """Run one turn, waiting up to `wait_s` for work; return whether there was any."""
        ...

    def close(self) -> None:
        """Drain: finish, commit, leave the group."""
        ...

    def ready(self) -> tuple[bool, str]:
        """Return readiness and a line about it; called on other threads."""
        ...

    def health(self) -> Mapping[str, Plain]:
        """Return a few values for the log; called on other threads."""
        ...


class Pulse:
    """The role's heartbeat: sent after every turn and during long work (a replay, loading a model).

    A watchdog thread ends the process with `Exit.BROKEN` and all stacks on stderr if there is no heartbeat for
    `timeout_s`. Code that never releases the interpreter lock also blocks the watchdog; then the supervisor, which
    reads heartbeats from a pipe, kills the process.
    """

    def __init__(self, timeout_s: float, fd: int | None = None, on_orphaned: Callable[[], None] | None = None) -> None:
        """Start the watchdog.

        Args:
            timeout_s: maximum time between two heartbeats.
            fd: write end of the supervisor's pipe, or None.
            on_orphaned: called once when the other end of the pipe is closed.
        """
        self.timeout_s = timeout_s
        self._fd = fd
        self._on_orphaned = on_orphaned
        self._last = time.monotonic()
        self._sent = 0.0
        self._stopped = threading.Event()
        if fd is not None:
            os.set_blocking(fd, False)
        self._watchdog = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._watchdog.start()

    @property
    def age_s(self) -> float:
        """Seconds since the last heartbeat."""
        return time.monotonic() - self._last

    def beat(self) -> None:
        """Send a heartbeat; costs one clock read."""
        self._last = time.monotonic()
        if self._last - self._sent >= min(0.5, self.timeout_s / 4):
            self._sent = self._last
            self._send(MOVED)

    def opened(self) -> None:
        """Report that the role is open."""
        self._last = time.monotonic()
        self._send(OPENED)

    def close(self) -> None:
        """Stop the watchdog."""
        self._stopped.set()
        self._watchdog.join(timeout=1.0)

    def _send(self, what: bytes) -> None:
        if self._fd is None:
            return
        try:
            os.write(self._fd, what)
        except BlockingIOError:
            pass  # the pipe is full: the supervisor is slow and has heartbeats to read
        except OSError:
            self._fd = None
            if self._on_orphaned is not None:
                self._on_orphaned()

    def _watch(self) -> None:
        while not self._stopped.wait(min(1.0, self.timeout_s / 4)):
            if self.age_s > self.timeout_s:
                log.error("hung", without_heartbeat_s=round(self.age_s, 3), limit_s=self.timeout_s)
                _end_now(Exit.BROKEN, with_stacks=True)


def run_role(
    make: Callable[[], Role],
    pulse: Pulse,
    stop: threading.Event,
    *,
    shutdown_timeout_s: float,
    http: tuple[str, int] | None = None,
    wait_s: float = 0.2,
    on_opened: Callable[[], None] | None = None,
) -> int:
    """Run a role until `stop` is set, then drain it. Errors that it raises become exit codes.

    After an error the role is not closed, since `close` would publish on behalf of a broken role. The process ends
    and recovers as after a kill.

    Args:
        make: builds the role, not yet open.
        pulse: its heartbeat; closed at the end.
        stop: requests a stop after the current turn.
        shutdown_timeout_s: time for draining, after which the process ends at once.
        http: host and port of the pages, or None.
        wait_s: maximum wait of an idle turn, and so the maximum delay before a stop is noticed.
        on_opened: called once after the role has opened.

    Returns:
        an `Exit` code.
    """
    probes: Probes | None = None
    try:
        role = make()
        state = _State(role, pulse)
        if http is not None:
            probes = Probes(http[0], http[1], state.alive, state.ready, role.metrics.render)
        log.info("starting", pid=os.getpid())
        role.open()
        reached("opened")
        if on_opened is not None:
            on_opened()
        pulse.opened()
        state.opened = True
        log.info("opened", **role.health())
        _loop(role, pulse, stop, state, wait_s)
        state.stopping = True
        log.info("stopping", **role.health())
        # Draining has a deadline of its own, and sends heartbeats until then.
        beating = _repeating(min(0.5, pulse.timeout_s / 4), pulse.beat)
        with _repeating(shutdown_timeout_s, lambda: _end_drain(shutdown_timeout_s)), beating:
            role.close()
        reached("closed")
        log.info("stopped")
        return Exit.DONE
    except StreamAdError as error:
        code = exit_code(error)
        log.error("failed", error=type(error).__name__, message=str(error), cause=_cause(error), exit_code=int(code))
        return code
    except Exception as error:
        log.exception("crashed", error=type(error).__name__, message=str(error), exit_code=int(Exit.BROKEN))
        return Exit.BROKEN
    finally:
        pulse.close()
        if probes is not None:
            probes.close()


def _loop(role: Role, pulse: Pulse, stop: threading.Event, state: _State, wait_s: float) -> None:
    while not stop.is_set():
        begun = time.monotonic()
        if role.turn(wait_s):
            role.metrics.turn_seconds.observe(time.monotonic() - begun)
        pulse.beat()
        state.refresh()


class _State:
    """State behind the pages: liveness from the heartbeat's age, readiness from the role."""

    def __init__(self, role: Role, pulse: Pulse) -> None:
        self._role, self._pulse = role, pulse
        self.opened = self.stopping = False
        self._was_ready: bool | None = None
        # Evaluated at each scrape, since a stuck role could not update it.
        role.metrics.ready.set_function(lambda: float(self.ready()[0]))

    def alive(self) -> tuple[bool, str]:
        age_s = self._pulse.age_s
        return age_s <= self._pulse.timeout_s, f"last heartbeat {age_s:.1f} s ago"

    def ready(self) -> tuple[bool, str]:
        if self.stopping:
            return False, "stopping"
        if not self.opened:
            return False, "starting"
        age_s = self._pulse.age_s
        if age_s > min(STALLED_S, self._pulse.timeout_s / 2):
            return False, f"in a call that has not returned for {age_s:.0f} s"
        return self._role.ready()

    def refresh(self) -> None:
        """Log a change of readiness, once."""
        now_ready, why = self._role.ready()
        if now_ready != self._was_ready:
            self._was_ready = now_ready
            if now_ready:
                log.info("ready", why=why)
            else:
                log.warning("unready", why=why)


def freeze_permanent_objects() -> None:
    """Exclude all objects of this process from garbage collection; call it once all permanent objects exist.

    The interpreter delays a full collection until the number of objects has grown by a quarter since the last one.
    With all modules of a program counted, that takes many minutes, during which reference cycles of the client's
    futures keep fetched records alive. After this call, full collections are cheap and frequent.
    """
    gc.collect()
    gc.freeze()
    gc.collect()  # resets the number of survivors to zero


def exit_code(error: StreamAdError) -> Exit:
    """Return the exit code, which tells a supervisor when to restart."""
    if isinstance(error, FencedError):
        return Exit.FENCED
    if isinstance(error, ConfigError | BundleError | TopicError | AccessError | OffsetsError | PartsGoneError):
        return Exit.CONFIGURATION
    return Exit.BROKEN


def _cause(error: BaseException) -> str | None:
    return None if error.__cause__ is None else f"{type(error.__cause__).__name__}: {error.__cause__}"


def _end_now(code: int, with_stacks: bool = False) -> None:
    """Exit without unwinding, which could hang as well."""
    with contextlib.suppress(OSError, ValueError):
        if with_stacks:
            faulthandler.dump_traceback(all_threads=True)
        sys.stderr.flush()
    os._exit(code)


@contextlib.contextmanager
def _repeating(every_s: float, action: Callable[[], None]) -> Iterator[None]:
    """Call a function in another thread, again and again, until the block has ended."""
    done = threading.Event()

    def repeat() -> None:
        while not done.wait(every_s):
            action()

    threading.Thread(target=repeat, name="drain", daemon=True).start()
    try:
        yield
    finally:
        done.set()


def _end_drain(limit_s: float) -> None:
    log.error("drain_deadline", limit_s=limit_s)
    _end_now(Exit.BROKEN, with_stacks=True)


def stop_on_signals(stop: threading.Event) -> None:
    """Set `stop` on SIGTERM or SIGINT; a second signal, `ECHO_S` or more later, ends the process at once.

    Call it on the main thread.
    """
    first: list[float] = []

    def handle(number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if first and now - first[0] >= ECHO_S:
            _end_now(128 + number)
        first.append(now)
        stop.set()

    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGINT, handle)


def die_with_parent(parent_pid: int) -> bool:
    """Have the kernel send SIGTERM to this process when its parent ends, even by SIGKILL (Linux).

    Returns:
        False if the parent has already ended. On other systems the closed heartbeat pipe reveals it, later.
    """
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None, use_errno=True).prctl(set_parent_death_signal, signal.SIGTERM)
    return os.getppid() == parent_pid


def supervised() -> tuple[int | None, int | None]:
    """Return and unset the heartbeat's file descriptor and the supervisor's process id; None for both if unset."""
    fd, parent = os.environ.pop(HEARTBEAT_FD, None), os.environ.pop(PARENT_PID, None)
    return (int(fd), int(parent)) if fd is not None and parent is not None else (None, None)
