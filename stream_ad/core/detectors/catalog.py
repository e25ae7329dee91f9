"""The available detectors: this package's and those registered by other packages, imported on access.

Another package registers one in its `pyproject.toml`::

    [project.entry-points."stream_ad.detectors"]
    my_detector = "my_package.my_module:KIND"

where `KIND` is a `DetectorKind` whose `name` is `my_detector`. It must pass the suite in tests/contracts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points

from stream_ad.core.detectors.base import DetectorKind
from stream_ad.errors import ConfigError, ContractError

GROUP = "stream_ad.detectors"

_HERE = "stream_ad.core.detectors"
OWN: Mapping[str, str] = {
    "autoencoder": f"{_HERE}.autoencoder:KIND",
    "dagmm": f"{_HERE}.dagmm:KIND",
    "isolation_forest": f"{_HERE}.isolation_forest:KIND",
    "mahalanobis": f"{_HERE}.mahalanobis:KIND",
    "multiscale_pca": f"{_HERE}.multiscale_pca:KIND",
    "pca": f"{_HERE}.pca:KIND",
}


class Kinds(Mapping[str, DetectorKind]):
    """Names to kinds, sorted by name; access imports, iteration does not.

    Access raises ContractError if an entry point is broken or its name is taken.
    """

    def __init__(self, found: Mapping[str, tuple[EntryPoint, ...]]) -> None:
        self._found = found

    def __getitem__(self, name: str) -> DetectorKind:
        return _load(name, self._found[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def __contains__(self, name: object) -> bool:
        return name in self._found


def kinds() -> Kinds:
    """Return all detectors by name, sorted; scans the installed packages on each call."""
    found = {name: [EntryPoint(name, value, GROUP)] for name, value in OWN.items()}
    for entry in entry_points(group=GROUP):
        known = found.setdefault(entry.name, [])
        if entry.value not in [other.value for other in known]:
            known.append(entry)
    return Kinds({name: tuple(found[name]) for name in sorted(found)})


def get(name: str) -> DetectorKind:
    """Return a detector kind.

    Raises:
        ConfigError: there is no such detector; lists the available ones.
        ContractError: the entry point of that name is broken, or two packages register it.
    """
    found = kinds()
    if name not in found:
        raise ConfigError(f'detector: expected one of {", ".join(found)}, found "{name}"')
    return found[name]


def _load(name: str, entries: tuple[EntryPoint, ...]) -> DetectorKind:
    if len(entries) > 1:
        raise ContractError(f"detector {name}: registered more than once: {', '.join(_origin(e) for e in entries)}")
    (entry,) = entries
    try:
        kind = entry.load()
    except Exception as error:  # importing a plug-in can raise anything
        raise ContractError(f"detector {name}: {_origin(entry)} cannot be loaded: {error}") from error
    missing = [part for part in ("defaults", "fit", "load") if not callable(getattr(kind, part, None))]
    if missing or isinstance(kind, type):
        what = f"lacks {', '.join(missing)}" if missing else "is a class, not an object"
        raise ContractError(f"detector {name}: {_origin(entry)} {what}: expected a DetectorKind")
    found = getattr(kind, "name", None)
    if found != name:
        raise ContractError(f"detector {name}: {_origin(entry)} calls itself {found!r}")
    loaded: DetectorKind = kind
    return loaded


def _origin(entry: EntryPoint) -> str:
    package = "stream_ad" if entry.dist is None else f"{entry.dist.name} {entry.dist.version}"
    return f"{entry.value} ({package})"
