"""Multi-layer perceptrons: trained with torch, scored with numpy.

Only functions used in training import torch, so that a scorer never does: the import takes seconds and hundreds of
megabytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from stream_ad.core.batches import Arrays, Float32Array
from stream_ad.core.detectors.products import row_products
from stream_ad.core.detectors.windows import stored

if TYPE_CHECKING:
    import torch

    Layers = list[tuple[torch.Tensor, torch.Tensor]]


BETA_1, BETA_2 = 0.9, 0.999
"""Decay of Adam's moments, as in the paper."""


@dataclass(frozen=True, slots=True)
class Mlp:
    """A fitted perceptron.

    Attributes:
        weights: float32[in, out] of each layer.
        biases: float32[out] of each layer.
    """

    weights: tuple[Float32Array, ...]
    biases: tuple[Float32Array, ...]

    def forward(self, rows: Float32Array) -> Float32Array:
        """Run the network.

        Every row comes out with the same bits wherever it stands.

        Args:
            rows: float32[n, in], not written to.

        Returns:
            float32[n, out].
        """
        last = len(self.weights) - 1
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            rows = row_products(rows, weight)
            rows += bias
            if number == last:
                break
            np.maximum(rows, 0.0, out=rows)
        return rows

    def arrays(self, name: str) -> Arrays:
        """Return `<name>.<layer>.weight` and `<name>.<layer>.bias` of each layer."""
        found: Arrays = {}
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            found[f"{name}.{number}.weight"] = weight
            found[f"{name}.{number}.bias"] = bias
        return found


def initial(sizes: Sequence[int], rng: np.random.Generator) -> Mlp:
    """Make an untrained perceptron, weights uniform in +-sqrt(6 / (in + out)), biases 0.

    Glorot & Bengio, "Understanding the difficulty of training deep feedforward neural networks",
    AISTATS 2010, eq. 16.

    Args:
        sizes: values in, of each hidden layer, and out.
        rng: source of the weights.
    """
    weights = []
    for wide, narrow in pairwise(sizes):
        bound = np.sqrt(6.0 / (wide + narrow))
        weights.append(rng.uniform(-bound, bound, (wide, narrow)).astype(np.float32))
    return Mlp(tuple(weights), tuple(np.zeros(size, dtype=np.float32) for size in sizes[1:]))


def read(arrays: Arrays, name: str, sizes: Sequence[int]) -> Mlp:
    """Read what `Mlp.arrays` gave.

    Raises:
        BundleFormatError: an array is missing or malformed.
    """
    weights, biases = [], []
    for number, (wide, narrow) in enumerate(pairwise(sizes)):
        weights.append(stored(arrays, f"{name}.{number}.weight", np.float32, (wide, narrow)))
        biases.append(stored(arrays, f"{name}.{number}.bias", np.float32, (narrow,)))
    return Mlp(tuple(weights), tuple(biases))


@contextmanager
def one_thread() -> Iterator[None]:
    """Hold torch to one thread, and put the number back afterwards.

    With one thread, all that the training here uses (products, sums, element-wise functions, small
    Cholesky factors) gives the same bits each time. `torch.use_deterministic_algorithms` would add
    nothing to these on a processor, and imports torch's compiler: longer than torch itself.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def to_torch(network: Mlp) -> Layers:
    """Copy the layers into trainable tensors."""
    import torch

    return [
        (torch.tensor(weight, requires_grad=True), torch.tensor(bias, requires_grad=True))
        for weight, bias in zip(network.weights, network.biases, strict=True)
    ]


def from_torch(layers: Layers) -> Mlp:
    """Copy trained tensors back."""
    return Mlp(
        tuple(np.ascontiguousarray(weight.detach().numpy()) for weight, _ in layers),
        tuple(np.ascontiguousarray(bias.detach().numpy()) for _, bias in layers),
    )


def torch_forward(layers: Layers, rows: torch.Tensor, keep: torch.Tensor | None = None) -> torch.Tensor:
    """Run trainable layers: the same sums as `Mlp.forward`.

    Args:
        layers: as `to_torch` gave them.
        rows: float32[n, in].
        keep: float32, broadcast over the last hidden layer and multiplied with it (dropout).
    """
    for weight, bias in layers[:-1]:
        rows = (rows @ weight + bias).relu()
    if keep is not None:
        rows = rows * keep
    weight, bias = layers[-1]
    return rows @ weight + bias


class Adam:
    """Kingma & Ba, "Adam: A method for stochastic optimization", ICLR 2015, algorithm 1.

    `torch.optim` gives the same steps but imports torch's compiler first: longer than torch itself.
    """

    def __init__(self, layers: Layers, weight_decay: float = 0.0) -> None:
        """Start with moments of 0.

        Args:
            layers: what is trained, in place.
            weight_decay: times the weights, added to the gradient.
        """
        import torch

        self.tensors = [tensor for layer in layers for tensor in layer]
        self._moments = [(torch.zeros_like(tensor), torch.zeros_like(tensor)) for tensor in self.tensors]
        self._weight_decay = weight_decay
        self._steps = 0

    def step(self, loss: torch.Tensor, rate: float, longest: float | None = None) -> None:
        """Move down the gradient of a loss.

        Args:
            loss: a scalar that depends on every trained tensor.
            rate: step size.
            longest: a gradient of all tensors together with a larger norm is cut to it.
        """
        import torch

        gradients = list(torch.autograd.grad(loss, self.tensors))
        self._steps += 1
        first_bias, second_bias = 1.0 - BETA_1**self._steps, 1.0 - BETA_2**self._steps
        with torch.no_grad():
            if longest is not None:
                norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
                gradients = [gradient * (longest / (norm + 1e-6)).clamp(max=1.0) for gradient in gradients]
            for tensor, gradient, (first, second) in zip(self.tensors, gradients, self._moments, strict=True):
                if self._weight_decay:
                    gradient = gradient + self._weight_decay * tensor
                first.lerp_(gradient, 1.0 - BETA_1)
                second.mul_(BETA_2).addcmul_(gradient, gradient, value=1.0 - BETA_2)
                tensor.addcdiv_(first, (second / second_bias).sqrt_().add_(1e-8), value=-rate / first_bias)
