"""The protocols that every kind of detector implements; the suite in tests/contracts checks them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np

from stream_ad.core.batches import Arrays, Float32Array, Float64Array, expect
from stream_ad.errors import ContractError

Settings: TypeAlias = Mapping[str, Any]
"""A detector's settings: plain JSON values. A kind refuses unknown names with ConfigError."""

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called as `progress(what, done, total)` during long work."""


def no_progress(what: str, done: int, total: int) -> None:
    """Ignore progress."""


@dataclass(frozen=True, slots=True)
class Scores:
    """A detector's result for n windows.

    Attributes:
        score: float64[n], finite, >= 0, higher is more anomalous.
        contribution: float32[n, c], >= 0, each channel's part of the score in the score's own units or any common
            scale; None if the detector does not provide it.
    """

    score: Float64Array
    contribution: Float32Array | None

    def __post_init__(self) -> None:
        expect("score", self.score, np.float64, (None,))
        if self.contribution is not None:
            expect("contribution", self.contribution, np.float32, (len(self.score), None))


class Detector(Protocol):
    """Scores normalised windows; immutable, so it can be swapped between two steps."""

    def score(self, values: Float32Array) -> Scores:
        """Score windows.

        A row's result depends neither on other rows nor on its position, to the last bit; the caller always passes
        chunks of one size. `products.row_products` guarantees that, `@` does not.

        Args:
            values: float32[n, t, c], normalised, finite.
        """
        ...

    def arrays(self) -> Arrays:
        """Return everything that `DetectorKind.load` needs besides the settings."""
        ...


class DetectorKind(Protocol):
    """Creates detectors; named in the catalogue or by another package's entry point."""

    name: str

    def defaults(self) -> Settings:
        """Return every setting with its default."""
        ...

    def fit(self, values: Float32Array, settings: Settings, seed: int, progress: Progress) -> Detector:
        """Fit on normal windows.

        Args:
            values: float32[n, t, c], normalised, finite, in time order.
            settings: overrides of `defaults()`; unknown names raise ConfigError.
            seed: the same seed and data give the same detector on the same machine.
            progress: called during long work.

        Raises:
            ConfigError: a setting is unknown or out of range.
            TrainingError: too few windows, or the fit did not succeed.
        """
        ...

    def load(self, settings: Settings, arrays: Arrays) -> Detector:
        """Create the detector from stored arrays; executes no code from the bundle.

        Raises:
            BundleFormatError: an array is missing or has another shape.
        """
        ...


def check_scores(scores: Scores, n: int, c: int) -> Scores:
    """Check a detector's result against the contract.

    Raises:
        ContractError: wrong size, non-finite or negative scores.
    """
    if scores.score.shape != (n,):
        raise ContractError(f"detector: expected {n} scores, found {scores.score.shape}")
    if scores.contribution is not None and scores.contribution.shape != (n, c):
        raise ContractError(f"detector: expected contributions {(n, c)}, found {scores.contribution.shape}")
    if not np.isfinite(scores.score).all() or (n and scores.score.min() < 0):
        raise ContractError("detector: scores must be finite and >= 0")
    return scores
