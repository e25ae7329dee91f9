"""What a service has published, in the form in which the reference returns it, and how the two differ."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from stream_ad.io.transport import Partition
from stream_ad.io.wire import scores as score_messages
from stream_ad.io.wire.times import rfc3339_ns
from tests.reference.reference import Outcome, Record, Row, Scores
from tests.support.e2e import Stream

NEARLY = {"score": 1e-5, "coverage": 1e-6, "smoothed": 1e-9, "limit": 1e-9, "peak": 1e-9}
"""Relative differences that may be: the service scores in single precision. Everything else is equal."""
ROW = ("device", "end", "offset")
ALERT = ("device", "opened_end", "version", "offset")
SHOWN = 5


@dataclass(frozen=True)
class Published:
    """What the log holds of one partition of the readings.

    Attributes:
        records: the readings' offsets, append times and values.
        rows: score rows; times in nanoseconds, NaN in the place of null.
        alerts: their fields that the reference has.
        refused: reason and number of readings that were late or in the future, by offset.
    """

    records: Sequence[Record]
    rows: Sequence[Row]
    alerts: Sequence[Row]
    refused: Mapping[int, tuple[str, int]]

    def scores(self) -> Scores:
        """Return the scores, for the reference to judge."""
        return {(row["device"], row["end"], row["offset"]): row["score"] for row in self.rows}


def published(stream: Stream) -> list[Published]:
    """Read what a stream's topics hold, by partition of the readings."""
    names = stream.settings.stream
    rows = [row for _, _, value, headers in stream.read(names.scores_topic) for row in _rows(value, headers)]
    alerts = [_alert(json.loads(value)) for _, _, value, _ in stream.read(names.alerts_topic)]
    letters = [_letter(dict(headers)) for _, _, _, headers in stream.read(names.dead_letters_topic)]
    found = []
    for number in range(stream.partitions):
        partition = Partition(names.readings_topic, number)
        raws = list(stream.log.read(partition, *stream.log.bounds(partition)))
        found.append(
            Published(
                [
                    record
                    for raw in raws
                    for record in zip(raw.offset.tolist(), raw.log_ns.tolist(), raw.values, strict=True)
                ],
                [row for row in rows if row["partition"] == number],
                [alert for alert in alerts if alert["partition"] == number],
                {at: (reason, count) for part, at, reason, count in letters if part == number and reason in UNTIMELY},
            )
        )
    return found


UNTIMELY = ("future", "late")


def _rows(value: bytes, headers: Any) -> Iterator[Row]:
    table = score_messages.decode(value, headers).table.drop_columns(["contribution"])
    for name, column in zip(table.column_names, table.columns, strict=True):
        if pa.types.is_timestamp(column.type):
            table = table.set_column(table.column_names.index(name), name, column.cast(pa.int64()))
    for row in table.to_pylist():
        times = {name: row[name] and row[name] * 1_000 for name in ("start", "end", "incident")}
        yield {**row, **times, **{name: _number(row[name]) for name in ("score", "smoothed")}}


def _alert(body: dict[str, Any]) -> Row:
    times = {name: rfc3339_ns(body[name]) for name in ("end", "opened_end")}
    numbers = {name: _number(body[name]) for name in ("score", "limit", "peak")}
    return {**body, **body["input"], **times, **numbers}


def _letter(headers: dict[str, bytes]) -> tuple[int, int, str, int]:
    text = {name: value.decode() for name, value in headers.items()}
    partition, offset = (int(text[f"__connect.errors.{name}"]) for name in ("partition", "offset"))
    return partition, offset, text["stream-ad-reason"], int(text["stream-ad-rows"])


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def differences(found: Outcome, service: Published) -> list[str]:
    """Return a line for each row, alert and refused record that differs."""
    refused: dict[int, tuple[str, int]] = {}
    for offset, reason in found.refused:
        first, count = refused.get(offset, (reason, 0))
        refused[offset] = min(first, reason), count + 1  # a letter says "future" where it is about both
    lines = list(_compared("row", ROW, found.rows, service.rows, NEARLY))
    # What an alert calls its score is the smoothed one.
    lines += _compared("alert", ALERT, found.alerts, service.alerts, {**NEARLY, "score": NEARLY["smoothed"]})
    for offset in sorted({*refused, *service.refused}):
        if refused.get(offset) != service.refused.get(offset):
            lines.append(f"refused at {offset}: {refused.get(offset)}, found {service.refused.get(offset)}")
    return lines


def _compared(
    what: str, names: Sequence[str], expected: Iterable[Row], found: Iterable[Row], nearly: Mapping[str, float]
) -> Iterator[str]:
    def keyed(rows: Iterable[Row]) -> dict[tuple[Any, ...], Row]:
        by_key: dict[tuple[Any, ...], Row] = {}
        for row in rows:
            key = tuple(row[name] for name in names)
            assert key not in by_key, f"{what} {key}: twice"
            by_key[key] = row
        return by_key

    ours, theirs = keyed(expected), keyed(found)
    for key in sorted(ours.keys() | theirs.keys()):
        if key not in theirs or key not in ours:
            yield f"{what} {key}: {'not published' if key in ours else 'not expected'}"
            continue
        for name, value in ours[key].items():
            if not _agree(value, theirs[key][name], nearly.get(name)):
                yield f"{what} {key}: {name} {value}, found {theirs[key][name]}"


def _agree(expected: Any, found: Any, tolerance: float | None) -> bool:
    if tolerance is None:
        return bool(expected == found)
    if math.isnan(expected) or math.isnan(found):
        return math.isnan(expected) and math.isnan(found)
    return bool(abs(expected - found) <= tolerance * abs(found))
