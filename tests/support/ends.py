"""Runs `stream-ad verify` many times, each in a fork that ends as the command does.

`python -m tests.support.ends FOLDER N` prints how often each exit code came; a process that a library aborts as it ends
has a negative one.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from importlib import import_module

from stream_ad.cli.main import entry

WARM = ("stream_ad.cli.verify", "stream_ad.proof.verification", "stream_ad.config", "stream_ad.io.score_log.exchange")
"""Imported once; none of them starts a thread."""


def codes(folder: str, runs: int) -> Counter[int]:
    """Return the exit codes of that many runs."""
    found: Counter[int] = Counter()
    for module in WARM:
        import_module(module)
    for _ in range(runs):
        if not (child := os.fork()):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.argv = ["stream-ad", "verify", "--folder", folder]
            entry()
        found[os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])] += 1
    return found


if __name__ == "__main__":
    sys.stdout.write(f"{dict(codes(sys.argv[1], int(sys.argv[2])))}\n")
