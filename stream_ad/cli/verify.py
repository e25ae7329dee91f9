"""`stream-ad verify`: prove from the score log's files that it is complete."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stream_ad.cli.output import duration_text, print_json

if TYPE_CHECKING:
    from stream_ad.config import Settings
    from stream_ad.io.spans import Span
    from stream_ad.proof.audit import Outcome
    from stream_ad.proof.tail import Tail
    from stream_ad.proof.verification import Chain, Progress, Proof

PROGRESS_EVERY_S = 2.0
NAMED = 10
"""Maximum number of lost input ranges in the summary."""


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    parser = subparsers.add_parser(
        "verify",
        help="prove that the score log is complete",
        description="Read all files of the score log and prove, for each partition, that they form an unbroken chain "
        "and that no window of a device is duplicated or missing. Exits with 1 and prints the first gap if there is "
        "one. Needs no running service, and the log only for --topics.",
    )
    parser.add_argument("--folder", type=Path, metavar="PATH", help="score log to verify (store.scores)")
    parser.add_argument(
        "--trimmed", action="store_true", help="old files were deleted on purpose: start at the oldest remaining file"
    )
    parser.add_argument(
        "--topics",
        action="store_true",
        help="also read the topics: verify the part not yet archived, that every window of the input is present, and "
        "that alerts and scores agree; report input that was deleted before it was scored. Scorers may keep running: "
        "covers what was committed when it started",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Verify; return 0 if everything is proven, 1 if there is a gap.

    Raises:
        ConfigError: the settings are wrong.
        ScoreLogError: the score log is empty.
        StorageError: the folder cannot be read.
    """
    from stream_ad.config import load
    from stream_ad.io.score_log.exchange import is_unfinished
    from stream_ad.proof.verification import verify

    folder = args.folder if args.folder is not None else load(args.config).store.scores
    proof = verify(folder, _progress_printer(), args.trimmed)
    topics = verify_topics(load(args.config), folder, proof) if args.topics else None
    failed = bool(proof.gaps) or (topics is not None and not topics.agrees)
    if args.json:
        found = as_json(folder, proof)
        print_json(found if topics is None else found | {"ok": not failed, "topics": topics.as_json()})
        return 1 if failed else 0
    for chain in proof.chains:
        for line in lines(chain):
            print(line)
    for gap in proof.gaps:
        print(f"GAP   {gap}")
    if proof.gaps and is_unfinished(folder):
        print("      a compaction is running or was interrupted: `stream-ad compact` completes it; then verify again")
    for line in topics.lines() if topics is not None else ():
        print(line)
    print(summary(proof, topics) + ("" if topics is None else topics.summary()))
    return 1 if failed else 0


@dataclass(frozen=True, slots=True)
class Topics:
    """Result of comparing a score log with the topics.

    Attributes:
        tails: scores not yet in a file, by partition.
        outcomes: files and tail compared with the recomputed input, by partition.
    """

    tails: tuple[Tail, ...]
    outcomes: tuple[Outcome, ...]

    @property
    def agrees(self) -> bool:
        """Return whether nothing is missing, duplicated or different."""
        return not any(tail.gap for tail in self.tails) and all(outcome.agrees for outcome in self.outcomes)

    def lines(self) -> Iterator[str]:
        """Yield the report."""
        from stream_ad.cli.audit import lines

        for tail in self.tails:
            text = f"partition {tail.partition}: {tail.rows:,} rows in {tail.messages:,} messages not in a file yet"
            yield f"GAP   {text}: {tail.gap}" if tail.gap else f"ok    {text}"
        for outcome in self.outcomes:
            mark = "ok   " if outcome.agrees else "GAP  "
            first, *more = lines(outcome)
            yield f"{mark} {first}; {outcome.alerts:,} alerts"
            yield from (f"      {line}" for line in more)

    def summary(self) -> str:
        """Return the closing line's part about the topics, "" if they agree."""
        return "" if self.agrees else "; the topics disagree"

    def lost(self) -> dict[int, set[Span]]:
        """Return input that was deleted before it was scored, by partition, according to the journal."""
        from stream_ad.io.spans import Span

        return {one.partition: {Span(*lost) for lost in one.lost_input} for one in self.outcomes}

    def as_json(self) -> dict[str, object]:
        """Return plain values."""
        return {
            "agrees": self.agrees,
            "tails": [asdict(tail) for tail in self.tails],
            "partitions": [asdict(outcome) | {"agrees": outcome.agrees} for outcome in self.outcomes],
        }


def verify_topics(settings: Settings, folder: Path, proof: Proof) -> Topics:
    """Compare a score log with the topics.

    Raises:
        TransportError: the log does not answer.
    """
    from stream_ad.assembly import open_transport
    from stream_ad.cli.audit import progress_printer
    from stream_ad.proof.audit import Audit, AuditRange
    from stream_ad.proof.ledger import AlertLedger
    from stream_ad.proof.tail import read_tail

    store = settings.store.model_copy(update={"scores": folder})
    settings = settings.model_copy(update={"store": store})
    newest = {chain.partition: chain.last for chain in proof.chains}
    with contextlib.closing(open_transport(settings)) as transport:
        audit = Audit(settings, transport, on_progress=progress_printer())
        numbers = audit.partitions()
        tails = [read_tail(settings, transport, number, newest.get(number)) for number in numbers]
        ledger = AlertLedger(settings, transport)
        outcomes = [audit.compare(number, AuditRange(), ledger) for number in numbers]
    return Topics(
        tuple(tail for tail in tails if tail is not None),
        tuple(outcome for outcome in outcomes if outcome is not None),
    )


def lines(chain: Chain) -> list[str]:
    """Return what is proven about a partition."""
    first, last, whole, devices = chain.first, chain.last, chain.whole, chain.devices
    if first is None or last is None or whole is None:
        return [f"      partition {chain.partition}: nothing is proven"]
    text = (
        f"ok    partition {chain.partition}: {chain.rows:,} rows of {len(devices.ids):,} devices in {chain.parts:,} "
        f"files; scores {whole.span}, input {whole.spans.input}, journal {whole.spans.journal}, "
        f"generations {first.generation}-{last.generation}"
    )
    found = [text]
    if not chain.is_from_start:
        found.append(
            f"      starts at input offset {first.spans.input.start}, not at the beginning of the stream: earlier "
            "input, and each device's windows before its first one here, are not covered"
        )
    if chain.lost:
        offsets = sum(span.end - span.start for span in chain.lost)
        named = ", ".join(f"{span.start}-{span.end - 1}" for span in chain.lost)
        found.append(
            f"      input offsets {named} ({offsets:,}) were deleted before they were scored: they have no rows and "
            "do not count as input"
        )
    if devices.returns:
        found.append(
            f"      {devices.returns:,} times a device went back in time after its state was evicted, first "
            f"{devices.returned}: windows of a time already scored are present once per pass"
        )
    if devices.again:
        found.append(
            f"      {devices.again:,} windows were judged after a state reset and do not end after their device's "
            f"earlier windows, first {devices.judged_again}: they may be duplicates"
        )
    return found


def lost_input(proof: Proof, topics: Topics | None) -> dict[int, set[Span]]:
    """Return input that was deleted before it was scored, by partition, according to files and journal."""
    found = {} if topics is None else topics.lost()
    for chain in proof.chains:
        found.setdefault(chain.partition, set()).update(chain.lost)
    return found


def summary(proof: Proof, topics: Topics | None = None) -> str:
    """Return the closing line."""
    rows, parts = (sum(getattr(chain, name) for chain in proof.chains) for name in ("rows", "parts"))
    lost = lost_input(proof, topics)
    wholes = [(chain.partition, chain.whole.spans.input) for chain in proof.chains if chain.whole is not None]
    offsets = sum(
        whole.end
        - whole.start
        - sum(span.end - span.start for span in lost[number] if whole.start <= span.start and span.end <= whole.end)
        for number, whole in wholes
    )
    verdict = f"{len(proof.gaps)} gap(s)" if proof.gaps else "proven: no row missing or duplicated"
    if again := sum(chain.devices.again for chain in proof.chains):
        verdict += f", except {again:,} windows judged again after a state reset"
    return (
        f"{verdict}; {rows:,} rows in {parts:,} files, {len(proof.chains)} partition(s), {offsets:,} input offsets, "
        f"{duration_text(proof.seconds)}{_without(lost)}"
    )


def _without(lost: Mapping[int, set[Span]]) -> str:
    """Return the closing line's part about lost input, "" if there is none."""
    gone = sum(span.end - span.start for spans in lost.values() for span in spans)
    if not gone:
        return ""
    return f"; {gone:,} input offsets were deleted before they were scored ({_named(lost)}) and are not counted"


def _named(lost: Mapping[int, set[Span]]) -> str:
    """Return the first ranges of lost input, by partition."""
    texts = [
        f"partition {number}: {span.start}-{span.end - 1}"
        for number, spans in sorted(lost.items())
        for span in sorted(spans, key=lambda span: span.start)
    ]
    return "; ".join(texts[:NAMED]) + (f" and {len(texts) - NAMED} more" if len(texts) > NAMED else "")


def as_json(folder: Path, proof: Proof) -> dict[str, object]:
    """Return a proof as plain values."""
    return {
        "folder": str(folder),
        "ok": not proof.gaps,
        "gaps": [
            {name: getattr(gap, name) for name in ("partition", "file", "device", "what", "expected", "found")}
            for gap in proof.gaps
        ],
        "partitions": [_chain_json(chain) for chain in proof.chains],
        "seconds": round(proof.seconds, 3),
    }


def _chain_json(chain: Chain) -> dict[str, object]:
    found: dict[str, object] = {
        "partition": chain.partition,
        "rows": chain.rows,
        "files": chain.parts,
        "parts": chain.linked,
        "devices": len(chain.devices.ids),
        "lives": chain.devices.lives,
        "returns": chain.devices.returns,
        "judged_again": chain.devices.again,
        "from_start": chain.is_from_start,
        "lost_input": [[span.start, span.end] for span in chain.lost],
    }
    whole = chain.whole
    if chain.first is None or chain.last is None or whole is None:
        return found

    spans = {"scores": whole.span, "input": whole.spans.input, "journal": whole.spans.journal}
    return found | {
        **{name: [span.start, span.end] for name, span in spans.items()},
        "generations": [chain.first.generation, chain.last.generation],
    }


def _progress_printer() -> Callable[[Progress], None]:
    """Return a callback that prints progress on stderr from time to time."""
    due = time.monotonic() + PROGRESS_EVERY_S

    def report(progress: Progress) -> None:
        nonlocal due
        if time.monotonic() >= due:
            due = time.monotonic() + PROGRESS_EVERY_S
            print(f"{progress.parts:,} of {progress.of_parts:,} files, {progress.rows:,} rows", file=sys.stderr)

    return report
