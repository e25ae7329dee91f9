"""A whole stream in a folder: settings, bundle, input, roles as processes, and the proof of what came out."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa

from simulators.fleet import CHANNELS
from simulators.producer import recording, simulate
from simulators.scenarios import Scenario
from simulators.scenarios import parse as scenario
from stream_ad.assembly import Models, open_transport
from stream_ad.config import Settings, load
from stream_ad.core.model import Channel, WindowShape
from stream_ad.fronts.table import front
from stream_ad.io.bundles import bundles
from stream_ad.io.recordings.recordings import Recording
from stream_ad.io.score_log import log as score_log
from stream_ad.io.spans import Place, Spans
from stream_ad.io.state import journal
from stream_ad.io.transport import Partition, Record, Transport
from stream_ad.io.wire import alerts as alert_messages
from stream_ad.io.wire import contributions, dead_letters, score_rows
from stream_ad.io.wire import scores as score_messages
from stream_ad.proof.verification import verify
from stream_ad.replaying import Marker, Recomputing
from stream_ad.training.training import TrainingPlan, train

START_MS = 1_767_225_600_000
SECOND_NS = 1_000_000_000
SAMPLES, STRIDE = 16, 8
PUMPS = 30
SEPARATOR = " | "
LONG_S = 60.0
"""For waits that end by themselves: a machine may be busy."""


def train_bundle(folder: Path, kind: str = "pca", folds: int = 2, samples: int = SAMPLES, unit: str = "") -> Path:
    """Train a tiny model of the simulated pumps; return its folder."""
    quiet = scenario({"devices": 6, "duration_s": 900, "seed": 3}, "quiet")
    names = sorted(CHANNELS)
    columns = list(recording(quiet, START_MS))
    known = Recording(
        devices=tuple(columns[0]["device"][: quiet.devices]),
        device=np.tile(np.arange(quiet.devices, dtype=np.int32), quiet.samples_in_all),
        event_ns=np.concatenate([np.asarray(part["time"], np.int64) * 1_000_000 for part in columns]),
        channels=tuple(names),
        values=np.concatenate(
            [np.stack([np.asarray(part[name], np.float64) for name in names], axis=1) for part in columns]
        ),
    )
    shape = WindowShape(SECOND_NS, samples, STRIDE)
    plan = TrainingPlan(
        folder.name, kind, shape, tuple(Channel(name, unit) for name in names), baseline="", folds=folds
    )
    trained = train(known, plan)
    bundles.save(trained.model, folder, trained.probe)
    return folder


def faulty_fleet(duration_s: float, pumps: int = PUMPS, seed: int = 11) -> Scenario:
    """Return a fleet in which every third pump meets a fault; messages of 16 samples, a second apart."""
    kinds = ("level_shift", "noise_up", "stuck", "drop_out", "oscillation")
    faults = [
        {
            "device": f"pump-{number:04d}",
            "kind": kinds[number // 3 % len(kinds)],
            "start_s": 150 + 7 * number % 90,
            "duration_s": 100,
        }
        for number in range(1, pumps + 1, 3)
    ]
    plain = {"devices": pumps, "duration_s": duration_s, "seed": seed, "events": False}
    return scenario({**plain, "faults": faults}, "e2e")


def fleet_records(duration_s: float, pumps: int = PUMPS, seed: int = 11, rubbish_every: int = 97) -> Iterator[Record]:
    """Yield the fleet's readings in order of time, and now and then a record that is none."""
    fleet = faulty_fleet(duration_s, pumps, seed)
    for number, message in enumerate(m for m in simulate(fleet, START_MS) if m.topic == fleet.readings_topic):
        yield Record(message.value, message.key, message.headers)
        if number % rubbish_every == rubbish_every - 1:
            yield Record(b"rubbish %d" % number, message.key)


class Stream:
    """A stream of pumps with topics of its own.

    Attributes:
        folder: holds the settings' file, the log where it is local, score log and checkpoints.
        config: the settings' file.
    """

    def __init__(
        self,
        folder: Path,
        bundle: Path,
        servers: Sequence[str] = (),
        partitions: int = 2,
        **sections: dict[str, Any],
    ) -> None:
        """Write the settings and make the readings topic.

        Args:
            folder: made where missing.
            bundle: the model's folder.
            servers: of Kafka; none means a local log.
            partitions: of the readings.
            sections: settings over the defaults of these tests, by section.
        """
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        name = f"e-{uuid4().hex[:8]}"
        values: dict[str, dict[str, Any]] = {
            "stream": {
                "name": name,
                "bundle": str(bundle),
                "readings_topic": f"{name}.readings",
                "alerts_topic": f"{name}.alerts",
            },
            "transport": {"kind": "local", "path": "log.sqlite"},
            "time": {"idle_close_s": 4.0},
            "commit": {"every_s": 0.2, "poll_records": 200},
            "store": {
                "scores": "scores",
                "checkpoints": "checkpoints",
                "checkpoint_every_s": 1.0,
                "part_max_age_s": 1.0,
            },
            "service": {"http_port": 0},
        }
        if servers:
            values["transport"] = {"kind": "kafka", "servers": list(servers), "session_timeout_s": 6.0}
        for section, content in sections.items():
            values[section] = values.get(section, {}) | content
        self._values = values
        self.config = folder / "stream.toml"
        self._write()
        self.log: Transport = open_transport(self.settings)
        if partitions:
            self.log.ensure_topic(self.settings.stream.readings_topic, partitions)
        self.partitions = partitions

    @classmethod
    def at(cls, config: Path) -> Stream:
        """Return a stream that somebody else has set up."""
        stream = cls.__new__(cls)
        stream.folder, stream.config, stream._values = config.parent, config, {}
        stream._settings = None
        stream.log = open_transport(stream.settings)
        stream.partitions = stream.log.topic(stream.settings.stream.readings_topic).partitions
        return stream

    def _write(self) -> None:
        lines = []
        for section, content in self._values.items():
            lines.append(f"[{section}]")
            lines += [f"{key} = {json.dumps(value)}" for key, value in content.items()]
        self.config.write_text("\n".join(lines) + "\n")
        self._settings: Settings | None = None

    @property
    def settings(self) -> Settings:
        """The settings as a role reads them."""
        if self._settings is None:
            self._settings = load(self.config, {})
        return self._settings

    def change(self, section: str, **values: Any) -> None:
        """Write other settings."""
        self._values[section] = self._values.get(section, {}) | values
        self._write()

    def send(self, records: Sequence[Record]) -> None:
        """Append readings."""
        self.log.append(self.settings.stream.readings_topic, records)

    def close(self) -> None:
        """Let go of the log."""
        self.log.close()

    def ends(self) -> dict[Partition, int]:
        """Return the end of each partition of the readings."""
        topic = self.settings.stream.readings_topic
        return {p: self.log.bounds(p)[1] for p in (Partition(topic, k) for k in range(self.partitions))}

    def scored(self) -> bool:
        """Return whether all readings are scored and committed."""
        group = f"stream-ad.{self.settings.stream.name}.scorer"
        for partition, end in self.ends().items():
            position = self.log.committed(group, partition)
            if end and (position is None or position.offset < end):
                return False
        return True

    def archived(self) -> bool:
        """Return whether all score messages are in parts."""
        scores = self.settings.stream.scores_topic
        for number in range(self.partitions):
            partition = Partition(scores, number)
            newest = -1
            for raw in self.log.read(partition, *self.log.bounds(partition)):
                newest = int(raw.offset[-1]) if len(raw) else newest
            last = score_log.last_part(self.settings.store.scores, number)
            if newest >= 0 and (last is None or last.span.end <= newest):
                return False
        return True

    def read(self, topic: str) -> Iterator[tuple[Partition, int, bytes, Any]]:
        """Yield partition, offset, value and headers of all records of a topic."""
        for number in range(self.log.topic(topic).partitions):
            partition = Partition(topic, number)
            for raw in self.log.read(partition, *self.log.bounds(partition)):
                for k in range(len(raw)):
                    yield partition, int(raw.offset[k]), raw.values[k], raw.headers[k]

    # -- what is public ---------------------------------------------------------------------------

    def outcome(self) -> Outcome:
        """Return what came out, with score rows from the scores topic, after checking that its spans chain."""
        tables = []
        stream = self.settings.stream
        ends: dict[int, tuple[Place, int]] = {}
        begun: dict[int, tuple[tuple[Spans, int], int]] = {}
        for partition, offset, value, headers in self.read(stream.scores_topic):
            message = score_messages.decode(value, headers)
            tables.append(message.table)
            number = partition.number
            assert message.input == Partition(stream.readings_topic, number)
            own = (message.spans, message.generation)
            known, part = begun.get(number, (own, 0))
            assert (own, message.part) == (known, part), f"{partition} {offset}: another span inside a span"
            (spans, generation), (end, before) = known, ends.get(number, (Place(0, 0), 0))
            if part == 0:
                assert spans.begin == end, f"{partition} {offset}: hole or overlap before {spans}"
                assert generation >= before, f"{partition} {offset}: generation {generation} after {before}"
            if part + 1 < message.parts:
                begun[number] = (known, part + 1)
            else:
                begun.pop(number, None)
                ends[number] = (spans.end, generation)
        assert not begun
        return Outcome(
            rows=rows_of(tables),
            alerts=sorted(value.decode() for _, _, value, _ in self.read(stream.alerts_topic)),
            letters=sorted(_letter(value, headers) for _, _, value, headers in self.read(stream.dead_letters_topic)),
        )

    def archive_rows(self) -> list[str]:
        """Return the rows of the Parquet score log, after checking that its parts chain."""
        folder = self.settings.store.scores
        for number in range(self.partitions):
            parts = score_log.parts(folder, number)
            assert [part.span.start for part in parts[1:]] == [part.span.end for part in parts[:-1]]
            assert [part.spans.begin for part in parts[1:]] == [part.spans.end for part in parts[:-1]]
            assert sorted(part.generation for part in parts) == [part.generation for part in parts]
        return rows_of([score_log.read(folder)])

    def restarts(self) -> list[journal.StartEntry]:
        """Return the journal's entries of states that began again."""
        places = (Partition(self.settings.stream.journal_topic, number) for number in range(self.partitions))
        entries = (entry for place in places for entry in journal.read(self.log, place))
        return [entry for entry in entries if isinstance(entry, journal.StartEntry) and entry.kind == "restart"]

    def reference(self) -> Outcome:
        """Return what an undisturbed run gives: the input read once, from its first record, in this process."""
        settings, models = self.settings, Models(self.settings)
        tables, alerts, letters = [], [], []
        for partition in self.ends():
            start, end = self.log.bounds(partition)
            assert start == 0
            position = self.log.committed(f"stream-ad.{settings.stream.name}.scorer", partition)
            if position is None:
                continue
            values = {
                int(raw.offset[k]): raw.values[k] for raw in self.log.read(partition, 0, end) for k in range(len(raw))
            }
            marker = Marker.from_text(position.metadata)
            again = Recomputing(settings, models, self.log, partition, marker.entries)
            for found in again.run(0, position.offset, use_checkpoints=False):
                stepped, model, digest = found.stepped, found.model, found.config_digest
                alerts += [alert_messages.encode(one, partition, digest).value for one in stepped.result.alerts]
                for one in stepped.refused:
                    digested = digest_of(values[one.offset])
                    letters.append((partition.number, one.offset, one.reason.value, one.detail, one.rows, digested))
                if stepped.result.rows:
                    names = [channel.name for channel in model.channels]
                    row_ns = front(settings).rules(settings, model).row_ns
                    rows = score_rows.table(stepped.result.judged, names, row_ns, partition.number)
                    tables.append(rows)
        return Outcome(rows_of(tables), sorted(value.decode() for value in alerts), sorted(letters))

    def prove(self, at_least_alerts: int = 1) -> Outcome:
        """Check that everything came out once and as an undisturbed run gives it; return it.

        The journal is part of the reference, so a state that began again without need would not show in the rows.
        """
        assert self.restarts() == []
        expected, found = self.reference(), self.outcome()
        assert_same("score rows of the topic", found.rows, expected.rows)
        assert_same("score rows of the archive", self.archive_rows(), expected.rows)
        if expected.rows:
            assert [str(gap) for gap in verify(self.settings.store.scores).gaps] == []
        assert_same("alerts", found.alerts, expected.alerts)
        assert_same("dead letters", found.letters, expected.letters)
        assert len(expected.alerts) >= at_least_alerts
        return found


@dataclass(frozen=True)
class Outcome:
    """Score rows, alerts and dead letters as sorted plain values: equal where all bits are."""

    rows: list[str]
    alerts: list[str]
    letters: list[tuple[int, int, str, str, int, str]]


def digest_of(value: bytes) -> str:
    """Return the digest that a dead letter names."""
    return hashlib.blake2b(value, digest_size=32).hexdigest()


def _letter(value: bytes, headers: Any) -> tuple[int, int, str, str, int, str]:
    letter = dead_letters.decode(value, headers)
    refused = letter.refused
    return letter.source.number, refused.offset, refused.reason.value, refused.detail, refused.rows, letter.digest


def rows_of(tables: Sequence[pa.Table]) -> list[str]:
    """Return each row as text with all digits, sorted."""
    found = []
    for table in map(contributions.as_map, tables):
        columns = [[repr(value) for value in table[name].to_pylist()] for name in table.column_names]
        found += [SEPARATOR.join(row) for row in zip(*columns, strict=True)]
    return sorted(found)


def assert_same(what: str, found: Sequence[Any], expected: Sequence[Any]) -> None:
    """Compare sorted values; say in a line what is missing, repeated or strange."""
    if list(found) == list(expected):
        return
    counts: dict[Any, int] = defaultdict(int)
    for value in expected:
        counts[value] += 1
    for value in found:
        counts[value] -= 1
    missing = [value for value, count in counts.items() if count > 0]
    surplus = [value for value, count in counts.items() if count < 0]
    raise AssertionError(
        f"{what}: {len(found)} found, {len(expected)} expected; {len(missing)} missing, the first {missing[:1]}; "
        f"{len(surplus)} too many, the first {surplus[:1]}"
    )


def wait_until(what: Callable[[], bool], seconds: float = LONG_S, each: Callable[[], object] = lambda: None) -> None:
    """Wait until `what` holds, calling `each` between two looks.

    Raises:
        TimeoutError: it did not within `seconds`.
    """
    end = time.monotonic() + seconds
    while not what():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds} s")
        each()
        time.sleep(0.005)


class Process:
    """A role run by itself, as a real process; its log goes to a file."""

    def __init__(self, stream: Stream, role: str, index: int = 0, log: Path | None = None) -> None:
        """Start it."""
        self.role = role
        self.path = log or stream.folder / f"{role}-{index}-{uuid4().hex[:6]}.log"
        command = [sys.executable, "-m", "stream_ad.cli.main", "-c", str(stream.config), "--log-format", "json"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with self.path.open("wb") as file:
            self.process = subprocess.Popen(
                [*command, "run", role, "--index", str(index)], stderr=file, stdout=file, env=environment
            )

    def lines(self) -> list[dict[str, Any]]:
        """Return the log so far."""
        texts = self.path.read_text(errors="replace").splitlines()
        return [json.loads(text) for text in texts if text.startswith("{") and text.endswith("}")]

    def said(self, event: str) -> bool:
        """Return whether an event is in the log."""
        return f'"{event}"' in self.path.read_text(errors="replace")

    def await_event(self, event: str, seconds: float = LONG_S) -> None:
        """Wait for an event.

        Raises:
            RuntimeError: the process has ended without it.
        """

        def come() -> bool:
            if self.said(event):
                return True
            self.expect_alive()
            return False

        wait_until(come, seconds)

    def expect_alive(self) -> None:
        """Check that it has not ended by itself.

        Raises:
            RuntimeError: it has.
        """
        if self.process.poll() is not None:
            raise RuntimeError(f"{self.role} ended with {self.process.returncode}: {self.path.read_text()}")

    def kill(self) -> None:
        """End it as `kill -9` does."""
        self.process.kill()
        self.process.wait()

    def stop(self, seconds: float = LONG_S) -> int:
        """End it in an orderly way; return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def end(self) -> None:
        """Make sure that nothing is left."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.kill()
