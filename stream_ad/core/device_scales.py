"""Centre and scale of single devices, each at its own level and with its own spread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from stream_ad.core.batches import Float64Array, Int64Array, expect
from stream_ad.errors import ContractError


@dataclass(frozen=True, slots=True)
class DeviceScales:
    """Centre and scale of the devices that a model was trained on.

    Attributes:
        devices: k names, unique, sorted.
        center: float64[k, c].
        scale: float64[k, c], > 0.
        number: name -> row.
    """

    devices: tuple[str, ...]
    center: Float64Array
    scale: Float64Array
    number: Mapping[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        expect("device centers", self.center, np.float64, (len(self.devices), None))
        expect("device scales", self.scale, np.float64, self.center.shape)
        if not (np.isfinite(self.center).all() and np.isfinite(self.scale).all() and (self.scale > 0).all()):
            raise ContractError("device scales: centers must be finite and scales finite and > 0")
        if list(self.devices) != sorted(set(self.devices)):
            raise ContractError("device scales: expected unique names in sorted order")
        object.__setattr__(self, "number", {name: row for row, name in enumerate(self.devices)})

    def rows(self, ids: Sequence[str]) -> Int64Array:
        """Return int64[n], the row of each device, -1 for devices not in the training."""
        return np.array([self.number.get(name, -1) for name in ids], np.int64)

    def in_frame(
        self, values: Float64Array, row: Int64Array, center: Float64Array, scale: Float64Array
    ) -> Float64Array:
        """Return windows shifted and scaled as if their devices had the fleet's centre and scale.

        Later stages use only one centre and scale. Windows of other devices are unchanged.

        Args:
            values: float64[n, t, c], raw.
            row: int64[n], as `rows` gives them.
            center: float64[c], the fleet's.
            scale: float64[c], the fleet's.
        """
        known = np.flatnonzero(row >= 0)
        if not len(known):
            return values
        at, is_all, samples = row[known], len(known) == len(values), values.shape[1]
        # Centres and factors are expanded to whole windows: broadcasting over a few channels is slow.
        flat = (values if is_all else values[known]).reshape(len(known), -1)
        moved = flat - np.tile(self.center[at], (1, samples))
        moved *= np.tile(scale / self.scale[at], (1, samples))
        moved += np.tile(center, samples)
        moved = moved.reshape(len(known), *values.shape[1:])
        if is_all:
            return moved
        out = values.copy()
        out[known] = moved
        return out
