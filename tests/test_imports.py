"""What is loaded when: a process pays only for what it uses."""

from __future__ import annotations

import subprocess
import sys

import pytest

from stream_ad.role_table import BUILT_IN, RoleSpec

HEAVY = ("torch", "sklearn", "river", "kafka", "matplotlib", "duckdb", "pandas")


def loaded(code: str) -> set[str]:
    """Return which heavy packages a fresh interpreter has loaded after running code."""
    program = f"import sys\n{code}\nprint(*[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    return set(done.stdout.split())


@pytest.mark.process
@pytest.mark.parametrize("module", ["stream_ad", "stream_ad.cli.main", "stream_ad.config", "stream_ad.core.pipeline"])
def test_an_import_loads_nothing_heavy(module: str) -> None:
    assert loaded(f"import {module}") == set()


@pytest.mark.process
def test_the_package_alone_loads_no_reader_or_settings() -> None:
    program = "import sys, stream_ad; stream_ad.open_stream; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    names = set(done.stdout.split())

    assert names & {"torch", "kafka", "pyarrow", "pydantic", "numpy"} == set()
    assert {name for name in names if name.startswith("stream_ad")} == {"stream_ad"}


@pytest.mark.process
@pytest.mark.parametrize("spec", BUILT_IN, ids=lambda spec: spec.name)
def test_a_role_on_the_local_log_loads_neither_torch_nor_kafka(spec: RoleSpec) -> None:
    assert loaded(f"import {spec.module}, stream_ad.io.local.log") == set()


@pytest.mark.process
def test_the_table_of_roles_loads_no_role() -> None:
    program = "import sys, stream_ad.role_table; print(*[name for name in sys.modules if name.startswith('stream_ad')])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    names = set(done.stdout.split())

    assert "stream_ad.role_table" in names
    assert not {name for name in names if name.startswith(("stream_ad.service", "stream_ad.core"))}


@pytest.mark.process
@pytest.mark.parametrize("bundle", ["pump-autoencoder", "pump-dagmm"])
def test_scoring_with_a_network_does_not_load_torch(bundle: str) -> None:
    imports = "from stream_ad import pretrained\nfrom stream_ad.io.bundles import bundles"
    assert "torch" not in loaded(f"{imports}\nbundles.load(pretrained.path({bundle!r}))")
