"""Layouts: the roles of a recording's columns, given or guessed from their names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from stream_ad.core.names import listed
from stream_ad.errors import RecordingError
from stream_ad.io.recordings.labels import is_label

TIME_NAMES = ("time", "timestamp", "ts", "datetime", "date_time", "event_time", "date", "time_stamp", "_time")
DEVICE_NAMES = (
    "device", "device_id", "deviceid", "device_name", "asset", "asset_id", "asset_name", "machine", "machine_id",
    "machine_name", "equipment", "equipment_id", "host", "maschine", "anlage", "gerät",
)  # fmt: skip
CHANNEL_NAMES = (
    "channel",
    "sensor",
    "tag",
    "signal",
    "metric",
    "variable",
    "sensor_name",
    "tagname",
    "tag_name",
    "_field",
    "varname",
    "var_name",
    "variable_name",
    "signal_name",
    "point",
    "point_name",
    "item",
    "item_id",
    "parameter",
    "messstelle",
    "kanal",
    "name",
)
VALUE_NAMES = ("value", "reading", "measurement", "val", "_value", "varvalue", "var_value", "wert", "messwert")
SKAB_LABELS = ("anomaly", "changepoint")
SKAB_COLUMNS = {"datetime", "Accelerometer1RMS", "Accelerometer2RMS"}
NAB_COLUMNS = ["timestamp", "value"]
INFLUX_OWN = ("result", "table", "_start", "_stop", "_measurement", "_field", "_value")
"""Columns that InfluxDB adds to the measurements."""
UNIT = re.compile(r"\s*[\[(][^\[\]()]*[\])]$")
KEYS = ("time", "device", "channel", "value", "labels", "quality")
NAMED = ("wide", "long", "skab", "nab")


@dataclass(frozen=True, slots=True)
class Layout:
    """The roles of a recording's columns; "" means: guess from the names.

    Attributes:
        name: "wide" (one column per channel), "long" (one row per value), "skab" or "nab".
        time: the time column, or the first of several.
        clock: further columns of the time, if date and time of day are separate.
        device: the device column; without one, each file is a device.
        channel: long only, the column with the channel's name.
        value: long only, the column of values.
        labels: columns that are labels (1 is anomalous), not channels; an entry may be several, joined by +.
        quality: the column with the quality of a row's value or values.
    """

    name: str
    time: str = ""
    device: str = ""
    channel: str = ""
    value: str = ""
    labels: tuple[str, ...] = ()
    quality: str = ""
    clock: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.name not in NAMED:
            raise RecordingError(f"layout: expected one of {', '.join(NAMED)}, found {self.name!r}")

    @classmethod
    def parse(cls, text: str) -> Layout:
        """Parse a layout as typed: `wide`, or `long,time=stamp,channel=tag,labels=fault+event`.

        Raises:
            RecordingError: an unknown name or key.
        """
        name, _, rest = text.partition(",")
        # Column names may contain commas: a part starts where a key does.
        pairs = re.split(r",(?=(?:time|device|channel|value|labels|quality)=)", rest) if rest else []
        fields: dict[str, str] = {}
        for pair in pairs:
            key, _, value = pair.partition("=")
            if key not in KEYS or not value:
                raise RecordingError(f"layout: expected {', '.join(KEYS[:-1])} or {KEYS[-1]} =COLUMN, found {pair!r}")
            fields[key] = value
        labels = (fields.pop("labels"),) if "labels" in fields else ()
        time, device, channel, value, _, quality = (fields.get(key, "") for key in KEYS)
        return cls(name, time, device, channel, value, labels, quality)

    @property
    def is_long(self) -> bool:
        """Each row has one value."""
        return self.name == "long"

    def channels(self, columns: Sequence[str]) -> tuple[str, ...]:
        """Return the columns that are neither time, device nor label (for wide layouts)."""
        others = {self.time, self.device, *self.labels, *self.clock, *(INFLUX_OWN if self.time == "_time" else ())}
        return tuple(name for name in columns if name not in others)


def stated_columns(stated: Layout | None) -> tuple[str, ...]:
    """Return the columns that a layout names."""
    if stated is None:
        return ()
    pieces = stated.time.split("+") if "+" in stated.time else []
    named = (stated.time, *pieces, stated.device, stated.channel, stated.value)
    return tuple(name for name in named if name)


def resolve(
    columns: Sequence[str], times: Sequence[str], stated: Layout | None, origin: str, parts: Sequence[str] = ()
) -> Layout:
    """Determine every column that a layout needs.

    Args:
        columns: names of the file's columns.
        times: columns with a time type (Parquet).
        stated: the user's layout, or None to guess everything.
        origin: the file, for errors.
        parts: columns that together look like the time.

    Raises:
        RecordingError: a column is missing or cannot be guessed.
    """
    layout = stated or Layout(_guess_name(columns))
    pieces = listed(layout.time, columns, "+")
    if len(pieces) > 1 and set(pieces) <= set(columns):
        parts = pieces
    elif layout.time:
        parts = ()
    if parts:
        layout = replace(layout, time=parts[0], clock=tuple(parts[1:]))
    if layout.name == "skab":
        layout = replace(layout, time=layout.time or "datetime", labels=layout.labels or SKAB_LABELS)
    if layout.name == "nab":
        layout = replace(layout, time=layout.time or "timestamp")
    layout = replace(
        layout,
        time=layout.time or _pick(columns, TIME_NAMES) or (times[0] if len(times) == 1 else ""),
        device=layout.device or _pick(columns, DEVICE_NAMES),
        channel=layout.channel or (_pick(columns, CHANNEL_NAMES) if layout.is_long else ""),
        value=layout.value or (_pick(columns, VALUE_NAMES) if layout.is_long else ""),
        labels=tuple(name for text in layout.labels for name in listed(text, columns, "+") if name in columns)
        or tuple(name for name in columns if is_label(name)),
    )
    taken = {layout.time, layout.device, layout.channel, layout.value}
    layout = replace(layout, labels=tuple(name for name in layout.labels if name not in taken))
    needed = {"time": layout.time} | ({"channel": layout.channel, "value": layout.value} if layout.is_long else {})
    for what, name in needed.items():
        if name not in columns:
            shown = ", ".join(repr(column) for column in columns[:12]) + (", …" if len(columns) > 12 else "")
            wanted = f"column {name!r}" if name else f"a {what} column"
            more = " (with separate date and clock: time=DATE+TIME)" if what == "time" and len(columns) > 2 else ""
            raise RecordingError(
                f"{origin}: expected {wanted} among {shown}; name it with --layout {layout.name},{what}=COLUMN{more}"
            )
    if layout.device and layout.device not in columns:
        raise RecordingError(f"{origin}: no such device column: {layout.device!r}")
    if not layout.is_long and not layout.channels(columns):
        raise RecordingError(
            f"{origin}: expected at least one channel besides the time column {layout.time!r}{_split(columns)}"
        )
    return layout


def _split(columns: Sequence[str]) -> str:
    """Return advice about a header that is all in one cell."""
    if len(columns) == 1 and len(columns[0].split()) > 1:
        return "; expected cells separated by , ; tab or |, not by blanks: export the file with one of these"
    return ""


def _guess_name(columns: Sequence[str]) -> str:
    if set(columns) >= SKAB_COLUMNS:
        return "skab"
    if list(columns) == NAB_COLUMNS:
        return "nab"
    if _pick(columns, CHANNEL_NAMES) and _pick(columns, VALUE_NAMES):
        return "long"
    return "wide"


def _pick(columns: Sequence[str], names: Sequence[str]) -> str:
    """Return the column with the first of these names; see `_plain`."""
    for form in (lambda name: name.strip().lower(), _plain):
        known = {form(column): column for column in reversed(columns)}
        found = next((known[name] for name in names if name in known), "")
        if found:
            return found
    return ""


def _plain(name: str) -> str:
    """Return a name in lower case, without a unit in brackets, with `_` for blanks and dashes except at the ends."""
    return re.sub(r"[\s_-]+", "_", UNIT.sub("", name.strip().lower())).strip("_")
