"""What came out of a side, decoded, and how two outcomes differ.

Decoded here, for both sides, from what the formats' pages promise (docs/wire.md, docs/alerts.md, docs/score-log.md) and
with no code of either side: a decoder that was changed with its encoder would hide a difference.
"""

from __future__ import annotations

import base64
import json
import struct
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

Row: TypeAlias = dict[str, object]

SCORES, ALERTS, LETTERS, LOG = "score rows", "alerts", "dead letters", "rows of the score log"
TOPICS = {"scores": SCORES, "alerts": ALERTS, "dead_letters": LETTERS}

MODEL, SENTENCE = "digest of the bundle, whose format may change", "a sentence for a person"
CONFIG, COMMITS = "digest of the settings, which may get new keys", "where commits were cut, which the clock decides"
EXCLUDED: Mapping[str, Mapping[str, str]] = {
    SCORES: {
        "model_id": MODEL,
        "header stream-ad-model": MODEL,
        "header stream-ad-config": CONFIG,
        "header stream-ad-span": COMMITS,
        "header stream-ad-journal": COMMITS,
        "header stream-ad-part": COMMITS,
    },
    ALERTS: {"model_id": MODEL, "config_digest": CONFIG, "reason": SENTENCE},
    LETTERS: {"header __connect.errors.exception.message": SENTENCE},
    LOG: {"model_id": MODEL},
}
"""Fields that are not compared, each with the reason. Offsets and append times of the outputs are not even read: they
are those of the commits."""

NAMING = ("device", "header stream-ad-device", "phase", "header stream-ad-reason", "end", "offset")
"""Fields that tell a person which row it is."""
SHOWN, FIELDS_SHOWN = 3, 4
"""Rows of each partition, and fields of each row, that are printed."""

FLAGS = {"GAPS": 1, "DUPLICATE": 4, "OUT_OF_ORDER": 8, "IDLE_CLOSED": 16, "BAD_VALUE": 32, "UNSCORABLE": 512}
REASONS = ("undecodable", "missing_field", "wrong_type", "bad_time", "late", "future")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a side made public.

    Attributes:
        rows: for each kind of result and partition the rows, in the order of the topic; those of the score log by
            offset, device and end, since its parts are cut where the clock decides.
    """

    rows: Mapping[tuple[str, int], Sequence[Row]]

    def of(self, what: str) -> Iterator[Row]:
        """Yield the rows of a kind."""
        for (kind, _), rows in sorted(self.rows.items()):
            if kind == what:
                yield from rows

    def counts(self) -> dict[str, int]:
        """Return how many rows of each kind there are."""
        return {what: sum(1 for _ in self.of(what)) for what in (SCORES, ALERTS, LETTERS, LOG)}


@dataclass(slots=True)
class Differences:
    """How two outcomes differ.

    Attributes:
        total: rows that differ, or that only one side has.
        fields: how many rows differ in each field, by kind and field.
        lines: the first differences of each partition, one per line.
    """

    total: int = 0
    fields: Counter[str] = field(default_factory=Counter)
    lines: list[str] = field(default_factory=list)


def read(folder: Path) -> Outcome:
    """Decode what a side left in its folder: `topics.jsonl` and the score log.

    Raises:
        ValueError, KeyError, pa.ArrowException: something is not in its format.
    """
    rows: dict[tuple[str, int], list[Row]] = defaultdict(list)
    with (folder / "topics.jsonl").open() as file:
        for line in file:
            record = json.loads(line)
            what = TOPICS[record["what"]]
            rows[what, record["partition"]] += _decoded(what, record)
    for path in sorted((folder / "scores").rglob("*.parquet")):
        with pq.ParquetFile(path) as parquet:  # the file alone: its folder would add columns
            for row in _table_rows(parquet.read()):
                rows[LOG, _number(row, "partition")].append(row)
    for (what, _), some in rows.items():
        if what == LOG:
            some.sort(key=lambda row: (_number(row, "offset"), str(row["device"]), _number(row, "end")))
    return Outcome(rows)


def _decoded(what: str, record: Mapping[str, Any]) -> Iterator[Row]:
    value = base64.b64decode(record["value"])
    about: Row = {f"header {name}": base64.b64decode(content).decode() for name, content in record["headers"]}
    about["key"] = record["key"] and base64.b64decode(record["key"])
    if what == SCORES:
        with pa.ipc.open_stream(value) as reader:
            yield from (row | about for row in _table_rows(reader.read_all()))
    elif what == ALERTS:
        yield dict(_flat("", json.loads(value))) | about
    else:
        yield about | {"value": value}


def _table_rows(table: pa.Table) -> Iterator[Row]:
    """Yield rows as plain values: times in microseconds, one field for each channel's contribution.

    The columns' types are a field of each row: a number of another type would compare equal.
    """
    types = ", ".join(map(str, table.schema.types))
    columns: list[tuple[str, list[Any]]] = []
    for name, column in zip(table.column_names, table.columns, strict=True):
        is_time = pa.types.is_timestamp(column.type)
        columns.append((name, (column.cast(pa.int64()) if is_time else column).to_pylist()))
    for values in zip(*(column for _, column in columns), strict=True):
        yield {"column types": types} | {
            name: content
            for (column, _), value in zip(columns, values, strict=True)
            for name, content in _flat(column, dict(value) if isinstance(value, list) else value)
        }


def _flat(name: str, value: Any) -> Iterator[tuple[str, object]]:
    """Yield the leaves of a document with their paths, floats as texts: equal only where all bits are."""
    if isinstance(value, dict):
        for key, content in value.items():
            yield from _flat(f"{name}.{key}" if name else key, content)
    elif isinstance(value, list):
        yield f"{name} (count)", len(value)
        for number, content in enumerate(value):
            yield from _flat(f"{name}[{number}]", content)
    elif isinstance(value, float):
        # The shortest text that gives the same bits again; of NaN there are many.
        yield name, repr(value) if value == value else f"nan {struct.pack('>d', value).hex()}"
    else:
        yield name, value


def _number(row: Row, name: str) -> int:
    value = row[name]
    if not isinstance(value, int):
        raise ValueError(f"{name}: expected an integer, found {value!r}")
    return value


def compare(old: Outcome, new: Outcome) -> Differences:
    """Return how two outcomes differ: row by row where a partition has as many, else which rows only one side has."""
    found = Differences()
    for what, partition in sorted({*old.rows, *new.rows}):
        befores, afters = old.rows.get((what, partition), ()), new.rows.get((what, partition), ())
        place = f"{what}, partition {partition}"
        if len(befores) == len(afters):
            _row_by_row(found, place, what, list(zip(befores, afters, strict=True)))
            continue
        lost, added = _only(what, befores, afters), _only(what, afters, befores)
        found.total += len(lost) + len(added)
        found.lines.append(f"{place}: {len(befores)} old, {len(afters)} new")
        for side, rows in (("old", lost), ("new", added)):
            names = [f"({_named(row)})" for row in rows[:SHOWN]]
            found.lines += [f"{place}: {len(rows)} only in the {side} results: {', '.join(names)}"] if rows else []
    return found


def _row_by_row(found: Differences, place: str, what: str, pairs: Sequence[tuple[Row, Row]]) -> None:
    shown = 0
    for number, (before, after) in enumerate(pairs):
        fields = _differing(what, before, after)
        if not fields:
            continue
        found.total += 1
        found.fields.update(f"{what}: {name}" for name in fields)
        if shown < SHOWN:
            shown += 1
            changes = (f"{name}: {_shown(before, name)} -> {_shown(after, name)}" for name in fields[:FIELDS_SHOWN])
            rest = f"; {len(fields) - FIELDS_SHOWN} more fields" if len(fields) > FIELDS_SHOWN else ""
            found.lines.append(f"{place}, row {number} ({_named(before)}): {'; '.join(changes)}{rest}")


def _only(what: str, rows: Sequence[Row], others: Sequence[Row]) -> list[Row]:
    """Return the rows that the others lack, as often as they lack them."""

    def compared(row: Row) -> frozenset[tuple[str, object]]:
        return frozenset((name, value) for name, value in row.items() if name not in EXCLUDED[what])

    left = Counter(map(compared, others))
    found = []
    for row in rows:
        left[compared(row)] -= 1
        if left[compared(row)] < 0:
            found.append(row)
    return found


def _differing(what: str, before: Row, after: Row) -> list[str]:
    names = [*before, *(name for name in after if name not in before)]
    return [
        name
        for name in names
        if name not in EXCLUDED[what] and (name not in before or name not in after or before[name] != after[name])
    ]


def _named(row: Row) -> str:
    return ", ".join(str(row[name]) for name in NAMING if row.get(name) is not None)


def _shown(row: Row, name: str) -> str:
    return repr(row[name]) if name in row else "no such field"


def lacking(outcome: Outcome) -> list[str]:
    """Return what a comparison should have seen and an outcome does not hold: it would show too little."""
    quality = 0
    for row in outcome.of(SCORES):
        quality |= _number(row, "quality")
    found = [f"no {what}" for what, count in outcome.counts().items() if count == 0]
    found += [f"no window with the flag {flag}" for flag, bit in FLAGS.items() if not quality & bit]
    reasons = {row["header stream-ad-reason"] for row in outcome.of(LETTERS)}
    found += [f"no dead letter for the reason {reason}" for reason in REASONS if reason not in reasons]
    phases = {row["phase"] for row in outcome.of(ALERTS)}
    found += [f"no alert of the phase {phase}" for phase in ("opened", "resolved") if phase not in phases]
    for name, what in (("model_id", "swap"), ("header stream-ad-generation", "change of the settings")):
        if len({row[name] for row in outcome.of(SCORES)}) < 2:
            found.append(f"no {what}")
    return found
