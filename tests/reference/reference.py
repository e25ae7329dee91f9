"""What the service computes, as plainly as it can be written: the specification, and an independent check of the code.

`run` takes the records of a partition and returns the rows and alerts that the service publishes. Nothing here is fast,
and nothing is shared with the package: this file needs the standard library, and numpy for the arrays of a bundle.
`test_reference.py` runs the service on a simulated fleet and compares its results with these.

*Event time* is a reading's own. *Log time* is the highest append time of a partition's records so far. No wall clock is
read. Times are nanoseconds since 1970; NaN is missing. Partitions are independent, and so are the devices in one.

Left out: training, Arrow records, times and numbers as text, damaged series, channels that count or hold values, the
thresholds `fixed` and `spot`, other detectors, contributions, the id and reason of an alert, and journal entries
(swaps, idle closes by the wall clock, restarts; docs/adr/0014-journal.md).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]
Record = tuple[int, int, bytes]  # offset, append time, value
Row = dict[str, Any]
Scores = Mapping[tuple[str, int, int], float]  # by device, end of the window, and offset of the record that closed it
NAN, INF = math.nan, math.inf
GAPS, DUPLICATE, OUT_OF_ORDER, IDLE_CLOSED, BAD_VALUE = 1, 4, 8, 16, 32  # of the column `quality`
CLIPPED, CHANNEL_MISSING, CHANNEL_STUCK, UNSCORABLE, FLEET_SCALE = 64, 128, 256, 512, 2048
QUIET, OPENED, IN_INCIDENT = "quiet", "opened", "in an incident"
TIME = {"lateness_s": 5.0, "idle_close_s": 30.0, "max_ahead_s": 60.0, "evict_after_s": 86_400.0}
THRESHOLD = {"quantile": 0.999, "memory_rows": 5_000, "seed_rows": 1_000, "factor": 1.0, "feedback": 0.1}
OPENING = {"open_after_windows": 1, "sensor_windows": 3}
COURSE = {"close_after_s": 30.0, "exit_ratio": 0.5, "update_factor": 2.0, "relearn_after_s": 0.0}


def settings_of(toml: Mapping[str, Mapping[str, Any]]) -> SimpleNamespace:
    """Return what of a parsed stream.toml changes results (docs/configuration.md); durations also in nanoseconds."""
    found: dict[str, Any] = {"devices": "*", **TIME, **THRESHOLD, **OPENING, **COURSE}
    for section in ("stream", "time", "threshold", "incident"):
        found |= toml.get(section, {})
    return SimpleNamespace(**found, **{f"{k[:-1]}ns": round(v * 1e9) for k, v in found.items() if k.endswith("_s")})


class Outcome(NamedTuple):
    """Results, in order per device; `refused` has the offset and reason of each late or future reading."""

    rows: list[Row]
    alerts: list[Row]
    refused: list[tuple[int, str]]
    given: Scores


def run(records: Iterable[Record], bundle: Bundle, settings: SimpleNamespace, scores: Scores) -> Outcome:
    """Return the results for a partition; where `scores` has a window's score, it is judged instead of the own one."""
    outcome, devices = Outcome([], [], [], scores), dict[str, Device]()
    log_ns, tick_ns = 0, max(settings.evict_after_ns // 4, 1)
    for offset, append_ns, value in records:
        before_ns, log_ns = log_ns, max(log_ns, append_ns)  # even if the record is refused
        for device in list(devices.values()):
            silence_ns = log_ns - device.heard_ns
            if silence_ns >= settings.idle_close_ns:  # up to the first window end after the newest reading
                device.close((device.newest // bundle.stride + 1) * bundle.stride, offset, IDLE_CLOSED)
            if silence_ns >= settings.evict_after_ns and log_ns // tick_ns > before_ns // tick_ns:
                if device.incident:
                    device.alert("resolved", device.floor * bundle.period_ns, offset, NAN)
                del devices[device.name]
        name, readings = decode(value, bundle, settings.devices)
        for event_ns, values in readings:
            if event_ns > log_ns + settings.max_ahead_ns:
                outcome.refused.append((offset, "future"))
                continue
            if name not in devices:
                devices[name] = Device(name, event_ns, bundle, settings, outcome)
            devices[name].add(event_ns, values, log_ns, offset)
    return outcome


def decode(value: bytes, bundle: Bundle, devices: str) -> tuple[str, list[tuple[int, list[float]]]]:
    """Return a record's device, and time and values of its readings; none if it is broken or not of this stream."""
    try:
        document = json.loads(value, parse_int=float, parse_constant=str)
        name, ts, values = document["device"], document["ts"], document["values"]
        columns = [values.get(channel) for channel in bundle.channels]
        if isinstance(ts, dict):  # a series on an even grid
            count = max(len(column) for column in columns if isinstance(column, list))
            times = [nanoseconds(ts["start"]) + round(row * ts["step_ms"] * 1e6) for row in range(count)]
        else:  # a series with its times, or one reading
            columns = columns if isinstance(ts, list) else [[column] for column in columns]
            times = [nanoseconds(ms) for ms in (ts if isinstance(ts, list) else [ts])]
        if not (name == devices or fnmatchcase(name, devices)):
            return name, []
    except (ValueError, KeyError, TypeError, AttributeError):
        return "", []
    rows = [[cell(column[row] if column else None) for column in columns] for row in range(len(times))]
    first_ns, last_ns = (nanoseconds(ms) for ms in (631_152_000_000, 9_214_646_400_000))  # from 1990 to 2262
    return name, [(time, row) for time, row in zip(times, rows, strict=True) if first_ns <= time <= last_ns]


def nanoseconds(ms: float) -> int:
    """Return epoch milliseconds in nanoseconds."""
    return math.floor(ms) * 1_000_000 + round((ms - math.floor(ms)) * 1e6)


def cell(value: object) -> float:
    """Return a number, NaN for a missing cell, and infinity for a bad one: anything else."""
    number = float(value) if isinstance(value, float | bool) else NAN if value is None else INF
    return INF if abs(number) >= 2.0**128 - 2.0**103 else number  # infinite in single precision


class Bundle:
    """A trained model, read from its folder, and how it scores a window."""

    def __init__(self, folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text())
        self.channels: list[str] = [channel["name"] for channel in manifest["channels"]]
        self.always_moves = np.array([channel["always_moves"] for channel in manifest["channels"]])
        self.period_ns, self.samples, self.stride = (manifest["window"][k] for k in ("period_ns", "samples", "stride"))
        self.min_coverage, self.clip, self.smoothing = (manifest[k] for k in ("min_coverage", "clip", "smoothing"))
        self.kind, self.lags = manifest["detector"]["kind"], manifest["detector"]["settings"].get("lags")
        self.arrays = tensors((folder / "weights.safetensors").read_bytes())
        stored = tensors((folder / "calibration.safetensors").read_bytes())
        self.fleet = stored["center"], stored["scale"]
        scales = zip(stored.get("device_center", ()), stored.get("device_scale", ()), strict=True)
        self.devices: dict[str, tuple[Array, Array]] = dict(zip(manifest.get("devices") or (), scales, strict=True))
        self.calibration = stored["score"]  # smoothed scores of normal windows that the detector was not fitted on
        self.limit_floor: float = manifest.get("limit_floor") or 0.0
        far = manifest["overrange"]
        self.far_score, self.reach = far["score"], np.array(far["reach"], np.float32).astype(np.float64)
        # The detector's own mean may lie off the channels' means; a deviation towards it must not score lower.
        center = self.detect(np.zeros((self.samples, len(self.channels))))
        self.least = center if center <= self.calibration.min() else 0.0

    def score(self, device: str, values: Array) -> tuple[float, int]:
        """Return the score of a window, NaN where too little of it is known, and flags.

        Detectors extrapolate badly. So a window with a value beyond the clip is scaled down as a whole, and a value far
        from its training mean has a score of its own: a larger deviation never scores lower.
        """
        is_stuck = (values == values[0]).all(axis=0) & self.always_moves
        flags = CHANNEL_STUCK if len(values) > 1 and is_stuck.any() else 0
        is_present = 1.0 - np.isnan(values).mean(axis=0) >= self.min_coverage
        if is_present.mean() < 0.5:
            return NAN, flags | UNSCORABLE
        flags |= 0 if is_present.all() else CHANNEL_MISSING
        flags |= FLEET_SCALE if self.devices and device not in self.devices else 0
        center, scale = self.devices.get(device, self.fleet)
        x = filled((values - center) / scale)
        largest = np.abs(x).max(axis=0)  # per channel
        if (most := largest.max()) > self.clip:
            x, flags = x * (self.clip * (1.0 + math.log(most / self.clip)) / most), flags | CLIPPED
        far = (largest / self.reach).max()  # 1 where training reached
        growth = min(far, 2.0) ** 8 * (1.0 + math.log(max(far / 2.0, 1.0))) ** 2 if far > 0.5 else 0.0
        return max(self.detect(x.astype(np.float32).astype(np.float64)), self.least, self.far_score * growth), flags

    def detect(self, x: Array) -> float:
        """Return the detector's score of a normalised window, float64[samples, channels]."""
        row, arrays = x[-(self.lags or len(x)) :].ravel(), self.arrays  # some models use only the newest samples
        if self.kind == "pca":  # what the principal components do not explain
            r = row - arrays["mean"]
            return float(np.square(r - (arrays["components"] @ r) @ arrays["components"]).mean())
        if self.kind == "mahalanobis":
            r = row - arrays["mean"]
            if "precision" in arrays:
                return max(float(r @ arrays["precision"] @ r), 0.0)
            return max(float(arrays["base"][0] * (r @ r) - np.square(arrays["directions"] @ r).sum()), 0.0)
        layers, hidden = len(arrays) // 2, row  # autoencoder: all layers but the last are rectified
        for layer in range(layers):
            hidden = hidden @ arrays[f"network.{layer}.weight"] + arrays[f"network.{layer}.bias"]
            hidden = np.maximum(hidden, 0.0) if layer < layers - 1 else hidden
        return float(np.square(hidden - row).mean())


def filled(x: Array) -> Array:
    """Fill gaps with the channel's value before, else with the one after, else with 0: the training mean."""
    for column in x.T:
        known = np.flatnonzero(~np.isnan(column))
        for row in np.flatnonzero(np.isnan(column)):
            source = [*known[known < row][-1:], *known[known > row][:1]]
            column[row] = column[source[0]] if source else 0.0
    return x


def tensors(data: bytes) -> dict[str, Array]:
    """Return the arrays of a safetensors file."""
    start, found = 8 + int.from_bytes(data[:8], "little"), {}
    for name, entry in json.loads(data[8:start]).items():
        part, kind = data[start:][slice(*entry["data_offsets"])], {"F32": "<f4", "F64": "<f8", "I64": "<i8"}
        found[name] = np.frombuffer(part, kind[entry["dtype"]]).reshape(entry["shape"]).astype(np.float64)
    return found


class Device:
    """One device: its cells on the grid, its windows, its smoothed score and its open incident.

    A cell is `period_ns` long; windows end at multiples of the stride, counted from 1970. Cells below the floor are
    final: readings there are late, and windows that end at or below it are closed.
    """

    def __init__(self, name: str, first_ns: int, bundle: Bundle, settings: SimpleNamespace, outcome: Outcome) -> None:
        self.name, self.bundle, self.settings, self.outcome = name, bundle, settings, outcome
        # A reading goes to the nearest cell. If the first one is more than a quarter of a period away from it, all the
        # device's cells lie half a period later, so that jitter does not decide between two cells.
        period_ns, half_ns = bundle.period_ns, bundle.period_ns // 2
        self.shift_ns = 0 if 4 * abs((first_ns + half_ns) % period_ns - half_ns) > period_ns else half_ns
        self.late = -(-settings.lateness_ns // period_ns)
        self.newest = (first_ns + self.shift_ns) // period_ns
        self.floor = self.newest - self.late
        self.heard_ns = self.sequence = self.over_run = self.fault_run = 0
        self.cells, self.flags = dict[int, list[float]](), dict[int, int]()
        self.level: float | None = None
        self.opening_limit = NAN  # limit at the opening of the last incident, until a score is at or below it
        self.limit = Limit(bundle, settings)
        self.incident: Any = None

    def add(self, event_ns: int, values: list[float], log_ns: int, offset: int) -> None:
        """Take in a reading."""
        self.heard_ns, number = log_ns, (event_ns + self.shift_ns) // self.bundle.period_ns
        if number < self.floor:
            self.outcome.refused.append((offset, "late"))
            return
        flags = (BAD_VALUE if INF in values else 0) | (OUT_OF_ORDER if number < self.newest else 0)
        self.newest = max(self.newest, number)
        self.close(self.newest - self.late, offset)
        kept = self.cells.setdefault(number, [NAN] * len(values))
        for channel, value in enumerate(values):
            if not math.isnan(value) and value != INF:
                flags |= 0 if math.isnan(kept[channel]) else DUPLICATE
                kept[channel] = value if math.isnan(kept[channel]) else kept[channel]  # the first value stays
        self.flags[number] = self.flags.get(number, 0) | flags

    def close(self, floor: int, offset: int, flags: int = 0) -> None:
        """Raise the floor and judge the windows that this closes, except those without any value."""
        stride, blank = self.bundle.stride, [NAN] * len(self.bundle.channels)
        ends = range((self.floor // stride + 1) * stride, floor + 1, stride)
        self.floor = max(self.floor, floor)
        for end in ends:
            span = range(end - self.bundle.samples, end)
            values = np.array([self.cells.get(number, blank) for number in span])
            if np.isnan(values).all():
                continue
            quality = flags | (GAPS if np.isnan(values).any() else 0)
            for number in span:
                quality |= self.flags.get(number, 0)
            score, more = self.bundle.score(self.name, values)
            start_ns, end_ns = span.start * self.bundle.period_ns, span.stop * self.bundle.period_ns
            row = {"device": self.name, "start": start_ns, "end": end_ns, "offset": offset, "sequence": self.sequence}
            row |= {"quality": quality | more, "coverage": 1.0 - np.isnan(values).mean(), "score": score}
            self.judge(row, self.outcome.given.get((self.name, end_ns, offset), score))
            self.outcome.rows.append(row)
            self.sequence += 1

    def judge(self, row: Row, score: float) -> None:
        """Smooth the logarithm of the score, compare it with the limit, step the incident, let the limit learn."""
        if not math.isnan(score):
            weight = 1.0 if self.level is None else self.bundle.smoothing
            self.level = (1.0 - weight) * (self.level or 0.0) + weight * log_of(score)
        row |= {"smoothed": NAN if math.isnan(score) else math.exp(self.level or 0.0), "limit": self.limit.value()}
        phase = self.step(row, row["smoothed"], row["limit"])
        row |= {"is_anomaly": bool(self.incident), "incident": self.incident.opened_ns if self.incident else None}
        if not math.isnan(score) and phase != IN_INCIDENT:
            self.limit.learn(log_of(row["smoothed"]), phase)

    def step(self, row: Row, smoothed: float, limit: float) -> str:
        """Open, update or resolve the incident; return whether the row is quiet, opens it, or is part of it.

        A row with neither a score nor a fault is no evidence: it breaks no run, and the quiet time stands still.
        An incident may end above the limit at which it opened: nothing is learned until a score is at or below that.
        """
        rules, incident, end_ns, is_unscored = self.settings, self.incident, row["end"], math.isnan(smoothed)
        is_over, is_fault = smoothed > limit, bool(row["quality"] & (CHANNEL_MISSING | CHANNEL_STUCK))
        self.over_run = self.over_run + 1 if is_over else self.over_run if is_unscored else 0
        self.fault_run = self.fault_run + 1 if is_fault else self.fault_run if is_unscored else 0
        if incident is None:
            if smoothed <= self.opening_limit:
                self.opening_limit = NAN
            is_settled = math.isnan(self.opening_limit)
            is_sensor = is_fault and self.fault_run >= rules.sensor_windows
            if not is_sensor and not (is_over and self.over_run >= rules.open_after_windows):
                return QUIET if is_settled else IN_INCIDENT
            self.opening_limit = limit if is_settled else self.opening_limit
            self.incident = incident = SimpleNamespace(opened_ns=end_ns, opened_offset=row["offset"], peak=smoothed)
            incident.kind = "sensor" if is_sensor else "process"
            incident.trouble_ns = incident.seen_ns = incident.judged_end_ns = end_ns
            incident.judged_ns = incident.version = incident.is_learned = 0
            self.alert("opened", end_ns, row["offset"], smoothed)
            return OPENED if is_settled and not is_sensor else IN_INCIDENT  # a sensor fault is no false alarm
        incident.peak = float(np.fmax(incident.peak, smoothed))
        if not is_unscored:
            stride_ns = self.bundle.stride * self.bundle.period_ns
            incident.judged_ns += min(end_ns - incident.judged_end_ns, stride_ns)
            incident.judged_end_ns = end_ns
        is_regime = not incident.is_learned and 0 < rules.relearn_after_ns <= incident.judged_ns
        incident.is_learned |= is_regime
        exit_level = self.opening_limit if incident.is_learned else np.fmax(limit, rules.exit_ratio * incident.peak)
        if is_fault if incident.kind == "sensor" else smoothed > exit_level:
            incident.trouble_ns = end_ns
        elif is_unscored:
            incident.trouble_ns += end_ns - incident.seen_ns
        elif end_ns - incident.trouble_ns >= rules.close_after_ns:
            self.alert("resolved", end_ns, row["offset"], smoothed)
            self.incident = None
            self.opening_limit = NAN if smoothed <= self.opening_limit else self.opening_limit
            return QUIET if incident.is_learned or math.isnan(self.opening_limit) else IN_INCIDENT
        incident.seen_ns = end_ns
        if is_regime or (is_over and not incident.peak < rules.update_factor * incident.told):
            self.alert("updated", end_ns, row["offset"], smoothed, "regime" if is_regime else incident.kind)
        return QUIET if incident.is_learned else IN_INCIDENT

    def alert(self, phase: str, end_ns: int, offset: int, smoothed: float, kind: str = "") -> None:
        """Publish an alert about the open incident; `version` counts them."""
        found, name, limit = self.incident, self.name, self.limit.value()
        alert = {"device": name, "kind": kind or found.kind, "phase": phase, "version": found.version, "end": end_ns}
        alert |= {"offset": offset, "opened_end": found.opened_ns, "opened_offset": found.opened_offset}
        self.outcome.alerts.append(alert | {"score": smoothed, "limit": limit, "peak": found.peak})
        found.version, found.told = found.version + 1, found.peak


def log_of(score: Any) -> Any:
    """Return the natural logarithm of scores, clipped to 1e-12..1e300."""
    return np.log(np.clip(score, 1e-12, 1e300))


class Limit:
    """A device's limit: the quantile of its quiet smoothed scores, moved by feedback from its incidents.

    Log scores are counted in bins, in two generations: when the younger one has half of `memory_rows`, it replaces the
    older one, which at first is the bundle's calibration. `1 - quantile` is the budget, the wanted share of windows
    that open an incident: an opening raises the offset by a step, a quiet score lowers it by that share of a step.
    """

    def __init__(self, bundle: Bundle, settings: SimpleNamespace) -> None:
        logs = log_of(bundle.calibration)
        self.settings, self.floor, self.budget = settings, bundle.limit_floor, 1.0 - settings.quantile
        self.spread, self.offset = min(max(float(logs.std()), 0.05), 3.0), 0.0
        self.edges = bin_edges(logs, self.spread)
        self.first_level = self.edges[self.bin(np.quantile(logs, settings.quantile)) + 1]
        above = np.cumsum(np.bincount([self.bin(log) for log in logs], minlength=240)[::-1])
        self.older = np.diff(np.rint(above * (settings.seed_rows / len(logs))), prepend=0.0)[::-1]
        self.younger = np.zeros(240)

    def bin(self, log: float) -> int:
        """Return the bin of a log score; the outermost bins take everything beyond."""
        return int(np.searchsorted(self.edges[1:-1], log, side="right"))

    def value(self) -> float:
        """Return the limit in force."""
        level = self.levels()[0] + self.offset + math.log(self.settings.factor)
        return max(math.exp(min(level, 690.0)), self.floor)

    def learn(self, log: float, phase: str) -> None:
        """Count a quiet log score, or one that opened an incident."""
        self.younger[self.bin(log)] += 1
        if self.younger.sum() >= self.settings.memory_rows // 2:
            self.older, self.younger = self.younger, np.zeros(240)
        step = self.settings.feedback * self.spread
        self.offset += step if phase == OPENED else -step * self.budget
        self.offset = min(max(self.offset, self.levels()[1]), 4.0 * self.spread)

    def levels(self) -> tuple[float, float]:
        """Return the quantile of the log scores, interpolated in its bin, and the lowest offset from it."""
        counts = (self.younger + self.older)[::-1]
        if counts.sum() < min(100, self.settings.memory_rows // 2):
            return self.first_level, 0.0
        above = np.cumsum(counts)
        wanted = self.budget * above[-1]
        at = int(np.argmax(above >= wanted))  # bins are counted from the top here
        low, high = self.edges[239 - at], self.edges[240 - at]
        level = high - (wanted - above[at] + counts[at]) / counts[at] * (high - low)
        # Feedback lowers the limit at most to the bin above which ten budgets of the scores lie.
        lowest = self.edges[240 - int(np.argmax(above >= min(10.0 * self.budget, 0.5) * above[-1]))]
        return level, min(lowest - level, 0.0)


def bin_edges(logs: Array, spread: float) -> Array:
    """Return 241 edges: 128 equal bins around the calibration, and on each side 56 that widen by a constant ratio."""
    reach = max(logs.max() - np.median(logs), spread)
    inner = np.linspace(np.median(logs) - reach, logs.max() + reach, 129)
    below = widening(inner[1] - inner[0], inner[0] - (min(math.log(1e-12), inner[0]) - 1.0))
    above = widening(inner[1] - inner[0], max(math.log(1e9) - reach, 56 * (inner[1] - inner[0])))
    return np.concatenate([(inner[0] - below)[::-1], inner, inner[-1] + above])


def widening(width: float, total: float) -> Array:
    """Return 56 distances up to `total`; their steps start at `width` and grow by a constant ratio (bisection)."""
    low, high = 1e-6, 1.0
    for _ in range(60):
        middle = (low + high) / 2.0
        is_too_far = width * math.expm1(56 * math.log1p(middle)) / middle > total
        low, high = (low, middle) if is_too_far else (middle, high)
    sums = np.expm1(np.arange(1, 57) * math.log1p(low))
    return np.asarray(sums / sums[-1] * total)
