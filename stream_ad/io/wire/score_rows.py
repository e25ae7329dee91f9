"""Judged windows as rows of an Arrow table: used in messages, compared by audits and, up to types, stored in files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from stream_ad.core.batches import Judged, ScoreBatch, VerdictBatch
from stream_ad.errors import ContractError
from stream_ad.io.wire import contributions

TIME = pa.timestamp("us", "UTC")
_Column: TypeAlias = npt.NDArray[Any]


def schema(channels: Sequence[str]) -> pa.Schema:
    """Return the columns of a score message: those of the score log, except that `contribution` is a map there.

    `start`, `end` and `incident` (end of the opening window, null outside) are event times in microseconds; finer
    digits are truncated. `score` and `smoothed` are null if unscored. `contribution` is also null if the detector
    provides none, and a channel in it if it was missing in the window. `coverage` is the mean over the channels.
    `offset` is that of the input record that closed the window, or of the last record before the journal entry that
    did. `revision` is 0: windows are not amended.
    """
    return pa.schema(
        [
            ("device", pa.dictionary(pa.int32(), pa.string())),
            ("start", TIME),
            ("end", TIME),
            ("score", pa.float64()),
            ("smoothed", pa.float64()),
            ("limit", pa.float64()),
            ("is_anomaly", pa.bool_()),
            ("incident", TIME),
            ("quality", pa.uint32()),
            ("coverage", pa.float32()),
            ("contribution", pa.struct([(channel, pa.float32()) for channel in channels])),
            ("model_id", pa.dictionary(pa.int32(), pa.string())),
            ("revision", pa.uint16()),
            ("sequence", pa.int64()),
            ("partition", pa.int32()),
            ("offset", pa.int64()),
        ]
    )


def table(judged: Sequence[Judged], channels: Sequence[str], row_ns: int, partition: int) -> pa.Table:
    """Return consecutive batches as one table.

    Args:
        judged: batches of one model; n rows.
        channels: c names, in the column order of coverage and contribution.
        row_ns: time from the start of a row to its end.
        partition: number of the readings' partition.

    Returns:
        n rows in one chunk; see `schema`.

    Raises:
        ContractError: the columns do not match the channels.
    """
    wanted = schema(channels)
    if not sum(len(part) for part in judged):
        return wanted.empty_table()
    scores = [part.verdicts.scores for part in judged]
    if any(batch.coverage.shape[1] != len(channels) for batch in scores):
        found = sorted({batch.coverage.shape[1] for batch in scores})
        raise ContractError(f"verdicts: expected {len(channels)} channels, found {', '.join(map(str, found))}")

    def verdicts(column: Callable[[VerdictBatch], _Column]) -> _Column:
        return _joined([column(part.verdicts) for part in judged])

    end_ns, score = verdicts(lambda batch: batch.keys.end_ns), verdicts(lambda batch: batch.scores.score)
    incident, n = verdicts(lambda batch: batch.incident), len(score)
    unscored = np.isnan(score)
    columns = [
        _devices(judged),
        pa.array((end_ns - row_ns) // 1_000).view(TIME),
        pa.array(end_ns // 1_000).view(TIME),
        pa.array(score, mask=unscored),
        pa.array(verdicts(lambda batch: batch.smoothed), from_pandas=True),
        pa.array(verdicts(lambda batch: batch.limit), from_pandas=True),
        pa.array(verdicts(lambda batch: batch.is_anomaly)),
        pa.array(incident // 1_000, mask=incident == 0).view(TIME),
        pa.array(verdicts(lambda batch: batch.scores.quality)),
        pa.array(verdicts(lambda batch: batch.scores.coverage).mean(axis=1, dtype=np.float32)),
        _contributions(scores, unscored, wanted.field("contribution").type),
        pa.DictionaryArray.from_arrays(np.zeros(n, np.int32), pa.array([scores[0].model_id], pa.string())),
        pa.array(np.zeros(n, np.uint16)),
        pa.array(verdicts(lambda batch: batch.keys.sequence)),
        pa.array(np.full(n, partition, np.int32)),
        pa.array(verdicts(lambda batch: batch.keys.offset)),
    ]
    return pa.Table.from_arrays(columns, schema=wanted)


def without_dictionaries(rows: pa.Table) -> pa.Table:
    """Return rows with text instead of dictionaries, so that types agree between tables."""
    fields = [
        field.with_type(field.type.value_type) if pa.types.is_dictionary(field.type) else field for field in rows.schema
    ]
    return rows.cast(pa.schema(fields))


def as_archived(rows: pa.Table) -> pa.Table:
    """Return message rows with the score log's types."""
    return contributions.as_map(without_dictionaries(rows))


def _joined(columns: Sequence[_Column]) -> _Column:
    return columns[0] if len(columns) == 1 else np.concatenate(columns)


def _devices(judged: Sequence[Judged]) -> Any:
    """Return the rows' devices; the dictionary has the ids in order of the batches."""
    ids = pa.array([device for part in judged for device in part.ids], pa.string()).dictionary_encode()
    begins = np.cumsum([0, *(len(part.ids) for part in judged[:-1])])
    places = _joined([part.device for part in judged]) + np.repeat(begins, [len(part) for part in judged])
    return pa.DictionaryArray.from_arrays(np.asarray(ids.indices)[places], ids.dictionary)


def _contributions(scores: Sequence[ScoreBatch], unscored: _Column, kind: Any) -> Any:
    """Return one struct per row, null in all rows if a batch has no contributions."""
    given = [batch.contribution for batch in scores if batch.contribution is not None]
    if len(given) == len(scores):
        shares, absent = _joined(given), unscored
    else:
        shares = np.full((len(unscored), kind.num_fields), np.nan, np.float32)
        absent = np.ones(len(unscored), np.bool_)
    fields = [pa.array(column, from_pandas=True) for column in np.ascontiguousarray(shares.T)]
    return pa.StructArray.from_arrays(fields, fields=list(kind), mask=pa.array(absent))
