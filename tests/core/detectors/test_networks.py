"""autoencoder and dagmm: what torch trains is what numpy scores."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_ad.core.detectors import autoencoder, dagmm, networks
from stream_ad.core.detectors.base import no_progress
from stream_ad.core.detectors.dagmm import Mixture
from stream_ad.errors import BundleFormatError, TrainingError
from tests.support.windows import machine_windows

TINY = {"hidden": [12, 4], "code": 2, "components": 2, "steps": 40, "batch_size": 64}


@pytest.mark.parametrize("sizes", [(512, 128, 32, 128, 512), (7, 3), (5, 9, 1)], ids=str)
def test_numpy_forward_equals_torch(sizes: tuple[int, ...]) -> None:
    rng = np.random.default_rng(3)
    network = networks.initial(sizes, rng)
    rows = np.clip(2.0 * rng.standard_normal((256, sizes[0])), -10, 10).astype(np.float32)
    expected = networks.torch_forward(networks.to_torch(network), torch.from_numpy(rows)).detach().numpy()
    found = network.forward(rows)
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


def test_a_network_survives_torch_and_storage() -> None:
    network = networks.initial((6, 4, 6), np.random.default_rng(3))
    back = networks.from_torch(networks.to_torch(network))
    read = networks.read(network.arrays("n"), "n", (6, 4, 6))
    for other in (back, read):
        assert all((a == b).all() for a, b in zip(other.weights, network.weights, strict=True))
        assert all((a == b).all() for a, b in zip(other.biases, network.biases, strict=True))


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("longest", [None, 1.0])
def test_adam_steps_as_the_paper_says(weight_decay: float, longest: float | None) -> None:
    # Not against torch.optim.Adam itself, whose import takes longer than this whole file.
    weight = torch.tensor([[3.0, -2.0]], requires_grad=True)
    bias = torch.tensor([0.5], requires_grad=True)
    optimiser = networks.Adam([(weight, bias)], weight_decay)
    x, first, second = np.array([3.0, -2.0, 0.5]), np.zeros(3), np.zeros(3)
    factor = np.array([1.0, 10.0, 0.1])
    for step in range(1, 21):
        scaled = torch.cat([weight[0], bias]) * torch.tensor([1.0, 10.0, 0.1])
        optimiser.step(scaled.square().sum(), 0.1, longest)
        gradient = 2.0 * factor**2 * x
        if longest is not None:
            gradient *= min(1.0, longest / (np.linalg.norm(gradient) + 1e-6))
        gradient += weight_decay * x
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        x = x - 0.1 * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
    found = np.concatenate([weight.detach().numpy()[0], bias.detach().numpy()])
    np.testing.assert_allclose(found, x, rtol=1e-4, atol=1e-4)


def test_training_leaves_torch_as_it_was() -> None:
    threads, state = torch.get_num_threads(), torch.random.get_rng_state()
    torch.set_num_threads(2)
    try:
        autoencoder.KIND.fit(machine_windows(20, seed=1), {"hidden": [4], "epochs": 1}, 1, no_progress)
        dagmm.KIND.fit(machine_windows(40, seed=1), {**TINY, "steps": 2}, 1, no_progress)
        assert torch.get_num_threads() == 2
        assert not torch.are_deterministic_algorithms_enabled()
        assert torch.equal(torch.random.get_rng_state(), state)
    finally:
        torch.set_num_threads(threads)


def test_training_does_not_depend_on_what_torch_did_before() -> None:
    values = machine_windows(60, seed=1)
    torch.manual_seed(1)
    one = autoencoder.KIND.fit(values, {"hidden": [8], "epochs": 2}, 7, no_progress).arrays()
    torch.manual_seed(2)
    two = autoencoder.KIND.fit(values, {"hidden": [8], "epochs": 2}, 7, no_progress).arrays()
    other = autoencoder.KIND.fit(values, {"hidden": [8], "epochs": 2}, 8, no_progress).arrays()
    assert all(one[name].tobytes() == two[name].tobytes() for name in one)
    assert any(one[name].tobytes() != other[name].tobytes() for name in one)


def test_the_autoencoder_learns() -> None:
    train, live = machine_windows(300, seed=1), machine_windows(100, seed=2)
    few, many = (
        autoencoder.KIND.fit(train, {"hidden": [24, 6, 24], "epochs": epochs, "batch_size": 32}, 1, no_progress)
        for epochs in (1, 30)
    )
    assert many.score(live).score.mean() < 0.4 * few.score(live).score.mean()


def test_the_autoencoders_score_is_the_mean_squared_error() -> None:
    live = machine_windows(30, seed=2)
    detector = autoencoder.KIND.fit(machine_windows(60, seed=1), {"hidden": [8], "epochs": 2}, 1, no_progress)
    found = detector.score(live)
    assert found.contribution is not None
    for i, window in enumerate(live):
        error = np.square(window - detector.network.forward(window.reshape(1, -1)).reshape(window.shape))
        assert found.score[i] == pytest.approx(float(error.mean()), rel=1e-5)
        assert found.contribution[i] == pytest.approx(error.mean(axis=0), rel=1e-4)


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning", "ignore:invalid:RuntimeWarning")
def test_diverged_training_is_said() -> None:
    values = machine_windows(64, seed=1) * np.float32(1e30)
    with pytest.raises(TrainingError, match="diverged"):
        autoencoder.KIND.fit(values, {"hidden": [4], "epochs": 3}, 1, no_progress)
    with pytest.raises(TrainingError, match="diverged"):
        dagmm.KIND.fit(values, {**TINY, "steps": 3}, 1, no_progress)


@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_energy_equals_a_sum_of_densities(components: int, size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.dirichlet(np.ones(components))
    mean = rng.standard_normal((components, size))
    roots = rng.standard_normal((components, size, size))
    covariance = roots @ roots.transpose(0, 2, 1) + 0.5 * np.eye(size)
    mixture = Mixture(weight, mean, np.linalg.inv(np.linalg.cholesky(covariance)))
    points = rng.standard_normal((5, size))
    for point, energy in zip(points, mixture.energy(points), strict=True):
        density = 0.0
        for k in range(components):
            centred = point - mean[k]
            scale = math.sqrt((2 * math.pi) ** size * np.linalg.det(covariance[k]))
            density += weight[k] * math.exp(-0.5 * centred @ np.linalg.solve(covariance[k], centred)) / scale
        assert energy == pytest.approx(-math.log(density), rel=1e-6, abs=1e-9)


def test_energy_does_not_overflow_far_away() -> None:
    mixture = Mixture(np.ones(1), np.zeros((1, 2)), np.eye(2)[None])
    energy = mixture.energy(np.array([[1e3, 0.0], [1e6, 0.0]]))
    assert np.isfinite(energy).all()
    assert energy[1] > energy[0] > 1e5


def test_training_and_scoring_have_the_same_energy() -> None:
    rng = np.random.default_rng(5)
    points, share = rng.standard_normal((200, 3)), rng.dirichlet(np.ones(2), 200)
    total = share.sum(axis=0)
    mean = share.T @ points / total[:, None]
    whiten = []
    for k in range(2):
        centred = points - mean[k]
        whiten.append(dagmm.whitener((centred * share[:, k, None]).T @ centred / total[k]))
    expected = Mixture(total / total.sum(), mean, np.stack(whiten)).energy(points).mean()
    found, _ = dagmm.torch_energy(torch.from_numpy(points), torch.from_numpy(share))
    assert float(found) == pytest.approx(float(expected), rel=1e-6)


def test_the_score_is_softplus_of_the_energy() -> None:
    live = machine_windows(60, seed=2)
    detector = dagmm.KIND.fit(machine_windows(200, seed=1), TINY, 1, no_progress)
    point, _ = dagmm.compress(detector.encoder, detector.decoder, detector.form.rows(live))
    for energy, score in zip(detector.mixture.energy(point), detector.score(live).score, strict=True):
        expected = energy if energy > 700 else math.log1p(math.exp(energy))
        assert score == pytest.approx(expected, rel=1e-9)


def test_a_singular_covariance_gets_a_larger_ridge() -> None:
    indefinite = np.diag([1.0, -5e-4])
    white = dagmm.whitener(indefinite)
    np.testing.assert_allclose(np.linalg.inv(white) @ np.linalg.inv(white).T, indefinite + 1e-3 * np.eye(2), atol=1e-9)
    with pytest.raises(TrainingError, match="positive definite"):
        dagmm.whitener(np.diag([1.0, -1.0]))


def test_a_mixture_without_weight_is_refused() -> None:
    arrays = dagmm.KIND.fit(machine_windows(60, seed=1), TINY, 1, no_progress).arrays()
    for name in ("mixture.weight", "mixture.whiten"):
        with pytest.raises(BundleFormatError, match="positive"):
            dagmm.KIND.load(TINY, {**arrays, name: np.zeros_like(arrays[name])})
