"""Starts roles as processes, monitors exit codes and heartbeats, restarts with back-off."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from stream_ad.config import Settings
from stream_ad.role_table import processes
from stream_ad.service.logs import EventLog
from stream_ad.service.role import ECHO_S, HEARTBEAT_FD, OPENED, PARENT_PID, Exit

log = EventLog(__name__)

CONFIGURATION_CODES = frozenset({2, int(Exit.CONFIGURATION)})
"""2 is the command line's exit code for unreadable settings."""

HANG_GRACE_S = 5.0
"""Gives the role's own watchdog time to act first: it logs the stacks."""


@dataclass(frozen=True, slots=True)
class BackOff:
    """Waits before restarts, without jitter so that tests can predict them.

    Attributes:
        first_s: first wait.
        factor: growth of each further wait.
        limit_s: longest wait.
        reset_after_s: a role that ran for this long starts again with the first wait.
        fenced_s: minimum wait of a fenced role; without it, two processes with one name would fence each other
            endlessly.
    """

    first_s: float = 0.2
    factor: float = 2.0
    limit_s: float = 30.0
    reset_after_s: float = 60.0
    fenced_s: float = 5.0

    def wait_s(self, failures: int, code: int) -> float:
        """Return the wait after a number of consecutive failures (>= 1) and the last exit code."""
        if code in CONFIGURATION_CODES:
            return self.limit_s
        wait_s = min(self.limit_s, self.first_s * self.factor ** min(failures - 1, 60))
        return max(wait_s, self.fenced_s) if code == Exit.FENCED else wait_s


class Child:
    """A role's process, across restarts."""

    def __init__(self, name: str, command: Sequence[str]) -> None:
        self.name = name
        self.command = tuple(command)
        self.process: subprocess.Popen[bytes] | None = None
        self.fd: int | None = None
        self.started = self.beaten = 0.0
        self.start_at = 0.0
        self.ever_opened = False
        self.failures = 0
        self.killed_hung = False

    @property
    def pid(self) -> int | None:
        """Process id, None while no process runs."""
        return None if self.process is None else self.process.pid

    def start(self) -> None:
        """Start the process in its own session: Ctrl-C goes to the supervisor, which forwards it once."""
        reader, writer = os.pipe()
        environment = {**os.environ, HEARTBEAT_FD: str(writer), PARENT_PID: str(os.getpid())}
        try:
            self.process = subprocess.Popen(  # noqa: S603 - our own program
                self.command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=sys.stderr.fileno(),
                pass_fds=(writer,),
                start_new_session=True,
            )
        except BaseException:
            os.close(reader)
            raise
        finally:
            os.close(writer)
        os.set_blocking(reader, False)
        self.fd = reader
        self.started = self.beaten = time.monotonic()
        self.killed_hung = False

    def read_beats(self) -> None:
        """Read the heartbeats that have arrived."""
        if self.fd is None:
            return
        with contextlib.suppress(BlockingIOError):
            while beats := os.read(self.fd, 4096):
                self.beaten = time.monotonic()
                self.ever_opened = self.ever_opened or OPENED in beats

    def signal(self, number: int) -> None:
        """Send a signal if the process is running."""
        if self.process is not None:
            self.process.send_signal(number)

    def reap(self) -> int | None:
        """Return the exit code if the process has ended (negative: signal number), else None."""
        if self.process is None or (code := self.process.poll()) is None:
            return None
        self.read_beats()
        if self.fd is not None:
            os.close(self.fd)
        self.fd = self.process = None
        return code


class Supervisor:
    """Keeps a set of commands running until a signal stops it.

    A role that fails with a configuration error before it was ever open stops the supervisor with the same code, so
    that the operator sees it. Later (if a topic was deleted, for example) the role waits for the longest back-off and
    the others keep running.
    """

    def __init__(
        self,
        commands: Mapping[str, Sequence[str]],
        *,
        heartbeat_timeout_s: float,
        shutdown_timeout_s: float,
        back_off: BackOff | None = None,
    ) -> None:
        """Prepare; nothing is started yet.

        Args:
            commands: program and arguments by role name.
            heartbeat_timeout_s: a role without a heartbeat for longer (plus a grace period) is killed.
            shutdown_timeout_s: time for roles to end after a stop.
            back_off: waits before restarts.
        """
        self.children = [Child(name, command) for name, command in commands.items()]
        self._heartbeat_timeout_s = heartbeat_timeout_s
        self._shutdown_timeout_s = shutdown_timeout_s
        self._back_off = back_off or BackOff()
        self._signals: list[float] = []
        self._abort = False
        self._code: int | None = None

    def run(self) -> int:
        """Run until SIGTERM, SIGINT or an early configuration error; call it on the main thread.

        The main thread must outlive the children: on Linux they are signalled when the thread that started them ends.

        Returns:
            0, or the first non-zero exit code of a role after the stop.
        """
        before = {number: signal.signal(number, self._handle) for number in (signal.SIGTERM, signal.SIGINT)}
        log.info("supervising", roles=[child.name for child in self.children], pid=os.getpid())
        try:
            while not self._signals and self._code is None:
                for child in self.children:
                    self._tend(child)
                self._wait(0.1)
            return self._stop()
        finally:
            for child in self.children:
                child.signal(signal.SIGKILL)
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        self._abort = self._abort or bool(self._signals and now - self._signals[0] >= ECHO_S)
        self._signals.append(now)

    def _tend(self, child: Child) -> None:
        """Start, reap or kill a child, as needed."""
        now = time.monotonic()
        if child.process is None:
            if now >= child.start_at and not self._signals:
                self._start(child)
            return
        child.read_beats()
        if (code := child.reap()) is not None:
            self._ended(child, code)
        elif now - child.beaten > self._heartbeat_timeout_s + HANG_GRACE_S and not child.killed_hung:
            log.error("role_hung", child=child.name, pid=child.pid, without_heartbeat_s=round(now - child.beaten, 1))
            child.killed_hung = True
            child.signal(signal.SIGKILL)

    def _start(self, child: Child) -> None:
        try:
            child.start()
        except OSError as error:
            log.error("role_not_started", child=child.name, error=str(error))
            self._ended(child, int(Exit.BROKEN))
            return
        log.info("role_started", child=child.name, pid=child.pid, failures=child.failures)

    def _ended(self, child: Child, code: int) -> None:
        """Decide when to restart a child."""
        if code in CONFIGURATION_CODES and not child.ever_opened:
            log.error("role_configuration", child=child.name, exit_code=code)
            self._code = int(Exit.CONFIGURATION)
            return
        ran_s = time.monotonic() - child.started
        child.failures = 1 if ran_s >= self._back_off.reset_after_s else child.failures + 1
        wait_s = self._back_off.wait_s(child.failures, code)
        child.start_at = time.monotonic() + wait_s
        log.warning("role_ended", child=child.name, **describe(code), ran_s=round(ran_s, 1), restart_in_s=wait_s)

    def _wait(self, seconds: float) -> None:
        """Sleep until something may have happened; a child's end closes its pipe and wakes us."""
        with selectors.DefaultSelector() as selector:
            for child in self.children:
                if child.fd is not None:
                    selector.register(child.fd, selectors.EVENT_READ)
            selector.select(seconds)
        # A closed pipe stays readable until the process is reaped, and heartbeats may arrive fast.
        time.sleep(0.02)

    def _stop(self) -> int:
        """Stop all children: SIGTERM, then SIGKILL after the timeout or another signal."""
        codes = [] if self._code is None else [self._code]
        deadline = time.monotonic() + self._shutdown_timeout_s
        log.info("stopping_roles", limit_s=self._shutdown_timeout_s)
        for child in self.children:
            child.signal(signal.SIGTERM)
        killed = False
        while alive := [child for child in self.children if child.process is not None]:
            for child in alive:
                if (code := child.reap()) is not None:
                    log.info("role_stopped", child=child.name, **describe(code))
                    codes.append(code if code >= 0 else int(Exit.BROKEN))
            if not killed and (self._abort or time.monotonic() > deadline):
                killed = True
                log.error("killing_roles", roles=[child.name for child in alive if child.process is not None])
                for child in alive:
                    child.signal(signal.SIGKILL)
            time.sleep(0.02)
        return next((code for code in codes if code), int(Exit.DONE))


def describe(code: int) -> dict[str, str | int]:
    """Return log fields that describe an exit code."""
    if code < 0:
        with contextlib.suppress(ValueError):
            return {"by_signal": signal.Signals(-code).name}
    return {"exit_code": code}


def role_command(config: Path, role: str, index: int, log_format: str) -> tuple[str, ...]:
    """Return the command that runs one role."""
    program = (sys.executable, "-m", "stream_ad.cli.main", "--config", str(config), "--log-format", log_format)
    return (*program, "run", role, "--index", str(index))


def supervisor(settings: Settings, config: Path, log_format: str) -> Supervisor:
    """Return a stream's supervisor, for every process in the role table.

    Args:
        settings: the stream's settings, as read from `config`.
        config: the settings file, which each role reads itself.
        log_format: `json` or `text`, for the roles' logs, which go to this process's stderr unchanged.
    """
    commands = {
        spec.label(index): role_command(config, spec.name, index, log_format) for spec, index in processes(settings)
    }
    service = settings.service
    return Supervisor(
        commands,
        heartbeat_timeout_s=service.heartbeat_timeout_s,
        shutdown_timeout_s=service.shutdown_timeout_s + HANG_GRACE_S,
    )
