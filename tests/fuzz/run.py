"""Long runs of the mutations: `python -m tests.fuzz.run --seconds 600 [--target arrow] [--start N]`.

Each input is numbered; a finding prints its target, its number and what was raised, and `--start N --rounds 1` meets it
again. Memory is bounded (`RLIMIT_AS`), and an input that hangs ends the process with its stack.
"""

from __future__ import annotations

import argparse
import faulthandler
import resource
import sys
import time
import traceback
from collections.abc import Sequence

from tests.fuzz.mutations import mutated
from tests.fuzz.targets import TARGETS, Target

HANG_S = 30.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; return 1 if anything was found."""
    parser = argparse.ArgumentParser(description="Feed mutated inputs to everything that reads bytes from outside.")
    parser.add_argument("--target", choices=sorted(TARGETS), help="one target (all)")
    parser.add_argument("--seconds", type=float, help="time for each target")
    parser.add_argument("--rounds", type=int, default=1_000, help="inputs a target, where no time is given (1000)")
    parser.add_argument("--start", type=int, default=0, help="number of the first input (0)")
    parser.add_argument("--memory-mb", type=int, default=4_096, help="address space that the process may take (4096)")
    chosen = parser.parse_args(arguments)
    made = {name: TARGETS[name]() for name in ([chosen.target] if chosen.target else TARGETS)}
    # After the libraries are loaded and warm: their threads and arenas take address space of their own.
    for target in made.values():
        target.run(target.seeds[0])
    resource.setrlimit(resource.RLIMIT_AS, (chosen.memory_mb << 20, chosen.memory_mb << 20))
    found = 0
    for name, target in made.items():
        begin = time.monotonic()
        count, findings = work(name, target, chosen.start, chosen.rounds, chosen.seconds)
        found += findings
        print(f"{name}: {count} inputs in {time.monotonic() - begin:.1f} s, {findings} findings", flush=True)
    return 1 if found else 0


def work(name: str, target: Target, start: int, rounds: int, seconds: float | None) -> tuple[int, int]:
    """Feed one target; return the number of inputs and of findings."""
    begin = time.monotonic()
    count = findings = 0
    while (time.monotonic() - begin < seconds) if seconds is not None else count < rounds:
        data = mutated(target.seeds, start + count)
        faulthandler.dump_traceback_later(HANG_S, exit=True, file=2)
        try:
            target.run(data)
        except Exception:  # every kind is a finding
            findings += 1
            print(f"{name}: input {start + count}: {data[:200]!r}", file=sys.stderr)
            traceback.print_exc()
        count += 1
    faulthandler.cancel_dump_traceback_later()
    return count, findings


if __name__ == "__main__":
    sys.exit(main())
