"""The configurations that `stream-ad evaluate` judges data sets with; docs/evaluation.md says how they were chosen.

A configuration is what a user would type into `stream-ad train` and `stream.toml`; it is one for
all runs of a data set, and no threshold in it is in units of one run's scores.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any

from stream_ad.config import FixedThreshold, IncidentSettings
from stream_ad.core.model import Channel, WindowShape
from stream_ad.errors import ConfigError
from stream_ad.lab.datasets import Run
from stream_ad.lab.training import TrainingPlan


@dataclass(frozen=True, slots=True)
class Configuration:
    """How one detector is trained and how its scores are judged.

    Attributes:
        name: unique among a data set's configurations.
        kind: the detector's name in the catalogue.
        settings: overrides of the detector's defaults.
        samples: cells a window; the stride is 1, so that each row closes one.
        factor: the limit is this times the `quantile` of the held-out scores.
        quantile: 0..1. The median is far steadier than a high quantile of a few hundred scores.
        smoothing: weight of the newest log score.
        folds: blocks of the calibration.
        incident: when incidents open and end.
        note: one line for a person.
    """

    name: str
    kind: str
    settings: Mapping[str, Any]
    samples: int
    factor: float
    quantile: float = 0.5
    smoothing: float = 0.2
    folds: int = 5
    incident: IncidentSettings = field(default_factory=IncidentSettings)
    note: str = ""

    @property
    def threshold(self) -> FixedThreshold:
        """The threshold of the live pipe."""
        return FixedThreshold(kind="fixed", quantile=self.quantile, factor=self.factor)

    def plan(self, run: Run, seed: int) -> TrainingPlan:
        """Return what to train on a run's first rows."""
        return TrainingPlan(
            name=self.name.replace("_", "-"),
            kind=self.kind,
            shape=WindowShape(run.period_ns, self.samples, 1),
            channels=tuple(Channel(name) for name in run.recording.channels),
            settings=dict(self.settings),
            smoothing=self.smoothing,
            folds=self.folds,
            seed=seed,
            baseline="",
        )

    def plain(self) -> dict[str, Any]:
        """Return everything as plain JSON values."""
        return {
            **{name: value for name, value in asdict(self).items() if name not in ("settings", "incident")},
            "settings": dict(self.settings),
            "incident": self.incident.model_dump(mode="json"),
        }


_SMALL_NET: Mapping[str, Any] = MappingProxyType({"hidden": [32, 8, 32], "batch_size": 64})
_SMALL_MIXTURE: Mapping[str, Any] = MappingProxyType({"hidden": [32], "code": 4, "components": 2, "batch_size": 128})

_SKAB = (
    Configuration(
        name="multiscale_pca",
        kind="multiscale_pca",
        settings={"members": 3, "variance": 0.85},
        samples=20,
        factor=2.2,
        note="PCA residuals over 20, 10 and 5 samples, fused",
    ),
    Configuration(
        name="pca", kind="pca", settings={"variance": 0.85}, samples=10, factor=2.2, note="PCA residual over 10 samples"
    ),
    Configuration(
        name="mahalanobis", kind="mahalanobis", settings={}, samples=10, factor=2.2, note="shrunk covariance"
    ),
    Configuration(
        name="autoencoder",
        kind="autoencoder",
        settings={**_SMALL_NET, "epochs": 60},
        samples=10,
        factor=2.2,
        note="80-32-8-32-80, 60 epochs",
    ),
    Configuration(
        name="dagmm",
        kind="dagmm",
        settings={**_SMALL_MIXTURE, "steps": 150},
        samples=10,
        factor=2.2,
        note="80-32-4, 2 components, 150 steps",
    ),
    Configuration(
        name="autoencoder-untrained",
        kind="autoencoder",
        settings={**_SMALL_NET, "epochs": 0},
        samples=10,
        factor=2.2,
        note="the same net at its random start",
    ),
    Configuration(
        name="dagmm-untrained",
        kind="dagmm",
        settings={**_SMALL_MIXTURE, "steps": 0},
        samples=10,
        factor=2.2,
        note="the same nets at their random start; the mixture is fitted",
    ),
)

SKAB: Mapping[str, Configuration] = MappingProxyType({one.name: one for one in _SKAB})


def choose(known: Mapping[str, Configuration], names: str | None) -> list[Configuration]:
    """Return configurations by name, `a,b`; all of them for None.

    Raises:
        ConfigError: an unknown name.
    """
    wanted = list(known) if names is None else [name.strip() for name in names.split(",") if name.strip()]
    for name in wanted:
        if name not in known:
            raise ConfigError(f"--detectors: expected some of {', '.join(known)}, found {name!r}")
    if not wanted:
        raise ConfigError(f"--detectors: expected some of {', '.join(known)}, found none")
    return [known[name] for name in dict.fromkeys(wanted)]
