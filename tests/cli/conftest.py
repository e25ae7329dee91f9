from __future__ import annotations

from pathlib import Path

import pytest

CONFIG = """
[stream]
name = "pumps"
bundle = "bundle"
[transport]
kind = "local"
path = "log.sqlite"
[store]
scores = "scores"
checkpoints = "checkpoints"
[service]
http_port = 0
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Settings of a local stream in a folder of its own."""
    path = tmp_path / "stream.toml"
    path.write_text(CONFIG)
    return path
