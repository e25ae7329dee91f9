"""What `train` will take and how far it is, on stderr."""

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

TOLD_S = 5.0
"""A shorter training is not worth a line."""
EVERY_S = 10.0
GB = 1e9


def tell_cost(recording: Recording, choice: Choice) -> None:
    """Print what a training will take where that is more than some seconds or much of the memory.

    Raises:
        ConfigError: detector or setting are unknown.
        TrainingError: it would need more memory than there is.
    """
    from stream_ad.training.cost import estimate, memory_of_this_machine

    cost, most = estimate(recording, choice.windows, choice.plan), memory_of_this_machine()
    if cost.memory > most:
        raise TrainingError(
            f"training would take about {cost.memory / GB:.1f} GB of memory, this machine has {most / GB:.1f} GB: "
            "choose fewer channels (--channels), shorter windows (--samples) or fewer of them (--stride)"
        )
    if cost.seconds > TOLD_S or cost.memory > most / 2:
        print(
            f"Training takes about {duration_text(cost.seconds)} and {cost.memory / GB:.1f} GB of memory.",
            file=sys.stderr,
            flush=True,
        )


@contextmanager
def progress_bar() -> Iterator[Callable[[str, int, int], None]]:
    """Show what training does: a bar on a terminal, elsewhere a line every ten seconds."""
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
    """Return progress that prints a line now and then.

    Args:
        clock: returns seconds.
    """
    begun = told = clock()

    def progress(what: str, done: int, total: int) -> None:
        nonlocal told
        now = clock()
        if now - told >= EVERY_S:
            told = now
            print(f"{duration_text(now - begun)}: {what} {done}/{total}", file=sys.stderr, flush=True)

    return progress
