"""The configurations that `stream-ad evaluate` applies to data sets; docs/evaluation.md explains their choice.

A configuration is what a user would pass to `stream-ad train` and write in `stream.toml`. It is the same for all runs
of a data set, and no threshold in it is in units of one run's scores.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any

from stream_ad.config import FixedThreshold, IncidentSettings
from stream_ad.core.model import Channel, WindowShape
from stream_ad.errors import ConfigError
from stream_ad.evaluation.datasets import Run
from stream_ad.training.training import TrainingPlan

NEVER_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Configuration:
    """How one detector is trained and its scores are judged.

    Attributes:
        name: unique among a data set's configurations.
        kind: the detector's name in the catalogue.
        settings: overrides of the detector's defaults.
        samples: cells per window; the stride is 1, so that each row closes one window.
        factor: the limit is this times the `quantile` of the held-out scores.
        quantile: 0..1. The median is far steadier than a high quantile of a few hundred scores.
        smoothing: weight of the newest log score.
        folds: blocks of the calibration.
        incident: when incidents open and end.
        note: one line for people.
    """

    name: str
    kind: str
    settings: Mapping[str, Any]
    samples: int = 20
    factor: float = 2.2
    quantile: float = 0.5
    smoothing: float = 0.2
    folds: int = 5
    incident: IncidentSettings = field(default_factory=IncidentSettings)
    note: str = ""

    @property
    def threshold(self) -> FixedThreshold:
        """The threshold of the live pipeline."""
        return FixedThreshold(kind="fixed", quantile=self.quantile, factor=self.factor)

    def judging(self) -> dict[str, Any]:
        """Return the sections `time`, `threshold` and `incident` of the stream's settings.

        No reading of a recording is late, and no window is closed by the evaluating machine's wall clock: results
        depend only on the recording.
        """
        return {
            "time": {"lateness_s": 0, "idle_close_s": NEVER_S, "evict_after_s": NEVER_S},
            "threshold": self.threshold.model_dump(),
            "incident": self.incident.model_dump(),
        }

    def plan(self, run: Run, seed: int) -> TrainingPlan:
        """Return the training plan for a run's first rows."""
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

    def to_json(self) -> dict[str, Any]:
        """Return the configuration as JSON values."""
        return {
            **{name: value for name, value in asdict(self).items() if name not in ("settings", "incident")},
            "settings": dict(self.settings),
            "incident": self.incident.model_dump(mode="json"),
        }


_NET: Mapping[str, Any] = MappingProxyType({"hidden": [32], "batch_size": 64, "noise": 0.3})
_MIXTURE: Mapping[str, Any] = MappingProxyType({"hidden": [64], "code": 8, "components": 2, "batch_size": 128})

_SKAB = (
    Configuration(
        name="multiscale_pca",
        kind="multiscale_pca",
        settings={"members": 3, "variance": 0.85},
        note="PCA residuals over 20, 10 and 5 samples, fused",
    ),
    Configuration(name="pca", kind="pca", settings={"variance": 0.85}, note="PCA residual over 20 samples"),
    Configuration(name="mahalanobis", kind="mahalanobis", settings={}, note="distance by a shrunk covariance"),
    Configuration(
        name="autoencoder", kind="autoencoder", settings={**_NET, "epochs": 40}, note="160-32-160, 40 epochs"
    ),
    Configuration(
        name="dagmm",
        kind="dagmm",
        settings={**_MIXTURE, "steps": 150},
        factor=4.0,
        note="160-64-8, 2 components, 150 steps",
    ),
    Configuration(
        name="autoencoder-untrained",
        kind="autoencoder",
        settings={**_NET, "epochs": 0},
        note="the same net at its random start",
    ),
    Configuration(
        name="dagmm-untrained",
        kind="dagmm",
        settings={**_MIXTURE, "steps": 0},
        factor=4.0,
        note="the same nets at their random start, the mixture fitted",
    ),
)

SKAB: Mapping[str, Configuration] = MappingProxyType({one.name: one for one in _SKAB})


def choose(known: Mapping[str, Configuration], names: str | None) -> list[Configuration]:
    """Return configurations by name, `a,b`; all of them for None.

    Raises:
        ConfigError: a name is unknown.
    """
    wanted = list(known) if names is None else [name.strip() for name in names.split(",") if name.strip()]
    for name in wanted:
        if name not in known:
            raise ConfigError(f"--detectors: expected some of {', '.join(known)}, found {name!r}")
    if not wanted:
        raise ConfigError(f"--detectors: expected some of {', '.join(known)}, found none")
    return [known[name] for name in dict.fromkeys(wanted)]
