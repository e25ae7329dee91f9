"""The demo's page: one self-contained HTML file, for light and dark screens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files

from simulators.demo_outcome import Outcome, words
from simulators.demo_svg import NS, Series, channel_bars, clock, family, mean_shares, series_of, strip, timeline
from simulators.demo_view import clock_text, delay_text
from simulators.trial import Incident
from stream_ad.core.batches import AlertKind

STRIPS = 6


@dataclass(frozen=True, slots=True)
class Shown:
    """A device drawn on its own.

    Attributes:
        device: its id.
        title: what happened.
        heading: what the shares mean.
        shares: channels by their share, largest first.
    """

    device: str
    title: str
    heading: str
    shares: Sequence[tuple[str, float]]


def page(outcome: Outcome) -> str:
    """Return the page."""
    series = series_of(outcome)
    style = files("simulators").joinpath("demo.css").read_text(encoding="utf-8")
    scenario = outcome.scenario
    body = [
        header(outcome),
        "<section><h2>The fleet</h2>",
        legend(),
        f'<div class="scroll">{timeline(outcome, series)}</div></section>',
        "<section><h2>A closer look</h2><p class='muted'>Score in units of the device's limit, on a logarithmic axis; "
        "an incident opens above 1×. Beside it, the channels behind the score.</p>",
        *(closer(outcome, shown, series) for shown in chosen(outcome, series)),
        "</section><section><h2>Every fault</h2>",
        fault_table(outcome),
        false_table(outcome),
        "</section>",
        footer(outcome),
    ]
    title = f"stream-ad demo: {scenario.devices} pumps, {len(outcome.match.faults)} faults"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<style>{style}</style></head><body><main>{''.join(body)}</main></body></html>\n"
    )


def header(outcome: Outcome) -> str:
    """Return title and figures."""
    match, scenario = outcome.match, outcome.scenario
    cards = (
        (f"{match.found} of {len(match.faults)}", "faults found"),
        (str(match.false_alarms), "false alarms"),
        (delay_text(match.median_delay_s), "median delay, event time"),
        (f"{outcome.latency_s * 1e3:.0f} ms", "reading to alert, median"),
        (f"{outcome.scores.num_rows:,}", "windows judged"),
    )
    shown = "".join(
        f'<div class="card"><b>{escape(value)}</b><span>{escape(name)}</span></div>' for value, name in cards
    )
    when = clock(int(outcome.scores.column("end")[-1].value) * 1_000, "%Y-%m-%d")
    return (
        f"<header><p class='muted'>stream-ad demo · {when}</p>"
        f"<h1>{scenario.devices} pumps, {clock_text(scenario.duration_s)} in {clock_text(outcome.sending_s)}</h1>"
        f"<p>Simulator → {escape(outcome.log_name)} → scorer → archiver, with the pretrained model "
        f"<code>{escape(outcome.model.name)}</code>. Faults were injected and labelled by the simulator; the scorer "
        f"saw nothing but the readings.</p><div class='cards'>{shown}</div></header>"
    )


def legend() -> str:
    """Return the legend of the colours."""
    spans = (
        ("level", "level: shift, drift, spike"),
        ("dynamics", "dynamics: oscillation, frequency, noise"),
        ("relation", "broken correlation"),
        ("sensor", "sensor: stuck, drop out, silence"),
        ("missed", "dashed: missed"),
    )
    swatches = "".join(f'<li><i class="swatch {name}"></i>{text}</li>' for name, text in spans)
    bars = '<li><i class="swatch line hit"></i>incident</li><li><i class="swatch line false"></i>false alarm</li>'
    return f'<ul class="legend">{swatches}{bars}<li><i class="swatch heat"></i>score near its limit</li></ul>'


def chosen(outcome: Outcome, series: dict[str, Series]) -> list[Shown]:
    """Return the devices to draw: found faults of different families first, then a miss and a false alarm."""
    match = outcome.match
    found, seen = [], Counter[str]()
    for number, fault in enumerate(match.faults):
        if match.found_by[number] is not None:
            found.append((seen[family(fault.kind)], number))
            seen[family(fault.kind)] += 1
    missed = [
        number for number, at in enumerate(match.found_by) if at is None and match.faults[number].kind != "silence"
    ]
    false = [number for number, at in enumerate(match.fault_of) if at is None]
    others = [_of_fault(outcome, number, series) for number in missed[:1]]
    others += [_of_false_alarm(match.incidents[number], series) for number in false[:1]]
    picked = sorted(number for _, number in sorted(found)[: STRIPS - len(others)])
    return [shown for shown in [*(_of_fault(outcome, k, series) for k in picked), *others] if shown.device in series]


def _of_fault(outcome: Outcome, number: int, series: dict[str, Series]) -> Shown:
    fault, at = outcome.match.faults[number], outcome.match.found_by[number]
    result = "missed" if at is None else f"found after {delay_text(outcome.match.delay_s(number))}"
    title = f"{words(fault.kind)} in {', '.join(map(words, fault.channels))}, {result}"
    if at is not None and (incident := outcome.match.incidents[at]).kind is AlertKind.SENSOR:
        return Shown(fault.device, title, "channels that the alert names", incident.channels)
    last_ns = fault.end_ns + outcome.model.window.samples * outcome.model.window.period_ns
    shares = mean_shares(series[fault.device], fault.start_ns, last_ns) if fault.device in series else []
    return Shown(fault.device, title, "share of the score during the fault", shares)


def _of_false_alarm(incident: Incident, series: dict[str, Series]) -> Shown:
    last_ns = incident.resolved_ns or incident.opened_ns
    shares = mean_shares(series[incident.device], incident.opened_ns - NS, last_ns)
    return Shown(incident.device, "false alarm", "share of the score in the incident", shares)


def closer(outcome: Outcome, shown: Shown, series: dict[str, Series]) -> str:
    """Return a device's score plot with the channels behind it."""
    return (
        f'<figure><figcaption><b>{escape(shown.device)}</b> {escape(shown.title)}</figcaption><div class="pair">'
        f'<div class="scroll">{strip(outcome, shown.device, series)}</div>'
        f"<div class='bars'><p class='muted'>{shown.heading}</p>{channel_bars(shown.shares)}</div></div></figure>"
    )


def fault_table(outcome: Outcome) -> str:
    """Return a table of all faults and how each was detected."""
    match = outcome.match
    rows = []
    for i, fault in enumerate(match.faults):
        at = match.found_by[i]
        incident = None if at is None else match.incidents[at]
        channels = ", ".join(map(words, fault.channels)) if len(fault.channels) < 8 else "all"
        result = '<td class="bad">missed</td><td>–</td><td>–</td><td>–</td>'
        if incident is not None:
            kind = "sensor" if incident.kind is AlertKind.SENSOR else "process"
            result = (
                f'<td class="good">found</td><td class="num">{delay_text(match.delay_s(i))}</td><td>{kind}</td>'
                f"<td>{escape(incident.reason)}</td>"
            )
        lasted = clock_text((fault.end_ns - fault.start_ns) / NS)
        rows.append(
            f'<tr><td>{escape(fault.device)}</td><td><i class="swatch {family(fault.kind)}"></i>'
            f'{words(fault.kind)}</td><td>{escape(channels)}</td><td class="num">{clock(fault.start_ns)}</td>'
            f'<td class="num">{lasted}</td>{result}</tr>'
        )
    heads = ("device", "fault", "channels", "began", "lasted", "result", "delay", "alert", "reason")
    return _table(heads, rows)


def false_table(outcome: Outcome) -> str:
    """Return a table of the incidents that overlap no fault."""
    match = outcome.match
    rows = []
    for incident, at in zip(match.incidents, match.fault_of, strict=True):
        if at is None:
            lasted = (
                "open" if incident.resolved_ns is None else clock_text((incident.resolved_ns - incident.opened_ns) / NS)
            )
            rows.append(
                f'<tr><td>{escape(incident.device)}</td><td class="num">{clock(incident.opened_ns)}</td>'
                f'<td class="num">{lasted}</td><td>{incident.kind.value}</td><td>{escape(incident.reason)}</td></tr>'
            )
    if not rows:
        return "<h2>False alarms</h2><p>None.</p>"
    return "<h2>False alarms</h2>" + _table(("device", "opened", "lasted", "alert", "reason"), rows)


def _table(heads: tuple[str, ...], rows: list[str]) -> str:
    head = "".join(f"<th>{name}</th>" for name in heads)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def footer(outcome: Outcome) -> str:
    """Return how results were counted, and how to query them."""
    rate = outcome.readings / outcome.scored_s
    return (
        "<footer><h2>How this was counted</h2><p>A fault is found by an incident of its device that opens between its "
        "start and its end plus one window and the closing time. An incident that overlaps no such span is a false "
        "alarm. Delays are event time, from the fault's first sample to the end of the window that opened the incident."
        f"</p><p>{outcome.messages:,} messages with {outcome.readings:,} readings of 8 channels went through in "
        f"{outcome.scored_s:.0f} s ({rate:,.0f} readings per second: the simulator's pace). The first alert came "
        f"{outcome.first_alert_s:.1f} s after the pipeline's start.</p><p>Each window's score, limit and channels are "
        f"in the score log:</p><pre>{escape(outcome.query())}</pre></footer>"
    )
