"""Results of a demo: figures for the terminal and the page, computed once."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import pyarrow as pa

from simulators.scenarios import Scenario
from simulators.trial import Match
from stream_ad.config import Settings
from stream_ad.core.model import Model


@dataclass(frozen=True, slots=True)
class KindRow:
    """Detection results of one kind of fault.

    Attributes:
        kind: of the fault.
        injected, found, missed: numbers of faults.
        delay_s: median event time from a fault's start to its incident; None if none was found.
    """

    kind: str
    injected: int
    found: int
    delay_s: float | None

    @property
    def missed(self) -> int:
        """Number of faults without an incident."""
        return self.injected - self.found


@dataclass(frozen=True, slots=True)
class Outcome:
    """Results of a demo.

    Attributes:
        scenario, settings, model: of the run.
        log_name: name of the log, for people.
        match: faults against incidents.
        scores: the score log's rows, by end and device.
        messages: number of records in the readings topic.
        first_alert_s, sending_s, scored_s: seconds from the pipeline's start to the first alert, to the last message
            sent, and to the last one scored.
        latencies_s: per incident, from the log time of the reading that opened it to its alert's log time.
    """

    scenario: Scenario
    settings: Settings
    model: Model
    log_name: str
    match: Match
    scores: pa.Table
    messages: int
    first_alert_s: float
    sending_s: float
    scored_s: float
    latencies_s: tuple[float, ...]

    @property
    def readings(self) -> int:
        """Number of readings sent, each with all channels."""
        return self.messages * self.scenario.message_samples

    @property
    def latency_s(self) -> float:
        """Median of the latencies."""
        return median(self.latencies_s)

    def by_kind(self) -> list[KindRow]:
        """Return one row per kind of fault, by name."""
        rows = []
        match = self.match
        for kind in sorted({fault.kind for fault in match.faults}):
            numbers = [i for i, fault in enumerate(match.faults) if fault.kind == kind]
            delays = [delay for delay in map(match.delay_s, numbers) if delay is not None]
            rows.append(KindRow(kind, len(numbers), len(delays), median(delays) if delays else None))
        return rows

    def query(self) -> str:
        """Return a shell command that queries the score log with DuckDB."""
        files = shown(self.settings.store.scores) / "**" / "*.parquet"
        sql = (
            "SELECT device, count(DISTINCT incident) incidents, round(max(s.smoothed / s.limit), 1) peak_over_limit, "  # noqa: S608 - for a person to paste
            f"count(*) windows FROM '{files}' s GROUP BY device ORDER BY 2 DESC, 3 DESC LIMIT 12"
        )
        return f"{shown(Path(sys.executable))} -c \"import duckdb; duckdb.sql('''{sql}''').show()\""


def shown(path: Path) -> Path:
    """Return a path relative to the working directory, where that is shorter."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def words(name: str) -> str:
    """Return `level_shift` as `level shift`."""
    return name.replace("_", " ")
