from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.crashes.dying import Lives
from tests.support.e2e import Stream, train_bundle


@pytest.fixture(scope="session")
def pump_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny PCA model of the simulated pumps."""
    return train_bundle(tmp_path_factory.mktemp("bundle") / "pump-pca")


@pytest.fixture
def make_stream(tmp_path: Path, pump_bundle: Path) -> Iterator[Callable[..., Stream]]:
    """Make streams, each in a folder of its own; they are closed at the end."""
    made: list[Stream] = []

    def make(**options: Any) -> Stream:
        made.append(Stream(tmp_path / f"stream-{len(made)}", pump_bundle, **options))
        return made[-1]

    yield make
    for stream in made:
        stream.close()


@pytest.fixture(scope="module")
def lives() -> Iterator[Lives]:
    """Starts processes of roles that may die at a step."""
    lives = Lives()
    yield lives
    lives.close()
