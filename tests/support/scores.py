"""Score messages and their settings for tests that need no model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from stream_ad.config import Settings, parse
from stream_ad.core.batches import Judged, Keys, ScoreBatch, VerdictBatch
from stream_ad.io.score_log import log as score_log
from stream_ad.io.spans import Span, Spans
from stream_ad.io.transport import Partition, Record
from stream_ad.io.wire.score_rows import table
from stream_ad.io.wire.scores import decode, encode

CHANNELS = ("current", "pressure", "vibration")
STRIDE_NS = 16_000_000_000
START_NS = 1_767_225_600_000_000_000
"""2026-01-01, a full hour."""
TOPIC = "sensor.scores.v1.pumps"
READINGS = "sensor.readings.v1"
ROWS = 200


def settings_in(folder: Path, **store: float) -> Settings:
    """Return settings of a local stream in a folder; parts close at once unless told otherwise."""
    return parse(
        {
            "stream": {"name": "pumps", "bundle": str(folder / "bundle")},
            "transport": {"kind": "local", "path": str(folder / "log.sqlite")},
            "store": {
                "scores": str(folder / "scores"),
                "checkpoints": str(folder / "checkpoints"),
                "part_max_age_s": 0.001,
                **store,
            },
            "service": {"http_port": 0},
        }
    )


def verdicts(
    sequence: int,
    rows: int,
    devices: int = 1,
    score: Sequence[float] | None = None,
    limit: float = 1.0,
    incident: Sequence[int] | None = None,
    contribution: Sequence[Sequence[float]] | None = None,
) -> VerdictBatch:
    """Return `rows` windows of each of some devices, the first of each with the number `sequence`."""
    numbers = np.repeat(np.arange(sequence, sequence + rows, dtype=np.int64), devices)
    n = len(numbers)
    values = np.full(n, 0.5) if score is None else np.asarray(score, np.float64)
    held = np.zeros(n, np.int64) if incident is None else np.asarray(incident, np.int64)
    parts = (
        np.full((n, len(CHANNELS)), 0.1, np.float32) if contribution is None else np.asarray(contribution, np.float32)
    )
    return VerdictBatch(
        scores=ScoreBatch(
            keys=Keys(
                device=np.tile(np.arange(devices, dtype=np.int32), rows),
                end_ns=START_NS + numbers * STRIDE_NS,
                offset=numbers,
                sequence=numbers,
            ),
            quality=np.zeros(n, np.uint32),
            coverage=np.ones((n, len(CHANNELS)), np.float32),
            score=values,
            contribution=parts,
            model_id="abc123",
        ),
        smoothed=values,
        limit=np.full(n, limit),
        is_anomaly=held > 0,
        incident=held,
    )


def messages(
    batch: VerdictBatch,
    span: tuple[int, int],
    partition: int = 0,
    max_bytes: int = 900_000,
    prefix: str = "pump",
    journal: tuple[int, int] = (0, 0),
    generation: int = 0,
) -> list[Record]:
    """Return a batch as score messages that span the given input offsets and journal entries."""
    ids = [f"{prefix}-{partition}-{k}" for k in range(int(batch.keys.device.max()) + 1)]
    source = Partition(READINGS, partition)
    return encode(
        table([Judged.of(batch, ids)], CHANNELS, 4 * STRIDE_NS, partition),
        Spans(Span(*span), Span(*journal)),
        source,
        "c0ffee",
        max_bytes,
        generation=generation,
    )


def write_log(folder: Path, rows: int = ROWS) -> None:
    """Write one device with an incident over rows 50..79 and one from 190 on, and holes in the scores."""
    rng = np.random.default_rng(3)
    parts = rng.gamma(2.0, 0.05, (rows, 3))
    parts[50:80, 2] *= 60
    parts[50:80, 0] *= 10
    parts[rows - 10 :, 1] *= 40
    score = parts.sum(axis=1)
    score[100:105] = np.nan
    incident = np.zeros(rows, np.int64)
    incident[50:80] = START_NS + 50 * STRIDE_NS
    incident[rows - 10 :] = START_NS + (rows - 10) * STRIDE_NS
    batch = verdicts(0, rows, score=score.tolist(), incident=incident.tolist(), contribution=parts.tolist())
    half = rows // 2
    for part, start in enumerate((0, half)):
        (record,) = messages(batch.take(np.arange(start, start + half)), (start, start + half))
        table = decode(record.value, record.headers).table
        spans = Spans(Span(start, start + half))
        score_log.write_part(folder, 0, Span(part, part + 1), [table], START_NS, "topic", spans, {})
