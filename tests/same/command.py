"""`python -m tests.same --old COMMIT`: are the results of a commit and of this checkout the same?

Both run a stream over one simulated fleet, in processes of their own that find `stream_ad` in their checkout: a
backlog, live input, another bundle taken into service, a kill of all roles, other settings. It stands with the tests
because it needs what they need: the simulators, and a real Kafka that this process starts. What comes out is compared
row by row, bit by bit; tests/same/outcome.py names what is not.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from deploy.kafka.broker import BrokerError, KafkaCluster
from simulators.fleet import CHANNELS
from simulators.recorder import write_recording
from tests.same import fleet, outcome
from tests.same.outcome import Outcome

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BROKERS = {"local": "the embedded log", "kafka": "Kafka"}
SIDE_S = 900.0
END_S = 60.0


class SideError(RuntimeError):
    """A side did not get to its end; the message says why."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run and compare; 0 only where all is equal, 1 where it is not or too little came out, 2 where a run failed."""
    args = parse(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that nothing is left running
    try:
        if args.results:
            return 0 if report("results", *map(outcome.read, args.results)) else 1
        return run(args.old, tuple(BROKERS) if args.broker == "both" else (args.broker,), args.keep)
    except (SideError, BrokerError, OSError, ValueError, KeyError, pa.ArrowException) as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 2


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.same",
        description="Run a commit and this checkout on one simulated fleet, and compare every score row, alert and "
        "dead letter in order. Exits with 0 if they are equal, 1 if they differ, 2 if a run failed.",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--old", metavar="COMMIT", help="what to compare this checkout with")
    what.add_argument(
        "--results", type=Path, nargs=2, metavar=("OLD", "NEW"), help="compare the folders that a run left, again"
    )
    parser.add_argument("--broker", choices=(*BROKERS, "both"), default="both", help="on which log to run (both)")
    parser.add_argument("--keep", action="store_true", help="keep logs and results also where all is equal")
    return parser.parse_args(argv)


def run(commit: str, brokers: Sequence[str], is_kept: bool) -> int:
    """Compare a commit with this checkout on some kinds of log; return the exit code."""
    files = files_of(commit)
    folder = Path(tempfile.mkdtemp(prefix="stream-ad-same-"))
    checkout = folder / "checkout"
    is_same = False
    try:
        with tarfile.open(fileobj=io.BytesIO(files)) as archive:
            archive.extractall(checkout, filter="data")
        write_input(folder)
        # Each one is looked at, whatever is found on the one before.
        found = [compare_on(broker, checkout, folder) for broker in brokers]
        is_same = all(found)
    finally:
        if is_same and not is_kept:
            shutil.rmtree(folder)
        else:
            sys.stdout.write(f"logs and results: {folder}\n")
    return 0 if is_same else 1


def files_of(commit: str) -> bytes:
    """Return the files of a commit as an archive: unlike a worktree, a killed run leaves nothing of it in git.

    Raises:
        SideError: git knows no such commit.
    """
    command = ["git", "-C", str(ROOT), "archive", "--format=tar", commit]
    answer = subprocess.run(command, capture_output=True, check=False)
    if answer.returncode != 0:
        raise SideError(f"--old {commit}: {answer.stderr.decode().strip()}")
    return answer.stdout


def write_input(folder: Path) -> None:
    """Write what both sides read: the fleet's records, and a recording to train with."""
    given = {"channels": dict(CHANNELS), "parts": fleet.parts()}
    (folder / "input").write_bytes(pickle.dumps(given))
    write_recording(fleet.recorded(), fleet.START_MS, folder / "recording.parquet")


def compare_on(broker: str, checkout: Path, folder: Path) -> bool:
    """Run both sides on one kind of log, report, and return whether their results are the same.

    Raises:
        SideError: one failed, or took longer than it may.
    """
    begun = time.monotonic()
    places = {folder / f"{broker}-old": checkout, folder / f"{broker}-new": ROOT}
    with contextlib.ExitStack() as stack:
        # One core each; on Kafka each has a broker of its own, so that topics and groups are called the same.
        sides = {place: stack.enter_context(side(broker, root, place, folder)) for place, root in places.items()}
        for place, process in sides.items():
            await_end(process, place, begun + SIDE_S)
    sys.stdout.write(f"{BROKERS[broker]}: {time.monotonic() - begun:.0f} s\n")
    return report(BROKERS[broker], *map(outcome.read, places))


@contextlib.contextmanager
def side(broker: str, root: Path, place: Path, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start a side; it ends with the `with` block, and so does its Kafka.

    Args:
        broker: a kind of log.
        root: the checkout whose `stream_ad` it runs.
        place: its folder, which is made.
        folder: where the input is.
    """
    place.mkdir()
    with contextlib.ExitStack() as stack:
        servers = stack.enter_context(KafkaCluster(place / "broker")).servers if broker == "kafka" else []
        command = [sys.executable, str(HERE / "side.py"), str(place), "--input", str(folder / "input")]
        command += ["--recording", str(folder / "recording.parquet"), "--servers", *servers]
        # Neither the folder of the script nor the working one may name another `stream_ad`.
        env = os.environ | {"PYTHONPATH": str(root), "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"}
        with (place / "side.log").open("wb") as log:
            process = subprocess.Popen(command, env=env, cwd=place, stdout=log, stderr=log)
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()  # it ends its roles
                process.wait(END_S)


def await_end(process: subprocess.Popen[bytes], place: Path, until: float) -> None:
    """Wait until a side is done.

    Raises:
        SideError: it failed, or was not done in time.
    """
    try:
        code = process.wait(until - time.monotonic())
    except subprocess.TimeoutExpired as error:
        raise SideError(f"{place.name}: not done after {SIDE_S:.0f} s") from error
    if code != 0:
        raise SideError(f"{place.name}: ended with {code}: {(place / 'side.log').read_text()[-2_000:]}")


def report(where: str, old: Outcome, new: Outcome) -> bool:
    """Print what was compared and how it differs; return whether nothing does and nothing was missing."""
    for what, count in new.counts().items():
        sys.stdout.write(f"{where}: {count:,} {what} compared with {old.counts()[what]:,}\n")
    problems = outcome.lacking(new)
    for problem in problems:
        sys.stdout.write(f"{where}: the new results have {problem}\n")
    found = outcome.compare(old, new)
    for line in found.lines:
        sys.stdout.write(f"{line}\n")
    for name, count in found.fields.most_common():
        sys.stdout.write(f"  {count:,} differ in {name}\n")
    verdict = f"DIFFERENT: {found.total:,} rows" if found.total else "INCOMPLETE" if problems else "THE SAME"
    sys.stdout.write(f"{where}: {verdict}\n")
    sys.stdout.flush()
    return not problems and not found.total
