"""A deep autoencoding Gaussian mixture model: the improbability of code and residual together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from stream_ad.core.batches import Arrays, Float32Array, Float64Array
from stream_ad.core.detectors import networks
from stream_ad.core.detectors.base import Progress, Scores, Settings
from stream_ad.core.detectors.networks import Mlp
from stream_ad.core.detectors.parameters import Declared, Parameter, Real, Sizes, Whole
from stream_ad.core.detectors.products import row_products
from stream_ad.core.detectors.windows import BLOCK_ROWS, WindowForm, read_form, stored, training_form
from stream_ad.errors import BundleFormatError, TrainingError

if TYPE_CHECKING:
    import torch

LEAST_WINDOWS = 32
LEAST_SQUARE = 1e-6
"""Added to the mean squared residual before its logarithm, so that a perfect reconstruction has a finite one."""
LEAST_WEIGHT = 1e-4
"""A component with a smaller share of the rows is dropped: its covariance is meaningless."""
RIDGES = (1e-4, 1e-3, 1e-2, 1e-1)
"""Added to the covariances' diagonal; the first that makes them positive definite is used."""
PROGRESS_STEPS = 20


@dataclass(frozen=True, slots=True)
class Mixture:
    """A Gaussian mixture in float64.

    Attributes:
        weight: float64[k], > 0, sums to 1.
        mean: float64[k, q].
        whiten: float64[k, q, q], lower triangular inverses of the covariances' Cholesky factors.
    """

    weight: Float64Array
    mean: Float64Array
    whiten: Float64Array

    def energy(self, points: Float64Array) -> Float64Array:
        """Return -log of the density: eq. 6 of the paper, by log-sum-exp.

        Args:
            points: float64[n, q].

        Returns:
            float64[n], negative where the density exceeds 1.
        """
        size = points.shape[1]
        logs = np.empty((len(points), len(self.weight)))
        for k, (weight, mean, whiten) in enumerate(zip(self.weight, self.mean, self.whiten, strict=True)):
            distance = np.square(row_products(points - mean, whiten.T)).sum(axis=1)
            level = np.log(weight) + np.log(np.diagonal(whiten)).sum() - 0.5 * size * np.log(2.0 * np.pi)
            logs[:, k] = level - 0.5 * distance
        top = logs.max(axis=1)
        total: Float64Array = top + np.log(np.exp(logs - top[:, None]).sum(axis=1))
        return -total


@dataclass(frozen=True, slots=True)
class DagmmDetector:
    """softplus of the energy of code and log residual.

    Zong et al., "Deep Autoencoding Gaussian Mixture Model for Unsupervised Anomaly Detection", ICLR
    2018: code and residual (eqs. 1-3), mixture (eqs. 4, 5), energy (eq. 6). The residual's feature
    is log(sqrt(mean square)) in place of relative distance and cosine, which fail on standardised
    data. Hidden layers are ReLU, not the paper's tanh: a saturated code makes a larger fault score
    lower. The energy can be negative, so the score is log(1 + exp(energy)): it keeps the order, is
    the energy where that is large and exp(energy) where it is very negative, so that the log
    score then is the energy.

    Attributes:
        form: the windows it takes.
        encoder: d values to the code.
        decoder: the code to d values.
        mixture: of the code and the log residual, q = code + 1.
    """

    form: WindowForm
    encoder: Mlp
    decoder: Mlp
    mixture: Mixture

    def score(self, values: Float32Array) -> Scores:
        """Score windows.

        The contribution is each channel's mean squared residual: it says where, not how much of
        the energy.

        Args:
            values: float32[n, t, c], normalised, finite.
        """
        rows = self.form.rows(values)
        point, square = compress(self.encoder, self.decoder, rows)
        # logaddexp(0, e) is softplus without overflow.
        score: Float64Array = np.logaddexp(0.0, self.mixture.energy(point))
        return Scores(score, self.form.per_channel(square))

    def arrays(self) -> Arrays:
        """Return `form`, the layers `encoder.*`, `decoder.*` and the float64 `mixture.*`."""
        mixture = self.mixture
        return {
            "form": self.form.array(),
            **self.encoder.arrays("encoder"),
            **self.decoder.arrays("decoder"),
            "mixture.weight": mixture.weight,
            "mixture.mean": mixture.mean,
            "mixture.whiten": mixture.whiten,
        }


class Dagmm(Declared):
    """The kind `dagmm`."""

    name = "dagmm"
    parameters: ClassVar[Mapping[str, Parameter]] = {
        # Layers between window and code; the decoder mirrors them.
        "hidden": Sizes((128, 32), 1, 4_096, 8),
        "code": Whole(4, 1, 64),
        "components": Whole(4, 1, 32),
        "estimation_hidden": Whole(10, 1, 1_024),
        # Few: more make the energy fall and the detection worse. 0 leaves the random start.
        "steps": Whole(1_500, 0, 1_000_000),
        "batch_size": Whole(512, 8, 65_536),
        "learning_rate": Real(1e-3, 1e-7, 1.0),
        # Share of the estimation network's hidden values left out in training.
        "dropout": Real(0.5, 0.0, 0.9),
        # Weights of the mean energy and of the penalty on small variances: the paper's lambda 1 and 2.
        "energy_weight": Real(0.1, 0.0, 100.0),
        "variance_weight": Real(0.005, 0.0, 100.0),
        # Youngest samples of the window that are used; None for all.
        "lags": Whole(None, 1, 100_000, optional=True),
    }

    def fit(self, values: Float32Array, settings: Settings, seed: int, progress: Progress) -> DagmmDetector:
        """Train with Adam in one thread, then take the mixture over all rows.

        Args:
            values: float32[n, t, c], normalised, finite.
            settings: overrides of the defaults.
            seed: of weights, batches and dropout.
            progress: called every few steps.

        Raises:
            ConfigError: a setting is unknown or out of range.
            TrainingError: too few windows, values that are not finite, or the weights diverged.
        """
        chosen = self.complete(settings)
        form = training_form(values, chosen["lags"], LEAST_WINDOWS)
        rows = form.rows(values)
        encoder, decoder, estimator = train(rows, chosen, seed, progress)
        return DagmmDetector(form, encoder, decoder, fit_mixture(encoder, decoder, estimator, rows))

    def load(self, settings: Settings, arrays: Arrays) -> DagmmDetector:
        """Create the detector from stored arrays, without torch.

        Raises:
            ConfigError: a setting is unknown or out of range.
            BundleFormatError: an array is missing or malformed.
        """
        chosen = self.complete(settings)
        form = read_form(arrays, chosen["lags"])
        inner = layer_sizes(form.size, chosen)
        weight = stored(arrays, "mixture.weight", np.float64, (None,))
        k, q = len(weight), chosen["code"] + 1
        whiten = stored(arrays, "mixture.whiten", np.float64, (k, q, q))
        if k == 0 or not (weight > 0).all() or not (np.diagonal(whiten, axis1=1, axis2=2) > 0).all():
            raise BundleFormatError("dagmm: expected a mixture with positive weights and variances")
        return DagmmDetector(
            form,
            networks.read(arrays, "encoder", inner),
            networks.read(arrays, "decoder", inner[::-1]),
            Mixture(weight, stored(arrays, "mixture.mean", np.float64, (k, q)), whiten),
        )


def layer_sizes(size: int, settings: Settings) -> list[int]:
    """Return the encoder's layer sizes, from d values to the code."""
    return [size, *settings["hidden"], settings["code"]]


def compress(encoder: Mlp, decoder: Mlp, rows: Float32Array) -> tuple[Float64Array, Float32Array]:
    """Return code with log residual, float64[n, code + 1], and squared residuals, float32[n, d]."""
    code = encoder.forward(rows)
    square = decoder.forward(code)
    square -= rows
    np.square(square, out=square)
    point = np.empty((len(rows), code.shape[1] + 1))
    point[:, :-1] = code
    point[:, -1] = 0.5 * np.log(square.mean(axis=1, dtype=np.float64) + LEAST_SQUARE)
    return point, square


def fit_mixture(encoder: Mlp, decoder: Mlp, estimator: Mlp, rows: Float32Array) -> Mixture:
    """Compute weights, means and covariances over all rows (eq. 5), in float64.

    Raises:
        TrainingError: a covariance is not positive definite with the largest ridge.
    """
    blocks = [rows[first : first + BLOCK_ROWS] for first in range(0, len(rows), BLOCK_ROWS)]
    points = np.concatenate([compress(encoder, decoder, block)[0] for block in blocks])
    logits = estimator.forward(points.astype(np.float32)).astype(np.float64)
    share = np.exp(logits - logits.max(axis=1, keepdims=True))
    share /= share.sum(axis=1, keepdims=True)
    share = share[:, share.mean(axis=0) >= LEAST_WEIGHT]
    total = share.sum(axis=0)
    mean = share.T @ points / total[:, None]
    whiten = np.empty((len(total), points.shape[1], points.shape[1]))
    for k in range(len(total)):
        centred = points - mean[k]
        whiten[k] = whitener((centred * share[:, k, None]).T @ centred / total[k])
    return Mixture(total / total.sum(), mean, whiten)


def whitener(covariance: Float64Array) -> Float64Array:
    """Return the inverse of the Cholesky factor, float64[q, q], with the smallest ridge that allows it.

    Raises:
        TrainingError: none does.
    """
    identity = np.eye(len(covariance))
    for ridge in RIDGES:
        try:
            return np.linalg.solve(np.linalg.cholesky(covariance + ridge * identity), identity)
        except np.linalg.LinAlgError:
            continue
    raise TrainingError("dagmm: a covariance of the mixture is not positive definite")


def train(rows: Float32Array, settings: Settings, seed: int, progress: Progress) -> tuple[Mlp, Mlp, Mlp]:
    """Train compression and estimation networks together on eq. 7.

    Args:
        rows: float32[n, d].
        settings: complete settings.
        seed: of weights, batches and dropout.
        progress: called every `PROGRESS_STEPS` steps.

    Returns:
        encoder, decoder, estimation network.

    Raises:
        TrainingError: the weights diverged.
    """
    import torch

    rng = np.random.default_rng(seed)
    inner = layer_sizes(rows.shape[1], settings)
    outer = [settings["code"] + 1, settings["estimation_hidden"], settings["components"]]
    steps, batch, keep_share = settings["steps"], min(settings["batch_size"], len(rows)), 1.0 - settings["dropout"]
    with networks.one_thread():
        parts = [networks.to_torch(networks.initial(sizes, rng)) for sizes in (inner, inner[::-1], outer)]
        optimiser = networks.Adam([layer for layers in parts for layer in layers])
        for step in range(steps):
            drawn = torch.from_numpy(rows[rng.choice(len(rows), batch, replace=False)])
            kept = rng.random((batch, settings["estimation_hidden"])) < keep_share
            keep = torch.from_numpy(kept.astype(np.float32) / np.float32(keep_share))
            loss = objective(parts, drawn, keep, settings)
            # A component that nearly vanishes has steep gradients; one such step must not undo the rest.
            optimiser.step(loss, settings["learning_rate"], longest=5.0)
            if (step + 1) % PROGRESS_STEPS == 0 or step + 1 == steps:
                progress("steps", step + 1, steps)
        encoder, decoder, estimator = (networks.from_torch(layers) for layers in parts)
    for network in (encoder, decoder, estimator):
        if not all(np.isfinite(weight).all() for weight in network.weights + network.biases):
            raise TrainingError(f"dagmm: the weights diverged, lower learning_rate ({settings['learning_rate']:g})")
    return encoder, decoder, estimator


def objective(parts: list[networks.Layers], rows: torch.Tensor, keep: torch.Tensor, settings: Settings) -> torch.Tensor:
    """Return eq. 7: mean of |x - x'|^2 + lambda 1 mean energy + lambda 2 sum of 1 / variances.

    The first term is a sum over the window's values, as printed: with their mean the energy wins
    and the code collapses. The mixture's part is in float64: a batch's covariances are close to
    singular.

    Args:
        parts: trainable encoder, decoder, estimation network.
        rows: float32[b, d].
        keep: float32[b, h], dropout of the estimation network's hidden layer.
        settings: complete settings.
    """
    import torch

    encoder, decoder, estimator = parts
    code = networks.torch_forward(encoder, rows)
    square = (networks.torch_forward(decoder, code) - rows).square().mean(dim=1)
    point = torch.cat([code, 0.5 * (square + LEAST_SQUARE).log()[:, None]], dim=1)
    share = networks.torch_forward(estimator, point, keep).double().softmax(dim=1)
    energy, penalty = torch_energy(point.double(), share)
    energy_weight, variance_weight = float(settings["energy_weight"]), float(settings["variance_weight"])
    return rows.shape[1] * square.mean() + energy_weight * energy + variance_weight * penalty


def torch_energy(point: torch.Tensor, share: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the batch's mean energy (eq. 6) and the penalty on small variances (eq. 7, last term).

    Args:
        point: float64[b, q].
        share: float64[b, k], each row's membership (eq. 4).
    """
    import torch

    total = share.sum(dim=0) + 1e-9
    mean = share.T @ point / total[:, None]
    centred = point[:, None, :] - mean
    covariance = torch.einsum("bk,bki,bkj->kij", share, centred, centred) / total[:, None, None]
    identity = torch.eye(point.shape[1], dtype=torch.float64)
    for ridge in RIDGES:
        factor, failed = torch.linalg.cholesky_ex(covariance + ridge * identity)
        if not bool(failed.any()):
            break
    white = torch.linalg.solve_triangular(factor, centred.permute(1, 2, 0), upper=False)
    distance = white.square().sum(dim=1)
    half_log_det = torch.diagonal(factor, dim1=1, dim2=2).log().sum(dim=1)
    level = (total / total.sum()).log() - half_log_det - 0.5 * point.shape[1] * float(np.log(2.0 * np.pi))
    energy = -torch.logsumexp(level[:, None] - 0.5 * distance, dim=0).mean()
    penalty = (1.0 / (torch.diagonal(covariance, dim1=1, dim2=2) + RIDGES[0])).sum()
    return energy, penalty


KIND = Dagmm()
