"""`stream-ad reposition`: restore consumer group offsets that were deleted or changed by hand."""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stream_ad.cli.output import print_json
from stream_ad.errors import PositionError, StorageError, TopicError

if TYPE_CHECKING:
    from stream_ad.config import Settings
    from stream_ad.io.transport import Partition, Transport

GRACE_S = 5.0
"""Extra wait after a session timeout until the broker has removed a dead member."""
RETRY_S = 0.5


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    parser = subparsers.add_parser(
        "reposition",
        help="restore group offsets that were deleted or changed by hand",
        description="Compare the committed offsets of the scorer and archiver groups with what these roles have "
        "published, partition by partition, and show what should be committed: for the scorer the end of the last span "
        "in the scores topic, for the archiver the end of the newest file. With --yes, commit it; stop the roles "
        "first. No row is then scored or archived twice, and none is missing. Exits with 0 if the offsets are right or "
        "were restored, else 1.",
    )
    parser.add_argument("--yes", action="store_true", help="commit; without it, only show what would be committed")
    parser.add_argument("--json", action="store_true", help="print one JSON object per partition and role")


@dataclass(frozen=True, slots=True)
class Plan:
    """A position's state and how to repair it.

    Attributes:
        role: the role whose group it is.
        partition: the partition.
        found: committed offset, None if nothing is committed.
        fault: what is wrong, "" if nothing.
        put: offset and metadata to commit, None to delete the offset.
        refused: why it cannot be restored, "" if it can.
    """

    role: str
    partition: Partition
    found: int | None
    fault: str = ""
    put: tuple[int, str] | None = None
    refused: str = ""


def run(args: argparse.Namespace) -> int:
    """Show or restore positions; return 0 if all are right, else 1.

    Raises:
        ConfigError: the settings are wrong.
        PositionError: roles are still running.
        TransportError: the log does not answer.
    """
    from stream_ad.assembly import open_transport
    from stream_ad.config import load

    settings = load(args.config)
    with contextlib.closing(open_transport(settings)) as transport:
        plans = [*scorer_plans(settings, transport), *archiver_plans(settings, transport)]
        wrong = [plan for plan in plans if plan.fault]
        todo = [plan for plan in wrong if not plan.refused]
        if args.yes and todo:
            restore(settings, transport, todo)
    for plan in plans:
        _show(plan, args.yes, args.json)
    if not args.json:
        print(_summary(wrong, todo, args.yes))
    return 0 if not wrong or (args.yes and todo == wrong) else 1


def scorer_plans(settings: Settings, transport: Transport) -> Iterator[Plan]:
    """Yield a plan per partition of the scorer's group."""
    from stream_ad.replaying.standing import Restoring
    from stream_ad.role_table import decider

    name = decider().name
    for one in Restoring(settings, transport).standings():
        found = None if one.found is None else one.found.offset
        put = None if one.marker is None else (one.offset, one.marker.to_text())
        yield Plan(name, one.partition, found, one.fault, put, one.refused)


def archiver_plans(settings: Settings, transport: Transport) -> Iterator[Plan]:
    """Yield a plan per partition of the archiver's group.

    The archiver resumes after its newest part; its offset only serves as an alarm. So only an offset beyond the newest
    part is wrong. It can be restored as long as the topic still has everything after that part: those scores are
    archived again.
    """
    from stream_ad.io.score_log import log as score_log
    from stream_ad.io.transport import Partition
    from stream_ad.role_table import ARCHIVER

    name = ARCHIVER.name
    topic, folder = settings.stream.scores_topic, settings.store.scores
    try:
        info = transport.topic(topic)
    except TopicError:
        return
    for number in range(info.partitions):
        place = Partition(topic, number)
        position = transport.committed(ARCHIVER.consumer_group(settings), place)
        if position is None:
            yield Plan(name, place, None)
            continue
        try:
            last = score_log.last_part(folder, number)
        except StorageError as error:
            yield Plan(name, place, position.offset, "the files cannot be read", refused=str(error))
            continue
        end = 0 if last is None else last.span.end
        if position.offset <= end or (last is None and _is_given_up(settings, number, position.offset)):
            yield Plan(name, place, position.offset)
            continue
        files = "there is no file" if last is None else f"the newest file ends at {end}"
        fault = f"{position.offset} is committed but {files} in {folder}: it was changed by hand, or files were removed"
        earliest, _ = transport.bounds(place)
        refused = ""
        if last is not None and last.topic_id != info.topic_id:
            refused = f"{last.path} belongs to an earlier topic of this name"
        elif earliest > end:
            refused = (
                f"scores {end} to {earliest - 1} are no longer in the topic: restore the files (docs/score-log.md)"
            )
        put = (end, "") if last is not None else None
        yield Plan(name, place, position.offset, fault, put, refused)


def _is_given_up(settings: Settings, number: int, committed: int) -> bool:
    from stream_ad.io.score_log import log as score_log
    from stream_ad.service.roles.archiver import GIVEN_UP

    return score_log.has_line(settings.store.scores / GIVEN_UP, f"{number} {committed}")


def restore(settings: Settings, transport: Transport, plans: list[Plan]) -> None:
    """Commit the plans, retrying until dead members have been removed from the group.

    Raises:
        PositionError: a role is still running.
    """
    from stream_ad.role_table import role

    deadline = time.monotonic() + settings.transport.session_timeout_s + GRACE_S
    for each in sorted({plan.role for plan in plans}):
        mine = [plan for plan in plans if plan.role == each]
        name, topic = role(settings, each).consumer_group(settings), mine[0].partition.topic
        positions = {plan.partition: plan.put for plan in mine}
        _patiently(lambda n=name, t=topic, p=positions: transport.set_positions(n, t, p), deadline, each)  # type: ignore[misc]


def _patiently(write: Callable[[], None], deadline: float, role: str) -> None:
    while True:
        try:
            write()
            return
        except PositionError as error:
            if time.monotonic() > deadline:
                raise PositionError(f"{error}: first stop every {role} of the stream on all hosts") from error
            time.sleep(RETRY_S)


def _show(plan: Plan, is_done: bool, as_json: bool) -> None:
    restored = bool(plan.fault) and not plan.refused
    offset = None if plan.put is None else plan.put[0]
    if as_json:
        print_json(
            {
                "role": plan.role,
                "topic": plan.partition.topic,
                "partition": plan.partition.number,
                "committed": plan.found,
                "fault": plan.fault,
                "restore_to": offset if restored else None,
                "restored": restored and is_done,
                "refused": plan.refused,
            }
        )
        return
    place = f"{plan.role:<8} {plan.partition.topic}[{plan.partition.number}]:"
    if not plan.fault:
        print(f"ok    {place} {'nothing committed' if plan.found is None else plan.found}")
        return
    print(f"WARN  {place} {plan.fault}")
    if plan.refused:
        print(f"      cannot be restored: {plan.refused}")
    else:
        to = "no offset, so that the role starts from the beginning" if offset is None else str(offset)
        print(f"      {'restored to' if is_done else 'would be restored to'} {to}")


def _summary(wrong: list[Plan], todo: list[Plan], is_done: bool) -> str:
    if not wrong:
        return "all offsets match what the roles committed"
    kept = len(wrong) - len(todo)
    tail = f"; {kept} cannot be restored" if kept else ""
    if is_done:
        return f"{len(todo)} restored{tail}; restart the roles, then run `stream-ad verify --topics`"
    return f"{len(todo)} to restore{tail}; nothing was changed: stop the roles and add --yes"
