"""What a scorer and an archiver do with each outcome of a commit.

Real processes, a disturbed log, and the proof of what came out.
"""

from __future__ import annotations

import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from kafka import errors as kafka_errors

from stream_ad.io.local.file import LogFile
from stream_ad.service.role import Exit
from stream_ad.service.roles.scorer import MAX_REJECTIONS
from tests.crashes.courses import Course
from tests.crashes.dying import Lives
from tests.support.e2e import LONG_S, Stream, wait_until
from tests.support.kafka_proxy import EVER, Act, Api, Proxied, Rule, behind_proxy

OPTIONS = {
    "commit": {"every_s": 0.001, "poll_records": 12, "deadline_s": 3.0},
    "store": {"checkpoint_every_s": 0.05, "part_max_age_s": 0.001},
}


@dataclass(frozen=True)
class Disturbed:
    """A commit that meets something.

    Attributes:
        api, act, error, times: what happens to which request.
        code: how the role ends; 0: it lives on.
        says: found in its log.
        at: the step at which it dies by itself.
        needs_more: it notices at the commit after, if there is one.
    """

    api: Api
    act: Act
    error: str
    times: int
    code: int
    says: str
    at: str = ""
    needs_more: bool = False

    def rule(self) -> Rule:
        errno = int(getattr(kafka_errors, self.error).errno) if self.error else 0
        # A commit has landed before, and checkpoints are written.
        return Rule(self.api, self.act, errno, first=2, times=self.times)


STALE = (Api.TXN_OFFSET_COMMIT, Act.REPLACE, "IllegalGenerationError")
"""Rejected: the transaction is aborted."""
UNKNOWN_LANDED = (Api.END_TXN, Act.REPLACE, "UnknownError")
UNKNOWN_GONE = (Api.END_TXN, Act.ANSWER, "UnknownError")
HUNG_LANDED = (Api.END_TXN, Act.SILENCE, "")
HUNG_GONE = (Api.END_TXN, Act.SWALLOW, "")

COMMITS = {
    "rejected, then landed": Disturbed(*STALE, MAX_REJECTIONS - 1, Exit.DONE, '"in_a_row":4'),
    "rejected too often": Disturbed(*STALE, EVER, Exit.BROKEN, "5 consecutive commits were rejected"),
    "rejected and killed": Disturbed(*STALE, 1, -signal.SIGKILL, "commit_rejected", at="rejected"),
    "unknown, had landed": Disturbed(*UNKNOWN_LANDED, 1, Exit.BROKEN, "the outcome of a commit is unknown"),
    "unknown, had not landed": Disturbed(*UNKNOWN_GONE, 1, Exit.BROKEN, "the outcome of a commit is unknown"),
    "unknown, had landed, and killed": Disturbed(*UNKNOWN_LANDED, 1, -signal.SIGKILL, "", at="unknown"),
    "unknown, had not landed, and killed": Disturbed(*UNKNOWN_GONE, 1, -signal.SIGKILL, "", at="unknown"),
    "hung, had landed": Disturbed(*HUNG_LANDED, 1, Exit.BROKEN, "DeadlineError"),
    "hung, had not landed": Disturbed(*HUNG_GONE, 1, Exit.BROKEN, "DeadlineError"),
    "fenced, had landed": Disturbed(
        Api.END_TXN, Act.REPLACE, "ProducerFencedError", 1, Exit.FENCED, "a newer committer exists"
    ),
    "fenced, had not landed": Disturbed(
        Api.END_TXN, Act.ANSWER, "ProducerFencedError", 1, Exit.FENCED, "a newer committer exists"
    ),
    "a record refused": Disturbed(
        Api.PRODUCE, Act.REPLACE, "MessageSizeTooLargeError", EVER, Exit.BROKEN, "RecordTooLargeError"
    ),
    "no right to write": Disturbed(
        Api.PRODUCE, Act.ANSWER, "TopicAuthorizationFailedError", 1, Exit.CONFIGURATION, "RightsError"
    ),
    "cut before and after": Disturbed(Api.END_TXN, Act.CUT_AFTER, "", 3, Exit.DONE, ""),
}


ARCHIVER_COMMITS = {
    "rejected for ever": Disturbed(*STALE, EVER, Exit.DONE, "offsets_not_committed"),
    "rejected and killed": Disturbed(*STALE, 1, -signal.SIGKILL, "", at="rejected"),
    "unknown, had landed": Disturbed(*UNKNOWN_LANDED, 1, Exit.BROKEN, "offsets_not_committed", needs_more=True),
    "unknown, had not landed": Disturbed(*UNKNOWN_GONE, 1, Exit.BROKEN, "offsets_not_committed", needs_more=True),
    "unknown, had landed, and killed": Disturbed(*UNKNOWN_LANDED, 1, -signal.SIGKILL, "", at="unknown"),
    "unknown, had not landed, and killed": Disturbed(*UNKNOWN_GONE, 1, -signal.SIGKILL, "", at="unknown"),
    "hung, had landed": Disturbed(*HUNG_LANDED, 1, Exit.BROKEN, "DeadlineError"),
    "fenced, had not landed": Disturbed(
        Api.END_TXN, Act.ANSWER, "ProducerFencedError", 1, Exit.FENCED, "a newer committer exists"
    ),
}
"""The link is the commit: its offset is only an alarm that parts were taken away."""


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxied]:
    with behind_proxy(tmp_path_factory.mktemp("kafka")) as found:
        yield found


@pytest.mark.broker
@pytest.mark.timeout(600)
def test_a_scorer_on_kafka_meets_every_outcome_in_a_row(
    make_stream: Callable[..., Stream], lives: Lives, broker: Proxied
) -> None:
    stream = make_stream(servers=broker.servers, transport={"transaction_timeout_s": 5.0}, **OPTIONS)
    course = Course(lives, stream)
    course.send(300)
    course.live("scorer")
    for name, disturbed in COMMITS.items():
        for _ in range(2 if disturbed.at else 1):
            course.send(60)
            disturb(course, "scorer", name, disturbed, broker, stream.scored)
    course.live("scorer")
    course.live("archiver")
    stream.prove(at_least_alerts=5)


@pytest.mark.broker
@pytest.mark.timeout(600)
def test_an_archiver_on_kafka_meets_every_outcome_in_a_row(
    make_stream: Callable[..., Stream], lives: Lives, broker: Proxied
) -> None:
    stream = make_stream(servers=broker.servers, transport={"transaction_timeout_s": 5.0}, **OPTIONS)
    course = Course(lives, stream)
    for name, disturbed in ARCHIVER_COMMITS.items():
        for _ in range(2 if disturbed.at else 1):
            course.send(250)
            course.live("scorer")
            disturb(course, "archiver", name, disturbed, broker, stream.archived)
    course.live("archiver")
    stream.prove()


def disturb(
    course: Course, role: str, name: str, disturbed: Disturbed, broker: Proxied, done: Callable[[], bool]
) -> None:
    """Let a role live under a rule until it ends or its work is done; check how it ended and what it said."""
    rule = disturbed.rule()
    with broker.proxy.rules(rule):
        life = course.start(role, disturbed.at)
        wait_until(lambda: life.has_ended() or (not disturbed.at and done()))
        code = life.stop(LONG_S)
    assert rule.hits, f"{name}: {life.text()[-3_000:]}"
    assert code == disturbed.code or (disturbed.needs_more and code == 0), f"{name}: {life.text()[-3_000:]}"
    assert disturbed.says in life.text() or disturbed.at, f"{name}: {life.text()[-3_000:]}"


# The local log


@contextmanager
def locked(stream: Stream) -> Iterator[None]:
    """Hold the log's lock, as a process that was stopped inside a write does."""
    file = LogFile(stream.folder / "log.sqlite", 5.0, durable=False)
    with file.writing():
        yield
    file.close()


def test_a_scorer_on_the_local_log_is_rejected_and_goes_on(make_stream: Callable[..., Stream], lives: Lives) -> None:
    stream = make_stream(**OPTIONS)
    course = Course(lives, stream)
    course.send(700)
    course.live("scorer")
    course.send()
    for at in ("rejected", ""):
        life = course.start("scorer", at)
        wait_until(lambda life=life: '"ready"' in life.text())  # type: ignore[misc]
        wait_until(stream.scored)
        course.send()
        with locked(stream):
            # The lock's own time-out is the length of this.
            wait_until(lambda life=life: life.has_ended() or "commit_rejected" in life.text())  # type: ignore[misc]
        if at:
            assert life.end(LONG_S) == -signal.SIGKILL
        else:
            wait_until(lambda life=life: life.has_ended() or stream.scored())  # type: ignore[misc]
            assert life.stop(LONG_S) == 0
    course.live("archiver")
    stream.prove()


@pytest.mark.parametrize("at", ["", "unknown"])
def test_a_scorer_on_the_local_log_starts_again_when_a_commit_is_in_doubt(
    make_stream: Callable[..., Stream], lives: Lives, at: str
) -> None:
    stream = make_stream(**OPTIONS)
    course = Course(lives, stream)
    course.send(300)
    course.live("scorer")
    life = course.start("scorer", at)
    wait_until(lambda: life.text().count("partition_gained") == 2)
    # The disk fails for what this process writes beyond what is there, and so inside its next COMMIT.
    wal = (stream.folder / "log.sqlite-wal").stat().st_size
    resource.prlimit(life.pid, resource.RLIMIT_FSIZE, (max(wal, 20_000), resource.RLIM_INFINITY))
    course.send(200)
    assert life.end(LONG_S) == (-signal.SIGKILL if at else Exit.BROKEN), life.text()[-2_000:]
    assert at or "the outcome of a commit is unknown" in life.text()
    course.live("scorer")
    course.live("archiver")
    stream.prove()
