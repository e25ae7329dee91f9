"""The named steps of a scorer's and an archiver's turns at which a process is killed: one line each."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from stream_ad.io.state import journal
from stream_ad.io.transport import CommitOutcome

BOTH = ("local", "kafka")
LOCAL, KAFKA = ("local",), ("kafka",)

COMMITTERS = {
    "local": "stream_ad.io.local.members:LocalCommitter",
    "kafka": "stream_ad.io.kafka.commit:KafkaCommitter",
}
SCORER = "stream_ad.service.roles.scorer:Scorer"
ARCHIVER = "stream_ad.service.roles.archiver:Archiver"
CHECKPOINTER = "stream_ad.service.checkpointer:Checkpointer"
CHECKPOINTS = "stream_ad.io.state.checkpoints"
SCORE_LOG = "stream_ad.io.score_log.log"
PRODUCER = "kafka:KafkaProducer"
TRANSACTIONS = "kafka.producer.transaction_manager"

Call = Callable[..., bool]


@dataclass(frozen=True)
class Step:
    """Where a process dies: in a call of a function of ours or of a library.

    Attributes:
        at: `module:name` or `module:Class.name` of the function; `{committer}` is the transport's class.
        after: dies when the function has done its work, not before.
        inside: only calls made within this function, on the same thread.
        only: which calls count, by their arguments.
        result: which calls count, by what they returned; for `after`.
        leaving: the role is asked to stop when it has published something.
        swap: a command to swap the bundle is given before.
        on: transports that have the step.
    """

    at: str
    after: bool = False
    inside: str = ""
    only: Call = lambda *args, **options: True
    result: Callable[[Any], bool] = lambda result: True
    leaving: bool = False
    swap: bool = False
    on: tuple[str, ...] = BOTH


def catching_up(scorer: Any, raw: Any) -> bool:
    """Return whether a step reads again what is public."""
    return bool(scorer._owned[raw.partition].catching_up)


def names_a_checkpoint(committer: Any, commit: Any) -> bool:
    """Return whether a commit's position names a checkpoint."""
    return any(".ckpt" in text for _, text in commit.positions.values())


def is_end_txn(client: Any, node: Any, request: Any, **options: Any) -> bool:
    """Return whether a request asks for a transaction's commit."""
    return request.name == "EndTxnRequest" and bool(request.committed)


def enters(kind: str) -> Call:
    """Return what picks entries of a kind that take effect."""
    return lambda scorer, owned, entry: bool(entry.kind == kind)


def publishes(kind: str) -> Call:
    """Return what picks commits that publish an entry of a kind."""

    def picks(committer: Any, commit: Any) -> bool:
        sent = [record.value for topic, records in commit.records.items() if "journal" in topic for record in records]
        return any(journal.decode(value).kind == kind for value in sent)

    return picks


SCORER_STEPS = {
    "opened": Step(f"{SCORER}.open", after=True),
    "joined, no committer": Step("{committer}.__init__"),
    "gained, not recovered": Step("stream_ad.service.roles.scorer:recover"),
    "recovered": Step(f"{SCORER}.gained", after=True),
    "polled": Step(f"{SCORER}._step"),
    "stepped": Step(f"{SCORER}._step", after=True),
    "commit begun": Step("{committer}.commit"),
    "records inserted": Step("stream_ad.io.local.records:insert", after=True, inside="{committer}.commit", on=LOCAL),
    "position set": Step("stream_ad.io.local.groups:set_position", after=True, inside="{committer}.commit", on=LOCAL),
    "commit asked (SQLite)": Step("stream_ad.io.local.file:LogFile._commit", inside="{committer}.commit", on=LOCAL),
    "commit done (SQLite)": Step(
        "stream_ad.io.local.file:LogFile._commit", after=True, inside="{committer}.commit", on=LOCAL
    ),
    "transaction begun": Step("stream_ad.io.kafka.commit:send_all", on=KAFKA),
    "records handed over": Step(f"{PRODUCER}.flush", inside="stream_ad.io.kafka.commit:send_all", on=KAFKA),
    "records sent": Step("stream_ad.io.kafka.commit:send_all", after=True, on=KAFKA),
    "offsets asked": Step(f"{TRANSACTIONS}:AddOffsetsToTxnHandler.handle_response", on=KAFKA),
    "offsets sent": Step(f"{PRODUCER}.send_offsets_to_transaction", after=True, on=KAFKA),
    "commit asked": Step("kafka.net.compat:KafkaNetClient.send", after=True, only=is_end_txn, on=KAFKA),
    "commit answered": Step(f"{TRANSACTIONS}:EndTxnHandler.handle_response", on=KAFKA),
    "committed": Step("{committer}.commit", after=True, result=lambda outcome: outcome is CommitOutcome.LANDED),
    "landed": Step(f"{SCORER}._landed"),
    "landed, noted": Step(f"{SCORER}._landed", after=True),
    "reading again": Step(f"{SCORER}._step", after=True, only=catching_up),
    "checkpoint begun": Step(f"{CHECKPOINTER}._write"),
    "checkpoint half written": Step("os:fsync", inside=f"{CHECKPOINTS}:_write_file"),
    "checkpoint aside": Step("pathlib:Path.rename", inside=f"{CHECKPOINTS}:write"),
    "checkpoint in place": Step("pathlib:Path.rename", after=True, inside=f"{CHECKPOINTS}:write"),
    "checkpoint not named": Step(f"{CHECKPOINTS}:write", after=True),
    "checkpoint being named": Step("{committer}.commit", only=names_a_checkpoint),
    "checkpoint named": Step("{committer}.commit", after=True, only=names_a_checkpoint),
    "silence found": Step(f"{SCORER}._enter", only=enters("close")),
    "closed by the clock": Step(f"{SCORER}._enter", after=True, only=enters("close")),
    "close being committed": Step("{committer}.commit", only=publishes("close")),
    "close committed": Step("{committer}.commit", after=True, only=publishes("close")),
    "bundle being loaded": Step("stream_ad.service.model_swap:CommandFollower._load", swap=True),
    "bundle loaded": Step(f"{SCORER}._swap", swap=True),
    "swapped": Step(f"{SCORER}._enter", after=True, only=enters("swap"), swap=True),
    "swap being committed": Step("{committer}.commit", only=publishes("swap"), swap=True),
    "swap committed": Step("{committer}.commit", after=True, only=publishes("swap"), swap=True),
    "pruning begun": Step(f"{CHECKPOINTS}:prune"),
    "pruned half-way": Step("pathlib:Path.unlink", after=True, inside=f"{CHECKPOINTS}:prune"),
    "pruned": Step(f"{CHECKPOINTS}:prune", after=True),
    "leaving": Step(f"{SCORER}.leaving", leaving=True),
    "leaving, checkpointed": Step(f"{CHECKPOINTER}.take_now", after=True, leaving=True),
    "leaving, committed": Step("{committer}.commit", after=True, inside=f"{SCORER}.leaving", leaving=True),
    "leaving, not released": Step(f"{SCORER}.leaving", after=True, leaving=True),
    "group left": Step("stream_ad.io.local.groups:leave", after=True, leaving=True, on=LOCAL),
    "group left (Kafka)": Step("stream_ad.io.kafka.log:KafkaLog.remove_member", after=True, leaving=True, on=KAFKA),
    "source closed": Step("{committer}.close", leaving=True),
}
"""In the order of a life; what is public is read again after a death between a commit and its checkpoint."""

OUTCOME_STEPS = {
    "rejected": Step("{committer}.commit", after=True, result=lambda outcome: outcome is CommitOutcome.REJECTED),
    "unknown": Step("{committer}.commit", after=True, result=lambda outcome: outcome is CommitOutcome.UNKNOWN),
}
"""Of a role whose commits somebody disturbs."""

START_OVER_STEPS = {
    "gained, not recovered": SCORER_STEPS["gained, not recovered"],
    "recovered": SCORER_STEPS["recovered"],
    "reading again": SCORER_STEPS["reading again"],
    "start being committed": Step("{committer}.commit", only=publishes("restart")),
    "records inserted": SCORER_STEPS["records inserted"],
    "records sent": SCORER_STEPS["records sent"],
    "commit asked": SCORER_STEPS["commit asked"],
    "start committed": Step("{committer}.commit", after=True, only=publishes("restart")),
    "landed": SCORER_STEPS["landed"],
    "checkpoint in place": SCORER_STEPS["checkpoint in place"],
    "checkpoint named": SCORER_STEPS["checkpoint named"],
}
"""Of a scorer whose state begins again."""

ARCHIVER_STEPS = {
    "aside being cleaned": Step(f"{SCORE_LOG}:clean_aside"),
    "opened": Step(f"{ARCHIVER}.open", after=True),
    "gained": Step(f"{ARCHIVER}.gained", after=True),
    "polled": Step(f"{ARCHIVER}._buffer"),
    "shelved": Step(f"{ARCHIVER}._buffer", after=True),
    "part begun": Step(f"{SCORE_LOG}:write_part"),
    "part half written": Step("os:fsync", inside=f"{SCORE_LOG}:write_file"),
    "part aside": Step(f"{SCORE_LOG}:write_file", after=True),
    "part linked": Step(f"{SCORE_LOG}:_link", after=True),
    "aside removed, folder not synced": Step(f"{SCORE_LOG}:sync_folder", inside=f"{SCORE_LOG}:write_part"),
    "part written": Step(f"{SCORE_LOG}:write_part", after=True),
    "offset not committed": Step("{committer}.commit"),
    "offset committed": Step("{committer}.commit", after=True),
    "leaving": Step(f"{ARCHIVER}.leaving", leaving=True),
    "leaving, committed": Step(f"{ARCHIVER}.leaving", after=True, leaving=True),
    "source closed": Step("{committer}.close", leaving=True),
}
"""In the order of a life."""

STEPS = {"scorer": SCORER_STEPS, "archiver": ARCHIVER_STEPS}

PUBLISHED = {"scorer": f"{SCORER}._landed", "archiver": f"{ARCHIVER}._link"}
"""Called when something was made public."""


def die() -> None:
    """End this process as `kill -9` does."""
    os.kill(os.getpid(), signal.SIGKILL)
    threading.Event().wait()  # not an instruction more on this thread


def wrap(path: str, wrapper: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Replace a function, given as `module:name` or `module:Class.name`, by a wrapper of it."""
    module, _, name = path.partition(":")
    owner: Any = import_module(module)
    *outer, last = name.split(".")
    for part in outer:
        owner = getattr(owner, part)
    setattr(owner, last, wrapper(getattr(owner, last)))


def arm(role: str, name: str, transport: str, call: int = 1) -> None:
    """Have this process die at its `call`-th coming to a step."""
    step = (START_OVER_STEPS | OUTCOME_STEPS | STEPS[role])[name]
    committer = COMMITTERS[transport]
    within = _Within()
    if step.inside:
        wrap(step.inside.format(committer=committer), within.marking)
    if step.leaving:
        stopping = _Stopping()
        wrap(PUBLISHED[role], stopping.asking)
    wrap(step.at.format(committer=committer), lambda original: _dying(original, step, call, within))


def _dying(original: Callable[..., Any], step: Step, call: int, within: _Within) -> Callable[..., Any]:
    calls = 0

    def dying(*args: Any, **options: Any) -> Any:
        nonlocal calls
        counts = (not step.inside or within.is_in) and step.only(*args, **options)
        if not step.after:
            calls += counts
            if counts and calls == call:
                die()
            return original(*args, **options)
        result = original(*args, **options)
        if counts and step.result(result):
            calls += 1
            if calls == call:
                die()
        return result

    return dying


class _Within(threading.local):
    """Whether this thread is inside a function."""

    is_in = False

    def marking(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @contextlib.contextmanager
        def inside() -> Iterator[None]:
            before, self.is_in = self.is_in, True
            try:
                yield
            finally:
                self.is_in = before

        def marked(*args: Any, **options: Any) -> Any:
            with inside():
                return original(*args, **options)

        return marked


class _Stopping:
    """Asks the process to stop, once, when it has published something."""

    has_asked = False

    def asking(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def published(*args: Any, **options: Any) -> Any:
            result = original(*args, **options)
            if not self.has_asked:
                self.has_asked = True
                os.kill(os.getpid(), signal.SIGTERM)
            return result

        return published
