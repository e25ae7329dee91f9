from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stream_ad.inspection.scores import find_incidents, load_device
from stream_ad.io.score_log import log as score_log
from stream_ad.io.spans import Span, Spans
from stream_ad.io.wire.scores import decode
from tests.support.scores import CHANNELS, ROWS, START_NS, STRIDE_NS, messages, verdicts, write_log


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_log(tmp_path)
    return tmp_path


def test_incidents_name_their_channels(folder: Path) -> None:
    scores = load_device(folder, "pump-0-0", None)
    assert (len(scores), scores.channels) == (ROWS, CHANNELS)
    assert int(np.isnan(scores.score).sum()) == 5
    first, second = scores.incidents
    assert (first.opened_ns, first.end_ns) == (START_NS + 50 * STRIDE_NS, START_NS + 79 * STRIDE_NS)
    assert (first.windows, first.is_open, first.channels[0][0]) == (30, False, "vibration")
    assert (second.windows, second.is_open, second.channels[0][0]) == (10, True, "pressure")
    assert first.peak == pytest.approx(float(np.max(scores.smoothed[50:80])))


def test_last_counts_from_the_newest_row(folder: Path) -> None:
    scores = load_device(folder, "pump-0-0", 10 * STRIDE_NS)
    assert len(scores) == 10


def test_only_the_newest_revision_of_a_window_counts(folder: Path) -> None:
    batch = verdicts(199, 1, score=[9.0])
    (record,) = messages(batch, (ROWS, ROWS + 1))
    table = decode(record.value, record.headers).table
    at = table.schema.get_field_index("revision")
    table = table.set_column(at, table.schema.field(at), [np.ones(len(table), np.uint16)])
    score_log.write_part(folder, 0, Span(2, 3), [table], START_NS, "topic", Spans(Span(ROWS, ROWS + 1)), {})
    scores = load_device(folder, "pump-0-0", None)
    assert (len(scores), float(scores.score[-1])) == (ROWS, 9.0)


def test_incidents_that_touch_are_two() -> None:
    end = np.arange(1, 7, dtype=np.int64)
    incident = np.array([2, 2, 4, 4, 0, 6])
    ones = np.ones(6)
    found = find_incidents((), end, ones, ones, incident, None)
    assert [(one.opened_ns, one.end_ns, one.is_open) for one in found] == [(2, 2, False), (4, 4, False), (6, 6, True)]
