"""What reads bytes from outside, each with valid inputs to mutate and the only errors that it may raise.

A target takes bytes and returns; anything that it raises is a finding, and so is a call that takes longer than
`SLOW_S`. Shared by the tests (`test_decoders.py`) and by long runs (`python -m tests.fuzz.run`).
"""

from __future__ import annotations

import atexit
import gzip
import io
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from stream_ad.config import load
from stream_ad.core.batches import Alert, AlertKind, AlertPhase, Reason, Refused
from stream_ad.errors import (
    BundleError,
    CheckpointError,
    ConfigError,
    ContractError,
    JournalError,
    PositionError,
    RecordingError,
)
from stream_ad.io.bundles import bundles
from stream_ad.io.bundles import files as bundle_files
from stream_ad.io.bundles.manifest import LIMITS, MANIFEST, Manifest, read_manifest
from stream_ad.io.recordings import recordings
from stream_ad.io.spans import Place
from stream_ad.io.state import checkpoints, journal
from stream_ad.io.transport import Headers, Partition, RawBatch
from stream_ad.io.wire import alerts as alert_messages
from stream_ad.io.wire import control as control_messages
from stream_ad.io.wire import dead_letters
from stream_ad.io.wire import scores as score_messages
from stream_ad.io.wire.encode import ARROW_HEADERS, encode_arrow, encode_reading, encode_series, encode_series_at
from stream_ad.io.wire.readings import Decoder
from stream_ad.replaying import Marker
from tests.support.pipelines import small_model
from tests.support.scores import messages, verdicts

SLOW_S = 5.0
"""Far above what any input of these sizes takes on a busy machine, far below a hang."""
CHANNELS = ("a", "b", "c")
START_MS = 1_767_225_600_000
SOURCE = Partition("readings", 0)
"""Where the records of these tests come from."""


@dataclass(frozen=True)
class Target:
    """One reader of bytes.

    Attributes:
        seeds: valid inputs.
        run: takes any bytes; False where it refuses them. What it raises is a finding.
    """

    seeds: tuple[bytes, ...]
    run: Callable[[bytes], bool | None]

    def accepts(self, data: bytes) -> bool:
        """Return whether the input is taken, not refused."""
        return self.run(data) is not False


GOOD = encode_reading("good", START_MS, {"a": 1.0, "b": 2.0, "c": 3.0})


def _reads(headers: Headers) -> Callable[[bytes], bool]:
    """Return a target: a record between two good ones, which must not be harmed by it."""
    decoder = Decoder(CHANNELS)

    def run(data: bytes) -> bool:
        decoded = decoder.decode(
            RawBatch(
                partition=SOURCE,
                offset=np.arange(3, dtype=np.int64),
                log_ns=np.full(3, START_MS * 1_000_000, np.int64),
                keys=[None] * 3,
                values=[GOOD, data, GOOD],
                headers=[(), headers, ()],
                next_offset=3,
            )
        )
        readings = decoded.readings
        good = np.isin(readings.offset, [0, 2])
        if good.sum() != 2 or not (readings.values[good] == np.array([1.0, 2.0, 3.0])).all():
            raise AssertionError("a record harmed its neighbours")
        if not np.isin(readings.offset, [0, 1, 2]).all() or [one for one in decoded.refused if one.offset != 1]:
            raise AssertionError("a refusal of another record")
        if readings.values.shape != (len(readings.device), len(CHANNELS)) or np.isinf(readings.values).any():
            raise AssertionError("values that no reading may have")
        return not decoded.refused

    return run


def _refusing(read: Callable[[bytes], object], *allowed: type[Exception]) -> Callable[[bytes], bool]:
    def run(data: bytes) -> bool:
        try:
            read(data)
        except allowed:
            return False
        return True

    return run


def _series() -> tuple[bytes, ...]:
    values: dict[str, list[float | None]] = {"a": [1.0, 2.0, None], "b": [0.5, -1e30, 3.0], "c": [7.0, 8.0, 9.0]}
    whole = {name: [1.5, 2.5, 3.5] for name in CHANNELS}
    return (
        encode_series("pump-1", START_MS, 1_000, values),
        encode_series("pump-1", START_MS, 0.25, whole),
        encode_series_at("pump-2", [START_MS, START_MS + 5, START_MS + 9], whole),
        encode_series("pump-1", START_MS, 1_000, {"a": [1.0, "x", None], "b": [1.0, 2.0, 1e300], "c": whole["c"]}),
        b'{"device":"d","ts":[1767225600000,1767225600001],"values":{"a":[nan,1e999],"b":"x","c":[true,"2"]}}',
    )


def _singles() -> tuple[bytes, ...]:
    return (
        GOOD,
        b'{"device":"d","ts":"2026-01-05T10:00:00.123456789+02:00","values":{"a":1,"b":null,"z":4e300}}',
        b'{"device":"\\u00fc","ts":1767225600000.5,"values":{"a":-0.0}}',
        b'{"device":"d","ts":1767225600000,"values":{"a":-nan,"b":"60.3","c":true,"z":1.#QNAN}}',
        b'{"device":"d","ts":1767225600000,"values":{"a":"Bad Input","b":[1],"c":+.5}}',
    )


def _arrow() -> tuple[bytes, ...]:
    columns = {name: [1.0, 2.0] for name in CHANNELS}
    mixed = {"a": ["1.5", "x"], "b": [True, False], "c": [1.0, np.inf]}
    times = [START_MS, START_MS + 1]
    return encode_arrow(["d", "e"], times, columns), encode_arrow(["d", "e"], times, mixed)


(SCORE,) = messages(verdicts(0, 3, 2), (5, 17))
"""A score message with its headers."""


def _score(data: bytes) -> object:
    return score_messages.decode(data, SCORE.headers)


def _score_headers(data: bytes) -> object:
    """Read the true table under headers of which one is the data."""
    name, _, content = data.partition(b"=")
    known = dict(SCORE.headers)
    return score_messages.decode(SCORE.value, tuple((known | {name.decode("latin-1"): content}).items()))


def _dead_letter(data: bytes) -> object:
    name, _, content = data.partition(b"=")
    return dead_letters.decode(b"x", tuple((dict(LETTER.headers) | {name.decode("latin-1"): content}).items()))


LETTER = dead_letters.encode(Refused(5, Reason.BAD_TIME, "a time", 2, 17), b"x", b"k", (("h", b"v"),), SOURCE, 99)
ALERT = Alert(
    id="0" * 32,
    version=1,
    phase=AlertPhase.OPENED,
    kind=AlertKind.PROCESS,
    stream="s",
    device="d",
    opened_end_ns=START_MS * 1_000_000,
    end_ns=START_MS * 1_000_000 + 7,
    opened_offset=1,
    offset=3,
    score=1.5,
    limit=1.0,
    peak=2.0,
    channels=(("a", 0.75), ("b", 0.25)),
    model_id="m",
    reason="because",
)


def _headers_of(headers: Headers) -> tuple[bytes, ...]:
    return tuple(name.encode() + b"=" + content for name, content in headers)


CHECKPOINT = "s.0.00000000000000000005.0123456789abcdef.ckpt"


@cache
def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="stream-ad-fuzz-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _checkpoint_seed() -> bytes:
    arrays: dict[str, Any] = {"f": np.arange(6, dtype=np.float64).reshape(2, 3), "b": np.array([True])}
    name = checkpoints.write(_folder(), "s", 0, "topic", 5, arrays, {"fingerprint": "x"})
    content = (_folder() / name).read_bytes()
    (_folder() / name).unlink()
    return content


def _checkpoint(data: bytes) -> object:
    (_folder() / CHECKPOINT).write_bytes(data)
    return checkpoints.load(_folder(), CHECKPOINT)


def _settings(data: bytes) -> object:
    path = _folder() / "stream.toml"
    path.write_bytes(data)
    return load(path, {})


JOURNAL = tuple(
    journal.encode(entry, 0).value
    for entry in (
        journal.CloseEntry(number=1, offset=10, log_ns=START_MS * 1_000_000),
        journal.SwapEntry(number=2, offset=10, bundle="b", model_id="m", configured="n", control=3),
        journal.StartEntry(
            kind="restart",
            number=3,
            offset=12,
            read_from=12,
            lost=(10, 12),
            why="lost",
            fingerprint="f",
            config={"time": {"lateness_s": 5.0}},
            bundle="b",
            model_id="m",
            control=0,
        ),
    )
)
COMMAND = control_messages.encode(control_messages.SwapCommand(stream="s", bundle="b", model_id="m")).value
SETTINGS = b"""[stream]
name = "s"
bundle = "b"
[transport]
kind = "kafka"
servers = ["h:1"]
tls = true
username = "u"
password_file = "p"
[store]
scores = "s"
checkpoints = "c"
[threshold]
kind = "spot"
risk = 1e-4
"""


@cache
def bundle_folder() -> Path:
    """Return a sound bundle."""
    folder = _folder() / "bundle"
    model = small_model()
    shape = (4, model.window.samples, len(model.channels))
    bundles.save(model, folder, np.random.default_rng(1).normal(size=shape))
    return folder


def reseal(folder: Path) -> None:
    """Make digests and model id right again where the manifest can be read, as an attacker would."""
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_bytes())
        content["digests"] = {name: bundle_files.digest((folder / name).read_bytes()) for name in LIMITS}
        content["model_id"] = Manifest.model_validate_json(json.dumps(content)).content_id()
        path.write_text(json.dumps(content))
    except (ValueError, TypeError, KeyError, RecursionError):
        return


def _bundle(name: str) -> Callable[[bytes], object]:
    def read(data: bytes) -> object:
        folder = bundle_folder()
        good = {file: (folder / file).read_bytes() for file in (MANIFEST, name)}
        try:
            (folder / name).write_bytes(data)
            reseal(folder)
            return bundles.load(folder)
        finally:
            for file, content in good.items():
                (folder / file).write_bytes(content)

    return read


def _manifest(data: bytes) -> object:
    folder = _folder() / "manifest"
    folder.mkdir(exist_ok=True)
    (folder / MANIFEST).write_bytes(data)
    return read_manifest(folder)


ROWS = 12


def _csv_seeds() -> tuple[bytes, ...]:
    rows = "".join(f"2026-03-02T08:00:{n:02d}Z,p{n % 2},{60 + n % 7}.5,{n % 3},Good,{n % 2}\n" for n in range(ROWS))
    head = "time,device,temp,press,temp_quality,anomaly\n"
    plain = head + rows
    odd = f"Logger 5\n# by hand\n\n{head},,degC,bar,,\n{rows}{head}\n{rows.replace('08:', '09:')}Average,,1,2,,\nEND"
    long = "sep=;\nTimeStamp;TagName;Value;Quality\n" + "".join(
        f"{n + 1:02d}.03.2026 08:00;a;{n},5;192\n01.03.2026 08:{n:02d};b;{n};0\n" for n in range(ROWS)
    )
    quoted = '"time","temp\n[C]"\n' + "".join(f'"2026-03-02 08:00:{n:02d}","{n}"\n' for n in range(ROWS))
    numbers = "time;flow;temp\n" + "".join(
        f"{134169120000000000 + n * 10**7};1.{n:03d},5;{n},25 °C\n" for n in range(ROWS)
    )
    clocks = "Date,Time,x\n" + "".join(f"3/13/2026,{n}:05:00 PM,{n}%\n" for n in range(1, ROWS))
    return (
        numbers.encode(),
        clocks.encode(),
        plain.encode(),
        odd.encode(),
        long.encode("cp1252"),
        odd.replace("\n", "\r\n").encode("utf-16"),
        quoted.replace("\n", "\r").encode(),
        gzip.compress(plain.encode()),
    )


def _jsonl_seeds() -> tuple[bytes, ...]:
    flat = [
        {"time": START_MS + 1_000 * n, "device": "p", "temp": n % 5, "ok": n % 2 > 0, "s": "é"} for n in range(ROWS)
    ]
    wire = [{"device": "p", "ts": START_MS + 1_000 * n, "values": {"a": n, "b": None}} for n in range(ROWS)]
    lines = ["\n".join(map(json.dumps, rows)) for rows in (flat, wire)]
    return (lines[0].encode(), lines[1].encode(), gzip.compress(lines[0].replace('"temp": 1', '"temp": NaN').encode()))


def _parquet_seeds() -> tuple[bytes, ...]:
    table = pa.table(
        {
            "time": pa.array([START_MS * 1_000 + 1_000_000 * n for n in range(ROWS)], pa.timestamp("us", "UTC")),
            "device": pa.array(["p", "q"] * (ROWS // 2)).dictionary_encode(),
            "temp": [n / 2 for n in range(ROWS)],
            "label": [n > 9 for n in range(ROWS)],
        }
    )
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(table, buffer)
    return (buffer.getvalue(),)


def _recording(ending: str) -> Callable[[bytes], object]:
    def read(data: bytes) -> object:
        path = _folder() / f"2026-03-02{ending}"
        path.write_bytes(data)
        found = recordings.read(path, zone="UTC")
        return recordings.describe(found)

    return read


def targets() -> Iterator[tuple[str, Callable[[], Target]]]:
    """Yield names and makers of all targets; a maker is called on use."""
    yield "single", lambda: Target(_singles(), _reads(()))
    yield "series", lambda: Target(_series(), _reads(()))
    yield "arrow", lambda: Target(_arrow(), _reads(ARROW_HEADERS))
    yield (
        "score",
        lambda: Target(
            (SCORE.value,), _refusing(lambda data: score_messages.decode(data, SCORE.headers), ContractError)
        ),
    )
    yield "score headers", lambda: Target(_headers_of(SCORE.headers), _refusing(_score_headers, ContractError))
    yield (
        "alert",
        lambda: Target(
            (alert_messages.encode(ALERT, SOURCE, "c").value,), _refusing(alert_messages.decode, ContractError)
        ),
    )
    yield "dead letter", lambda: Target(_headers_of(LETTER.headers), _refusing(_dead_letter, ContractError))
    yield "checkpoint", lambda: Target((_checkpoint_seed(),), _refusing(_checkpoint, CheckpointError))
    yield (
        "marker",
        lambda: Target(
            (Marker("x", "t", Place(5, 1), 2, 0, "m", "m", 3).to_text().encode(),),
            _refusing(lambda data: Marker.from_text(data.decode("utf-8", "replace")), PositionError),
        ),
    )
    yield "journal", lambda: Target(JOURNAL, _refusing(journal.decode, JournalError))
    yield "command", lambda: Target((COMMAND,), _refusing(control_messages.decode, ContractError))
    yield "settings", lambda: Target((SETTINGS,), _refusing(_settings, ConfigError))
    yield (
        "manifest",
        lambda: Target(((bundle_folder() / MANIFEST).read_bytes(),), _refusing(_manifest, BundleError)),
    )
    files = {".csv": _csv_seeds, ".jsonl": _jsonl_seeds, ".parquet": _parquet_seeds}
    for ending, seeds in files.items():
        yield f"recording{ending}", partial(_recording_target, seeds, ending)
    for name in LIMITS:
        yield f"bundle {name}", partial(_bundle_target, name)


def _recording_target(seeds: Callable[[], tuple[bytes, ...]], ending: str) -> Target:
    return Target(seeds(), _refusing(_recording(ending), RecordingError))


def _bundle_target(name: str) -> Target:
    return Target(((bundle_folder() / name).read_bytes(),), _refusing(_bundle(name), BundleError))


TARGETS: dict[str, Callable[[], Target]] = dict(targets())
