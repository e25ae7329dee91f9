"""Alerts: their ids, contributing channels, and one-line reasons for people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from math import isnan

import numpy as np

from stream_ad.core.batches import AlertKind, AlertPhase, Float32Array
from stream_ad.core.incidents import Event, IncidentRules, Open
from stream_ad.core.quality import Quality

SHOWN_CHANNELS = 5
LEAST_SHARE = 0.01

KINDS = {Open.PROCESS: AlertKind.PROCESS, Open.SENSOR: AlertKind.SENSOR}
PHASES = {
    Event.OPENED: AlertPhase.OPENED,
    Event.UPDATED: AlertPhase.UPDATED,
    Event.REGIME: AlertPhase.UPDATED,
    Event.RESOLVED: AlertPhase.RESOLVED,
}

ChannelShares = tuple[tuple[str, float], ...]


def alert_id(stream: str, device: str, kind: AlertKind, opened_end_ns: int, *more: int) -> str:
    """Return the id of an incident: 32 hex digits, the same wherever and whenever it is computed.

    Args:
        stream: name of the stream.
        device: the device's id.
        kind: kind of the incident when it opened; a later `regime` message keeps the id.
        opened_end_ns: end of the row that opened it.
        more: numbers that distinguish a device's rows with the same end, if ends may repeat.
    """
    digest = blake2b(digest_size=16)
    for text in (stream, device, str(kind)):
        data = text.encode()
        # Lengths distinguish ("ab", "c") from ("a", "bc").
        digest.update(len(data).to_bytes(8, "big") + data)
    for number in (opened_end_ns, *more):
        digest.update(number.to_bytes(8, "big", signed=True))
    return digest.hexdigest()


def channel_shares(channels: Sequence[str], part: Float32Array) -> ChannelShares:
    """Return the channels with the largest parts and their shares of the sum.

    At most five, none below 1 %; none at all if all parts are 0. Ties keep the channels' order.

    Args:
        channels: c names.
        part: float32[c], >= 0; NaN counts as 0.
    """
    parts = np.nan_to_num(part.astype(np.float64))
    total = float(parts.sum())
    if not total > 0:
        return ()
    shares = parts / total
    order = np.argsort(-shares, kind="stable")[:SHOWN_CHANNELS]
    return tuple((channels[at], float(shares[at])) for at in order.tolist() if shares[at] >= LEAST_SHARE)


@dataclass(frozen=True, slots=True)
class Facts:
    """Facts for the reason of a message.

    Attributes:
        event: what happened.
        kind: kind of the incident when it opened.
        score: smoothed score, NaN if unscored.
        limit: limit in force.
        peak: highest smoothed score of the incident, NaN if none.
        opening_limit: limit at its opening.
        age_ns: event time since its opening.
        judged_ns: event time for which it was judged.
        is_learned: its level is learned.
        quality: the row's flags.
        channels: the contributing channels.
    """

    event: Event
    kind: Open
    score: float
    limit: float
    peak: float
    opening_limit: float
    age_ns: int
    judged_ns: int
    is_learned: bool
    quality: Quality
    channels: ChannelShares


def reason_of(facts: Facts, rules: IncidentRules) -> str:
    """Return one line for people."""
    if facts.event is Event.RESOLVED:
        return _end(facts, rules)
    if facts.event is Event.REGIME:
        return f"{_learned(facts)}; {_level(facts)}"
    names = ", ".join(f"{name} {share:.0%}".replace("%", " %") for name, share in facts.channels)
    if facts.event is Event.OPENED and facts.kind is Open.SENSOR:
        sentence = f"{_fault(facts.quality)} in {_windows(rules.sensor_windows)} in a row"
    else:
        sentence = ("score rose: " if facts.event is Event.UPDATED else "") + _level(facts)
        if facts.kind is Open.PROCESS and (fault := _fault(facts.quality)):
            names = f"{names}; {fault}" if names else fault
    return f"{sentence}; {names}" if names else sentence


def _end(facts: Facts, rules: IncidentRules) -> str:
    if facts.kind is Open.SENSOR:
        return f"all channels moving and present for {_duration(rules.close_after_ns)}"
    limit, below = facts.limit, "its exit level"
    if facts.is_learned:
        limit = facts.opening_limit
        below = f"{limit:.3g}, its limit at opening,"
    highest = f"the peak {facts.peak:.3g} was {facts.peak / limit:.1f} times its limit {limit:.3g}"
    return f"below {below} for {_duration(rules.close_after_ns)}; {highest}"


def _learned(facts: Facts) -> str:
    what = "sensor fault" if facts.kind is Open.SENSOR else "incident"
    age, judged = _duration(facts.age_ns), _duration(facts.judged_ns)
    open_for = f"open for {age}" if age == judged else f"open for {age}, {judged} of it judged"
    ends = (
        "all channels move and are present again"
        if facts.kind is Open.SENSOR
        else f"the score is below {facts.opening_limit:.3g}, its limit at opening"
    )
    return f"{what} {open_for}: its level is learned from now on, and it stays open until {ends}"


def _level(facts: Facts) -> str:
    if isnan(facts.score):
        return "the window has no score"
    return f"score {facts.score:.3g} is {facts.score / facts.limit:.1f} times its limit {facts.limit:.3g}"


def _fault(quality: Quality) -> str:
    faults = []
    if Quality.CHANNEL_MISSING in quality:
        faults.append("channel reports no data")
    if Quality.CHANNEL_STUCK in quality:
        faults.append("channel does not move")
    return " and ".join(faults)


def _windows(count: int) -> str:
    return "1 window" if count == 1 else f"{count} windows"


def _duration(span_ns: int) -> str:
    seconds = span_ns / 1e9
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size or seconds == size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"
