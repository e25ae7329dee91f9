"""A denoising autoencoder: windows that a narrow network cannot reconstruct differ from the training data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from stream_ad.core.batches import Arrays, Float32Array
from stream_ad.core.detectors import networks
from stream_ad.core.detectors.base import Progress, Scores, Settings
from stream_ad.core.detectors.networks import Mlp
from stream_ad.core.detectors.parameters import Declared, Parameter, Real, Sizes, Whole
from stream_ad.core.detectors.windows import WindowForm, read_form, training_form
from stream_ad.errors import TrainingError

LEAST_WINDOWS = 16


@dataclass(frozen=True, slots=True)
class AutoencoderDetector:
    """Mean squared reconstruction error of the window.

    Vincent et al., "Extracting and composing robust features with denoising autoencoders", ICML
    2008, with Gaussian corruption, ReLU and a linear output.

    Attributes:
        form: the windows' form.
        network: from d values to d values.
    """

    form: WindowForm
    network: Mlp

    def score(self, values: Float32Array) -> Scores:
        """Score windows; the contribution is each channel's mean squared error.

        Args:
            values: float32[n, t, c], normalised, finite.
        """
        rows = self.form.rows(values)
        error = self.network.forward(rows)
        error -= rows
        np.square(error, out=error)
        contribution = self.form.per_channel(error)
        return Scores(contribution.mean(axis=1, dtype=np.float64), contribution)

    def arrays(self) -> Arrays:
        """Return `form` and the layers `network.<k>.weight`, `network.<k>.bias`."""
        return {"form": self.form.array(), **self.network.arrays("network")}


class Autoencoder(Declared):
    """The kind `autoencoder`."""

    name = "autoencoder"
    parameters: ClassVar[Mapping[str, Parameter]] = {
        "hidden": Sizes((128, 32, 128), 1, 4_096, 9),
        # 0 keeps the random start, the baseline that training must beat.
        "epochs": Whole(40, 0, 10_000),
        "batch_size": Whole(128, 1, 65_536),
        # Decays to 0 along half a cosine, so that the last epochs settle.
        "learning_rate": Real(1e-3, 1e-7, 1.0),
        # Standard deviation of the noise added to the inputs in training, in normalised units; 0 for none.
        "noise": Real(0.1, 0.0, 10.0),
        "weight_decay": Real(0.0, 0.0, 1.0),
        # Number of youngest samples of the window used; None for all.
        "lags": Whole(None, 1, 100_000, optional=True),
    }

    def fit(self, values: Float32Array, settings: Settings, seed: int, progress: Progress) -> AutoencoderDetector:
        """Train with Adam in one thread; all randomness comes from the seed.

        Args:
            values: float32[n, t, c], normalised, finite.
            settings: overrides of the defaults.
            seed: of weights, order and noise.
            progress: called after each epoch.

        Raises:
            ConfigError: a setting is unknown or out of range.
            TrainingError: too few windows, values that are not finite, or the weights diverged.
        """
        chosen = self.complete(settings)
        form = training_form(values, chosen["lags"], LEAST_WINDOWS)
        network = train(form.rows(values), chosen, seed, progress)
        return AutoencoderDetector(form, network)

    def load(self, settings: Settings, arrays: Arrays) -> AutoencoderDetector:
        """Make the detector from stored arrays, without torch.

        Raises:
            ConfigError: a setting is unknown or out of range.
            BundleFormatError: an array is missing or malformed.
        """
        chosen = self.complete(settings)
        form = read_form(arrays, chosen["lags"])
        sizes = [form.size, *chosen["hidden"], form.size]
        return AutoencoderDetector(form, networks.read(arrays, "network", sizes))


def train(rows: Float32Array, settings: Settings, seed: int, progress: Progress) -> Mlp:
    """Train a network that reconstructs the rows.

    Args:
        rows: float32[n, d].
        settings: complete settings.
        seed: of weights, order and noise.
        progress: called after each epoch.

    Raises:
        TrainingError: the weights diverged.
    """
    import torch

    n, size = rows.shape
    rng = np.random.default_rng(seed)
    start = networks.initial([size, *settings["hidden"], size], rng)
    with networks.one_thread():
        layers = networks.to_torch(start)
        optimiser = networks.Adam(layers, settings["weight_decay"])
        for epoch in range(settings["epochs"]):
            rate = settings["learning_rate"] * 0.5 * (1.0 + math.cos(math.pi * epoch / settings["epochs"]))
            order = rng.permutation(n)
            for first in range(0, n, settings["batch_size"]):
                clean = rows[order[first : first + settings["batch_size"]]]
                noise = rng.standard_normal(clean.shape, dtype=np.float32) * np.float32(settings["noise"])
                rebuilt = networks.torch_forward(layers, torch.from_numpy(clean + noise))
                loss = (rebuilt - torch.from_numpy(clean)).square().mean()
                optimiser.step(loss, rate)
            progress("epochs", epoch + 1, settings["epochs"])
        trained = networks.from_torch(layers)
    if not all(np.isfinite(weight).all() for weight in trained.weights + trained.biases):
        raise TrainingError(f"autoencoder: the weights diverged, lower learning_rate ({settings['learning_rate']:g})")
    return trained


KIND = Autoencoder()
