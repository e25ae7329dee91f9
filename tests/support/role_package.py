"""A package that registers two roles, installed into a folder as pip does: modules and the metadata beside them."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

import pytest

SPECS = '''
from pydantic import PositiveFloat

from stream_ad.config import Section
from stream_ad.io.kafka.rights import READ, group_right, topic_right
from stream_ad.role_table import RoleSpec


class Paging(Section):
    """What `[roles.pager]` may hold."""

    number: str
    every_s: PositiveFloat = 0.05


def pager_rights(settings):
    yield topic_right(settings.stream.alerts_topic, READ)


def counter_rights(settings):
    yield topic_right(settings.stream.scores_topic, READ)
    yield group_right(COUNTER.consumer_group(settings))


PAGER = RoleSpec("pager", "acme_roles.pager", port_offset=100, rights=pager_rights, parse=Paging.model_validate)
COUNTER = RoleSpec(
    "counter", "acme_roles.counter", port_offset=110, group="counter", reads="scores_topic", rights=counter_rights
)
'''

PAGER = '''
"""Shows a number on its page: no consumer group, nothing published in the log."""

import time

from stream_ad.service.metrics import RoleMetrics


class Pager:
    name = "pager"

    def __init__(self, context):
        self.settings, self.section = context.settings, context.section
        self.metrics = RoleMetrics(self.name, self.settings.stream.name, self.settings.service.instance)

    def open(self):
        pass

    def turn(self, wait_s):
        time.sleep(min(wait_s, self.section.every_s))
        return False

    def close(self):
        pass

    def ready(self):
        return True, f"pages {self.section.number}"

    def health(self):
        return {}


def build(context):
    return Pager(context)
'''

COUNTER = '''
"""Counts score messages as a member of its own group; commits nothing."""

from stream_ad.assembly import ensure_topics, open_transport
from stream_ad.role_table import role
from stream_ad.service.metrics import ReaderMetrics


class Counter:
    def __init__(self, context):
        self.settings, self.index = context.settings, context.index
        self.spec = role(self.settings, "counter")
        self.name = self.spec.label(self.index)
        self.metrics = ReaderMetrics("counter", self.settings.stream.name, self.settings.service.instance)

    def open(self):
        self.transport = open_transport(self.settings)
        topic, group = self.spec.topic(self.settings), self.spec.consumer_group(self.settings)
        ensure_topics(self.settings, self.transport)
        self.source = self.transport.join(topic, group, self, self.spec.member(self.settings, self.index))

    def gained(self, position, partition):
        return 0

    def leaving(self, partition):
        pass

    def lost(self, partition):
        pass

    def turn(self, wait_s):
        found = self.source.poll(100, wait_s)
        self.metrics.records.inc(sum(map(len, found)))
        return bool(found)

    def close(self):
        self.source.close()
        self.transport.close()

    def ready(self):
        return True, "counting"

    def health(self):
        return {}


def build(context):
    return Counter(context)
'''

ENTRY_POINTS = {"pager": "acme_roles.specs:PAGER", "counter": "acme_roles.specs:COUNTER"}
MODULES = {"__init__": "", "specs": SPECS, "pager": PAGER, "counter": COUNTER}


def install(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    package: str = "acme_roles",
    modules: dict[str, str] | None = None,
    entries: dict[str, str] | None = None,
    group: str = "stream_ad.roles",
) -> None:
    """Install a package for this process and its children, until the end of the test.

    Args:
        folder: where it goes, made where missing.
        monkeypatch: takes it away again.
        package: its name.
        modules: source by name; by default those of the two roles.
        entries: its entry points; by default the two roles.
        group: of the entry points.
    """
    metadata = folder / f"{package}-1.0.dist-info"
    (folder / package).mkdir(parents=True)
    metadata.mkdir()
    for name, source in (MODULES if modules is None else modules).items():
        (folder / package / f"{name}.py").write_text(source)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    lines = [f"{name} = {value}" for name, value in (ENTRY_POINTS if entries is None else entries).items()]
    (metadata / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines, ""]))
    paths = [str(folder), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in paths if path))
    monkeypatch.syspath_prepend(str(folder))
    importlib.invalidate_caches()
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
