"""`bundle show|verify`: what a bundle says of itself, and an exit code for whether it is sound."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stream_ad.cli.main import main
from stream_ad.io.bundles import bundles
from tests.io.bundles.test_bundles import MODEL, windows


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Return a sound bundle."""
    bundles.save(MODEL, tmp_path / "b", windows(5))
    return str(tmp_path / "b")


def test_show(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bundle", "show", path]) == 0

    out = capsys.readouterr().out
    assert "detector  pca" in out
    assert "window    8 samples every 1 s: 8 s, a new one every 2 s" in out
    assert "current [A], held for 5 s, always moves" in out
    assert '"note": "Grüße"' in out


def test_show_json(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bundle", "show", path, "--json"]) == 0

    found = json.loads(capsys.readouterr().out)
    assert (found["name"], found["window"]["samples"], found["card"]["seed"]) == ("pumps", 8, 7)


def test_verify(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bundle", "verify", path]) == 0
    assert "ok    probe: 6 windows, scores reproduced bit for bit" in capsys.readouterr().out
    assert main(["bundle", "verify", path, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ok"] is True


def test_a_broken_bundle_fails(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    (Path(path) / "probe.safetensors").write_bytes(b"")

    assert main(["bundle", "verify", path]) == 1
    assert "probe.safetensors: expected the digest" in capsys.readouterr().err
    assert main(["bundle", "show", "none"]) == 1
    assert main(["bundle"]) == 2
