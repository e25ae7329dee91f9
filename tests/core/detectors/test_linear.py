"""pca and mahalanobis against references that take one row at a time."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.covariance import ledoit_wolf_shrinkage
from sklearn.decomposition import PCA

from stream_ad.core.batches import Float32Array
from stream_ad.core.detectors import axes, mahalanobis, multiscale_pca, pca
from stream_ad.core.detectors.base import DetectorKind, no_progress
from stream_ad.core.detectors.windows import BLOCK_ROWS, WindowForm, moments
from stream_ad.errors import BundleFormatError, ConfigError
from tests.support.windows import machine_windows

LINEAR: list[DetectorKind] = [pca.KIND, mahalanobis.KIND]


@given(st.integers(0, 6), st.integers(1, 7), st.integers(1, 5), st.integers(0, 2**32 - 1), st.data())
@settings(max_examples=40, deadline=None)
def test_rows_and_channel_means_equal_loops(
    n: int, samples: int, channels: int, seed: int, data: st.DataObject
) -> None:
    values = np.random.default_rng(seed).standard_normal((n, samples, channels), dtype=np.float32)
    lags = data.draw(st.integers(1, samples))
    form = WindowForm(samples, channels, lags)
    rows = form.rows(values)
    means = form.per_channel(rows)
    for i in range(n):
        assert rows[i].tolist() == values[i, samples - lags :].ravel().tolist()
        for c in range(channels):
            assert means[i, c] == pytest.approx(float(values[i, samples - lags :, c].mean()), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("n", [9, BLOCK_ROWS + 3])
def test_moments_equal_numpy(n: int) -> None:
    rows = np.random.default_rng(1).standard_normal((n, 5), dtype=np.float32) * 3 + 2
    mean, covariance = moments(rows)
    np.testing.assert_allclose(mean, rows.mean(axis=0, dtype=np.float64), rtol=1e-12)
    np.testing.assert_allclose(covariance, np.cov(rows.T.astype(np.float64), bias=True), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("lags", [None, 3])
def test_pca_is_the_residual_of_the_inverse_transform(lags: int | None) -> None:
    train, live = machine_windows(300, seed=1), machine_windows(40, seed=2)
    detector = pca.KIND.fit(train, {"variance": 0.8, "lags": lags}, 0, no_progress)
    flat = train[:, -(lags or 16) :].reshape(300, -1).astype(np.float64)
    reference = PCA(len(detector.components), svd_solver="full").fit(flat)
    assert reference.explained_variance_ratio_.sum() >= 0.8 > reference.explained_variance_ratio_[:-1].sum()
    found = detector.score(live)
    for row, score in zip(live[:, -(lags or 16) :].reshape(40, -1), found.score, strict=True):
        rebuilt = reference.inverse_transform(reference.transform(row[None].astype(np.float64)))
        assert score == pytest.approx(float(np.square(row - rebuilt).mean()), rel=1e-4)


def test_pca_always_leaves_a_residual() -> None:
    values = machine_windows(100, seed=1, samples=2, channels=2)
    assert len(pca.KIND.fit(values, {"variance": 0.9999}, 0, no_progress).components) == 3


def test_pca_components_have_a_sign_of_their_own() -> None:
    components = pca.KIND.fit(machine_windows(100, seed=1), {}, 0, no_progress).components
    assert (np.take_along_axis(components, np.abs(components).argmax(axis=1)[:, None], axis=1) > 0).all()


@pytest.mark.parametrize("lags", [None, 3])
def test_mahalanobis_solves_the_shrunk_covariance(lags: int | None) -> None:
    train, live = machine_windows(300, seed=1), machine_windows(40, seed=2)
    found = mahalanobis.KIND.fit(train, {"shrink": 0.2, "lags": lags}, 0, no_progress).score(live)
    flat = train[:, -(lags or 16) :].reshape(300, -1).astype(np.float64)
    plain = np.cov(flat.T, bias=True)
    size = len(plain)
    shrunk = 0.8 * plain + 0.2 * np.trace(plain) / size * np.eye(size)
    for row, score in zip(live[:, -(lags or 16) :].reshape(40, -1), found.score, strict=True):
        centred = row - flat.mean(axis=0)
        assert score == pytest.approx(centred @ np.linalg.solve(shrunk, centred) / size, rel=1e-8)


def test_mahalanobis_parts_add_up_to_the_score() -> None:
    live = machine_windows(40, seed=2)
    found = mahalanobis.KIND.fit(machine_windows(300, seed=1), {}, 0, no_progress).score(live)
    assert found.contribution is not None
    assert (found.contribution.sum(axis=1) >= found.score * (1 - 1e-5)).all()


@pytest.mark.parametrize("lags", [None, 5])
@pytest.mark.parametrize("variance", [0.6, 0.9, 0.9999])
def test_pca_of_fewer_windows_than_values_keeps_the_same_subspace(lags: int | None, variance: float) -> None:
    train = machine_windows(14, seed=1)
    detector = pca.KIND.fit(train, {"variance": variance, "lags": lags}, 0, no_progress)
    flat = train[:, -(lags or 16) :].reshape(14, -1).astype(np.float64)
    variances, vectors = np.linalg.eigh(np.cov(flat.T, bias=True))
    kept = int(np.searchsorted(np.cumsum(variances[::-1]) / variances.sum(), variance)) + 1
    assert len(detector.components) == kept
    expected = vectors[:, ::-1][:, :kept]
    found = detector.components.astype(np.float64)
    np.testing.assert_allclose(found @ found.T, np.eye(kept), atol=1e-6)
    np.testing.assert_allclose(found.T @ found, expected @ expected.T, atol=1e-5)


@pytest.mark.parametrize("shrink", [0.001, 0.1, 1.0, "ledoit-wolf"])
def test_mahalanobis_of_fewer_windows_than_values_is_the_same_distance(shrink: float | str) -> None:
    train, live = machine_windows(20, seed=1), machine_windows(40, seed=2)
    detector = mahalanobis.KIND.fit(train, {"shrink": shrink}, 0, no_progress)
    flat = train.reshape(20, -1).astype(np.float64)
    size = flat.shape[1]
    plain = np.cov(flat.T, bias=True)
    weight = max(float(ledoit_wolf_shrinkage(flat)), mahalanobis.LEAST_SHRINK) if isinstance(shrink, str) else shrink
    shrunk = (1 - weight) * plain + weight * np.trace(plain) / size * np.eye(size)
    centred = live.reshape(40, -1) - flat.mean(axis=0)
    parts = centred * np.linalg.solve(shrunk, centred.T).T / size
    found = detector.score(live)
    np.testing.assert_allclose(found.score, parts.sum(axis=1), rtol=1e-6)
    assert found.contribution is not None
    by_channel = np.maximum(parts.reshape(40, 16, -1).sum(axis=1), 0.0)
    np.testing.assert_allclose(found.contribution, by_channel, rtol=1e-4, atol=1e-5)
    assert "precision" not in detector.arrays()
    again = mahalanobis.KIND.load({"shrink": shrink}, detector.arrays()).score(live)
    assert again.score.tobytes() == found.score.tobytes()


@pytest.mark.parametrize("kind", [*LINEAR, multiscale_pca.KIND], ids=lambda kind: kind.name)
def test_many_channels_take_memory_by_windows_not_by_values_squared(kind: DetectorKind) -> None:
    values = np.random.default_rng(1).standard_normal((60, 64, 300), dtype=np.float32)  # 19,200 values a window
    tracemalloc.start()
    try:
        detector = kind.fit(values, {}, 0, no_progress)
        detector.score(values[:8])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16 * values.size * 4  # one 19,200 x 19,200 matrix alone is 2.9 GB
    assert sum(array.nbytes for array in detector.arrays().values()) < 4 * values.nbytes


@pytest.mark.parametrize("kind", LINEAR, ids=lambda kind: kind.name)
def test_windows_that_never_vary_are_fitted_also_where_they_are_few(kind: DetectorKind) -> None:
    detector = kind.fit(np.zeros((10, 16, 4), np.float32), {}, 0, no_progress)
    score = detector.score(np.full((1, 16, 4), 2.0, np.float32)).score
    assert 0 < score[0] < 1e4


def test_rows_are_thinned_only_where_the_axes_would_be_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.arange(200 * 100, dtype=np.float32).reshape(200, 100)
    assert axes.thinned(rows) is rows
    monkeypatch.setattr(axes, "MOST_VALUES", 9_000)
    thin = axes.thinned(rows)
    assert len(thin) == 90
    assert thin[0, 0] == 0
    assert thin[-1, -1] == rows[-1, -1]
    assert axes.thinned(rows[:90]).shape == (90, 100)
    assert axes.thinned(np.zeros((5_000, 94), np.float32)).shape == (5_000, 94)  # d x d fits


@given(st.integers(2, 60), st.integers(2, 12), st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_ledoit_wolf_weight_equals_scikit_learn(n: int, size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = (rng.standard_normal((n, size)) @ rng.standard_normal((size, size))).astype(np.float32)
    expected = max(float(ledoit_wolf_shrinkage(rows.astype(np.float64))), mahalanobis.LEAST_SHRINK)
    mean, covariance = moments(rows)
    trace, norm = float(np.trace(covariance)), float(np.square(covariance).sum())
    assert mahalanobis.ledoit_wolf_weight(rows, mean, trace, norm) == pytest.approx(expected, rel=1e-6)


def test_ledoit_wolf_takes_fewer_windows_than_values() -> None:
    detector = mahalanobis.KIND.fit(machine_windows(20, seed=1), {"shrink": "ledoit-wolf"}, 0, no_progress)
    assert np.isfinite(detector.score(machine_windows(20, seed=2)).score).all()


@pytest.mark.parametrize("kind", LINEAR, ids=lambda kind: kind.name)
@given(order=st.permutations(range(4)))
@settings(max_examples=8, deadline=None)
def test_channel_order_does_not_change_a_score(kind: DetectorKind, order: list[int]) -> None:
    train, live = machine_windows(200, seed=1), machine_windows(32, seed=2)

    def permuted(values: Float32Array) -> Float32Array:
        return np.ascontiguousarray(values[:, :, order])

    plain = kind.fit(train, {}, 0, no_progress).score(live)
    other = kind.fit(permuted(train), {}, 0, no_progress).score(permuted(live))
    np.testing.assert_allclose(other.score, plain.score, rtol=1e-4)
    assert plain.contribution is not None
    assert other.contribution is not None
    np.testing.assert_allclose(other.contribution, plain.contribution[:, order], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", LINEAR, ids=lambda kind: kind.name)
def test_more_lags_than_samples_are_refused(kind: DetectorKind) -> None:
    with pytest.raises(ConfigError, match="at most the window's 16 samples, found 17"):
        kind.fit(machine_windows(50, seed=1), {"lags": 17}, 0, no_progress)
    arrays = kind.fit(machine_windows(50, seed=1), {"lags": 4}, 0, no_progress).arrays()
    with pytest.raises(BundleFormatError, match="lags = 17"):
        kind.load({"lags": 17}, arrays)


def test_only_the_youngest_samples_count_with_lags() -> None:
    live = machine_windows(8, seed=2)
    changed = live.copy()
    changed[:, :-4] = 9.0
    for kind in LINEAR:
        detector = kind.fit(machine_windows(100, seed=1), {"lags": 4}, 0, no_progress)
        assert detector.score(live).score.tobytes() == detector.score(changed).score.tobytes()
