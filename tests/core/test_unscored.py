from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_ad.core.batches import Keys, WindowBatch
from stream_ad.core.quality import Quality
from stream_ad.core.ring import NEVER
from stream_ad.core.unscored import FIRST_NS, HOUR_NS, Lack, Unscored, lack_of
from tests.support.pipelines import SECOND, START, small_model

MODEL = small_model()
SAMPLES, CHANNELS = MODEL.window.samples, len(MODEL.channels)


def windows(slots: list[int], ends_s: list[int], filled: list[float], seed: int = 0) -> WindowBatch:
    """Return windows of which a share of the rows has values."""
    rng = np.random.default_rng(seed)
    n = len(slots)
    values = np.ones((n, SAMPLES, CHANNELS), np.asarray(MODEL.normaliser.center).dtype)
    empty = rng.random((n, SAMPLES)) >= np.array(filled)[:, None]
    values[empty] = np.nan
    coverage = np.ascontiguousarray(1 - np.isnan(values).mean(axis=1, dtype=np.float32), np.float32)
    keys = Keys(
        np.array(slots, np.int32),
        START + SECOND * np.array(ends_s, np.int64),
        np.arange(n, dtype=np.int64),
        np.zeros(n, np.int64),
    )
    return WindowBatch(keys, values, coverage, np.zeros(n, np.uint32))


def quality(scored: list[bool]) -> np.ndarray[tuple[int, ...], np.dtype[np.uint32]]:
    return np.where(scored, 0, int(Quality.UNSCORABLE)).astype(np.uint32)


def fresh(slots: int) -> Unscored:
    found = Unscored(MODEL)
    found.grow(slots)
    found.add_new(np.arange(slots, dtype=np.int32), np.full(slots, START, np.int64))
    return found


@given(rows=st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=40), data=st.data())
def test_the_state_does_not_depend_on_how_windows_are_cut(rows: list[tuple[int, bool]], data: st.DataObject) -> None:
    slots, scored = [slot for slot, _ in rows], [is_scored for _, is_scored in rows]
    batch = windows(slots, list(range(len(rows))), [0.3] * len(rows))
    whole, cut = fresh(4), fresh(4)
    whole.take(batch, quality(scored))
    at = data.draw(st.integers(0, len(rows)))
    for start, stop in ((0, at), (at, len(rows))):
        cut.take(batch.take(np.arange(start, stop)), quality(scored[start:stop]))

    for name, array in whole.snapshot().items():
        assert array.tobytes() == cut.snapshot()[name].tobytes(), name


@given(rows=st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=40))
def test_a_stretch_begins_with_the_first_window_after_the_last_score(rows: list[tuple[int, bool]]) -> None:
    found = fresh(4)
    ends = [10 * number for number in range(1, len(rows) + 1)]
    found.take(windows([slot for slot, _ in rows], ends, [0.3] * len(rows)), quality([scored for _, scored in rows]))

    for slot in range(4):
        since: int | None = START
        for (other, scored), end_s in zip(rows, ends, strict=True):
            if other == slot:
                since = None if scored else START + SECOND * end_s if since is None else since
        assert found.snapshot()["since"][slot] == (NEVER if since is None else since)


def test_a_new_device_is_due_sooner_than_one_that_was_scored() -> None:
    found = fresh(2)
    found.take(windows([0, 1], [0, 0], [1.0, 0.1]), quality([True, False]))
    found.take(windows([0, 1], [1, 1], [0.1, 0.1]), quality([False, False]))

    def due(after_ns: int) -> list[int]:
        newest = np.full(2, START + SECOND + after_ns, np.int64)
        return [int(slot) for slot in found.due(newest, np.ones(2, np.bool_))]

    assert due(FIRST_NS - 2 * SECOND) == []
    assert due(FIRST_NS) == [1]
    assert due(HOUR_NS) == [1, 0]
    assert found.due(np.full(2, START + 2 * HOUR_NS, np.int64), np.array([True, False])).tolist() == [0]


@pytest.mark.parametrize(
    ("coverage", "filled", "lack"),
    [
        ([0.1, 0.1, 0.1, 0.1], 0.1, Lack.SLOW),
        ([0.25, 0.25, 0.25, 0.25], 1.0, Lack.APART),
        ([0.1, 0.1, 0.1, 0.1], 0.4, Lack.APART),
        ([1.0, 0.02, 0.02, 0.02], 1.0, Lack.APART),
        ([1.0, 0.0, 0.0, 0.0], 1.0, Lack.ABSENT),
        ([0.0, 0.0, 0.0, 0.0], 0.0, Lack.NOTHING),
    ],
)
def test_what_windows_lack(coverage: list[float], filled: float, lack: Lack) -> None:
    assert lack_of(np.array(coverage), filled, 0.5) is lack
