"""The roles as processes, restarted as a supervisor would; how each of their lives ended."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stream_ad.service.role import Exit
from stream_ad.service.supervisor import BackOff
from tests.support.e2e import Process, Stream

Say = Callable[..., None]
"""Writes a line of the run's log: what, then fields."""

WAKE_S = 60.0
"""A process that was stopped has ended so long after it was woken, or it has kept its place."""
TROUBLE = frozenset({"crashed", "hung", "drain_deadline"})
"""Events that no process may log, whatever is done to it: bugs."""


@dataclass(slots=True)
class Member:
    """One role over all its lives.

    Attributes:
        role, index: who.
        wanted: it shall run.
        process: of this life, None between two.
        sentence: why this life will end, where we are the reason.
        start_at: when the next life begins.
        coordinator: of its group when it was sent SIGSTOP.
        wake_at: when it is sent SIGCONT, 0 where it is not stopped.
        woken_at: when it was; cleared by its end.
    """

    role: str
    index: int
    wanted: bool = True
    process: Process | None = None
    sentence: str = ""
    start_at: float = 0.0
    started_at: float = 0.0
    coordinator: int = -1
    wake_at: float = 0.0
    woken_at: float = 0.0
    failures: int = 0
    lives: int = 0

    @property
    def name(self) -> str:
        """For logs."""
        return f"{self.role}-{self.index}"

    @property
    def is_up(self) -> bool:
        """Whether it runs and nothing is being done to it."""
        return self.process is not None and not self.wake_at and not self.woken_at and not self.sentence


@dataclass(slots=True)
class Ends:
    """How lives ended.

    Attributes:
        killed: by us, by role.
        fenced: processes that were stopped beyond their session and ended with `Exit.FENCED`.
        slept_on: others of these, that a new coordinator of their group gave a whole session anew.
        left: orderly ends by SIGTERM.
        by_themselves: all other ends, by role, exit code and error, with their number.
        wrong: what may never happen.
    """

    killed: dict[str, int] = field(default_factory=lambda: {"scorer": 0, "archiver": 0})
    fenced: int = 0
    slept_on: dict[str, int] = field(default_factory=dict)
    left: int = 0
    by_themselves: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)


class Crew:
    """All roles of a stream; one thread calls it, `tend` often."""

    def __init__(self, stream: Stream, folder: Path, say: Say, seed: int, coordinator: Callable[[str], int]) -> None:
        """Prepare; `add` starts members.

        Args:
            stream: whose roles.
            folder: for the logs of the lives.
            say: tells of what happens.
            seed: of the delays before restarts that nothing in the schedule names.
            coordinator: returns the broker that coordinates a role's group now.
        """
        self.ends = Ends()
        self._members: dict[tuple[str, int], Member] = {}
        self._stream, self._folder, self._say = stream, folder, say
        self._rng = random.Random(f"{seed} restarts")
        self._coordinator = coordinator
        self._back_off = BackOff()
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, role: str, index: int) -> None:
        """Start a member, or let it come back."""
        member = self._members.setdefault((role, index), Member(role, index))
        member.wanted, member.start_at = True, 0.0
        self.tend()

    def is_up(self, role: str, index: int) -> bool:
        """Return whether a member runs, undisturbed so far in this life; it may be starting."""
        return self._members[role, index].is_up

    def is_asleep(self, role: str, index: int) -> bool:
        """Return whether a member is stopped, or was and has not shown yet what becomes of it."""
        member = self._members[role, index]
        return bool(member.wake_at or member.woken_at)

    def is_at_work(self, role: str, index: int) -> bool:
        """Return whether a member runs undisturbed and owns partitions."""
        return self.is_up(role, index) and bool(self.partitions(role, index))

    def all_opened(self) -> bool:
        """Return whether every member wanted runs and has opened."""
        wanted = [member for member in self._members.values() if member.wanted]
        return all(member.is_up and member.process and member.process.said("opened") for member in wanted)

    def partitions(self, role: str, index: int) -> frozenset[int]:
        """Return what a member owns, by its log."""
        process = self._members[role, index].process
        owned: set[int] = set()
        for line in process.lines() if process else ():
            if line["event"] == "partition_gained":
                owned.add(line["partition"])
            elif line["event"] in ("partition_left", "partition_lost"):
                owned.discard(line["partition"])
        return frozenset(owned)

    def kill(self, role: str, index: int, restart_s: float) -> None:
        """Kill a member with SIGKILL and start it again after a while."""
        member = self._members[role, index]
        process = _running(member)
        member.sentence = "killed"
        process.kill()
        self.ends.killed[role] += 1
        self._bury(member)
        member.start_at = time.monotonic() + restart_s

    def stop(self, role: str, index: int, seconds: float) -> None:
        """Stop a member's processor time; `tend` wakes it."""
        member = self._members[role, index]
        member.coordinator = self._coordinator(role)
        _running(member).process.send_signal(signal.SIGSTOP)
        member.wake_at = time.monotonic() + seconds

    def leave(self, role: str, index: int) -> None:
        """Ask a member to end for good, in an orderly way."""
        member = self._members[role, index]
        member.wanted, member.sentence = False, "left"
        _running(member).process.send_signal(signal.SIGTERM)

    def tend(self) -> None:
        """Wake, bury and start whoever is due."""
        now = time.monotonic()
        for member in self._members.values():
            process = member.process
            if process is None:
                if member.wanted and now >= member.start_at:
                    self._start(member)
                continue
            if member.wake_at and now >= member.wake_at:
                process.process.send_signal(signal.SIGCONT)
                member.wake_at, member.woken_at = 0.0, now
            if process.process.poll() is not None:
                self._bury(member)
            elif member.woken_at and now - member.woken_at > WAKE_S:
                self._slept(member, "kept its place")

    def finish(self, role: str, seconds: float = 90.0) -> None:
        """Ask all members of a role to end and wait; one that does not counts as wrong."""
        ending = [member for member in self._members.values() if member.role == role]
        for member in ending:
            member.wanted = False
            if member.process is not None:
                member.sentence = member.sentence or "left"
                member.process.process.send_signal(signal.SIGTERM)
        end = time.monotonic() + seconds
        while late := [member.name for member in ending if member.process]:
            self.tend()
            if time.monotonic() > end:
                self.ends.wrong.append(f"{late} did not end within {seconds:.0f} s of SIGTERM")
                return
            time.sleep(0.05)

    def close(self) -> None:
        """Make sure that nothing is left."""
        for member in self._members.values():
            if member.process is not None:
                member.process.end()

    def _start(self, member: Member) -> None:
        member.lives += 1
        member.started_at = time.monotonic()
        log = self._folder / f"{member.name}-{member.lives:03d}.log"
        member.process = Process(self._stream, member.role, member.index, log)

    def _bury(self, member: Member) -> None:
        """Note how a life ended and decide when the next begins."""
        process, code = _running(member), _running(member).process.returncode
        ran_s = time.monotonic() - member.started_at
        lines = process.lines()
        self.ends.wrong += [
            f"{process.path.name}: {line['event']}: {line.get('message', '')}"
            for line in lines
            if line["event"] in TROUBLE
        ]
        why = next((f"{line['error']}: {line['message']}" for line in lines if line["event"] == "failed"), "")
        member.process, slept = None, bool(member.woken_at or member.wake_at)
        if member.sentence == "killed":
            pass
        elif slept:
            self._slept(member, "fenced" if code == Exit.FENCED else f"ended with {code}: {why or 'nothing said'}")
        elif member.sentence == "left" and code in (Exit.DONE, -signal.SIGTERM):  # asked before it could listen
            self.ends.left += 1
        else:
            self._ended(member, code, why)
        member.failures = 1 if ran_s >= self._back_off.reset_after_s or not code else member.failures + 1
        wait_s = self._back_off.wait_s(member.failures, code) if code > 0 else self._rng.uniform(0.1, 1.0)
        member.start_at = time.monotonic() + wait_s
        if member.sentence != "killed":
            self._say("ended", who=member.name, code=code, ran_s=round(ran_s, 1), why=why[:200], log=process.path.name)
        member.sentence, member.wake_at, member.woken_at = "", 0.0, 0.0

    def _ended(self, member: Member, code: int, why: str) -> None:
        error = why.partition(":")[0] or "nothing said"
        kind = f"{member.role} {code} {error}"
        self.ends.by_themselves[kind] = self.ends.by_themselves.get(kind, 0) + 1
        if code not in (Exit.BROKEN, Exit.FENCED):
            self.ends.wrong.append(f"{member.name} ended with {code}: {why or 'nothing said'}")

    def _slept(self, member: Member, what: str) -> None:
        """Note what became of a process that was stopped for longer than its session."""
        member.woken_at = 0.0
        if what == "fenced":
            self.ends.fenced += 1
            return
        has_moved = self._coordinator(member.role) != member.coordinator  # then it gave all members a session anew
        self._say("slept", who=member.name, outcome=what, coordinator="moved" if has_moved else "the same")
        if has_moved and what == "kept its place":
            self.ends.slept_on[what] = self.ends.slept_on.get(what, 0) + 1
        else:
            self.ends.wrong.append(f"{member.name} was stopped for longer than its session, and {what}")


def _running(member: Member) -> Process:
    if member.process is None:
        raise RuntimeError(f"{member.name} does not run")
    return member.process


def events(folder: Path) -> list[dict[str, Any]]:
    """Return the events in the logs of all lives, for a person who looks for a cause; by file."""
    found = []
    for path in sorted(folder.glob("*.log")):
        process = Process.__new__(Process)
        process.path = path
        found += [{"file": path.name, **line} for line in process.lines()]
    return found
