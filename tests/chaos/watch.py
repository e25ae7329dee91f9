"""What both groups have committed, looked at several times a second: how long nothing landed, and after which kill."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kafka import errors as kafka_errors

from stream_ad.errors import TransportError
from stream_ad.io.kafka.clients import KafkaClients

EVERY_S = 0.2


@dataclass(frozen=True, slots=True)
class Death:
    """A kill whose recovery is measured.

    Attributes:
        at: monotonic seconds.
        role: of the victim.
        partitions: what it owned.
    """

    at: float
    role: str
    partitions: frozenset[int]


class Watch(threading.Thread):
    """Looks at the committed offsets of the groups.

    Attributes:
        looks: when each look began, and the offsets seen, by group and partition.
    """

    def __init__(self, servers: Sequence[str], groups: Mapping[str, str]) -> None:
        """Prepare.

        Args:
            servers: of the brokers.
            groups: the consumer group of each role.
        """
        super().__init__(name="watch", daemon=True)
        self.looks: list[tuple[float, dict[tuple[str, int], int]]] = []
        self._clients = KafkaClients(servers, 3.0, 1_000_000, {})
        self._groups = dict(groups)
        self._done = threading.Event()

    def stop(self) -> None:
        """End."""
        self._done.set()
        self.join(30.0)

    def run(self) -> None:
        """Look until told to end."""
        admin: Any = None
        while not self._done.wait(EVERY_S):
            try:
                admin = admin or self._clients.open_admin()
                begun = time.monotonic()
                # Not waiting for open transactions, unlike a consumer: what is seen has landed.
                answer = admin.list_group_offsets(list(self._groups.values()))
                seen = {
                    (role, int(tp.partition)): int(found.offset)
                    for role, group in self._groups.items()
                    for tp, found in answer.get(group, {}).items()
                }
                self.looks.append((begun, seen))
            except (kafka_errors.KafkaError, TransportError, OSError):
                if admin is not None:
                    admin.close()
                admin = None
        if admin is not None:
            admin.close()

    def scored(self) -> int:
        """Return how many input offsets are committed."""
        return sum(offset for (role, _), offset in self.looks[-1][1].items() if role == "scorer") if self.looks else 0

    def longest_silence_s(self, until: float) -> tuple[float, float]:
        """Return the longest times up to `until` without a commit of any scorer, and of one partition's."""
        last: dict[object, tuple[float, int]] = {}
        longest = {"any": 0.0, "one": 0.0}
        for at, seen in self.looks:
            if at > until:
                break
            offsets: dict[object, int] = {key: offset for key, offset in seen.items() if key[0] == "scorer"}
            if not offsets:
                continue
            offsets["any"] = sum(seen.values())
            for key, offset in offsets.items():
                before = last.setdefault(key, (at, offset))
                which = "any" if key == "any" else "one"
                longest[which] = max(longest[which], at - before[0])
                if offset > before[1]:
                    last[key] = (at, offset)
        return longest["any"], longest["one"]

    def recoveries_s(self, deaths: Sequence[Death]) -> list[float]:
        """Return per kill how long it took until every partition of the victim had a commit again.

        Kills of members without a partition are left out, and those after whose death no commit was seen.
        """
        found = [self._recovery_s(death) for death in deaths if death.partitions]
        return [seconds for seconds in found if seconds is not None]

    def _recovery_s(self, death: Death) -> float | None:
        # From the first look that began after the kill: what the dead had under way counts as its own.
        later = [(at, seen) for at, seen in self.looks if at >= death.at]
        if not later:
            return None
        waiting = {(death.role, number): later[0][1].get((death.role, number), 0) for number in death.partitions}
        for at, seen in later[1:]:
            waiting = {key: offset for key, offset in waiting.items() if seen.get(key, 0) <= offset}
            if not waiting:
                return at - death.at
        return None


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return count, median, 99th percentile and maximum."""
    if not values:
        return {"count": 0}
    ordered = sorted(values)
    return {
        "count": len(ordered),
        "median": round(statistics.median(ordered), 2),
        "p99": round(ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))], 2),
        "longest": round(ordered[-1], 2),
    }
