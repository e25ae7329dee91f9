"""The named steps of a scorer's and an archiver's work at which a process is killed: one line each."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from stream_ad.io import steps
from stream_ad.io.state import journal
from stream_ad.io.transport import CommitOutcome

Facts = dict[str, Any]


@dataclass(frozen=True)
class Step:
    """Where a process dies.

    Attributes:
        at: a name that the code passes to `stream_ad.io.steps.reached`.
        only: which passes count, by their facts.
        leaving: the role is asked to stop once it has published something.
        swap: a command to swap the bundle is given before.
        rereads: the checkpoints are deleted before, so that public input is read again.
    """

    at: str
    only: Callable[[Facts], bool] = lambda facts: True
    leaving: bool = False
    swap: bool = False
    rereads: bool = False


def outcome(expected: CommitOutcome) -> Callable[[Facts], bool]:
    """Return what picks commits by their outcome."""
    return lambda facts: facts["outcome"] is expected


def names_a_checkpoint(facts: Facts) -> bool:
    """Return whether a commit's position names a checkpoint."""
    return any(".ckpt" in text for _, text in facts["commit"].positions.values())


def applies(kind: str) -> Callable[[Facts], bool]:
    """Return what picks journal entries of a kind."""
    return lambda facts: bool(facts["entry"].kind == kind)


def publishes(kind: str) -> Callable[[Facts], bool]:
    """Return what picks commits that publish an entry of a kind."""

    def picks(facts: Facts) -> bool:
        topics = facts["commit"].records.items()
        sent = [record.value for topic, records in topics if "journal" in topic for record in records]
        return any(journal.decode(value).kind == kind for value in sent)

    return picks


SCORER_STEPS = {
    "opened": Step("opened"),
    "gained": Step("gained"),
    "stepped": Step("stepped"),
    "records sent": Step("records sent"),
    "positions sent": Step("positions sent"),
    "committed": Step("committed", only=outcome(CommitOutcome.LANDED)),
    "landed": Step("landed"),
    "reading again": Step("stepped", only=lambda facts: bool(facts["was_catching_up"]), rereads=True),
    "checkpoint half written": Step("file half written", only=lambda facts: facts["path"].suffix == ".ckpt"),
    "checkpoint written aside": Step("checkpoint written aside"),
    "checkpoint in place": Step("checkpoint in place"),
    "checkpoint named": Step("committed", only=names_a_checkpoint),
    "checkpoint pruned": Step("checkpoint pruned"),
    "close applied": Step("entry applied", only=applies("close")),
    "close committed": Step("committed", only=publishes("close")),
    "swap applied": Step("entry applied", only=applies("swap"), swap=True),
    "swap committed": Step("committed", only=publishes("swap"), swap=True),
    "left": Step("left", leaving=True),
    "closed": Step("closed", leaving=True),
}
"""In the order of a life; public input is read again after a death between a commit and its checkpoint."""

OUTCOME_STEPS = {
    "rejected": Step("committed", only=outcome(CommitOutcome.REJECTED)),
    "unknown": Step("committed", only=outcome(CommitOutcome.UNKNOWN)),
}
"""Of a role whose commits somebody disturbs."""

START_OVER_STEPS = {name: SCORER_STEPS[name] for name in ("gained", "reading again", "records sent")} | {
    "start committed": Step("committed", only=publishes("restart")),
    **{name: SCORER_STEPS[name] for name in ("landed", "checkpoint in place", "checkpoint named")},
}
"""Of a scorer whose state begins again."""

ARCHIVER_STEPS = {
    "opened": Step("opened"),
    "gained": Step("gained"),
    "stepped": Step("stepped"),
    "part half written": Step("part half written"),
    "part written aside": Step("part written aside"),
    "part linked": Step("part linked"),
    "positions sent": Step("positions sent"),
    "committed": Step("committed"),
    "left": Step("left", leaving=True),
    "closed": Step("closed", leaving=True),
}
"""In the order of a life."""

STEPS = {"scorer": SCORER_STEPS, "archiver": ARCHIVER_STEPS}

PUBLISHED = {"scorer": "landed", "archiver": "part linked"}
"""Reached when something was made public."""


def arm(role: str, name: str, call: int = 1, number: int = signal.SIGKILL) -> None:
    """Have this process send itself a signal when it comes to a step for the `call`-th time; by default it dies."""
    step = (START_OVER_STEPS | OUTCOME_STEPS | STEPS[role])[name]
    left, asks = call, step.leaving

    def watch(reached: str, facts: Facts) -> None:
        nonlocal left, asks
        if asks and reached == PUBLISHED[role]:
            asks = False
            os.kill(os.getpid(), signal.SIGTERM)
        if reached == step.at and step.only(facts):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), number)
                if number == signal.SIGKILL:
                    threading.Event().wait()  # not an instruction more on this thread

    steps.watch(watch)
