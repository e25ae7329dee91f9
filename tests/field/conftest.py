from __future__ import annotations

from pathlib import Path

import pytest

from tests.field.plant import Plant


@pytest.fixture
def plant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Plant:
    """An empty folder of a user, which is the current one."""
    monkeypatch.chdir(tmp_path)
    return Plant(tmp_path, capsys)
