"""Drawings of the demo's page: the fleet over time, and one device's score against its limit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape

import numpy as np

from simulators.demo_outcome import Outcome, words
from simulators.trial import Fault, Incident
from stream_ad.core.batches import Float64Array, Int64Array
from stream_ad.io.wire import contributions

NS = 1_000_000_000
WIDTH, LEFT, RIGHT = 1_080, 84, 12
ROW = 19
AXIS = 24
STRIP_WIDTH, STRIP_HEIGHT = 720, 132
CHARACTER = 5.9
"""Mean width of a label's character, at the label's font size."""
HEAT = (0.75, 0.9, 1.0)
"""Score / limit at which a window is tinted, in three steps."""
FAMILIES = {
    "level": ("level_shift", "slow_drift", "spike"),
    "dynamics": ("oscillation", "frequency_change", "noise_up", "noise_down"),
    "relation": ("broken_correlation",),
    "sensor": ("stuck", "drop_out", "silence"),
}
RATIO_TICKS = (
    (0.1, 0.2, 0.5, 1, 2, 5, 10),
    (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300),
    (1e-3, 0.01, 0.1, 1, 10, 100, 1e3, 1e4),
)
"""Axis labels of a score plot, in units of the limit, for up to one, two or more decades."""


@dataclass(frozen=True, slots=True)
class Series:
    """Windows of one device, by time.

    Attributes:
        end_ns: int64[n].
        ratio: float64[n], smoothed score over limit, NaN where unscored.
        share: float64[n, c], each channel's share of the score, NaN where unscored or missing.
        channels: c names.
    """

    end_ns: Int64Array
    ratio: Float64Array
    share: Float64Array
    channels: tuple[str, ...]


def series_of(outcome: Outcome) -> dict[str, Series]:
    """Return the score log's rows by device."""
    table = outcome.scores
    names = np.array(table.column("device").to_pylist())
    end_ns = table.column("end").cast("int64").to_numpy() * 1_000
    ratio = _floats(table.column("smoothed")) / _floats(table.column("limit"))
    channels, parts = contributions.matrix(table.column("contribution"))
    share = parts.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        share /= np.nansum(share, axis=1, keepdims=True)
    found = {}
    for name in sorted(set(names.tolist())):
        rows = np.flatnonzero(names == name)
        found[name] = Series(end_ns[rows], ratio[rows], share[rows], channels)
    return found


def _floats(column: object) -> Float64Array:
    values: Float64Array = np.asarray(column.to_numpy(zero_copy_only=False), np.float64)  # type: ignore[attr-defined]
    return values


def family(kind: str) -> str:
    """Return the colour class of a kind of fault."""
    return next((name for name, kinds in FAMILIES.items() if kind in kinds), "level")


def clock(ns: int, form: str = "%H:%M:%S") -> str:
    """Return a time of day, UTC."""
    return datetime.fromtimestamp(ns / NS, UTC).strftime(form)


@dataclass(frozen=True, slots=True)
class Axis:
    """The event time axis of a drawing.

    Attributes:
        first_ns, last_ns: event time at both ends.
        left, right: their x coordinates.
    """

    first_ns: int
    last_ns: int
    left: float
    right: float

    def x(self, ns: int) -> float:
        """Return the x coordinate of a time, clipped to the drawing."""
        share = (ns - self.first_ns) / max(self.last_ns - self.first_ns, 1)
        return round(self.left + (self.right - self.left) * min(max(share, 0.0), 1.0), 1)

    def ticks(self) -> list[int]:
        """Return round times, 4 to 12 of them where the span allows."""
        span_s = (self.last_ns - self.first_ns) / NS
        step = next((s for s in (60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 14_400) if span_s / s <= 12), 43_200) * NS
        return list(range(-(-self.first_ns // step) * step, self.last_ns + 1, step))

    def grid(self, top: float, bottom: float) -> str:
        """Return lines and labels of the ticks."""
        parts = []
        for tick in self.ticks():
            x = self.x(tick)
            parts.append(f'<line class="grid" x1="{x}" y1="{top}" x2="{x}" y2="{bottom}"/>')
            if self.left + 8 < x < self.right - 14:
                parts.append(
                    f'<text class="tick" x="{x}" y="{bottom + 15}" text-anchor="middle">{clock(tick, "%H:%M")}</text>'
                )
        return "".join(parts)


def timeline(outcome: Outcome, series: dict[str, Series]) -> str:
    """Return the fleet: one row per device, faults as shaded spans, incidents as bars below them."""
    match = outcome.match
    devices = sorted(set(series) | {fault.device for fault in match.faults})
    axis = whole_axis(series, LEFT, WIDTH - RIGHT)
    bottom = ROW * len(devices) + 4
    top_of = {device: 4 + ROW * number for number, device in enumerate(devices)}
    parts = [axis.grid(0, bottom), heat(series, top_of, axis)]
    busy_devices = {fault.device for fault in match.faults} | {incident.device for incident in match.incidents}
    for device, top in top_of.items():
        busy = device in busy_devices
        parts.append(f'<text class="{"name busy" if busy else "name"}" x="0" y="{top + 11}">{escape(device)}</text>')
    for fault, found in zip(match.faults, match.found_by, strict=True):
        parts.append(fault_span(fault, found is not None, top_of[fault.device] + 1, 12, axis, True))
    for incident, fault_at in zip(match.incidents, match.fault_of, strict=True):
        parts.append(incident_bar(incident, fault_at is None, top_of[incident.device] + 14, axis))
    return (
        f'<svg viewBox="0 0 {WIDTH} {bottom + AXIS}" role="img" aria-label="Faults and incidents of each device over '
        f'time">{"".join(parts)}</svg>'
    )


def whole_axis(series: dict[str, Series], left: float, right: float) -> Axis:
    """Return the axis of the whole run."""
    return Axis(
        min(int(one.end_ns[0]) for one in series.values()),
        max(int(one.end_ns[-1]) for one in series.values()),
        left,
        right,
    )


def heat(series: dict[str, Series], top_of: dict[str, int], axis: Axis) -> str:
    """Return windows with scores near or over the limit, tinted: one path per step."""
    paths: list[list[str]] = [[] for _ in HEAT]
    for device, one in series.items():
        edges = [axis.x(int(end)) for end in one.end_ns]
        wide = float(np.median(np.diff(edges))) if len(edges) > 1 else 4.0
        steps = np.digitize(np.nan_to_num(one.ratio), HEAT)
        for x, step in zip(edges, steps.tolist(), strict=True):
            if step:
                paths[step - 1].append(f"M{x - wide:.1f} {top_of[device]}h{wide:.1f}v{ROW - 2}h-{wide:.1f}z")
    return "".join(f'<path class="heat h{n}" d="{"".join(path)}"/>' for n, path in enumerate(paths) if path)


def fault_span(fault: Fault, found: bool, top: float, height: float, axis: Axis, named: bool) -> str:
    """Return a fault as a shaded span, dashed where it was missed."""
    x, end = axis.x(fault.start_ns), axis.x(fault.end_ns)
    what = f"{words(fault.kind)} · {', '.join(fault.channels) if len(fault.channels) < 8 else 'all channels'}"
    hint = f"{fault.device}: {what}, {clock(fault.start_ns)} to {clock(fault.end_ns)}, {'found' if found else 'missed'}"
    parts = [
        f'<g><title>{escape(hint)}</title><rect class="fault {family(fault.kind)}{"" if found else " missed"}" x="{x}" '
        f'y="{top}" width="{max(end - x, 2):.1f}" height="{height}" rx="3"/>'
    ]
    if named:
        label = words(fault.kind) + ("" if found else " (missed)")
        inside = end - x > CHARACTER * len(label) + 8
        late = end + CHARACTER * len(label) > axis.right
        place = f'x="{x + 5}"' if inside else f'x="{x - 4}" text-anchor="end"' if late else f'x="{end + 4}"'
        parts.append(f'<text class="label" {place} y="{top + 9.5}">{escape(label)}</text>')
    return "".join(parts) + "</g>"


def incident_bar(incident: Incident, is_false: bool, top: float, axis: Axis) -> str:
    """Return an incident as a bar from its opening to its end."""
    x = axis.x(incident.opened_ns)
    end = axis.right if incident.resolved_ns is None else axis.x(incident.resolved_ns)
    until = "still open" if incident.resolved_ns is None else f"resolved {clock(incident.resolved_ns)}"
    hint = f"{incident.device}: {incident.kind.value} incident, opened {clock(incident.opened_ns)}, {until}"
    hint = f"{hint}; {incident.reason}"
    return (
        f'<rect class="{"false" if is_false else "hit"}" x="{x}" y="{top}" width="{max(end - x, 4):.1f}" height="3.5" '
        f'rx="1.7"><title>{escape(hint)}</title></rect>'
    )


def strip(outcome: Outcome, device: str, series: dict[str, Series]) -> str:
    """Return one device's score in units of its limit, on a logarithmic axis, with faults and incidents."""
    one, match = series[device], outcome.match
    axis = whole_axis(series, 44, STRIP_WIDTH - 6)
    top, bottom = 12.0, STRIP_HEIGHT - AXIS
    known = one.ratio[np.isfinite(one.ratio)]
    low, high = np.log10(min(known.min(), 0.5)) - 0.05, np.log10(max(known.max(), 2.0)) + 0.1

    def y(ratio: float) -> float:
        return round(float(bottom - (np.log10(ratio) - low) / (high - low) * (bottom - top)), 1)

    parts = [axis.grid(top, bottom)]
    for fault, found in zip(match.faults, match.found_by, strict=True):
        if fault.device == device:
            parts.append(fault_span(fault, found is not None, top, bottom - top, axis, False))
    for tick in RATIO_TICKS[0 if high - low < 1.2 else 1 if high - low < 2.5 else 2]:
        if low <= np.log10(tick) <= high:
            kind = "limit" if tick == 1 else "grid"
            parts.append(f'<line class="{kind}" x1="{axis.left}" y1="{y(tick)}" x2="{axis.right}" y2="{y(tick)}"/>')
            parts.append(
                f'<text class="tick" x="{axis.left - 6}" y="{y(tick) + 3.5}" text-anchor="end">{tick:g}×</text>'
            )
    parts += [f'<path class="score" d="{line}"/>' for line in _lines(one, axis, y)]
    for incident, fault_at in zip(match.incidents, match.fault_of, strict=True):
        if incident.device == device:
            parts.append(incident_bar(incident, fault_at is None, 4, axis))
    return (
        f'<svg viewBox="0 0 {STRIP_WIDTH} {STRIP_HEIGHT}" role="img" aria-label="Score of {escape(device)} in units of '
        f'its limit">{"".join(parts)}</svg>'
    )


def _lines(one: Series, axis: Axis, y: Callable[[float], float]) -> list[str]:
    """Return each run of consecutive scored windows as a path."""
    scored = np.flatnonzero(np.isfinite(one.ratio))
    if not len(scored):
        return []
    step = int(np.median(np.diff(one.end_ns))) if len(one.end_ns) > 1 else 1
    breaks = np.flatnonzero(np.diff(one.end_ns[scored]) > 2 * step) + 1
    return [
        "M" + "L".join(f"{axis.x(int(one.end_ns[k]))} {y(float(one.ratio[k]))}" for k in stretch)
        for stretch in np.split(scored, breaks)
    ]


def mean_shares(one: Series, first_ns: int, last_ns: int) -> list[tuple[str, float]]:
    """Return channels and their mean shares of the score in a time range, largest first; none without scores."""
    rows = (one.end_ns > first_ns) & (one.end_ns <= last_ns) & np.isfinite(one.share).any(axis=1)
    if not rows.any():
        return []
    share = np.nan_to_num(one.share[rows]).mean(axis=0)
    return [(one.channels[at], float(share[at])) for at in np.argsort(-share, kind="stable").tolist()]


def channel_bars(shares: Sequence[tuple[str, float]], shown: int = 4) -> str:
    """Return channels with their shares as bars, in HTML."""
    bars = [
        f'<div class="bar"><span>{escape(words(name))}</span><i style="width:{share:.1%}"></i><b>{share:.0%}</b></div>'
        for name, share in shares[:shown]
    ]
    return "".join(bars) or '<p class="muted">no scored window</p>'
