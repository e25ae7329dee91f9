from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stream_ad.inspection.pictures import save
from stream_ad.inspection.scores import DeviceScores
from tests.support.scores import START_NS, STRIDE_NS


@pytest.mark.parametrize("rows", [1, 2])
def test_a_plot_of_few_rows_without_contributions(tmp_path: Path, rows: int) -> None:
    nothing = np.full(rows, np.nan)
    end_ns = START_NS + np.arange(rows, dtype=np.int64) * STRIDE_NS
    zeros = np.zeros(rows, np.int64)
    scores = DeviceScores("p", (), end_ns, nothing, nothing, np.ones(rows), zeros > 0, zeros, None, ())
    save(scores, tmp_path / "p.png", "t")
    assert (tmp_path / "p.png").stat().st_size > 1_000
