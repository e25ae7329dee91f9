"""Detector settings as data, with defaults and ranges."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from stream_ad.core.detectors.base import Settings
from stream_ad.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number.

    Attributes:
        default: value without an override; None only where `optional`.
        low, high: smallest and largest value taken.
        optional: None is taken too.
    """

    default: int | None
    low: int
    high: int
    optional: bool = False

    def read(self, value: Any) -> int | None:
        """Return the value, or raise ValueError saying what was expected."""
        if value is None and self.optional:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not self.low <= value <= self.high:
            none = " or None" if self.optional else ""
            raise ValueError(f"a whole number from {self.low} to {self.high}{none}")
        return value


@dataclass(frozen=True, slots=True)
class Real:
    """A real number; whole ones are taken and become float.

    Attributes:
        default: value without an override, a number or one of `words`.
        low, high: smallest and largest value taken.
        words: texts that are taken too, for rules that find the number themselves.
    """

    default: float | str
    low: float
    high: float
    words: tuple[str, ...] = ()

    def read(self, value: Any) -> float | str:
        """Return the value, or raise ValueError saying what was expected."""
        if isinstance(value, str) and value in self.words:
            return value
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not self.low <= value <= self.high:
            words = "".join(f' or "{word}"' for word in self.words)
            raise ValueError(f"a number from {self.low:g} to {self.high:g}{words}")
        return float(value)


@dataclass(frozen=True, slots=True)
class Sizes:
    """A list of layer sizes.

    Attributes:
        default: value without an override.
        low, high: smallest and largest size of a layer.
        most: largest number of layers; at least one is needed.
    """

    default: tuple[int, ...]
    low: int
    high: int
    most: int

    def read(self, value: Any) -> list[int]:
        """Return the value as a list, or raise ValueError saying what was expected."""
        wanted = f"a list of 1 to {self.most} whole numbers from {self.low} to {self.high}"
        if not isinstance(value, (list, tuple)) or not 1 <= len(value) <= self.most:
            raise ValueError(wanted)
        for size in value:
            if isinstance(size, bool) or not isinstance(size, int) or not self.low <= size <= self.high:
                raise ValueError(wanted)
        return list(value)


Parameter = Whole | Real | Sizes


class Declared:
    """A kind of detector whose settings are declared once, with default and range.

    Attributes:
        name: the detector's name.
        parameters: what it takes.
    """

    name: str
    parameters: ClassVar[Mapping[str, Parameter]]

    def defaults(self) -> dict[str, Any]:
        """Return every parameter with its default, as plain JSON values."""
        return {name: parameter.read(parameter.default) for name, parameter in self.parameters.items()}

    def complete(self, settings: Settings) -> dict[str, Any]:
        """Put settings over the defaults and hold each against its range.

        Returns:
            every parameter, as plain JSON values.

        Raises:
            ConfigError: one line for each unknown name or value out of range.
        """
        merged = self.defaults()
        lines = []
        for name, value in settings.items():
            if name not in self.parameters:
                known = ", ".join(sorted(self.parameters))
                lines.append(f"{self.name}.{name}: unknown setting, expected one of {known}")
                continue
            try:
                merged[name] = self.parameters[name].read(value)
            except ValueError as error:
                shown = "NaN" if isinstance(value, float) and math.isnan(value) else repr(value)
                lines.append(f"{self.name}.{name}: expected {error}, found {shown}")
        if lines:
            raise ConfigError("\n".join(lines))
        return merged
