"""One side of the comparison: runs a stream over the given input with the `stream_ad` that PYTHONPATH names.

Run as a script, and with as little of the package as can be, so that it drives checkouts with other modules than this
one has: their command line, their settings, and `open_transport` with what it returns. It writes what the topics hold,
undecoded, to `topics.jsonl` in its folder, where the score log is too.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

NAME = "same"
PARTITIONS = 3
WAIT_S = 150.0
"""For one part of the input."""
IDLE_CLOSE_S, EVICT_AFTER_S = 300.0, 900.0
"""Log time, which moves in the steps of tests/same/fleet.py."""
QUANTILES = (0.999, 0.995)
"""Of the threshold, before and after the settings change."""
FIRST, SECOND = "pretrained:pump-dagmm", "bundle"
TOPICS = {what: f"{NAME}.{what}" for what in ("readings", "scores", "alerts", "dead_letters", "journal", "control")}
READINGS = {"message.timestamp.type": "CreateTime", "retention.ms": "-1"}


class Side:
    """A stream in a folder, its roles as processes.

    Args:
        folder: empty; everything is kept there.
        channels: what the devices send, with units.
        servers: of a Kafka that nobody else uses; none means the embedded log.
    """

    def __init__(self, folder: Path, channels: Mapping[str, str], servers: Sequence[str]) -> None:
        from stream_ad.assembly import open_transport
        from stream_ad.config import load

        self._folder = folder
        self._channels = dict(channels)
        self._servers = list(servers)
        self._config = folder / "stream.toml"
        self._roles: dict[str, subprocess.Popen[bytes]] = {}
        self.configure(QUANTILES[0])
        settings = load(self._config, {})
        self._log = open_transport(settings)
        self._log.ensure_topic(TOPICS["readings"], PARTITIONS, READINGS)
        # The embedded log takes log times from a clock, which here is the records'; any module may hold its class.
        self._log_ms = 0
        self._dated: Any = None
        if not self._servers:
            made = cast(Any, type(self._log))
            self._dated = made(folder / "log.sqlite", clock=lambda: self._log_ms * 1_000_000)

    def configure(self, quantile: float) -> None:
        """Write the settings."""
        transport: dict[str, Any] = {"kind": "local", "path": "log.sqlite"}
        if self._servers:
            transport = {"kind": "kafka", "servers": self._servers}
        sections: dict[str, dict[str, Any]] = {
            "stream": {
                "name": NAME,
                "bundle": FIRST,
                "devices": "pump-*",
                **{f"{what}_topic": topic for what, topic in TOPICS.items()},
            },
            "stream.channels": self._channels,
            "transport": transport,
            "time": {
                "trust_producer_clocks": True,
                "lateness_s": 20.0,
                "idle_close_s": IDLE_CLOSE_S,
                "evict_after_s": EVICT_AFTER_S,
            },
            "threshold": {"kind": "quantile", "quantile": quantile},
            "commit": {"every_s": 0.2, "poll_records": 200},
            "store": {
                "scores": "scores",
                "checkpoints": "checkpoints",
                "checkpoint_every_s": 0.5,
                "part_max_age_s": 1.0,
            },
            "service": {"http_port": 0},
        }
        lines = []
        for section, content in sections.items():
            lines += [f"[{section}]", *(f"{key} = {json.dumps(value)}" for key, value in content.items())]
        self._config.write_text("\n".join(lines) + "\n")

    def command(self, *arguments: str) -> None:
        """Run a verb to its end.

        Raises:
            RuntimeError: it failed.
        """
        answer = subprocess.run(self._line(*arguments), cwd=self._folder, capture_output=True, text=True, check=False)
        if answer.returncode != 0:
            raise RuntimeError(f"stream-ad {' '.join(arguments)} ended with {answer.returncode}: {answer.stderr}")

    def train(self, recording: str) -> None:
        """Make the second bundle: another detector on windows like those of the first."""
        shape = ("--period", "1s", "--samples", "64", "--stride", "16", "--folds", "2", "--no-baseline")
        units = (f"--unit={name}={unit}" for name, unit in self._channels.items())
        self.command("train", recording, "--detector", "pca", *shape, *units, "--out", SECOND)

    def _line(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "stream_ad.cli.main", "-c", str(self._config), *arguments]

    def start(self, *roles: str) -> None:
        """Start roles, each a process of its own."""
        for role in roles:
            with (self._folder / f"{role}.log").open("ab") as log:
                command = self._line("--log-format", "json", "run", role)
                self._roles[role] = subprocess.Popen(command, cwd=self._folder, stdout=log, stderr=log)

    def end(self, how: signal.Signals, *roles: str) -> None:
        """End roles and wait for their ends.

        Raises:
            RuntimeError: an orderly end was not one.
        """
        for role in roles:
            self._expect_alive(role)
            self._roles[role].send_signal(how)
        for role in roles:
            code = self._roles.pop(role).wait(WAIT_S)
            if code not in (0, -signal.SIGKILL):
                raise RuntimeError(f"{role} ended with {code}, see {self._folder / role}.log")

    def close(self) -> None:
        """Leave nothing behind that runs."""
        for process in self._roles.values():
            process.kill()
            process.wait()
        if self._dated is not None:
            self._dated.close()
        self._log.close()

    def send(self, chunks: Sequence[tuple[int, Sequence[tuple[bytes, bytes, Any]]]]) -> None:
        """Append records with their log times."""
        if self._dated is None:
            self._send_kafka(chunks)
            return
        from stream_ad.io.transport import Record

        for log_ms, records in chunks:
            self._log_ms = log_ms
            self._dated.append(TOPICS["readings"], [Record(value, key, headers) for key, value, headers in records])

    def _send_kafka(self, chunks: Sequence[tuple[int, Sequence[tuple[bytes, bytes, Any]]]]) -> None:
        from kafka import KafkaProducer

        producer = KafkaProducer(bootstrap_servers=self._servers, acks="all", enable_idempotence=True)
        try:
            sent = [
                producer.send(TOPICS["readings"], value, key, list(headers), timestamp_ms=log_ms)
                for log_ms, records in chunks
                for key, value, headers in records
            ]
            producer.flush(WAIT_S)
            for one in sent:
                one.get(WAIT_S)
        finally:
            producer.close()

    def drain(self) -> None:
        """Wait until all input is scored and public."""
        self._wait("the input to be scored", self._is_scored)

    def _is_scored(self) -> bool:
        for number in range(PARTITIONS):
            partition = self._partition("readings", number)
            position = self._log.committed(f"stream-ad.{NAME}.scorer", partition)
            if position is None or position.offset < self._log.bounds(partition)[1]:
                return False
        return True

    def archive(self, rows: int) -> None:
        """Wait until the score log has so many rows."""
        self._wait(f"{rows} rows in the score log", lambda: self._archived() >= rows)

    def _archived(self) -> int:
        return sum(pq.read_metadata(path).num_rows for path in (self._folder / "scores").rglob("*.parquet"))

    def _wait(self, what: str, is_so: Callable[[], bool]) -> None:
        end = time.monotonic() + WAIT_S
        while not is_so():
            for role in self._roles:
                self._expect_alive(role)
            if time.monotonic() > end:
                raise RuntimeError(f"waited {WAIT_S:g} s for {what}; the logs of the roles are in {self._folder}")
            time.sleep(0.05)

    def _expect_alive(self, role: str) -> None:
        code = self._roles[role].poll()
        if code is not None:
            raise RuntimeError(f"{role} ended with {code}, see {self._folder / role}.log")

    def dump(self) -> int:
        """Write the records of all output topics; return how many score rows they hold.

        Raises:
            RuntimeError: the wall clock has closed windows, which makes no two runs comparable.
        """
        self._expect_no_closes()
        rows = 0
        with (self._folder / "topics.jsonl").open("w") as file:
            for what in ("scores", "alerts", "dead_letters"):
                for number in range(self._log.topic(TOPICS[what]).partitions):
                    partition = self._partition(what, number)
                    for raw in self._log.read(partition, *self._log.bounds(partition)):
                        for key, value, headers in zip(raw.keys, raw.values, raw.headers, strict=True):
                            file.write(json.dumps(plain(what, number, key, value, headers)) + "\n")
                            rows += pa.ipc.open_stream(value).read_all().num_rows if what == "scores" else 0
        return rows

    def _expect_no_closes(self) -> None:
        for number in range(PARTITIONS):
            partition = self._partition("journal", number)
            for raw in self._log.read(partition, *self._log.bounds(partition)):
                if any(json.loads(value)["kind"] == "close" for value in raw.values):
                    raise RuntimeError("silence was closed by the wall clock: this machine was too busy, run it again")

    def _partition(self, what: str, number: int) -> Any:
        from stream_ad.io.transport import Partition

        return Partition(TOPICS[what], number)


def plain(what: str, partition: int, key: bytes | None, value: bytes, headers: Any) -> dict[str, object]:
    """Return a record of an output topic as it is dumped."""

    def text(content: bytes) -> str:
        return base64.b64encode(content).decode()

    return {
        "what": what,
        "partition": partition,
        "key": None if key is None else text(key),
        "value": text(value),
        "headers": [[name, text(content)] for name, content in headers],
    }


def play(side: Side, parts: Sequence[Any], recording: str) -> None:
    """Train, then work the input off: a backlog, live, another bundle, a kill, other settings."""
    backlog, live, swapped, recovered, changed = parts
    side.train(recording)
    side.send(backlog)
    side.start("scorer", "archiver")
    side.send(live)
    side.drain()
    side.command("swap", SECOND, "--wait", f"{WAIT_S:g}")
    side.send(swapped)
    side.drain()
    side.end(signal.SIGKILL, "scorer", "archiver")
    side.send(recovered)
    side.start("scorer", "archiver")
    side.drain()
    side.end(signal.SIGTERM, "scorer")
    side.configure(QUANTILES[1])
    side.start("scorer")
    side.send(changed)
    side.drain()
    side.end(signal.SIGTERM, "scorer")
    side.archive(side.dump())
    side.end(signal.SIGTERM, "archiver")


def main() -> int:
    """Run one side; return 0, or 1 where it did not get to its end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--input", type=Path, required=True, help="pickled: channels, and records by part and log time")
    parser.add_argument("--recording", required=True, help="to train the second bundle with")
    parser.add_argument("--servers", nargs="*", default=[])
    args = parser.parse_args()
    import stream_ad

    expected = os.environ["PYTHONPATH"]
    if not Path(stream_ad.__file__).is_relative_to(expected):
        sys.stderr.write(f"expected stream_ad from {expected}, found {stream_ad.__file__}\n")
        return 1
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the roles end too
    given = pickle.loads(args.input.read_bytes())
    side = Side(args.folder, given["channels"], args.servers)
    try:
        play(side, given["parts"], args.recording)
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    finally:
        side.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
