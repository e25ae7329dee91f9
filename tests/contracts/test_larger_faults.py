"""A larger fault never scores lower: every kind, by window, with the normaliser and the clip that training gives."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest

from stream_ad.core.batches import Float64Array
from stream_ad.core.detectors import catalog
from stream_ad.core.model import Channel, Model, WindowShape
from stream_ad.core.scoring import Scoring
from stream_ad.io.recordings.recordings import Recording
from stream_ad.training.training import TrainingPlan, train
from stream_ad.training.windows import cut_windows
from tests.contracts.test_detectors import FOREIGN, QUICK, install
from tests.field.signals import CHANNELS, machine
from tests.support.rays import along, directions, forms, returns_under

SHAPE = WindowShape(1_000_000_000, 16, 4)
NETS_AND_TREES = ("autoencoder", "dagmm", "isolation_forest")
FROM_MEAN = np.concatenate([[0.0], np.geomspace(0.05, 1_000.0, 60), [1e5, 1e30, 1e300]])
FROM_WINDOWS = np.concatenate([np.arange(8.0, 14.0, 0.5), np.geomspace(14.0, 1_000.0, 12)])


def recording(rows: int, seed: int) -> Recording:
    order = np.argsort(CHANNELS)
    return Recording(
        devices=("p1",),
        device=np.zeros(rows, np.int32),
        event_ns=np.arange(rows, dtype=np.int64) * SHAPE.period_ns,
        channels=tuple(sorted(CHANNELS)),
        values=np.ascontiguousarray(machine(rows, seed)[:, order]),
    )


@dataclass(frozen=True)
class Case:
    """A kind trained on a small machine, and windows of the training and of another day."""

    name: str
    model: Model
    scoring: Scoring
    training: Float64Array
    held_out: Float64Array

    @classmethod
    def of(cls, name: str) -> Case:
        channels = [Channel(channel) for channel in CHANNELS]
        plan = TrainingPlan(name, name, SHAPE, channels, settings=QUICK.get(name, {}), folds=2, baseline="")
        model = train(recording(1_200, 1), plan).model
        cut = [
            cut_windows(recording(rows, seed), model.channels, SHAPE).values for rows, seed in ((1_200, 1), (200, 2))
        ]
        return cls(name, model, Scoring(model), *(windows[~np.isnan(windows).any(axis=(1, 2))] for windows in cut))

    def limits(self) -> tuple[float, ...]:
        """The 99.9 % of the training: of the calibration, and of the training windows themselves."""
        inside = self.scoring.score_values(self.training).score
        return self.model.calibration.quantile(0.999), float(np.quantile(inside, 0.999))


@pytest.fixture(scope="module", params=[*catalog.kinds(), "absolute"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    folder = tmp_path_factory.mktemp("site")
    install(folder, "foreign_detector", {"absolute": "foreign_detector:KIND"}, FOREIGN)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield Case.of(request.param)


def falls(scores: Float64Array) -> Float64Array:
    """Return by how much a score falls from one size to the next, as a share of it."""
    return np.asarray((scores[:-1] - scores[1:]) / np.maximum(scores[:-1], 1e-300))


@pytest.mark.parametrize("form", forms(SHAPE.samples))
def test_from_the_training_mean_the_score_never_falls(case: Case, form: str) -> None:
    if case.name in NETS_AND_TREES:
        pytest.skip("promised for these from a limit on")
    normaliser, shape = case.model.normaliser, forms(SHAPE.samples)[form]
    start = np.broadcast_to(normaliser.center.astype(np.float64), (SHAPE.samples, len(CHANNELS)))
    for name, direction in directions(normaliser):
        windows = along(start, direction, shape, FROM_MEAN, normaliser)
        assert falls(case.scoring.score_values(windows).score).max() <= 0.0, name


def test_samples_that_are_missing_change_nothing_about_it(case: Case) -> None:
    if case.name in NETS_AND_TREES:
        pytest.skip("promised for these from a limit on")
    normaliser = case.model.normaliser
    start = np.broadcast_to(normaliser.center.astype(np.float64), (SHAPE.samples, len(CHANNELS)))
    for name, direction in directions(normaliser):
        windows = along(start, direction, forms(SHAPE.samples)["ramp"], FROM_MEAN, normaliser)
        windows[:, 3:9, 0] = windows[:, :2, 1] = windows[:, :, 2] = np.nan
        assert falls(case.scoring.score_values(windows).score).max() <= 0.0, name


@pytest.mark.parametrize("form", forms(SHAPE.samples))
def test_from_held_out_windows_a_row_over_the_training_never_returns_under_it(case: Case, form: str) -> None:
    normaliser, shape = case.model.normaliser, forms(SHAPE.samples)[form]
    limits, starts = case.limits(), case.held_out[::3].astype(np.float64)
    for name, direction in directions(normaliser):
        windows = [along(start, direction, shape, FROM_WINDOWS, normaliser) for start in starts]
        scores = case.scoring.score_values(np.concatenate(windows)).score.reshape(len(starts), -1)
        for limit in limits:
            assert not returns_under(scores, limit).any(), name


def test_twice_the_clip_is_over_the_training_in_every_direction(case: Case) -> None:
    normaliser = case.model.normaliser
    start = np.broadcast_to(normaliser.center.astype(np.float64), (SHAPE.samples, len(CHANNELS)))
    for _, direction in directions(normaliser):
        for form in forms(SHAPE.samples).values():
            windows = along(start, direction, form, np.array([20.0, 1e300]), normaliser)
            assert (case.scoring.score_values(windows).score > 10.0 * max(case.limits())).all()


def test_the_channel_that_ran_away_contributes_most(case: Case) -> None:
    starts = case.held_out[:8].astype(np.float64)
    for channel in range(len(CHANNELS)):
        direction = np.eye(len(CHANNELS))[channel]
        for size in (20.0, 1_000.0, 1e30):
            windows = starts + size * direction * case.model.normaliser.scale
            found = case.scoring.score_values(windows).contribution
            if found is not None:
                assert np.isfinite(found).all()
                assert (found.argmax(axis=1) == channel).all()
                assert (found[:, channel] > 0.5 * found.sum(axis=1)).all()


def test_a_far_row_scores_the_same_bits_at_every_position_and_in_every_chunk(case: Case) -> None:
    rng = np.random.default_rng(5)
    sizes = rng.choice([0.0, 5.0, 9.0, 30.0, 1e30], (len(case.training), 1, len(CHANNELS)))
    windows = case.training + sizes * case.model.normaliser.scale
    expected = case.scoring.score_values(windows)
    order = rng.permutation(len(windows))
    moved = case.scoring.score_values(windows[order])
    assert moved.score.tobytes() == expected.score[order].tobytes()
    assert np.concatenate([case.scoring.score_values(part).score for part in np.array_split(windows, 7)]).tobytes() == (
        expected.score.tobytes()
    )
    if moved.contribution is not None and expected.contribution is not None:
        assert moved.contribution.tobytes() == expected.contribution[order].tobytes()


def test_rows_within_the_training_range_score_what_the_detector_gives(case: Case) -> None:
    normaliser = case.model.normaliser
    windows = ((case.held_out - normaliser.center) / normaliser.scale).astype(np.float32)
    assert np.abs(windows).max() < 5.0
    plain = case.model.detector.score(windows).score
    np.testing.assert_allclose(case.scoring.score_values(case.held_out).score, plain, rtol=1e-3)
