"""What is done to a running stream and in which order: a pure function of the seed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

SCORERS, ARCHIVERS = 3, 2
SPARE = SCORERS
"""Number of the scorer that joins and leaves."""
ARCHIVER_SHARE = 0.35
"""Of the kills; scorers have more to lose."""
AT_WORK_SHARE = 0.8
"""Of the kills: these wait until the victim owns partitions; others may hit it while it starts."""


class Act(StrEnum):
    """A kind of disturbance."""

    KILL = "kill"
    STOP = "stop"
    JOIN = "join"
    LEAVE = "leave"
    DISK = "disk"
    SWAP = "swap"
    BROKER = "broker"


class Aim(StrEnum):
    """Which broker is killed."""

    LEADER = "leader of a readings partition"
    GROUP = "coordinator of the scorers' group"
    TRANSACTIONS = "coordinator of a scorer's transactions"


@dataclass(frozen=True, slots=True)
class Disturbance:
    """One entry of the schedule.

    Attributes:
        number: place in its lane, from 0.
        act: what is done.
        after_s: wait before it, counted from the end of the one before in the same lane.
        role: `scorer` or `archiver`, where a process is meant.
        index: which of them; for a broker, which partition or which scorer's transactions are meant.
        lasts_s: kill, leave: until it is started again; stop: until SIGCONT; disk: until there is room; broker: until
            it is started again.
        aim: which broker.
        at_work: wait, for a while, until the process owns partitions.
    """

    number: int
    act: Act
    after_s: float
    role: str = ""
    index: int = 0
    lasts_s: float = 0.0
    aim: Aim | None = None
    at_work: bool = False

    def __str__(self) -> str:
        who = f" {self.role}-{self.index}" if self.role else f" {self.aim} {self.index}" if self.aim else ""
        return f"{self.act}{who}" + (f" for {self.lasts_s:.1f} s" if self.lasts_s else "")


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of what.

    Attributes:
        seed: of everything that is drawn.
        kills: how often a scorer or an archiver is killed with SIGKILL.
        broker_kills: how often a broker is.
        spread_s: the time over which the disturbances are spread.
        session_s: session time-out of the consumer groups, which a stopped process oversleeps.
        swaps: how often the bundle is swapped.
    """

    seed: int
    kills: int
    broker_kills: int
    spread_s: float
    session_s: float
    swaps: int = 0

    @property
    def stops(self) -> int:
        """How often a process is stopped beyond its session."""
        return max(1, self.kills // 12)

    @property
    def turnovers(self) -> int:
        """How often a scorer joins or leaves; even, so that the spare one has left at the end."""
        return 2 * max(1, self.kills // 25)

    @property
    def disks(self) -> int:
        """How often the checkpoint disk is full for a while."""
        return max(1, self.kills // 40)


@dataclass(frozen=True, slots=True)
class Schedule:
    """Two lanes that run side by side: a broker may die while a scorer is being restarted."""

    processes: tuple[Disturbance, ...]
    brokers: tuple[Disturbance, ...]


def draw(plan: Plan) -> Schedule:
    """Return the schedule of a plan; the same plan gives the same one."""
    # One generator a lane: more broker kills leave the other lane as it is.
    return Schedule(
        tuple(_processes(plan, random.Random(f"{plan.seed} processes"))),
        tuple(_brokers(plan, random.Random(f"{plan.seed} brokers"))),
    )


def _processes(plan: Plan, rng: random.Random) -> Iterator[Disturbance]:
    acts = [Act.KILL] * plan.kills + [Act.STOP] * plan.stops + [Act.JOIN] * plan.turnovers
    acts += [Act.DISK] * plan.disks + [Act.SWAP] * plan.swaps
    rng.shuffle(acts)
    present = list(range(SCORERS))
    for number, act in enumerate(acts):
        after_s = rng.uniform(0.2, 1.8) * plan.spread_s / len(acts)
        if act in (Act.KILL, Act.STOP):
            is_archiver = rng.random() < ARCHIVER_SHARE
            role, index = ("archiver", rng.randrange(ARCHIVERS)) if is_archiver else ("scorer", rng.choice(present))
            lasts_s = rng.uniform(0.1, 1.5) if act is Act.KILL else plan.session_s + rng.uniform(2.0, 6.0)
            at_work = act is Act.STOP or rng.random() < AT_WORK_SHARE
            yield Disturbance(number, act, after_s, role, index, lasts_s, at_work=at_work)
        elif act is Act.JOIN and len(present) == SCORERS:
            index = next(k for k in range(SPARE + 1) if k not in present)
            present.append(index)
            yield Disturbance(number, Act.JOIN, after_s, "scorer", index)
        elif act is Act.JOIN:
            index = rng.choice(sorted(present))
            present.remove(index)
            yield Disturbance(number, Act.LEAVE, after_s, "scorer", index)
        else:
            yield Disturbance(number, act, after_s, lasts_s=rng.uniform(6.0, 15.0) if act is Act.DISK else 0.0)


def _brokers(plan: Plan, rng: random.Random) -> Iterator[Disturbance]:
    aims = list(Aim)
    first = rng.randrange(len(aims))
    for number in range(plan.broker_kills):
        after_s = rng.uniform(0.5, 1.2) * plan.spread_s / (plan.broker_kills + 1)
        aim = aims[(first + number) % len(aims)]
        yield Disturbance(number, Act.BROKER, after_s, "", rng.randrange(SCORERS), rng.uniform(1.0, 15.0), aim)
