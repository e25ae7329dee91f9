"""`stream-ad verify`: prove that the score log is whole, from its files alone."""

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

TELL_EVERY_S = 2.0
NAMED = 10
"""So many stretches of lost input are named in the last line."""


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    parser = subparsers.add_parser(
        "verify",
        help="prove that the score log is whole",
        description="Read all files of the score log and prove, for each partition, that they are an unbroken chain "
        "from the first to the last, and that no window is there twice or missing between a device's windows. Exits "
        "with 1 and names the first gap if there is one. Neither the log nor a running service is needed, but for "
        "--topics the log.",
    )
    parser.add_argument("--folder", type=Path, metavar="PATH", help="another score log than that of the settings")
    parser.add_argument(
        "--trimmed", action="store_true", help="old files were deleted on purpose: begin with the oldest there is"
    )
    parser.add_argument(
        "--topics",
        action="store_true",
        help="also read the topics: that the tail is whole, that every window which the input gives is there, and that "
        "alerts and scores agree; and name input that was deleted before it was scored. Scorers may go on meanwhile: "
        "this is of what was committed as it began",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Verify; return 0 if all is proven, 1 if there is a gap.

    Raises:
        ConfigError: the settings are wrong.
        ScoreLogError: there is nothing to prove.
        StorageError: the folder cannot be read.
    """
    from stream_ad.config import load
    from stream_ad.io.score_log.exchange import is_unfinished
    from stream_ad.proof.verification import verify

    folder = args.folder if args.folder is not None else load(args.config).store.scores
    proof = verify(folder, _teller(), args.trimmed)
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
        print("      a compaction is at work or was cut off: `stream-ad compact` finishes it; then verify again")
    for line in topics.lines() if topics is not None else ():
        print(line)
    print(summary(proof, topics) + ("" if topics is None else topics.summary()))
    return 1 if failed else 0


@dataclass(frozen=True, slots=True)
class Topics:
    """What the topics say of a score log.

    Attributes:
        tails: what is not in a file yet, by partition.
        outcomes: files and tail against the input computed again, by partition.
    """

    tails: tuple[Tail, ...]
    outcomes: tuple[Outcome, ...]

    @property
    def agrees(self) -> bool:
        """Return whether nothing is missing, repeated or other."""
        return not any(tail.gap for tail in self.tails) and all(outcome.agrees for outcome in self.outcomes)

    def lines(self) -> Iterator[str]:
        """Yield what is to be said."""
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
        """Return what the last line says of the topics, "" if they add nothing."""
        return "" if self.agrees else "; the topics disagree"

    def lost(self) -> dict[int, set[Span]]:
        """Return the input that was deleted before it was scored, by partition, as the journal tells."""
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
    from stream_ad.cli.audit import teller
    from stream_ad.proof.audit import Audit, Stretch
    from stream_ad.proof.ledger import AlertLedger
    from stream_ad.proof.tail import read_tail

    store = settings.store.model_copy(update={"scores": folder})
    settings = settings.model_copy(update={"store": store})
    newest = {chain.partition: chain.last for chain in proof.chains}
    with contextlib.closing(open_transport(settings)) as transport:
        audit = Audit(settings, transport, tell=teller())
        numbers = audit.partitions()
        tails = [read_tail(settings, transport, number, newest.get(number)) for number in numbers]
        ledger = AlertLedger(settings, transport)
        outcomes = [audit.compare(number, Stretch(), ledger) for number in numbers]
    return Topics(
        tuple(tail for tail in tails if tail is not None),
        tuple(outcome for outcome in outcomes if outcome is not None),
    )


def lines(chain: Chain) -> list[str]:
    """Return what is proven of a partition."""
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
            f"      begins at input offset {first.spans.input.start}, not with the stream: what was before, and each "
            "device's windows before its first one here, are not covered"
        )
    if chain.lost:
        offsets = sum(span.end - span.start for span in chain.lost)
        named = ", ".join(f"{span.start}-{span.end - 1}" for span in chain.lost)
        found.append(
            f"      input offsets {named} ({offsets:,}) were deleted before they were scored: they have no rows, and "
            "are not counted as input"
        )
    if devices.returns:
        found.append(
            f"      {devices.returns:,} times a device went back in time after its state had been given up, first "
            f"{devices.returned}: windows of a time that was scored before are there once for each"
        )
    if devices.again:
        found.append(
            f"      {devices.again:,} windows were judged after the state had been started again, and do not end after "
            f"those of their device before, first {devices.judged_again}: these may be there twice"
        )
    return found


def lost_input(proof: Proof, topics: Topics | None) -> dict[int, set[Span]]:
    """Return the input that was deleted before it was scored, by partition: what the files tell, and the journal."""
    found = {} if topics is None else topics.lost()
    for chain in proof.chains:
        found.setdefault(chain.partition, set()).update(chain.lost)
    return found


def summary(proof: Proof, topics: Topics | None = None) -> str:
    """Return the last line."""
    rows, parts = (sum(getattr(chain, name) for chain in proof.chains) for name in ("rows", "parts"))
    lost = lost_input(proof, topics)
    wholes = [(chain.partition, chain.whole.spans.input) for chain in proof.chains if chain.whole is not None]
    offsets = sum(
        whole.end
        - whole.start
        - sum(span.end - span.start for span in lost[number] if whole.start <= span.start and span.end <= whole.end)
        for number, whole in wholes
    )
    verdict = f"{len(proof.gaps)} gap(s)" if proof.gaps else "proven: no row missing or twice between first and last"
    if again := sum(chain.devices.again for chain in proof.chains):
        verdict += f", but for {again:,} windows judged again after a start over"
    return (
        f"{verdict}; {rows:,} rows in {parts:,} files, {len(proof.chains)} partition(s), {offsets:,} input offsets, "
        f"{duration_text(proof.seconds)}{_without(lost)}"
    )


def _without(lost: Mapping[int, set[Span]]) -> str:
    """Return what the last line says of lost input, "" without any."""
    gone = sum(span.end - span.start for spans in lost.values() for span in spans)
    if not gone:
        return ""
    return f"; {gone:,} input offsets were deleted before they were scored ({_named(lost)}) and are not among these"


def _named(lost: Mapping[int, set[Span]]) -> str:
    """Return the first stretches of lost input, by partition."""
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


def _teller() -> Callable[[Progress], None]:
    """Return what says on stderr now and then how far it is."""
    due = time.monotonic() + TELL_EVERY_S

    def tell(progress: Progress) -> None:
        nonlocal due
        if time.monotonic() >= due:
            due = time.monotonic() + TELL_EVERY_S
            print(f"{progress.parts:,} of {progress.of_parts:,} files, {progress.rows:,} rows", file=sys.stderr)

    return tell
