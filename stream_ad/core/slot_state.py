"""Per-device state as slot-first arrays: grow, reset, snapshot, restore in one place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from stream_ad.core.batches import Arrays, Int32Array
from stream_ad.errors import ContractError


class SlotState:
    """Named arrays whose first axis is the slot; a new slot starts as a copy of the seed row.

    Memory is over-allocated, so that growing one slot at a time stays linear.

    Args:
        seed: a slot's first state by name: arrays without the slot axis, or scalars with a dtype.
    """

    def __init__(self, seed: Mapping[str, npt.NDArray[Any] | np.generic]) -> None:
        self._seed: Arrays = {name: np.asarray(value) for name, value in seed.items()}
        self._arrays: Arrays = {name: np.empty((0, *row.shape), row.dtype) for name, row in self._seed.items()}
        self._slots = 0

    def __len__(self) -> int:
        return self._slots

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        """Return the live array of a name; it may have spare slots at the end."""
        return self._arrays[name]

    def grow(self, slots: int) -> None:
        """Make room for slots 0..slots-1; never shrinks."""
        if slots <= self._slots:
            return
        capacity = max(slots, 2 * self._slots)
        for name, array in self._arrays.items():
            if slots > len(array):
                wider = np.empty((capacity, *array.shape[1:]), array.dtype)
                wider[: self._slots] = array[: self._slots]
                self._arrays[name] = wider
            self._arrays[name][self._slots : slots] = self._seed[name]
        self._slots = slots

    def reset(self, device: Int32Array) -> None:
        """Reset slots to the seed."""
        for name, array in self._arrays.items():
            array[device] = self._seed[name]

    def snapshot(self) -> Arrays:
        """Return copies of the arrays, without the spare slots."""
        return {name: array[: self._slots].copy() for name, array in self._arrays.items()}

    def restore(self, arrays: Arrays) -> None:
        """Restore a snapshot.

        Raises:
            ContractError: a name is missing or unknown, or an array has another dtype or shape.
        """
        if arrays.keys() != self._seed.keys():
            raise ContractError(f"state: expected arrays {sorted(self._seed)}, found {sorted(arrays)}")
        sizes = {len(array) if array.ndim else -1 for array in arrays.values()}
        if len(sizes) != 1:
            raise ContractError(f"state: expected arrays of one length, found lengths {sorted(sizes)}")
        for name, row in self._seed.items():
            array = arrays[name]
            if array.dtype != row.dtype or array.shape[1:] != row.shape:
                want = f"{row.dtype}[slots, *{row.shape}]"
                raise ContractError(f"state {name}: expected {want}, found {array.dtype}{list(array.shape)}")
        self._arrays = {name: np.array(arrays[name], order="C") for name in self._seed}
        self._slots = sizes.pop()


def part_of(arrays: Arrays, prefix: str) -> Arrays:
    """Return the arrays whose names start with the prefix, without it."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
