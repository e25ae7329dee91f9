"""Device ids to slots and back; slots are reused after eviction, the lowest first."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Sequence

import numpy as np

from stream_ad.core.batches import Arrays, BoolArray, Int32Array, Int64Array
from stream_ad.errors import ContractError


class DeviceIndex:
    """The devices of one partition; a slot is an index into all per-device state."""

    def __init__(self) -> None:
        self._slot: dict[str, int] = {}
        self._ids: list[str] = []
        self._free: list[int] = []

    def __len__(self) -> int:
        """Return the number of devices held."""
        return len(self._slot)

    @property
    def capacity(self) -> int:
        """Number of slots ever assigned; per-device state has at least this many rows."""
        return len(self._ids)

    def slots(self, ids: Sequence[str]) -> tuple[Int32Array, Int32Array]:
        """Look up devices; new ones get slots in the order of `ids`.

        Args:
            ids: distinct device ids.

        Returns:
            int32[len(ids)] slots, and int32[k] the slots that are new.
        """
        found = [self._slot.get(device, -1) for device in ids]
        fresh = []
        for row, slot in enumerate(found):
            if slot < 0:
                found[row] = self._add(ids[row])
                fresh.append(found[row])
        return np.array(found, np.int32), np.array(fresh, np.int32)

    def _add(self, device: str) -> int:
        if self._free:
            slot = heapq.heappop(self._free)
            self._ids[slot] = device
        else:
            slot = len(self._ids)
            self._ids.append(device)
        self._slot[device] = slot
        return slot

    def table(self) -> tuple[str, ...]:
        """Return the id of each slot; a free slot has an empty one."""
        return tuple(self._ids)

    def used(self) -> BoolArray:
        """Return bool[capacity], True where a slot holds a device."""
        used = np.zeros(len(self._ids), np.bool_)
        used[list(self._slot.values())] = True
        return used

    def release(self, slots: Int32Array) -> None:
        """Forget devices; their slots go to later ones."""
        for slot in slots.tolist():
            del self._slot[self._ids[slot]]
            self._ids[slot] = ""
            heapq.heappush(self._free, slot)

    def snapshot(self) -> Arrays:
        """Return all ids as one UTF-8 blob with int64 bounds; a free slot has an empty id."""
        texts = [device.encode() for device in self._ids]
        bounds = np.zeros(len(texts) + 1, np.int64)
        np.cumsum([len(text) for text in texts], out=bounds[1:])
        return {"ids": np.frombuffer(b"".join(texts), np.uint8), "bounds": bounds, "used": self.used()}

    def restore(self, arrays: Arrays) -> None:
        """Take back a snapshot."""
        blob = arrays["ids"].tobytes()
        bounds: Int64Array = arrays["bounds"]
        if len(bounds) != len(arrays["used"]) + 1 or bounds[-1] != len(blob):
            raise ContractError("devices: expected bounds that cover the ids")
        edges = bounds.tolist()
        self._ids = [blob[a:b].decode() for a, b in itertools.pairwise(edges)]
        used = arrays["used"].tolist()
        self._slot = {device: slot for slot, device in enumerate(self._ids) if used[slot]}
        self._free = [slot for slot in range(len(used)) if not used[slot]]
        heapq.heapify(self._free)
