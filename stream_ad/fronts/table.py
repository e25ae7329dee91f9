"""Table of fronts: the built-in one, and those that other packages register.

A package registers one as an entry point of the group `stream_ad.fronts`, with a `FrontSpec` as its object. A stream
selects it by `stream.front = "NAME"`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Protocol

from stream_ad.core.front import Front, RowRules
from stream_ad.core.model import Model
from stream_ad.errors import ConfigError

if TYPE_CHECKING:
    from stream_ad.config import Settings
    from stream_ad.io.transport import RawBatch
    from stream_ad.io.wire.rows import Decoded

BUILT_IN = "readings"
ENTRY_POINTS = "stream_ad.fronts"


class RecordDecoder(Protocol):
    """Decodes raw records; holds no state that results depend on."""

    def decode(self, raw: RawBatch) -> Decoded[Any]:
        """Return the content of the records, and what was refused."""


@dataclass(frozen=True, slots=True)
class FrontSpec:
    """A kind of front.

    Attributes:
        name: its name in `stream.front`.
        decoder: creates the decoder of a stream's records.
        build: creates the empty front of one partition.
        rules: returns the rules of its rows.
        differences: returns why a model cannot replace another while rows are open, one line per reason; empty if it
            can.
    """

    name: str
    decoder: Callable[[Settings, Model], RecordDecoder]
    build: Callable[[Settings, Model], Front[Any]]
    rules: Callable[[Settings, Model], RowRules]
    differences: Callable[[Model, Model], Sequence[str]]


def front(settings: Settings) -> FrontSpec:
    """Return the front of a stream.

    Raises:
        ConfigError: `stream.front` names no installed front, or its package is broken.
    """
    name = settings.stream.front
    if name == BUILT_IN:
        from stream_ad.fronts.readings import READINGS  # loads the decoder

        return READINGS
    found = {entry.value: entry for entry in entry_points(group=ENTRY_POINTS) if entry.name == name}
    if len(found) != 1:
        installed = sorted({entry.name for entry in entry_points(group=ENTRY_POINTS)} | {BUILT_IN})
        problem = f"several packages that provide it: {', '.join(sorted(found))}" if found else repr(name)
        raise ConfigError(f"stream.front: expected one of {', '.join(installed)}, found {problem}")
    (entry,) = found.values()
    try:
        spec = entry.load()
    except Exception as error:  # importing a package's module can raise anything
        raise ConfigError(f"stream.front: {entry.value} cannot be loaded: {error}") from error
    if not isinstance(spec, FrontSpec) or spec.name != name:
        raise ConfigError(f"stream.front: expected {entry.value} to be a FrontSpec named {name}, found {spec!r}")
    return spec
