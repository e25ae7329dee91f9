"""The program's own verbs, called as a person would."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable

from tests.support.e2e import Stream

LONGEST_S = 1_800.0


class Verbs:
    """Calls verbs on a stream.

    Args:
        stream: whose settings are used.
        say: told of each call.
    """

    def __init__(self, stream: Stream, say: Callable[..., None]) -> None:
        self._stream, self._say = stream, say

    def call(self, *arguments: str) -> str:
        """Run a verb; return "ok", or its exit code and last words."""
        command = [sys.executable, "-m", "stream_ad.cli.main", "-c", str(self._stream.config), *arguments]
        begun = time.monotonic()
        ended = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST_S, check=False)
        words = (ended.stdout + ended.stderr).strip().splitlines()
        said = "ok" if ended.returncode == 0 else f"code {ended.returncode}: {' | '.join(words[-5:])}"
        took_s = round(time.monotonic() - begun, 1)
        self._say(f"stream-ad {arguments[0]}", outcome=said, took_s=took_s, last=words[-1] if words else "")
        return said
