"""Fused PCA residuals: scales, calibration, what a broken bundle gives. The contract is shown in tests/contracts."""

from __future__ import annotations

import numpy as np
import pytest

from stream_ad.core.detectors import multiscale_pca, pca
from stream_ad.core.detectors.base import no_progress
from stream_ad.core.detectors.multiscale_pca import MultiscalePcaDetector, lags
from stream_ad.errors import BundleFormatError
from tests.support.windows import SAMPLES, Fault, inject, machine_windows


@pytest.fixture(scope="module")
def fitted() -> MultiscalePcaDetector:
    return multiscale_pca.KIND.fit(machine_windows(400, seed=1), {}, 0, no_progress)


@pytest.mark.parametrize(
    ("samples", "members", "expected"),
    [(20, 3, [20, 10, 5]), (5, 3, [5, 3, 2]), (3, 8, [3, 2, 1]), (1, 3, [1]), (64, 1, [64])],
)
def test_each_member_looks_at_half_of_what_the_one_before_sees(samples: int, members: int, expected: list[int]) -> None:
    assert lags(samples, members) == expected


def test_the_score_is_the_geometric_mean_of_calibrated_members(fitted: MultiscalePcaDetector) -> None:
    training, fresh = machine_windows(400, seed=1), machine_windows(100, seed=2)
    parts = []
    for lag in (SAMPLES, SAMPLES // 2, SAMPLES // 4):
        member = pca.KIND.fit(training, {"variance": 0.85, "lags": lag}, 0, no_progress)
        parts.append(member.score(fresh).score / np.median(member.score(training).score))

    np.testing.assert_allclose(fitted.score(fresh).score, np.prod(parts, axis=0) ** (1 / 3), rtol=1e-9)


def test_a_normal_window_scores_about_1(fitted: MultiscalePcaDetector) -> None:
    assert 0.7 < float(np.median(fitted.score(machine_windows(400, seed=3)).score)) < 1.5


def test_the_faulty_channel_contributes_most(fitted: MultiscalePcaDetector) -> None:
    found = fitted.score(inject(machine_windows(50, seed=4), Fault.SHIFT, 8.0, (2,))).contribution

    assert found is not None
    assert (found.argmax(axis=1) == 2).mean() > 0.9


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("typical", np.zeros(3)),
        ("typical", np.ones(2)),
        ("1.mean", np.zeros(3, np.float32)),
        ("2.components", np.zeros((1, 7), np.float32)),
    ],
)
def test_arrays_that_do_not_fit_are_refused(
    fitted: MultiscalePcaDetector, name: str, value: np.ndarray[tuple[int, ...], np.dtype[np.floating]]
) -> None:
    with pytest.raises(BundleFormatError):
        multiscale_pca.KIND.load({}, {**fitted.arrays(), name: value})
