"""`stream-ad reposition`: put back the offsets of the stream's groups that were deleted or moved by hand."""

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
"""After a session time-out, until the broker has removed a member that died."""
RETRY_S = 0.5


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    parser = subparsers.add_parser(
        "reposition",
        help="put back the groups' offsets that were deleted or moved by hand",
        description="Compare the offsets of the scorer's and the archiver's consumer group with what these roles have "
        "published, partition by partition, and show what should be committed: for the scorer the end of the last span "
        "of the scores topic, for the archiver the end of the newest file. With --yes, commit it (stop the roles "
        "first). Nothing is scored or filed twice afterwards, and nothing is missing. Exits with 0 if the offsets are "
        "right or were put back, else 1.",
    )
    parser.add_argument("--yes", action="store_true", help="commit; without it, only show what would be committed")
    parser.add_argument("--json", action="store_true", help="one JSON object a partition and role")


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done about a position.

    Attributes:
        role: whose group it is.
        partition: which one.
        found: the offset committed, None for nothing.
        fault: what is wrong, "" for nothing.
        put: offset and metadata to be committed, None to take it away.
        refused: why it cannot be restored, "" if it can.
    """

    role: str
    partition: Partition
    found: int | None
    fault: str = ""
    put: tuple[int, str] | None = None
    refused: str = ""


def run(args: argparse.Namespace) -> int:
    """Show or restore positions; return 0 where all are right, else 1.

    Raises:
        ConfigError: the settings are wrong.
        PositionError: roles are running.
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
    """Yield what is to be done about the scorer's group."""
    from stream_ad.replaying.standing import Restoring
    from stream_ad.role_table import decider

    name = decider().name
    for one in Restoring(settings, transport).standings():
        found = None if one.found is None else one.found.offset
        put = None if one.marker is None else (one.offset, one.marker.to_text())
        yield Plan(name, one.partition, found, one.fault, put, one.refused)


def archiver_plans(settings: Settings, transport: Transport) -> Iterator[Plan]:
    """Yield what is to be done about the archiver's group.

    Its offset is an alarm: parts decide where it goes on. So only one beyond the newest part is wrong, and it can be
    put back as long as the topic has all that comes after that part: those scores are filed again.
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
        fault = f"{position.offset} is committed, and {files} in {folder}: moved by hand, or files were taken away"
        earliest, _ = transport.bounds(place)
        refused = ""
        if last is not None and last.topic_id != info.topic_id:
            refused = f"{last.path} is of another topic of this name"
        elif earliest > end:
            refused = (
                f"scores {end} to {earliest - 1} are no longer in the topic: put the files back (docs/score-log.md)"
            )
        put = (end, "") if last is not None else None
        yield Plan(name, place, position.offset, fault, put, refused)


def _is_given_up(settings: Settings, number: int, committed: int) -> bool:
    from stream_ad.io.score_log import log as score_log
    from stream_ad.service.roles.archiver import GIVEN_UP

    return score_log.has_line(settings.store.scores / GIVEN_UP, f"{number} {committed}")


def restore(settings: Settings, transport: Transport, plans: list[Plan]) -> None:
    """Commit what is planned, waiting for members that died to be removed.

    Raises:
        PositionError: a role is running.
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
                raise PositionError(f"{error}: stop every {role} of the stream first, on all hosts") from error
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
    print(f"LOOK  {place} {plan.fault}")
    if plan.refused:
        print(f"      cannot be put back: {plan.refused}")
    else:
        to = "nothing, so that it begins anew" if offset is None else str(offset)
        print(f"      {'put back to' if is_done else 'would be put back to'} {to}")


def _summary(wrong: list[Plan], todo: list[Plan], is_done: bool) -> str:
    if not wrong:
        return "all offsets are those that the roles committed"
    kept = len(wrong) - len(todo)
    tail = f"; {kept} cannot be put back" if kept else ""
    if is_done:
        return f"{len(todo)} put back{tail}: start the roles again, then `stream-ad verify --topics`"
    return f"{len(todo)} to be put back{tail}: nothing was changed; stop the roles and run it with --yes"
