from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.crashes.conftest import pump_bundle
from tests.field.plant import Plant
from tests.support.e2e import Stream

__all__ = ["pump_bundle"]


@pytest.fixture
def plant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Plant:
    """An empty folder of a user, which is the current one."""
    monkeypatch.chdir(tmp_path)
    return Plant(tmp_path, capsys)


@pytest.fixture(params=["local", pytest.param("kafka", marks=pytest.mark.broker)])
def make_stream(request: pytest.FixtureRequest, tmp_path: Path, pump_bundle: Path) -> Iterator[Callable[..., Stream]]:
    """Make streams of pumps on the embedded log and on a real Kafka, each in a folder of its own."""
    servers: list[str] = request.getfixturevalue("kafka_broker") if request.param == "kafka" else []
    made: list[Stream] = []

    def make(**options: Any) -> Stream:
        made.append(Stream(tmp_path / f"stream-{len(made)}", pump_bundle, servers, **options))
        return made[-1]

    yield make
    for stream in made:
        stream.close()
