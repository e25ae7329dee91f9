from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from stream_ad.core.detectors import catalog
from stream_ad.errors import ConfigError, ContractError
from tests.contracts.test_detectors import FOREIGN, install


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_our_detectors_are_named() -> None:
    assert {"autoencoder", "dagmm", "isolation_forest", "mahalanobis", "pca"} <= set(catalog.kinds())
    assert list(catalog.kinds()) == sorted(catalog.kinds())


def test_each_kind_knows_its_name() -> None:
    assert all(catalog.get(name).name == name for name in catalog.OWN)


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"autoencoder, dagmm, .*found \"forest\""):
        catalog.get("forest")


@pytest.mark.process
def test_looking_at_all_kinds_imports_no_heavy_package() -> None:
    code = """
        import sys
        from stream_ad.core.detectors import catalog
        [catalog.get(name).defaults() for name in catalog.OWN]
        print([name for name in ("torch", "sklearn", "scipy") if name in sys.modules])
    """
    assert run_python("\n".join(line.strip() for line in code.splitlines())) == "[]"


@pytest.mark.process
def test_scoring_with_networks_does_not_import_torch() -> None:
    code = """
        import sys
        import numpy as np
        from stream_ad.core.detectors import autoencoder, dagmm, networks
        rng = np.random.default_rng(0)
        form = np.array([8, 2])
        make = lambda *sizes: networks.initial(sizes, rng)
        one = autoencoder.KIND.load({"hidden": [4]}, {"form": form, **make(16, 4, 16).arrays("network")})
        mixture = {"mixture.weight": np.ones(1), "mixture.mean": np.zeros((1, 3)), "mixture.whiten": np.eye(3)[None]}
        layers = {**make(16, 4, 2).arrays("encoder"), **make(2, 4, 16).arrays("decoder")}
        two = dagmm.KIND.load({"hidden": [4], "code": 2}, {"form": form, **layers, **mixture})
        values = rng.standard_normal((4, 8, 2), dtype=np.float32)
        assert one.score(values).score.shape == two.score(values).score.shape == (4,)
        print("torch" in sys.modules)
    """
    assert run_python("\n".join(line.strip() for line in code.splitlines())) == "False"


def test_a_foreign_detector_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "foreign_found", {"absolute": "foreign_found:KIND"}, FOREIGN)
    monkeypatch.syspath_prepend(tmp_path)
    assert "absolute" in catalog.kinds()
    assert len(catalog.kinds()) == len(catalog.OWN) + 1
    assert "foreign_found" not in sys.modules
    assert catalog.get("absolute").name == "absolute"


BROKEN = {
    "no_module": ("no_such_package_here:KIND", "cannot be loaded"),
    "no_object": ("foreign_broken:NOTHING", "cannot be loaded"),
    "no_kind": ("foreign_broken:NUMBER", "lacks defaults, fit, load"),
    "a_class": ("foreign_broken:Kind", "is a class"),
    "renamed": ("foreign_broken:KIND", "calls itself 'absolute'"),
    "pca": ("foreign_broken:KIND", "registered more than once: stream_ad.core.detectors.pca:KIND"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_foreign_detector_hurts_only_who_asks_for_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    value, expected = BROKEN[name]
    install(tmp_path, "foreign_broken", {name: value}, f"{FOREIGN}\nNUMBER = 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert name in catalog.kinds()
    assert catalog.get("mahalanobis").name == "mahalanobis"
    with pytest.raises(ContractError, match=expected) as caught:
        catalog.get(name)
    assert "foreign-broken" in str(caught.value).replace("_", "-")


def test_a_module_that_fails_at_import_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "foreign_failing", {"failing": "foreign_failing:KIND"}, "raise RuntimeError('no licence')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ContractError, match=r"foreign_failing:KIND .*no licence"):
        catalog.get("failing")


def test_two_packages_may_not_share_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "foreign_one", {"absolute": "foreign_one:KIND"}, FOREIGN)
    install(tmp_path, "foreign_two", {"absolute": "foreign_two:KIND"}, FOREIGN)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ContractError, match="registered more than once"):
        catalog.get("absolute")


@pytest.mark.process
def test_training_does_not_import_torchs_compiler() -> None:
    code = """
        import sys
        import numpy as np
        from stream_ad.core.detectors import catalog
        from stream_ad.core.detectors.base import no_progress
        values = np.random.default_rng(0).standard_normal((64, 4, 2), dtype=np.float32)
        catalog.get("autoencoder").fit(values, {"hidden": [4], "epochs": 1}, 1, no_progress)
        catalog.get("dagmm").fit(values, {"hidden": [4], "steps": 2}, 1, no_progress)
        print([name for name in ("torch._dynamo", "torch._inductor") if name in sys.modules])
    """
    assert run_python("\n".join(line.strip() for line in code.splitlines())) == "[]"
