"""The newest input that could not be used, as facts and as text. Read only from the log, so the same on every host."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from stream_ad.config import Settings
from stream_ad.core.unscored import Lack
from stream_ad.errors import PositionError
from stream_ad.inspection.formatting import duration_text, time_text
from stream_ad.inspection.split_devices import SplitDevices, split_devices
from stream_ad.io.transport import Partition, Transport
from stream_ad.replaying import Marker
from stream_ad.replaying.intake import (
    BAD_CELL,
    CAUSES,
    CELLS,
    MINUTE_NS,
    MINUTES,
    NAMED,
    READINGS,
    REFUSALS,
    UNKNOWN_CHANNEL,
    UNKNOWN_DEVICE,
    Example,
    Tally,
    Unjudged,
    share_of,
    unjudged_in,
)
from stream_ad.role_table import deciding_group

ROUND = (0.1, 0.2, 0.5, 1, 2, 3, 5, 10, 15, 20, 30, 45, 60, 90, 120)
WARN, FAIL = 0.01, 0.20
"""Above the first share `status` and `check` warn, above the second `check` fails."""


@dataclass(frozen=True, slots=True)
class Cause:
    """One reason why input could not be used.

    Attributes:
        name: `bad_value`, a dead-letter reason, `unknown_device` or `unknown_channel`.
        count: number of values (`bad_value`) or readings.
        share: of all values for `bad_value`, else of all readings, 0..1.
        device: device of an example, "" if unknown.
        value: value found in the example.
    """

    name: str
    count: int
    share: float
    device: str = ""
    value: str = ""


@dataclass(frozen=True, slots=True)
class IntakeStatus:
    """Input of the last minutes of log time.

    Attributes:
        until_ns: end of the newest minute of log time counted, None if nothing was.
        minutes: number of minutes counted.
        readings: accepted, refused or skipped.
        cells: values of the bundle's channels in these readings.
        causes: those that occurred.
        unscored: number of devices that send readings but have had no score for long.
        unscored_devices: some of them.
        split: devices whose readings arrive in several partitions.
    """

    until_ns: int | None = None
    minutes: int = MINUTES
    readings: int = 0
    cells: int = 0
    causes: tuple[Cause, ...] = ()
    unscored: int = 0
    unscored_devices: tuple[Unjudged, ...] = ()
    split: SplitDevices = field(default_factory=SplitDevices)

    @property
    def refused(self) -> int:
        """Readings that became dead letters."""
        return sum(cause.count for cause in self.causes if cause.name in REFUSALS)


def read_intake(settings: Settings, transport: Transport) -> IntakeStatus:
    """Read the intake counts that scorers committed with their positions, and the newest scores.

    Raises:
        TopicError: the readings topic is missing.
        TransportError: the log does not answer.
    """
    topic, group = settings.stream.readings_topic, deciding_group(settings)
    found: dict[int, Mapping[str, Any]] = {}
    for number in range(transport.topic(topic).partitions):
        position = transport.committed(group, Partition(topic, number))
        if position is not None:
            try:
                found[number] = Marker.from_text(position.metadata).intake
            except PositionError:
                continue  # reported by another check
    return gathered(found, split_devices(transport, settings.stream.scores_topic))


def gathered(committed: Mapping[int, Mapping[str, Any]], split: SplitDevices) -> IntakeStatus:
    """Sum over the partitions: the ten minutes that end with the newest minute of any partition.

    Args:
        committed: `Marker.intake` by partition.
        split: from the newest scores.
    """
    tallies = [Tally.from_json(plain) for plain in committed.values()]
    newest = max((tally.newest for tally in tallies if tally.newest is not None), default=None)
    sums: dict[str, int] = {}
    examples: dict[str, Example] = {}
    for tally in tallies if newest is not None else ():
        counts, some = tally.until(newest or 0)
        for name, count in counts.items():
            sums[name] = sums.get(name, 0) + count
        examples |= some
    unjudged = [unjudged_in(plain, number) for number, plain in committed.items()]
    devices = sorted((one for _, some in unjudged for one in some), key=lambda one: (-one.seconds, one.device))
    return IntakeStatus(
        until_ns=None if newest is None else (newest + 1) * MINUTE_NS,
        readings=sums.get(READINGS, 0),
        cells=sums.get(CELLS, 0),
        causes=tuple(_cause(name, sums, examples) for name in CAUSES if sums.get(name)),
        unscored=sum(count for count, _ in unjudged),
        unscored_devices=tuple(devices[:NAMED]),
        split=split,
    )


def _cause(name: str, sums: Mapping[str, int], examples: Mapping[str, Example]) -> Cause:
    example = examples.get(name, Example("", ""))
    return Cause(name, sums[name], share_of(sums, name), example.device, example.value)


# -- as text --------------------------------------------------------------------------------------


def lines(found: IntakeStatus) -> Iterator[str]:
    """Yield the warnings."""
    for _, text in intake_lines(found):
        yield text
    yield from unscored_lines(found)
    yield from split_lines(found)


def intake_lines(found: IntakeStatus) -> Iterator[tuple[float, str]]:
    """Yield each share above `WARN` with a line about it, the largest first."""
    loud = sorted((cause for cause in found.causes if cause.share > WARN), key=lambda cause: -cause.share)
    refused = found.refused / found.readings if found.readings else 0.0
    if refused > WARN and not any(cause.name in REFUSALS for cause in loud):
        kinds = ", ".join(f"{cause.count:,} {cause.name}" for cause in found.causes if cause.name in REFUSALS)
        yield (
            refused,
            (
                f"{_percent(refused)} of the readings were refused{_of(found, found.refused)}: {kinds}; "
                "`stream-ad dead-letters` shows them"
            ),
        )
    for cause in loud:
        what, advice = WORDS.get(cause.name, (f"readings were refused as {cause.name}", DEAD_LETTERS))
        share = f"{_percent(cause.share)} of the {what}{_of(found, cause.count, cause)}"
        yield cause.share, f"{share}{_example(cause)}: {advice.format(name=cause.name)}"


DEAD_LETTERS = "`stream-ad dead-letters --reason {name}` shows them; correct the sender"
WORDS: Mapping[str, tuple[str, str]] = {
    BAD_CELL: (
        "values are not finite numbers and count as missing",
        "correct the sender; name placeholders such as -9999 with `stream-ad train --missing`",
    ),
    "late": (
        "readings came too late and were refused",
        "make the sender keep the order of a device's readings, or raise time.lateness_s; resent, they would be late "
        "again",
    ),
    "future": (
        "readings were refused because their times are ahead of the log's clock",
        "correct the sender's clock or time zone, or raise time.max_ahead_s",
    ),
    UNKNOWN_DEVICE: (
        "readings are from devices that stream.devices excludes",
        "extend the pattern stream.devices, or list other streams' devices in stream.other_devices",
    ),
    UNKNOWN_CHANNEL: (
        "readings have a channel that is not in the bundle",
        "correct the channel's name at the sender, train a bundle with it, or stop sending it",
    ),
}


def _of(found: IntakeStatus, count: int, cause: Cause | None = None) -> str:
    whole = found.cells if cause is not None and cause.name == BAD_CELL else found.readings
    until = "" if found.until_ns is None else f" up to {time_text(found.until_ns)}"
    return f" ({count:,} of {whole:,} in {found.minutes} min of log time{until})"


def _example(cause: Cause) -> str:
    named = f"device {cause.device}" if cause.device else ""
    value = f"channel {cause.value!r}" if cause.name == UNKNOWN_CHANNEL else cause.value
    text = ", ".join(part for part in (named, value) if part)
    return f", for example {text}" if text else ""


def unscored_lines(found: IntakeStatus) -> Iterator[str]:
    """Yield one line per named device without a score, and one with the number of others."""
    for one in found.unscored_devices:
        yield (
            f"device {one.device} (partition {one.partition}) sends readings, but none of its windows was scored for "
            f"{duration_text(float(one.seconds))}: {_lack(one)}"
        )
    if found.unscored > len(found.unscored_devices):
        more = found.unscored - len(found.unscored_devices)
        yield f"{more:,} more devices send readings but have had no score for long"


def _lack(one: Unjudged) -> str:
    every = duration_text(one.interval_s)
    if one.lack is Lack.SLOW:
        return (
            f"a reading arrives about every {every}, slower than the model's grid; train with `--period "
            f"{_option_time(one.interval_s)}`, or fill gaps with `--hold '*={_option_time(3 * one.interval_s)}'`"
        )
    if one.lack is Lack.APART:
        return (
            f"its channels arrive separately or slowly ({one.channel} about every {every}); train with `--hold "
            f"'{one.channel}={_option_time(3 * one.interval_s)}'`, and likewise for its other slow channels"
        )
    if one.lack is Lack.ABSENT:
        return (
            f"it does not send half of the model's channels (not {one.channel}); put devices of its kind into their "
            "own stream or, if the channel is only rare, train with `--hold TAG=AGE`"
        )
    return "no reading had a value for a channel of the model; compare the names with `stream-ad check`"


def _option_time(seconds: float) -> str:
    """Return a duration in the format of `train`'s options: rounded to a common value if near, else two digits."""
    for unit, size in (("h", 3_600.0), ("m", 60.0), ("s", 1.0)):
        if seconds >= 2 * size or unit == "s":
            number = seconds / size
            near = min(ROUND, key=lambda one: abs(number / one - 1))
            return f"{near if abs(number / near - 1) < 0.1 else number:.3g}{unit}"
    return f"{seconds:g}s"


def split_lines(found: IntakeStatus) -> Iterator[str]:
    """Yield a line if devices appear in several partitions."""
    split = found.split
    if not split.count:
        return
    named = ", ".join(f"{one.device} in {' and '.join(map(str, one.partitions))}" for one in split.devices)
    more = f", and {split.count - len(split.devices):,} more" if split.count > len(split.devices) else ""
    several = "a device's readings arrive" if split.count == 1 else f"the readings of {split.count:,} devices arrive"
    yield (
        f"{several} in two partitions ({named}{more}; seen in the newest {split.messages:,} score messages): each half "
        "is scored separately, with gaps. Use the device id as the key, in clients that hash keys alike (murmur2; in "
        "librdkafka partitioner=murmur2_random), and restart producers after adding partitions"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def as_plain(found: IntakeStatus) -> dict[str, Any]:
    """Return the facts for `--json`."""
    return {
        "until": None if found.until_ns is None else time_text(found.until_ns, seconds=False),
        "minutes": found.minutes,
        "readings": found.readings,
        "cells": found.cells,
        "refused": found.refused,
        "refused_share": found.refused / found.readings if found.readings else 0.0,
        "causes": [
            {
                "cause": cause.name,
                "count": cause.count,
                "share": cause.share,
                "example": {"device": cause.device, "value": cause.value},
            }
            for cause in found.causes
        ],
        "unscored": {"count": found.unscored, "devices": [asdict(one) for one in found.unscored_devices]},
        "split": asdict(found.split),
    }
