"""Setup of the demo: a new folder, the files of a stream, the processes, and their progress."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from simulators.scenarios import Scenario
from stream_ad import config
from stream_ad.config import Settings
from stream_ad.core.batches import Alert, AlertPhase
from stream_ad.errors import StreamAdError
from stream_ad.io.transport import Partition, Transport
from stream_ad.io.wire import alerts as alert_messages
from stream_ad.role_table import deciding_group

# ruff: noqa: S603 - commands consist of paths of this checkout

BUNDLE = "pretrained:pump-autoencoder"
SETTINGS = "stream.toml"
SCENARIO = "scenario.toml"
RESTARTS = 3
"""A role restarted this often has a lasting fault."""
STOP_S = 45.0

STREAM = """\
# Written by the demo. Query it as any stream:
#   stream-ad -c {path} alerts
#   stream-ad -c {path} scores pump-0004

[stream]
name = "{name}"
readings_topic = "{scenario.readings_topic}"
alerts_topic = "{alerts_topic}"
bundle = "{bundle}"

[transport]
{transport}

[store]
scores = "scores"
checkpoints = "checkpoints"
part_max_age_s = 5              # so that the score log can be queried while the demo runs

[threshold]
kind = "quantile"
quantile = 0.9995               # about one in two thousand normal windows is above it;
factor = 1.1                    # raises the limit by a tenth: scores near it mean little

[service]
http_port = 0                   # no metrics pages: their ports may be in use
"""


class DemoError(StreamAdError):
    """The demo cannot continue; the message is one line for the user."""


@dataclass(frozen=True, slots=True)
class Published:
    """An alert, with the position of the record that caused it, and the log times of both.

    Attributes:
        alert: the alert.
        log_ns: its log time.
        input: partition of the readings topic.
    """

    alert: Alert
    log_ns: int
    input: Partition


def fresh_folder(folder: Path) -> Path | None:
    """Create an empty folder; the previous demo's is moved to `<name>.old`, replacing an older one.

    Returns:
        the previous demo's folder, if there was one.

    Raises:
        DemoError: the folder holds something other than a demo.
    """
    kept = None
    try:
        if folder.exists():
            old = folder.with_name(f"{folder.name}.old")
            for path in (folder, old):
                if path.exists() and not (path / SETTINGS).exists() and any(path.iterdir()):
                    raise DemoError(f"{path}: expected a folder of a demo, found other files; choose another --folder")
            if any(folder.iterdir()):
                remove(old)
                folder.rename(old)
                kept = old
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DemoError(f"{folder}: cannot be created: {error.strerror}") from error
    return kept


def remove(folder: Path) -> None:
    """Delete a folder with its contents."""
    import shutil

    if folder.exists():
        shutil.rmtree(folder)


def write_settings(folder: Path, scenario: Scenario, servers: Sequence[str] | None, run: str) -> Settings:
    """Write `stream.toml` and `scenario.toml` and return the settings.

    Args:
        folder: of the demo.
        scenario: the simulation; its topics are the stream's.
        servers: of Kafka; None: the embedded log.
        run: makes names unique on a shared Kafka; "" for our own.
    """
    name = f"demo-{run}" if run else "demo"
    transport = f'kind = "kafka"\nservers = {list(servers)}' if servers else 'kind = "local"\npath = "log.sqlite"'
    text = STREAM.format(
        path=folder / SETTINGS,
        name=name,
        scenario=scenario,
        alerts_topic=f"sensor.alerts.v1.{name}" if run else "sensor.alerts.v1",
        bundle=BUNDLE,
        transport=transport.replace("'", '"'),
    )
    (folder / SETTINGS).write_text(text, encoding="utf-8")
    (folder / SCENARIO).write_text(as_toml(scenario), encoding="utf-8")
    return config.load(folder / SETTINGS)


def as_toml(scenario: Scenario) -> str:
    """Return a scenario as a file that `scenarios.load` reads."""
    values = scenario.model_dump(exclude_none=True)
    faults, random_faults = values.pop("faults"), values.pop("random_faults")
    lines = [f"{key} = {_toml(value)}" for key, value in values.items()]
    lines += ["", "[random_faults]", *(f"{key} = {_toml(value)}" for key, value in random_faults.items())]
    for fault in faults:
        lines += ["", "[[faults]]", *(f"{key} = {_toml(value)}" for key, value in fault.items())]
    return "\n".join(lines) + "\n"


def _toml(value: object) -> str:
    return orjson.dumps(value).decode()  # texts, numbers, booleans and lists of them are alike in both


class Program:
    """A child process with its log file; ends with the `with` block.

    Args:
        name: for messages.
        command: arguments of Python.
        log: file that receives its output.
    """

    def __init__(self, name: str, command: Sequence[str], log: Path) -> None:
        self.name = name
        self.log = log
        self._command = [sys.executable, *command]

    def __enter__(self) -> Program:
        with self.log.open("ab") as log:
            # Own session: Ctrl-C is for the demo, which stops the others in order.
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self.ended() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def ended(self) -> int | None:
        """Return the exit code, negative for the signal that ended it, None while it runs."""
        return self._process.poll()

    def stop(self) -> None:
        """Stop the process, and wait until it ended.

        Raises:
            DemoError: it failed.
        """
        self.__exit__()
        if code := self.ended():
            raise DemoError(f"{self.name} exited with {code} when stopped; see {self.log}")

    def finished(self) -> bool:
        """Whether the process ended successfully.

        Raises:
            DemoError: it failed.
        """
        if code := self.ended():
            raise DemoError(f"{self.name} exited with {code}: {self.last_error()}; see {self.log}")
        return code is not None

    def expect_running(self) -> None:
        """Check that it runs, and that no role under it keeps restarting.

        Raises:
            DemoError: with the last error of its log.
        """
        if (code := self.ended()) is not None:
            raise DemoError(f"{self.name} exited with {code}: {self.last_error()}; see {self.log}")
        restarts = sum(line.get("event") == "role_ended" for line in self._lines())
        if restarts >= RESTARTS:
            raise DemoError(f"a role keeps restarting ({restarts} times): {self.last_error()}; see {self.log}")

    def last_error(self) -> str:
        """Return the log's last error, shortened."""
        found = [line for line in self._lines() if line.get("level") == "error"]
        for line in reversed(found):
            message = line.get("error") or line.get("exception") or line.get("message")
            if message:
                return str(message).strip().splitlines()[-1][:300]
        text = self.log.read_text(errors="replace").strip().splitlines()
        return text[-1][:300] if text else "no output"

    def _lines(self) -> Iterator[dict[str, object]]:
        for line in self.log.read_bytes().splitlines():
            with contextlib.suppress(orjson.JSONDecodeError):
                value = orjson.loads(line)
                if isinstance(value, dict):
                    yield value


def pipeline(folder: Path, scorers: int) -> Program:
    """Return the supervisor of scorers and archiver, not yet started."""
    stream = ["-m", "stream_ad.cli.main", "-c", str(folder / SETTINGS), "--log-format", "json"]
    return Program("stream-ad run", [*stream, "run", "--scorers", str(scorers)], folder / "pipeline.log")


def simulator(folder: Path) -> Program:
    """Return the producer, not yet started."""
    arguments = ["-m", "simulators", "run", "-c", str(folder / SETTINGS), "--scenario", str(folder / SCENARIO)]
    return Program("the simulator", arguments, folder / "simulator.log")


class Observer:
    """Reads the stream's topics as any subscriber can.

    Args:
        settings: of the stream.
        transport: its log.
    """

    def __init__(self, settings: Settings, transport: Transport) -> None:
        self._settings = settings
        self._transport = transport
        self._alerts_at: dict[Partition, int] = {}
        readings = settings.stream.readings_topic
        self._readings = [Partition(readings, number) for number in range(transport.topic(readings).partitions)]
        self.alerts: list[Published] = []

    def sent(self) -> int:
        """Return the number of records of the readings topic."""
        return sum(self._transport.bounds(partition)[1] for partition in self._readings)

    def scored(self) -> int:
        """Return the number of readings records that the scorers have committed."""
        group = deciding_group(self._settings)
        found = [self._transport.committed(group, partition) for partition in self._readings]
        return sum(position.offset for position in found if position is not None)

    def opened(self) -> list[Alert]:
        """Read new records of the alerts topic; return alerts that open an incident."""
        new = []
        for number in range(len(self._readings)):
            partition = Partition(self._settings.stream.alerts_topic, number)
            start = self._alerts_at.setdefault(partition, 0)
            end = self._transport.bounds(partition)[1]
            for batch in self._transport.read(partition, start, end) if end > start else ():
                for value, log_ns in zip(batch.values, batch.log_ns.tolist(), strict=True):
                    message = alert_messages.decode(value)
                    new.append(
                        Published(message.alert(), log_ns, Partition(message.input.topic, message.input.partition))
                    )
            self._alerts_at[partition] = end
        new.sort(key=lambda published: published.log_ns)
        self.alerts += new
        return [published.alert for published in new if published.alert.phase is AlertPhase.OPENED]

    def latencies_s(self) -> list[float]:
        """Return, per opening alert, the time from its reading's log time to its own."""
        return [
            (published.log_ns - int(batch.log_ns[0])) / 1e9
            for published in self.alerts
            if published.alert.phase is AlertPhase.OPENED
            for batch in self._transport.read(published.input, published.alert.offset, published.alert.offset + 1)
        ]

    def values(self, topic: str) -> list[bytes]:
        """Return all values of a topic."""
        found: list[bytes] = []
        for number in range(self._transport.topic(topic).partitions):
            partition = Partition(topic, number)
            start, end = self._transport.bounds(partition)
            for batch in self._transport.read(partition, start, end) if end > start else ():
                found += batch.values
        return found
