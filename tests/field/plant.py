"""A user's folder: files as plants have them, verbs as typed, and what came out of the pipe."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stream_ad.assembly import open_transport
from stream_ad.cli.main import main
from stream_ad.config import Settings, load
from stream_ad.io.transport import Partition, Record, Transport
from stream_ad.service.roles import archiver, scorer
from stream_ad.service.roles.archiver import Archiver
from stream_ad.service.roles.catalog import RoleContext
from stream_ad.service.roles.scorer import Scorer
from tests.support.e2e import wait_until


@dataclass(frozen=True, slots=True)
class Ran:
    """A verb that has ended: its exit code and what it printed."""

    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        """All that a person saw."""
        return self.out + self.err

    def json(self) -> Any:
        """The output of `--json`."""
        return json.loads(self.out)


class Plant:
    """A folder that is the current one, with the verbs of the command line run in this process on it."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self._capsys = capsys

    def file(self, name: str, content: str | bytes | Iterable[str]) -> Path:
        """Write a file: bytes as they are, text, or lines."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif isinstance(content, str):
            path.write_text(content, encoding="utf-8", newline="")
        else:
            path.write_text("".join(f"{line}\n" for line in content), encoding="utf-8", newline="")
        return path

    def __call__(self, *words: str) -> Ran:
        """Run a verb as typed, without `stream-ad`; an exception other than SystemExit is a traceback and fails."""
        self._capsys.readouterr()
        try:
            code = main(list(words))
        except SystemExit as end:  # argparse
            code = end.code if isinstance(end.code, int) else 1
        found = self._capsys.readouterr()
        return Ran(code, found.out, found.err)

    def ok(self, *words: str) -> Ran:
        """Run a verb that has to succeed."""
        ran = self(*words)
        assert ran.code == 0, f"{words}: exit {ran.code}: {ran.said}"
        return ran

    def settings(self, config: str = "stream.toml") -> Settings:
        """The settings as a role reads them."""
        return load(self.folder / config, {})

    def quiet(self, config: str = "stream.toml") -> None:
        """Turn the pages of roles off, so that tests side by side want no ports."""
        with (self.folder / config).open("a", encoding="utf-8") as file:
            file.write("\n[service]\nhttp_port = 0\n")

    def append(self, documents: Iterable[Mapping[str, Any] | str | bytes], config: str = "stream.toml") -> None:
        """Put records into the readings topic as a gateway would; text goes as it is, so that it may be no JSON."""
        settings = self.settings(config)
        transport = open_transport(settings)
        try:
            transport.ensure_topic(settings.stream.readings_topic, 1)
            transport.append(settings.stream.readings_topic, [_record(document) for document in documents])
        finally:
            transport.close()

    def drain(self, config: str = "stream.toml") -> None:
        """Run a scorer and an archiver in this process until all input is scored and filed."""
        settings = _hasty(self.settings(config))
        reader = open_transport(settings)
        try:
            context = RoleContext(settings, 0, lambda: None)
            _work(scorer.build(context), lambda: _scored(settings, reader))
            _work(archiver.build(context), lambda: _archived(settings, reader))
        finally:
            reader.close()

    def scores(self, config: str = "stream.toml") -> pa.Table:
        """All rows of the score log, without `contribution`, by device and time."""
        folder = Path(self.settings(config).store.scores)
        names = ["device", "end", "score", "smoothed", "limit", "is_anomaly", "quality", "coverage"]
        paths = sorted(path for path in folder.rglob("*.parquet") if path.is_file())
        tables = [pq.read_table(path, columns=names, partitioning=None) for path in paths]
        return pa.concat_tables(tables).sort_by([("device", "ascending"), ("end", "ascending")])

    def alerts(self, config: str = "stream.toml") -> list[dict[str, Any]]:
        """The alerts of the stream in the order of publication, as published."""
        settings = self.settings(config)
        transport = open_transport(settings)
        try:
            found = []
            topic = settings.stream.alerts_topic
            for number in range(transport.topic(topic).partitions):
                place = Partition(topic, number)
                for raw in transport.read(place, *transport.bounds(place)):
                    found += [dict(json.loads(value)) for value in raw.values]
            return found
        finally:
            transport.close()


def _hasty(settings: Settings) -> Settings:
    """Return settings with which roles neither wait for a fuller commit nor for a fuller part; results are the same."""
    commit = settings.commit.model_copy(update={"every_s": 0.05})
    store = settings.store.model_copy(update={"part_max_age_s": 0.05})
    return settings.model_copy(update={"commit": commit, "store": store})


def _work(role: Scorer | Archiver, is_done: Callable[[], bool]) -> None:
    role.open()
    try:
        wait_until(is_done, each=lambda: role.turn(0.02))
    finally:
        role.close()


def _record(document: Mapping[str, Any] | str | bytes) -> Record:
    if isinstance(document, bytes):
        return Record(document, b"")
    if isinstance(document, str):
        try:
            key = str(json.loads(document).get("device", ""))
        except (ValueError, AttributeError):
            key = ""
        return Record(document.encode(), key.encode(), (("content-type", b"application/json"),))
    headers = (("content-type", b"application/json"),)
    return Record(json.dumps(document).encode(), str(document.get("device", "")).encode(), headers)


def _places(transport: Transport, topic: str) -> Sequence[Partition]:
    return [Partition(topic, number) for number in range(transport.topic(topic).partitions)]


def _scored(settings: Settings, transport: Transport) -> bool:
    for place in _places(transport, settings.stream.readings_topic):
        position = transport.committed(f"stream-ad.{settings.stream.name}.scorer", place)
        end = transport.bounds(place)[1]
        if end and (position is None or position.offset < end):
            return False
    return True


def _archived(settings: Settings, transport: Transport) -> bool:
    from stream_ad.io.score_log import log as score_log

    for place in _places(transport, settings.stream.scores_topic):
        start, end = transport.bounds(place)
        newest = max((int(raw.offset[-1]) for raw in transport.read(place, start, end) if len(raw)), default=-1)
        last = score_log.last_part(settings.store.scores, place.number)
        if newest >= 0 and (last is None or last.span.end <= newest):
            return False
    return True
