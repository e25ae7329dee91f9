"""Partition ownership in the embedded log: members, leases, hand-over, fencing.

A partition has a target (the member it is assigned to, by name) and a holder (the incarnation that owns it now).
Joining, leaving and expiring change targets. A holder releases the partition in its own poll or when its member is
removed; only then does the target take over. Every commit checks that its member is the holder.

All functions run inside the caller's transaction. Leases use `time.monotonic_ns()`, which all processes of a machine
share; after a reboot a lease expires within twice its length.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stream_ad.io.local.file import Cursor
from stream_ad.io.local.records import LocalTopic
from stream_ad.io.transport import Position


@dataclass(frozen=True, slots=True)
class Member:
    """One incarnation of a static member of a group that reads one topic.

    Attributes:
        group: the consumer group.
        topic: the topic it reads.
        name: stable across restarts.
        incarnation: a new id for each join.
        lease_ns: how long it may be silent.
    """

    group: str
    topic: LocalTopic
    name: str
    incarnation: str
    lease_ns: int

    @property
    def team(self) -> tuple[str, int]:
        """The group's name and the topic's row key."""
        return self.group, self.topic.key


@dataclass(frozen=True, slots=True)
class Holding:
    """The target and the holder of a partition."""

    number: int
    target: str | None
    holder: str | None


def spread(targets: Mapping[int, str | None], members: Sequence[str]) -> dict[int, str | None]:
    """Assign partitions to members evenly, moving as few as possible; deterministic.

    Args:
        targets: partition number -> its current target, or None.
        members: names of all members.

    Returns:
        partition number -> member; counts differ by at most 1.
    """
    if not members:
        return dict.fromkeys(targets)
    mine: dict[str, list[int]] = {name: [] for name in sorted(members)}
    for number in sorted(targets):
        name = targets[number]
        if name in mine:
            mine[name].append(number)
    share, extra = divmod(len(targets), len(mine))
    ranked = sorted(mine, key=lambda name: (-len(mine[name]), name))
    quota = {name: share + (rank < extra) for rank, name in enumerate(ranked)}
    result: dict[int, str | None] = {
        number: name for name, numbers in mine.items() for number in numbers[: quota[name]]
    }
    room = [name for name in mine for _ in range(quota[name] - len(mine[name]))]
    result.update(zip(sorted(targets.keys() - result.keys()), room, strict=True))
    return result


def holdings(cursor: Cursor, member: Member) -> list[Holding]:
    """Return all partitions of the topic with target and holder, by number."""
    cursor.execute(
        "SELECT number, target, holder FROM holdings WHERE team = ? AND topic = ? ORDER BY number", member.team
    )
    return [Holding(*row) for row in cursor.fetchall()]


def owners(cursor: Cursor, group: str, topic: LocalTopic) -> dict[int, str]:
    """Return each partition's owner by number, except owners whose lease has expired."""
    cursor.execute(
        "SELECT holdings.number, members.name, members.renewed_ns, members.lease_ns FROM holdings JOIN members "
        "ON members.team = holdings.team AND members.topic = holdings.topic AND members.incarnation = holdings.holder "
        "WHERE holdings.team = ? AND holdings.topic = ?",
        (group, topic.key),
    )
    rows = cursor.fetchall()
    now_ns = time.monotonic_ns()
    return {number: name for number, name, renewed_ns, lease_ns in rows if abs(now_ns - renewed_ns) <= lease_ns}


def generation(cursor: Cursor, member: Member) -> int:
    """Return a number that changes with every join, departure and release."""
    row = cursor.execute("SELECT generation FROM generations WHERE team = ? AND topic = ?", member.team).fetchone()
    return 0 if row is None else int(row[0])


def _bump(cursor: Cursor, member: Member) -> None:
    cursor.execute(
        "INSERT INTO generations VALUES (?, ?, 1) ON CONFLICT DO UPDATE SET generation = generation + 1", member.team
    )


def _assign(cursor: Cursor, member: Member) -> None:
    rows = holdings(cursor, member)
    cursor.execute("SELECT name FROM members WHERE team = ? AND topic = ?", member.team)
    dealt = spread({row.number: row.target for row in rows}, [name for (name,) in cursor.fetchall()])
    changed = [(dealt[row.number], *member.team, row.number) for row in rows if dealt[row.number] != row.target]
    cursor.executemany("UPDATE holdings SET target = ? WHERE team = ? AND topic = ? AND number = ?", changed)


def enter(cursor: Cursor, member: Member) -> None:
    """Join; an older incarnation of the same name is fenced, and this one takes over its partitions."""
    _hold(cursor, member)
    _release_all(cursor, member, member.name)
    cursor.execute(
        "INSERT OR REPLACE INTO members VALUES (?, ?, ?, ?, ?, ?)",
        (*member.team, member.name, member.incarnation, time.monotonic_ns(), member.lease_ns),
    )
    _assign(cursor, member)
    _bump(cursor, member)


def extend(cursor: Cursor, topic: LocalTopic) -> None:
    """Assign partitions added to a topic to the members of all groups that read it."""
    cursor.execute("SELECT team, name, incarnation, lease_ns FROM members WHERE topic = ?", (topic.key,))
    one_each = {
        team: Member(team, topic, name, incarnation, lease) for team, name, incarnation, lease in cursor.fetchall()
    }
    for member in one_each.values():
        _hold(cursor, member)
        _assign(cursor, member)
        _bump(cursor, member)


def _hold(cursor: Cursor, member: Member) -> None:
    """Create missing rows for the topic's partitions."""
    for number, pid in enumerate(member.topic.pids):
        cursor.execute(
            "INSERT OR IGNORE INTO holdings VALUES (?, ?, ?, ?, NULL, NULL)",
            (member.group, pid, member.topic.key, number),
        )


def _release_all(cursor: Cursor, member: Member, name: str) -> None:
    cursor.execute(
        "UPDATE holdings SET holder = NULL WHERE team = ? AND topic = ? AND holder = "
        "(SELECT incarnation FROM members WHERE team = ? AND topic = ? AND name = ?)",
        (*member.team, *member.team, name),
    )


def leave(cursor: Cursor, member: Member, names: Sequence[str]) -> None:
    """Remove members (this one, or silent ones) and reassign their partitions."""
    for name in names:
        _release_all(cursor, member, name)
        cursor.execute("DELETE FROM members WHERE team = ? AND topic = ? AND name = ?", (*member.team, name))
    _assign(cursor, member)
    _bump(cursor, member)


def is_current(cursor: Cursor, member: Member) -> bool | None:
    """Return whether this incarnation is the member: False if a newer one is, None if the member was removed."""
    cursor.execute(
        "SELECT incarnation FROM members WHERE team = ? AND topic = ? AND name = ?", (*member.team, member.name)
    )
    row = cursor.fetchone()
    return None if row is None else row[0] == member.incarnation


def silent(cursor: Cursor, member: Member) -> list[str]:
    """Return the names of other members whose lease has expired."""
    return [name for name, is_alive in _lives(cursor, *member.team) if name != member.name and not is_alive]


def living(cursor: Cursor, group: str, topic: LocalTopic) -> list[str]:
    """Return the names of a group's members whose leases have not expired."""
    return sorted(name for name, is_alive in _lives(cursor, group, topic.key) if is_alive)


def _lives(cursor: Cursor, group: str, topic: int) -> list[tuple[str, bool]]:
    cursor.execute("SELECT name, renewed_ns, lease_ns FROM members WHERE team = ? AND topic = ?", (group, topic))
    rows = cursor.fetchall()
    now_ns = time.monotonic_ns()  # after reading the rows, so that none can have been renewed later
    return [(name, abs(now_ns - renewed_ns) <= lease_ns) for name, renewed_ns, lease_ns in rows]


def renew(cursor: Cursor, member: Member) -> None:
    """Renew the lease if this incarnation is still the member."""
    cursor.execute(
        "UPDATE members SET renewed_ns = ? WHERE team = ? AND topic = ? AND name = ? AND incarnation = ?",
        (time.monotonic_ns(), *member.team, member.name, member.incarnation),
    )


def take(cursor: Cursor, member: Member, number: int) -> bool:
    """Take over a partition whose target is this member and that has no other holder."""
    cursor.execute(
        "UPDATE holdings SET holder = ? WHERE team = ? AND topic = ? AND number = ? AND target = ? "
        "AND (holder IS NULL OR holder = ?)",
        (member.incarnation, *member.team, number, member.name, member.incarnation),
    )
    return cursor.rowcount == 1


def release(cursor: Cursor, member: Member, number: int) -> None:
    """Release a partition, so that its target can take it over."""
    cursor.execute(
        "UPDATE holdings SET holder = NULL WHERE team = ? AND topic = ? AND number = ? AND holder = ?",
        (*member.team, number, member.incarnation),
    )
    _bump(cursor, member)


def holds(cursor: Cursor, member: Member, number: int) -> bool:
    """Return whether this incarnation holds a partition."""
    cursor.execute("SELECT holder FROM holdings WHERE team = ? AND topic = ? AND number = ?", (*member.team, number))
    row = cursor.fetchone()
    return row is not None and row[0] == member.incarnation


def position(cursor: Cursor, group: str, topic: LocalTopic, number: int) -> Position | None:
    """Return a group's committed position for a partition."""
    from_topic = topic.partition(number)
    cursor.execute("SELECT next, metadata FROM positions WHERE team = ? AND pid = ?", (group, topic.pid(from_topic)))
    row = cursor.fetchone()
    return None if row is None else Position(from_topic, topic.info.topic_id, row[0], row[1])


def set_position(cursor: Cursor, group: str, pid: int, position: tuple[int, str] | None) -> None:
    """Store or delete a group's position of a partition, by its row key."""
    if position is None:
        cursor.execute("DELETE FROM positions WHERE team = ? AND pid = ?", (group, pid))
    else:
        cursor.execute("INSERT OR REPLACE INTO positions VALUES (?, ?, ?, ?)", (group, pid, *position))


def open_epoch(cursor: Cursor, group: str, name: str) -> int:
    """Return a new epoch for a committer; committers with older epochs are fenced."""
    cursor.execute("INSERT INTO committers VALUES (?, ?, 1) ON CONFLICT DO UPDATE SET epoch = epoch + 1", (group, name))
    return epoch(cursor, group, name)


def epoch(cursor: Cursor, group: str, name: str) -> int:
    """Return the committer's newest epoch."""
    row = cursor.execute("SELECT epoch FROM committers WHERE team = ? AND name = ?", (group, name)).fetchone()
    return 0 if row is None else int(row[0])
