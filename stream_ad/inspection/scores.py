"""A device's scores and incidents, from the Parquet score log."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from stream_ad.core.batches import BoolArray, Float32Array, Float64Array, Int64Array
from stream_ad.errors import ScoreLogError
from stream_ad.io.score_log import log as score_log
from stream_ad.io.wire import contributions

NAMED_CHANNELS = 3
PARTS_SEARCHED = 50
"""Number of newest parts searched for similar ids if a device is not found."""


@dataclass(frozen=True, slots=True)
class Incident:
    """One incident.

    Attributes:
        opened_ns: end of the window that opened it; its id in the score log.
        end_ns: end of its last window so far.
        is_open: it is still open in the newest row.
        windows: number of rows.
        peak: highest smoothed score.
        limit: limit in force when it opened.
        channels: names and shares of the contributing channels, largest first.
    """

    opened_ns: int
    end_ns: int
    is_open: bool
    windows: int
    peak: float
    limit: float
    channels: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class DeviceScores:
    """Rows of one device from the score log, by time.

    Attributes:
        device: its id.
        channels: c names.
        end_ns: int64[n], end of each window, UTC.
        score, smoothed, limit: float64[n]; NaN if unscored.
        is_anomaly: bool[n].
        incident: int64[n], `opened_ns` of the incident or 0.
        contribution: float32[n, c], or None if the detector provides none.
        incidents: the incidents in these rows, oldest first.
    """

    device: str
    channels: tuple[str, ...]
    end_ns: Int64Array
    score: Float64Array
    smoothed: Float64Array
    limit: Float64Array
    is_anomaly: BoolArray
    incident: Int64Array
    contribution: Float32Array | None
    incidents: tuple[Incident, ...]

    def __len__(self) -> int:
        return len(self.end_ns)


def load_device(folder: Path, device: str, last_ns: int | None) -> DeviceScores:
    """Read a device's rows; of an amended row, the newest revision.

    Args:
        folder: the score log's folder.
        device: its id.
        last_ns: only rows that end within this time before the newest; None for all.

    Raises:
        ScoreLogError: there are no rows, or a file is damaged.
    """
    table = score_log.read(folder, device)
    if table.num_rows == 0:
        raise ScoreLogError(_nobody(folder, device))
    end_ns = _nanoseconds(table["end"])
    rows = np.stack([end_ns, np.asarray(table["sequence"], np.int64)])[:, ::-1]  # the newest revision first
    keep = np.zeros(len(end_ns), bool)
    keep[len(end_ns) - 1 - np.unique(rows, axis=1, return_index=True)[1]] = True
    if last_ns is not None:
        keep &= end_ns > end_ns[-1] - last_ns
    return _device_scores(device, table.filter(keep))


def _device_scores(device: str, table: Any) -> DeviceScores:
    def floats(name: str) -> Any:
        return table[name].to_numpy(zero_copy_only=False).astype(np.float64)

    channels, parts = contributions.matrix(table["contribution"])
    contribution = parts if channels else None
    end_ns, incident = _nanoseconds(table["end"]), _nanoseconds(table["incident"])
    smoothed, limit = floats("smoothed"), floats("limit")
    return DeviceScores(
        device=device,
        channels=channels,
        end_ns=end_ns,
        score=floats("score"),
        smoothed=smoothed,
        limit=limit,
        is_anomaly=table["is_anomaly"].to_numpy(zero_copy_only=False).astype(np.bool_),
        incident=incident,
        contribution=contribution,
        incidents=find_incidents(channels, end_ns, smoothed, limit, incident, contribution),
    )


def find_incidents(
    channels: tuple[str, ...], end_ns: Any, smoothed: Any, limit: Any, incident: Any, contribution: Any
) -> tuple[Incident, ...]:
    """Return the incidents of rows in time order, oldest first.

    Args:
        channels: c names.
        end_ns: int64[n], end of each window.
        smoothed: float64[n].
        limit: float64[n].
        incident: int64[n], 0 outside.
        contribution: float32[n, c] or None.
    """
    found = []
    edges = np.flatnonzero(np.diff(incident, prepend=0, append=0))
    for first, stop in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        if incident[first] == 0:
            continue
        rows = slice(first, stop)
        known = smoothed[rows][np.isfinite(smoothed[rows])]
        shares: tuple[tuple[str, float], ...] = ()
        if contribution is not None:
            parts = np.nan_to_num(contribution[rows].astype(np.float64))
            total = parts.sum(axis=1, keepdims=True)
            # Rows are weighted by share, not by size; otherwise the highest window alone decides.
            mean = np.divide(parts, total, out=np.zeros_like(parts), where=total > 0).mean(axis=0)
            order = np.argsort(-mean, kind="stable")[:NAMED_CHANNELS]
            shares = tuple((channels[k], float(mean[k])) for k in order.tolist() if mean[k] >= 0.05)
        found.append(
            Incident(
                opened_ns=int(incident[first]),
                end_ns=int(end_ns[stop - 1]),
                is_open=stop == len(incident),
                windows=stop - first,
                peak=float(known.max()) if len(known) else float("nan"),
                limit=float(limit[first]),
                channels=shares,
            )
        )
    return tuple(found)


def _nobody(folder: Path, device: str) -> str:
    """Return why there are no rows, with similar ids."""
    ids = score_log.newest_devices(folder, PARTS_SEARCHED)
    if not ids:
        return f"{folder}: expected Parquet parts, found none: start the archiver with `stream-ad run`"
    near = get_close_matches(device, ids, n=3, cutoff=0.5) or ids[:3]
    return f"{folder}: no rows of device {device!r}; recent devices: {', '.join(near)}"


def _nanoseconds(column: Any) -> Any:
    """Return microsecond times as int64 nanoseconds, 0 where null."""
    return column.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64) * 1_000
