"""Passes a labelled run through a partition's pipeline in memory, without log and files, to try settings."""

from __future__ import annotations

import numpy as np

from stream_ad.assembly import build_pipeline
from stream_ad.config import parse
from stream_ad.core.batches import ReadingBatch
from stream_ad.errors import ContractError
from stream_ad.evaluation.configurations import Configuration
from stream_ad.evaluation.datasets import Run, to_send
from stream_ad.evaluation.evaluation import Judged
from stream_ad.training.training import Trained


def rehearse(run: Run, configuration: Configuration, trained: Trained) -> Judged:
    """Judge a run with the scorer's objects in memory; an `evaluation.Pipe`.

    Verdicts equal those of the whole pipeline, which adds encoding, log, commits and Parquet.

    Raises:
        ContractError: no window closed.
    """
    settings = parse(
        {
            "stream": {"name": "rehearsal", "bundle": "unused"},
            "transport": {"kind": "local", "path": "unused"},
            "store": {"scores": "unused", "checkpoints": "unused"},
            **configuration.judging(),
        }
    )
    sent = to_send(run, configuration.samples - 1)
    columns = [sent.channels.index(channel.name) for channel in trained.model.channels]
    rows = np.arange(len(sent))
    batch = ReadingBatch(
        ids=sent.devices,
        device=sent.device,
        event_ns=sent.event_ns,
        offset=rows,
        values=np.ascontiguousarray(sent.values[:, columns]),
        record_offset=rows,
        record_log_ns=sent.event_ns,
    )
    judged = build_pipeline(settings, trained.model).step(batch).judged
    if not judged:
        raise ContractError(f"{run.name}: expected windows to close, found none")
    verdicts = [part.verdicts for part in judged]
    return Judged(
        np.concatenate([batch.keys.end_ns for batch in verdicts]),
        np.concatenate([batch.is_anomaly for batch in verdicts]),
    )
