"""Terminal output of the demo: progress, alerts as they open, and the summary."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from simulators.demo_outcome import Outcome, shown, words
from simulators.scenarios import Scenario
from stream_ad.config import Settings
from stream_ad.core.batches import Alert, AlertKind
from stream_ad.core.model import Model

PLAIN_EVERY_S = 5.0
PLAIN_WIDTH = 160
TOP_CHANNELS = 3


class View:
    """Writes to a terminal, or plain lines to a file or pipe.

    Args:
        out: stream to write to.
    """

    def __init__(self, out: TextIO) -> None:
        terminal = out.isatty()
        self.console = Console(file=out, highlight=False, emoji=False, width=None if terminal else PLAIN_WIDTH)

    def write_line(self, text: str) -> None:
        """Write a line of text."""
        self.console.print(text, markup=False, soft_wrap=True)
        self.console.file.flush()

    def opening(self, scenario: Scenario, settings: Settings, model: Model, servers: Sequence[str] | None) -> None:
        """Write what is about to run."""
        where = f"Apache Kafka at {','.join(servers)}" if servers else "the embedded log"
        speed = float(scenario.speed) if scenario.speed != "max" else scenario.duration_s
        self.write_line(
            f"{scenario.devices} pumps, {clock_text(scenario.duration_s)} of event time in "
            f"{clock_text(scenario.duration_s / speed)}, through {where}; model {model.name} ({model.model_id[:8]})."
        )
        self.write_line("Times below are event times (UTC).")

    @contextmanager
    def progress(self, messages: int) -> Iterator[LiveProgress]:
        """Show progress while the block runs.

        Args:
            messages: number of messages that the simulator will send.
        """
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[note]}", style="dim"),
        )
        terminal = self.console.is_terminal
        with Progress(*columns, console=self.console, transient=True, disable=not terminal) as bars:
            yield LiveProgress(self.console, bars, messages)

    def closing(self, outcome: Outcome, folder: Path, page: Path) -> None:
        """Write the summary."""
        console, match = self.console, outcome.match
        console.print()
        console.print(summary_table(outcome))
        rate = outcome.readings / outcome.scored_s
        worst = max(outcome.latencies_s)
        self.write_line(
            f"{outcome.messages:,} messages, {outcome.readings:,} readings of 8 channels, "
            f"{outcome.scores.num_rows:,} windows judged in {outcome.scored_s:.0f} s "
            f"({rate:,.0f} readings/s: the simulator's pace, not the limit)."
        )
        self.write_line(
            f"First alert {outcome.first_alert_s:.1f} s after the pipeline's start; from a reading's log time to its "
            f"alert's: median {outcome.latency_s * 1e3:.0f} ms, maximum {worst * 1e3:.0f} ms."
        )
        missed = sorted({words(f.kind) for f, at in zip(match.faults, match.found_by, strict=True) if at is None})
        if missed:
            self.write_line(f"Missed: {', '.join(missed)}.")
        self.write_line(
            f"\nScore log: {shown(outcome.settings.store.scores)}. Query it with DuckDB:\n\n  {outcome.query()}\n"
        )
        self.write_line(f"Report: {shown(page.resolve())}")


class LiveProgress:
    """Progress of a run; created by `View.progress`."""

    def __init__(self, console: Console, bars: Progress, messages: int) -> None:
        self._console = console
        self._bars = bars
        self._messages = messages
        self._begun = self._told = time.monotonic()
        self._alerts = 0
        self._sent: TaskID = bars.add_task("sent  ", total=messages, note="")
        self._scored: TaskID = bars.add_task("scored", total=messages, note="")

    def alert(self, alert: Alert) -> None:
        """Write an opening alert."""
        self._alerts += 1
        self._console.print(alert_line(alert), no_wrap=True, overflow="ellipsis")
        self._console.file.flush()

    def update(self, sent: int, scored: int) -> None:
        """Show how many messages were sent, and how many of them are scored."""
        now = time.monotonic()
        seconds = f"{now - self._begun:.0f} s"
        self._bars.update(self._sent, completed=sent, note=f"{sent:,} messages")
        self._bars.update(self._scored, completed=scored, note=f"{self._alerts} incidents, {seconds}")
        if not self._console.is_terminal and now - self._told >= PLAIN_EVERY_S:
            self._told = now
            share = scored / max(self._messages, 1)
            self._console.print(f"  {seconds}: {sent:,} messages sent, {scored:,} scored ({share:.0%})")
            self._console.file.flush()


def alert_line(alert: Alert) -> Text:
    """Return an alert as one line: time, device, kind, channels, reason."""
    names = ", ".join(f"{name} {share:.0%}" for name, share in alert.channels[:TOP_CHANNELS])
    line = Text()
    line.append(datetime.fromtimestamp(alert.end_ns / 1e9, UTC).strftime("%H:%M:%S"), "dim")
    line.append(" ▲ ", "bold red")
    line.append(f"{alert.device:<10}", "bold")
    line.append(f"{alert.kind.value:<9}", "cyan" if alert.kind is AlertKind.SENSOR else "magenta")
    line.append(f"{names or '-':<60} ")
    line.append(alert.reason.partition(";")[0], "dim")
    return line


def summary_table(outcome: Outcome) -> Table:
    """Return faults by kind: injected, found, missed, delay."""
    match = outcome.match
    table = Table(title="Labelled faults against incidents", title_justify="left", show_footer=True)
    table.add_column("fault", f"all, and {match.false_alarms} false alarms")
    table.add_column("injected", str(len(match.faults)), justify="right")
    table.add_column("found", str(match.found), justify="right")
    table.add_column("missed", str(len(match.faults) - match.found), justify="right")
    table.add_column("delay (event time)", delay_text(match.median_delay_s), justify="right")
    for row in outcome.by_kind():
        style = "red" if row.missed else "green"
        cells = (str(row.injected), f"[{style}]{row.found}[/]", str(row.missed), delay_text(row.delay_s))
        table.add_row(words(row.kind), *cells)
    return table


def delay_text(seconds: float | None) -> str:
    """Return a delay, or a dash."""
    return "–" if seconds is None else clock_text(seconds)


def clock_text(seconds: float) -> str:
    """Return `45 s`, `1 min 46 s` or `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    unit, size, rest_unit, rest_size = ("min", 60, "s", 1) if whole < 3_600 else ("h", 3_600, "min", 60)
    rest = whole % size // rest_size
    return f"{whole // size} {unit}" + (f" {rest} {rest_unit}" if rest else "")
