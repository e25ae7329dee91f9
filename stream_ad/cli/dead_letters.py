"""`stream-ad dead-letters`: show refused records with place and reason, and resend them once the sender is fixed."""

from __future__ import annotations

import argparse
import base64
import contextlib
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stream_ad.cli.output import console, moment_ns, print_json, time_text, warn_skipped
from stream_ad.core.names import matches
from stream_ad.errors import ConfigError, ContractError

if TYPE_CHECKING:
    from rich.console import Console

    from stream_ad.config import Settings
    from stream_ad.io.following import Stored
    from stream_ad.io.transport import Transport
    from stream_ad.io.wire.dead_letters import DeadLetter

BATCH = 200
"""Letters resent before their notes are written; up to this many may be sent twice if the process is killed."""


@dataclass(frozen=True, slots=True)
class Placed:
    """A dead letter and its place in the log."""

    log_ns: int
    partition: int
    offset: int
    key: bytes | None
    letter: DeadLetter

    @property
    def device(self) -> str:
        """Id of the device if it can be recovered, else the record's key."""
        from stream_ad.io.wire.dead_letters import device_in

        return self.letter.refused.device or device_in(self.letter.value, self.key)


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    parser = subparsers.add_parser(
        "dead-letters",
        help="show refused records, follow new ones, resend them",
        description="Print the records that were refused, wholly or in part: when, their offset in the readings "
        "topic, the device, and why. Reads the dead-letter topic without a consumer group. With --resend, records are "
        "appended to the readings topic unchanged and marked as resent: each letter at most once, and never again if "
        "it is refused again. Late readings would be late again, so they are resent only with --reason late.",
    )
    parser.add_argument("-f", "--follow", action="store_true", help="keep printing new letters until Ctrl-C")
    parser.add_argument(
        "--since",
        type=moment_ns,
        default=0,
        metavar="TIME",
        help="only records refused since: a time (2026-03-01T12:00:00Z), a duration ago (15m, 2h) or now",
    )
    parser.add_argument("--device", metavar="PATTERN", default="*", help="only these devices, for example 'pump-1*'")
    parser.add_argument(
        "--reason",
        action="append",
        default=[],
        metavar="REASON",
        help="only this reason, such as bad_time; repeatable",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object per line, with the payload")
    parser.add_argument("--resend", action="store_true", help="show which records would be resent; add --yes to send")
    parser.add_argument("--yes", action="store_true", help="with --resend: send")


def run(args: argparse.Namespace) -> int:
    """Print letters, or resend their records; return 0.

    Raises:
        ConfigError: the settings or options are wrong.
        TransportError: the log or the topic is unavailable.
    """
    from stream_ad.assembly import open_transport
    from stream_ad.config import load
    from stream_ad.core.batches import Reason
    from stream_ad.io.following import follow

    settings = load(args.config)
    if unknown := sorted(set(args.reason) - {reason.value for reason in Reason}):
        raise ConfigError(
            f"--reason: expected one of {', '.join(reason.value for reason in Reason)}, found {unknown[0]}"
        )
    if (args.resend and args.follow) or (args.yes and not args.resend):
        raise ConfigError("--resend cannot be combined with --follow, and --yes needs --resend")
    out = console()
    with contextlib.closing(open_transport(settings)) as transport:
        topic = settings.stream.dead_letters_topic
        wanted = (
            placed
            for placed in placed_letters(follow(transport, topic, args.follow))
            if placed.log_ns >= args.since
            and matches(placed.device, args.device)
            and (not args.reason or placed.letter.refused.reason.value in args.reason)
        )
        if args.resend:
            return resend(transport, settings, wanted, "late" in args.reason, args.yes, args.json)
        for placed in wanted:
            if args.json:
                print_json(as_json(placed, topic))
            else:
                print_line(out, placed)
            if args.follow:
                sys.stdout.flush()
    return 0


def placed_letters(records: Iterable[Stored]) -> Iterator[Placed]:
    """Yield the letters among a dead-letter topic's records; notes about resent letters are skipped."""
    from stream_ad.io.wire.dead_letters import RESENT_LETTER, decode

    for at in records:
        if any(name == RESENT_LETTER for name, _ in at.headers):
            continue
        try:
            letter = decode(at.value, at.headers)
        except ContractError as error:
            warn_skipped(at, error)
        else:
            yield Placed(at.log_ns, at.partition.number, at.offset, at.key, letter)


# -- resending ------------------------------------------------------------------------------------


def resend(
    transport: Transport, settings: Settings, wanted: Iterable[Placed], with_late: bool, is_sure: bool, as_lines: bool
) -> int:
    """Append letters' records to the readings topic, or show which ones would be; return 0.

    Args:
        transport: the log.
        settings: the stream's settings.
        wanted: letters; those that cannot or must not be resent are counted and skipped.
        with_late: include readings refused as late.
        is_sure: send; otherwise only show.
        as_lines: print JSON.
    """
    readings, letters = settings.stream.readings_topic, settings.stream.dead_letters_topic
    before = sent_before(transport, letters)
    chosen: list[Placed] = []
    left: dict[str, int] = {}
    for placed in wanted:
        if why := _held_back(placed, readings, before, with_late):
            left[why] = left.get(why, 0) + 1
        else:
            chosen.append(placed)
    if is_sure:
        _send(transport, readings, letters, chosen)
    out = console()
    for placed in chosen if not is_sure else ():
        print_json(as_json(placed, letters)) if as_lines else print_line(out, placed)
    if as_lines:
        print_json({"resent": len(chosen) if is_sure else 0, "chosen": len(chosen), "left": left})
        return 0
    kept = "".join(f"; {count:,} skipped: {why}" for why, count in sorted(left.items()))
    what = f"{len(chosen):,} record{'' if len(chosen) == 1 else 's'}"
    out.print(f"resent {what}{kept}" if is_sure else f"{what} to resend{kept}; add --yes to send", markup=False)
    return 0


def _held_back(placed: Placed, readings: str, before: set[tuple[int, int]], with_late: bool) -> str:
    """Return why a letter's record must not be resent, "" if it may be."""
    letter = placed.letter
    if letter.resent:
        return "refused again after being resent"
    if (placed.partition, placed.offset) in before:
        return "already resent"
    if letter.source.topic != readings:
        return f"from another topic than {readings}"
    if not letter.is_whole:
        return "truncated to the size limit"
    if letter.refused.reason.value == "late" and not with_late:
        return "late, and would be late again (--reason late resends them)"
    return ""


def sent_before(transport: Transport, topic: str) -> set[tuple[int, int]]:
    """Return partition and offset of each letter that was already resent, according to the notes."""
    from stream_ad.io.following import stored
    from stream_ad.io.wire.dead_letters import noted

    notes = (noted(record.headers) for record in stored(transport, topic))
    return {about for about in notes if about is not None}


def _send(transport: Transport, readings: str, letters: str, chosen: list[Placed]) -> None:
    from stream_ad.io.transport import Partition
    from stream_ad.io.wire.dead_letters import again, note

    partitions = transport.topic(readings).partitions
    for start in range(0, len(chosen), BATCH):
        some = chosen[start : start + BATCH]
        transport.append(readings, [again(placed.letter, placed.key, partitions) for placed in some])
        transport.append(letters, [note(Partition(letters, placed.partition), placed.offset) for placed in some])


# -- printing -------------------------------------------------------------------------------------


def as_json(placed: Placed, topic: str) -> dict[str, object]:
    """Return a letter as plain values, the payload as text if it is UTF-8, else as base64."""
    letter, refused = placed.letter, placed.letter.refused
    try:
        payload, encoding = letter.value.decode(), "utf-8"
    except UnicodeDecodeError:
        payload, encoding = base64.b64encode(letter.value).decode(), "base64"
    return {
        "time": time_text(placed.log_ns, seconds=False),
        "device": placed.device,
        "reason": refused.reason.value,
        "detail": refused.detail,
        "readings": refused.rows,
        "first_event": None if refused.first_event_ns is None else time_text(refused.first_event_ns, seconds=False),
        "source": {
            "topic": letter.source.topic,
            "partition": letter.source.number,
            "offset": refused.offset,
            "time": time_text(letter.log_ns, seconds=False),
        },
        "log": {"topic": topic, "partition": placed.partition, "offset": placed.offset},
        "resent": letter.resent or None,
        "key": None if placed.key is None else placed.key.decode("utf-8", "replace"),
        "headers": {name: content.decode("utf-8", "replace") for name, content in letter.headers},
        "payload": payload,
        "encoding": encoding,
        "bytes": letter.size,
        "is_whole": letter.is_whole,
    }


def print_line(out: Console, placed: Placed) -> None:
    """Print a letter for a person."""
    from rich.text import Text

    letter = placed.letter
    line = Text()
    line.append(time_text(placed.log_ns), "dim")
    line.append(f"  {letter.source.number}@{letter.refused.offset}")
    line.append(f"  {ascii(placed.device)[1:-1] or '—':<12}", "bold")
    line.append(f"  {letter.refused.reason.value:<13}", "yellow")
    line.append(f"  {letter.refused.detail}")
    if letter.resent:
        line.append(f"  (resent; first at {letter.resent})", "dim")
    out.print(line)
