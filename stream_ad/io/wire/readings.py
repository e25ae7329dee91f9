"""Bytes -> readings: every record becomes readings, a refusal, or is skipped; nothing raises.

Stateless: a record's meaning depends only on its bytes and headers. Two fast paths serve the common records: single
JSON readings, gathered into one array per batch, and JSON series, whose numbers go from the parser's tape into float
arrays without Python objects. Everything that they cannot certainly handle goes through `io.wire.json`, which gives
the same readings.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
import orjson
import simdjson

from stream_ad.core.batches import ReadingBatch, Reason
from stream_ad.errors import ContractError
from stream_ad.io.cell_rule import numbers_of
from stream_ad.io.transport import Headers, RawBatch
from stream_ad.io.wire.encode import ARROW, CONTENT_TYPE, JSON
from stream_ad.io.wire.json import Problem, Unreadable, decode_document, shown
from stream_ad.io.wire.rows import Decoded, Gathered, Series, Strangers, assemble, joined
from stream_ad.io.wire.singles import is_id, take_singles
from stream_ad.io.wire.times import MAX_MS, MIN_MS, grid_fits, time_ns

__all__ = ["Decoded", "Decoder", "content_type"]

BRACKET = ord("[")
MAX_CACHED_DEVICES = 200_000
BLOCK = 256
"""Single readings converted to columns at once: few enough to stay in the processor's cache."""


class Decoder:
    """Decodes the readings of one stream. Not thread-safe.

    Args:
        channels: the bundle's channels: sorted, distinct, at least one; the columns of `values`.
        devices: the id of the stream's only device, or a shell pattern of device ids, case-sensitive.
        max_bytes: larger records are refused.
        ignored: names in readings that are neither used nor unknown.
        missing: by channel, values that count as missing.
        other_devices: ids or shell patterns of devices that are skipped and not counted among `strangers`.

    Raises:
        ContractError: the channels are not sorted and distinct.
    """

    def __init__(
        self,
        channels: Sequence[str],
        devices: str = "*",
        max_bytes: int = 1_000_000,
        ignored: Sequence[str] = (),
        missing: Mapping[str, Sequence[float]] | None = None,
        other_devices: Sequence[str] = (),
    ) -> None:
        if not channels or list(channels) != sorted(set(channels)):
            raise ContractError(f"channels: expected sorted distinct names, found {list(channels)}")
        self._channels = tuple(channels)
        self._names = frozenset(channels)
        self._ignored = frozenset(ignored)
        self._max_bytes = max_bytes
        self._missing = dict(missing or {})
        self._devices = devices
        self._matches: Callable[[str], object] = re.compile(fnmatch.translate(devices)).match
        self._others = tuple(other_devices)
        self._known: dict[str, bool] = {}
        self._parser = simdjson.Parser()

    def decode(self, raw: RawBatch) -> Decoded[ReadingBatch]:
        """Decode all records of a batch.

        A record with a wrong structure is refused as a whole. In a series or table, only rows with a bad time are
        refused. `io.cell_rule` defines the cells. Channels absent from a record are missing; even a record without any
        known channel gives readings, of missing values. Integer and RFC 3339 times are exact; sample i of an even
        series is at its start plus i * step_ms in float64, rounded to nanoseconds.
        """
        found, records, documents = Gathered(strangers=Strangers(self._others)), [], []
        kinds = {content_type(headers) for headers in set(raw.headers)}
        usual = kinds <= {JSON} and max(map(len, raw.values), default=0) <= self._max_bytes
        for record, value in enumerate(raw.values):
            if not usual and self._unusual(found, record, value, raw.headers[record]):
                continue
            if BRACKET in value:
                # A byte order mark needs the general path: only one of the two fast parsers accepts it.
                if not (value.startswith(b"{") and self._series(found, record, value)):
                    self._complete(found, record, value, JSON)
                continue
            try:
                documents.append(orjson.loads(value))
            except ValueError:
                self._complete(found, record, value, JSON)
                continue
            records.append(record)
            if len(records) == BLOCK:
                self._singles(found, raw, records, documents)
                records, documents = [], []
        self._singles(found, raw, records, documents)
        self._check_times(found, raw)
        return assemble(found, raw, self._channels, self._missing)

    def _unusual(self, found: Gathered, record: int, value: bytes, headers: Headers) -> bool:
        """Handle a record that is too large or not JSON."""
        if len(value) > self._max_bytes:
            detail = f"expected at most {self._max_bytes} bytes, found {len(value)}"
            found.problems.append((record, Problem(Reason.TOO_LARGE, detail)))
            return True
        kind = content_type(headers)
        if kind != JSON:
            self._complete(found, record, value, kind)
        return kind != JSON

    def _singles(self, found: Gathered, raw: RawBatch, records: list[int], documents: list[Any]) -> None:
        for record in take_singles(found, records, documents, self._channels, self._accepts, self._ignored):
            self._complete(found, record, raw.values[record], JSON)

    def _series(self, found: Gathered, record: int, raw: bytes) -> bool:
        """Decode a well-formed series; False leaves the record to the general path.

        No object of the parser may outlive this call, or the parser refuses the next document.
        """
        try:
            document: Any = self._parser.parse(raw)
            device, ts, values = document["device"], document["ts"], document["values"]
            if (len(document) != 3 and _repeats(document)) or not is_id(device):
                return False
            if not self._accepts(device):
                found.strangers.add_device(device, _samples(ts, values))
                found.unknown_devices += 1
                return True
            times, start_ns, step_ms = _series_times(ts)
            columns, brackets, unknown = self._columns(values)
            given = [column for column in columns if column is not None]
            lengths = {*map(len, given)} if times is None else {len(ts), *map(len, given)}
            if len(lengths) > 1:
                return False
            samples = lengths.pop() if lengths else 0
            missing = b"" if len(given) == len(columns) else np.full(samples, np.nan).tobytes()
            try:
                buffers = [missing if column is None else column.as_buffer(of_type="d") for column in columns]
                numbers = b"".join(buffers)
            except TypeError:
                numbers = self._with_others(raw, samples)
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError):
            return False
        if start_ns is not None and not grid_fits(start_ns, samples, step_ms):
            return False
        # The parser flattens nested arrays; without nesting, each array has exactly one bracket.
        brackets += times is not None
        if len(raw) - len(raw.replace(b"[", b"")) != brackets:
            return False
        if unknown:
            found.unknown_channels += len(unknown)
            found.strangers.add_channel(device, unknown[0], samples)
        if samples:
            series = Series(record, found.slot(device), start_ns or 0, float(step_ms), times, numbers)
            found.series.setdefault((samples, times is not None), []).append(series)
        return True

    def _columns(self, values: Any) -> tuple[list[Any], int, list[str]]:
        """Return each channel's array or None, the total number of arrays, and the unknown channels.

        Raises:
            ValueError: a channel is duplicated: the fast parser takes the first, the general one the last.
        """
        if len(values) == len(self._channels):
            try:
                return [values[channel] for channel in self._channels], len(values), []
            except KeyError:
                pass
        names = list(values.keys())
        if len(set(names)) != len(names):
            raise ValueError("a channel occurs twice")
        others = [name for name in names if name not in self._names]
        arrays = sum(type(values[name]) is simdjson.Array for name in others)
        columns = [values.get(channel) for channel in self._channels]
        unknown = [name for name in others if name not in self._ignored]
        return columns, arrays + len(names) - len(others), unknown

    def _with_others(self, raw: bytes, samples: int) -> bytes:
        """Return the samples of all channels as float64 bytes if some are not numbers.

        Raises:
            ValueError: a column is not an array of this many samples.
        """
        values = orjson.loads(raw)["values"]
        absent = [None] * samples
        columns = [absent if (column := values.get(channel)) is None else column for channel in self._channels]
        if {*map(type, columns)} != {list} or {*map(len, columns)} != {samples}:
            raise ValueError("expected arrays of equal length")
        return numbers_of([*chain.from_iterable(columns)]).tobytes()

    def _complete(self, found: Gathered, record: int, value: bytes, kind: str) -> None:
        """Decode a record of any shape and keep its content."""
        try:
            if not value:
                raise Unreadable(Reason.UNDECODABLE, "expected a payload, found an empty one")
            if kind == JSON:
                result = decode_document(value, self._channels, self._accepts, self._ignored)
            elif kind == ARROW:
                from stream_ad.io.wire.arrow import decode_table  # lazy: many streams use only JSON

                result = decode_table(value, self._channels, self._accepts, self._max_bytes // 4, self._ignored)
            else:
                detail = f"{CONTENT_TYPE}: expected {JSON} or {ARROW}, found {shown(kind)}"
                raise Unreadable(Reason.UNDECODABLE, detail)
        except Unreadable as error:
            found.problems.append((record, error.problem))
            return
        found.unknown_devices += len(result.strangers)
        found.unknown_channels += result.unknown_channels
        for stranger in result.strangers:
            found.strangers.add_device(stranger.device, stranger.readings)
        if result.newcomer is not None:
            found.strangers.add_channel(*result.newcomer)
        if result.problem is not None:
            found.problems.append((record, result.problem))
        if result.chunk is not None and len(result.chunk.event_ns):
            found.chunks.append((record, result.chunk))

    def _check_times(self, found: Gathered, raw: RawBatch) -> None:
        """Move series with a time out of range to the general path."""
        for (samples, has_times), group in found.series.items():
            if not has_times:
                continue
            ms = joined([series.times or b"" for series in group]).reshape(len(group), samples)
            fits = ((ms >= MIN_MS) & (ms <= MAX_MS)).all(axis=1)
            if not fits.all():
                for place in np.flatnonzero(~fits):
                    self._again(found, group[place].record, raw)
                found.series[samples, has_times] = [group[place] for place in np.flatnonzero(fits)]

    def _again(self, found: Gathered, record: int, raw: RawBatch) -> None:
        counted, strangers = found.unknown_channels, replace(found.strangers)  # from the fast path
        self._complete(found, record, raw.values[record], JSON)
        found.unknown_channels, found.strangers = counted, strangers

    def _accepts(self, device: str) -> bool:
        known = self._known.get(device)
        if known is None:
            if len(self._known) >= MAX_CACHED_DEVICES:
                self._known.clear()
            known = self._known[device] = device == self._devices or self._matches(device) is not None
        return known


def content_type(headers: Headers) -> str:
    """Return the content type in the headers, without parameters; JSON if there is none."""
    for name, value in headers:
        if name.lower() == CONTENT_TYPE:
            return value.decode("latin-1").partition(";")[0].strip().lower()
    return JSON


def _series_times(ts: Any) -> tuple[bytes | None, int | None, Any]:
    """Return the times of a series as float64 bytes, or its start and step.

    Raises:
        ValueError, KeyError, TypeError: neither form.
    """
    if type(ts) is simdjson.Array:
        return bytes(ts.as_buffer(of_type="d")), None, 0.0
    start_ns, step_ms = time_ns(ts["start"]), ts["step_ms"]
    if start_ns is None or (len(ts) != 2 and _repeats(ts)):
        raise ValueError("no start")
    return None, start_ns, step_ms


def _samples(ts: Any, values: Any) -> int:
    """Return the estimated number of readings in an unknown device's series, at least one."""
    columns = [ts] if type(ts) is simdjson.Array else [values[name] for name in values.keys()]  # noqa: SIM118
    return max((len(column) for column in columns if type(column) is simdjson.Array), default=1) or 1


def _repeats(document: Any) -> bool:
    names = list(document.keys())
    return len(set(names)) != len(names)
