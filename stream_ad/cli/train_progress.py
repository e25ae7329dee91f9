"""Cost estimate and progress of `train`, on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from stream_ad.cli.output import duration_text
from stream_ad.errors import TrainingError

if TYPE_CHECKING:
    from stream_ad.io.recordings.recordings import Recording
    from stream_ad.training.shaping import Choice

ANNOUNCED_S = 5.0
"""Shorter trainings are not announced."""
EVERY_S = 10.0
GB = 1e9


def print_cost(recording: Recording, choice: Choice) -> None:
    """Print the expected time and memory of a training if they are notable.

    Raises:
        ConfigError: the detector or a setting is unknown.
        TrainingError: it would need more memory than the machine has.
    """
    from stream_ad.training.cost import estimate, memory_of_this_machine

    cost, most = estimate(recording, choice.windows, choice.plan), memory_of_this_machine()
    if cost.memory > most:
        raise TrainingError(
            f"training needs about {cost.memory / GB:.1f} GB of memory, this machine has {most / GB:.1f} GB: use "
            "fewer channels (--channels), shorter windows (--samples) or fewer windows (--stride)"
        )
    if cost.seconds > ANNOUNCED_S or cost.memory > most / 2:
        print(
            f"Training takes about {duration_text(cost.seconds)} and {cost.memory / GB:.1f} GB of memory.",
            file=sys.stderr,
            flush=True,
        )


@contextmanager
def progress_bar() -> Iterator[Callable[[str, int, int], None]]:
    """Show training progress: a bar on a terminal, else one line every ten seconds."""
    if not sys.stderr.isatty():
        yield lines(time.monotonic)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as bar:
        task = bar.add_task("reading", total=None)
        yield lambda what, done, total: bar.update(task, description=what, completed=done, total=total)


def lines(clock: Callable[[], float]) -> Callable[[str, int, int], None]:
    """Return a callback that prints progress at most every `EVERY_S` seconds.

    Args:
        clock: returns seconds.
    """
    begun = printed = clock()

    def progress(what: str, done: int, total: int) -> None:
        nonlocal printed
        now = clock()
        if now - printed >= EVERY_S:
            printed = now
            print(f"{duration_text(now - begun)}: {what} {done}/{total}", file=sys.stderr, flush=True)

    return progress
