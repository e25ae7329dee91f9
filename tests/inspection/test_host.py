from __future__ import annotations

import socket
from pathlib import Path

import pytest

from stream_ad.errors import ConfigError
from stream_ad.inspection.host import describe_folder, port_free
from stream_ad.service.metrics import RoleMetrics
from stream_ad.service.probes import Probes


def test_folders_must_take_files_and_links(tmp_path: Path) -> None:
    assert "can be created" in describe_folder(tmp_path / "a" / "b")
    assert "writable" in describe_folder(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot write and link files in it"):
        describe_folder(tmp_path / "file" / "scores")


def test_a_held_port_is_told_unless_it_is_ours() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(ConfigError, match="choose another http_port"):
            port_free("127.0.0.1", other.getsockname()[1], "pumps")
    metrics = RoleMetrics("archiver", "pumps", "a")
    probes = Probes("127.0.0.1", 0, lambda: (True, ""), lambda: (True, ""), metrics.render)
    assert port_free("127.0.0.1", probes.port, "pumps") is False
    with pytest.raises(ConfigError):
        port_free("127.0.0.1", probes.port, "fans")
    port = probes.port
    probes.close()
    assert port_free("127.0.0.1", port, "pumps")
