"""Bundles: what is saved is what is loaded, and whatever else lies there is refused without being run."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_ad.core.batches import Arrays, Float32Array, Float64Array
from stream_ad.core.detectors import catalog
from stream_ad.core.detectors.base import no_progress
from stream_ad.core.device_scales import DeviceScales
from stream_ad.core.model import Channel, Fill, Model, Normaliser, WindowShape
from stream_ad.core.overrange import Overrange
from stream_ad.core.scoring import Scoring
from stream_ad.core.thresholds.base import Calibration
from stream_ad.errors import (
    BundleDigestError,
    BundleError,
    BundleFormatError,
    BundleMismatchError,
    BundleProbeError,
    ContractError,
    StorageError,
    StreamAdError,
)
from stream_ad.io.bundles import bundles
from stream_ad.io.bundles import files as bundle_files
from stream_ad.io.bundles import manifest as bundle_manifest

SAMPLES, CHANNELS = 8, 3
FILES = ("manifest.json", "weights.safetensors", "calibration.safetensors", "probe.safetensors", "card.json")


def windows(n: int, seed: int = 1) -> Float64Array:
    """Return raw windows with a common wave."""
    draw = np.random.default_rng(seed)
    wave = np.sin(np.arange(SAMPLES) + draw.uniform(0, 6, (n, 1)))[:, :, None]
    noise = draw.normal(0, 0.1, (n, SAMPLES, CHANNELS))
    raw: Float64Array = (wave + noise) * [1.0, 20.0, 300.0] + [0.0, 50.0, 1000.0]
    return raw


def fit() -> Model:
    """Return a small fitted model with every field in use."""
    raw = windows(60)
    normaliser = Normaliser(
        raw.mean(axis=(0, 1)),
        raw.std(axis=(0, 1)),
        8.0,
    )
    kind = catalog.get("pca")
    options = dict(kind.defaults())
    values = ((raw - normaliser.center) / normaliser.scale).astype(np.float32)
    return Model(
        name="pumps",
        model_id="",
        channels=(
            Channel("current", "A", Fill.HOLD, 5_000_000_000, True),
            Channel("pressure", "bar"),
            Channel("°C motor"),
        ),
        window=WindowShape(1_000_000_000, SAMPLES, 2),
        min_coverage=0.75,
        normaliser=normaliser,
        detector=kind.fit(values, options, 7, no_progress),
        kind="pca",
        settings=options,
        smoothing=0.3,
        calibration=Calibration(np.linspace(0.1, 2.0, 250)),
        card={"rows": 480, "seed": 7, "range": {"current": [-1.5, 1.5]}, "note": "Grüße"},
    )


MODEL = fit()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a sound bundle."""
    bundles.save(MODEL, tmp_path / "b", windows(5, seed=2))
    return tmp_path / "b"


def test_what_is_loaded_is_what_was_saved(tmp_path: Path) -> None:
    model_id = bundles.save(MODEL, tmp_path / "deep" / "b", windows(5, seed=2))

    loaded = bundles.load(tmp_path / "deep" / "b")

    assert loaded.model_id == model_id
    for name in ("name", "channels", "window", "min_coverage", "kind", "settings", "smoothing", "card"):
        assert getattr(loaded, name) == getattr(MODEL, name)
    assert loaded.normaliser.clip == 8.0
    np.testing.assert_array_equal(loaded.normaliser.center, MODEL.normaliser.center)
    np.testing.assert_array_equal(loaded.normaliser.scale, MODEL.normaliser.scale)
    np.testing.assert_array_equal(loaded.calibration.score, MODEL.calibration.score)
    new = windows(300, seed=3)
    found, wanted = Scoring(loaded).score_values(new), Scoring(MODEL).score_values(new)
    np.testing.assert_array_equal(found.score, wanted.score)
    assert sorted(os.listdir(tmp_path / "deep")) == ["b"]


def test_the_same_model_gives_the_same_bytes_and_another_another_id(tmp_path: Path) -> None:
    first = bundles.save(MODEL, tmp_path / "a", windows(5))
    second = bundles.save(replace(MODEL, model_id="f" * 64), tmp_path / "b", windows(5))
    third = bundles.save(replace(MODEL, smoothing=0.31), tmp_path / "c", windows(5))

    assert first == second != third
    for name in FILES:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_other_programs_read_the_arrays(folder: Path) -> None:
    probe = safetensors.numpy.load_file(folder / "probe.safetensors")
    assert probe["values"].shape == (6, SAMPLES, CHANNELS)
    assert np.isnan(probe["values"]).any()
    assert probe["score"].dtype == np.float64
    arrays = safetensors.numpy.load_file(folder / "calibration.safetensors")
    np.testing.assert_array_equal(arrays["center"], MODEL.normaliser.center)
    np.testing.assert_array_equal(arrays["score"], MODEL.calibration.score)


def test_verify_says_what_it_found(folder: Path) -> None:
    report = bundles.verify(folder)

    assert report[0].startswith("manifest: format version 2, pumps, model id ")
    assert report[-1] == "probe: 6 windows, scores reproduced bit for bit"
    assert len(report) == 7


def test_a_probe_may_differ_in_the_last_bits(folder: Path) -> None:
    nudge(folder, 1 + 5e-5)
    assert "within 0.0001 (largest relative difference 5e-05)" in bundles.verify(folder)[-1]

    nudge(folder, 1 + 5e-4)
    with pytest.raises(BundleProbeError, match="does not reproduce its 6 probe scores"):
        bundles.load(folder)
    with pytest.raises(BundleProbeError):
        bundles.verify(folder)


# Writing


def test_scales_of_devices_and_the_floor_of_limits_are_kept(tmp_path: Path) -> None:
    center, scale = windows(2, seed=3)[0, :2], np.abs(windows(2, seed=4)[0, :2]) + 1.0
    scales = DeviceScales(("pump 1", "pump/2"), center, scale)
    model = replace(MODEL, scales=scales, calibration=Calibration(MODEL.calibration.score, 0.25))
    model_id = bundles.save(model, tmp_path / "b", windows(5, seed=2))
    loaded = bundles.load(tmp_path / "b")
    assert loaded.model_id == model_id
    assert loaded.calibration.floor == 0.25
    assert loaded.scales is not None
    assert loaded.scales.devices == scales.devices
    np.testing.assert_array_equal(loaded.scales.center, center)
    np.testing.assert_array_equal(loaded.scales.scale, scale)
    assert bundles.save(MODEL, tmp_path / "c", windows(5, seed=2)) != model_id
    assert bundles.load(tmp_path / "c").scales is None


def test_a_bundle_is_replaced_only_on_purpose(folder: Path) -> None:
    with pytest.raises(BundleError, match="exists already"):
        bundles.save(MODEL, folder, windows(5))
    model_id = bundles.save(replace(MODEL, name="new"), folder, windows(5), replace=True)

    assert bundles.load(folder).model_id == model_id
    assert os.listdir(folder.parent) == ["b"]


def test_other_folders_and_files_are_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")

    for name in ("home", "file"):
        with pytest.raises(BundleError):
            bundles.save(MODEL, tmp_path / name, windows(5), replace=True)
    assert sorted(os.listdir(tmp_path)) == ["file", "home"]


class _Forgetful:
    """A detector that does not store what it knows."""

    def score(self, values: Float32Array) -> Any:
        return MODEL.detector.score(values)

    def arrays(self) -> Arrays:
        kept = MODEL.detector.arrays()
        return kept | {"mean": np.ones_like(kept["mean"])}


class _Hoarder(_Forgetful):
    """A detector with an array that safetensors cannot hold."""

    def arrays(self) -> Arrays:
        return {"names": np.array(["a", "b"])}


def test_a_model_that_does_not_survive_saving_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(BundleProbeError):
        bundles.save(replace(MODEL, detector=_Forgetful()), tmp_path / "b", windows(5))
    with pytest.raises(ContractError, match="safetensors"):
        bundles.save(replace(MODEL, detector=_Hoarder()), tmp_path / "b", windows(5))
    with pytest.raises(ContractError, match="card: expected plain JSON"):
        bundles.save(replace(MODEL, card={"when": np.float32(1)}), tmp_path / "b", windows(5))
    with pytest.raises(ContractError, match="manifest"):
        bundles.save(replace(MODEL, settings={"x": float("nan")}), tmp_path / "b", windows(5))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "probe",
    [
        windows(5)[:, :4],
        windows(0),
        windows(300),
        windows(5).astype(np.float16),
        np.full((2, SAMPLES, CHANNELS), np.inf),
    ],
)
def test_a_probe_of_another_shape_is_refused(probe: Float64Array, tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="probe: expected"):
        bundles.save(MODEL, tmp_path / "b", np.ascontiguousarray(probe))


def test_a_disk_that_refuses_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        bundles.save(MODEL, tmp_path / "file" / "b", windows(5))


# Fitting a stream


def test_a_bundle_fits_a_stream_with_its_channels() -> None:
    bundles.check_fits(MODEL, {"current": "A", "pressure": "", "°C motor": "°C", "more": "V"})


def test_missing_channels_and_other_units_are_all_named() -> None:
    with pytest.raises(BundleMismatchError) as caught:
        bundles.check_fits(MODEL, {"current": "mA", "pressure": "bar"})

    assert "'current' is in 'mA', expected 'A'" in str(caught.value)
    assert "'°C motor' is missing" in str(caught.value)
    assert "'pressure'" not in str(caught.value)


# Refusals. `seal` recomputes digests and id: the content itself must be refused.


def seal(folder: Path, change: Callable[[dict[str, Any]], object] = lambda manifest: None) -> None:
    """Change the manifest and make its digests and id right again, as an attacker would."""
    content = json.loads((folder / "manifest.json").read_text())
    content["digests"] = {
        name: bundle_files.digest((folder / name).read_bytes()) for name in FILES[1:] if (folder / name).is_file()
    }
    change(content)
    content["model_id"] = "0" * 64
    with suppress(ValueError):  # malformed on purpose
        content["model_id"] = bundle_manifest.Manifest.model_validate_json(json.dumps(content)).content_id()
    (folder / "manifest.json").write_text(json.dumps(content))


def nudge(folder: Path, factor: float) -> None:
    """Store expected probe scores that are wrong by a factor."""
    values = safetensors.numpy.load_file(folder / "probe.safetensors")["values"]
    score = Scoring(MODEL).score_values(values).score * factor
    (folder / "probe.safetensors").write_bytes(safetensors.numpy.save({"values": values, "score": score}))
    seal(folder)


def test_what_values_far_outside_score_is_kept(tmp_path: Path) -> None:
    overrange = Overrange(0.75, np.array([10.0, 31.5, 12.25], np.float32))
    bundles.save(replace(MODEL, overrange=overrange), tmp_path / "b", windows(5, seed=2))
    loaded = bundles.load(tmp_path / "b").overrange
    assert loaded is not None
    assert loaded.score == 0.75
    assert loaded.reach.tolist() == [10.0, 31.5, 12.25]


def put(name: str, data: bytes) -> Callable[[Path], None]:
    """Return a change of one file that leaves the digests right."""

    def change(folder: Path) -> None:
        (folder / name).write_bytes(data)
        seal(folder)

    return change


def said(**fields: Any) -> Callable[[Path], None]:
    """Return a change of the manifest that leaves the digests right."""
    return lambda folder: seal(folder, lambda manifest: manifest.update(fields))


class _Bomb:
    """Leaves a mark when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("bundle-ran-code"),)


CENTER, SCALE = MODEL.normaliser.center, MODEL.normaliser.scale
SCORE = MODEL.calibration.score
WEIGHTS = MODEL.detector.arrays()


def calibration(**arrays: Float64Array) -> Callable[[Path], None]:
    """Return a change of arrays of the calibration that leaves the digests right."""
    whole = {"center": CENTER, "scale": SCALE, "score": SCORE} | arrays
    return put("calibration.safetensors", safetensors.numpy.save(whole))


def probe(values: Float64Array, score: Float64Array) -> Callable[[Path], None]:
    """Return a change of the probe that leaves the digests right."""
    return put("probe.safetensors", safetensors.numpy.save({"values": values, "score": score}))


def _lying() -> bytes:
    """Return arrays whose header promises more than is there."""
    true = safetensors.numpy.save({"center": CENTER, "scale": SCALE, "score": SCORE})
    return true.replace(b'"shape":[250]', b'"shape":[999]')


HOSTILE: dict[str, tuple[Callable[[Path], object], type[BundleError], str]] = {
    "no manifest": (lambda f: (f / "manifest.json").unlink(), BundleFormatError, "manifest.json: missing"),
    "no weights": (lambda f: (f / "weights.safetensors").unlink(), BundleFormatError, "weights.safetensors: missing"),
    "no probe": (lambda f: (f / "probe.safetensors").unlink(), BundleFormatError, "probe.safetensors: missing"),
    "changed weights": (
        lambda f: (f / "weights.safetensors").write_bytes(b"x" + (f / "weights.safetensors").read_bytes()),
        BundleDigestError,
        "weights.safetensors: expected the digest",
    ),
    "changed card": (lambda f: (f / "card.json").write_text("{}"), BundleDigestError, "card.json"),
    "changed manifest": (
        lambda f: (f / "manifest.json").write_text((f / "manifest.json").read_text().replace('"pumps"', '"others"')),
        BundleDigestError,
        "expected the model id as digest",
    ),
    "other format": (said(format="zip"), BundleFormatError, "expected format 'stream_ad.bundle', found 'zip'"),
    "other version": (said(version=3, news=1), BundleFormatError, "expected format version 2, found 3"),
    "older version": (said(version=1), BundleFormatError, "found 1; recreate the bundle .*: stream-ad train"),
    "text version": (said(version="2"), BundleFormatError, "format version"),
    "unknown key": (said(run="rm"), BundleFormatError, "run: Extra inputs"),
    "unknown detector": (
        said(detector={"kind": "oracle", "settings": {}}),
        BundleFormatError,
        "detector 'oracle' cannot be loaded",
    ),
    "module as detector": (
        said(detector={"kind": "os:system", "settings": {}}),
        BundleFormatError,
        "detector 'os:system'",
    ),
    "unknown setting": (
        said(detector={"kind": "pca", "settings": {"run": 1}}),
        BundleFormatError,
        "detector 'pca' cannot be loaded",
    ),
    "reach of two channels": (
        said(overrange={"score": 1.0, "reach": [10.0, 10.0]}),
        BundleFormatError,
        "a reach for each of 3 channels",
    ),
    "reach of nought": (said(overrange={"score": 1.0, "reach": [10.0, 0.0, 10.0]}), BundleFormatError, "overrange"),
    "no far score": (said(overrange={"score": 0.0, "reach": [10.0, 10.0, 10.0]}), BundleFormatError, "overrange"),
    "clip as text": (said(clip="10"), BundleFormatError, "clip: "),
    "no smoothing": (said(smoothing=0.0), BundleFormatError, "smoothing: "),
    "no period": (said(window={"period_ns": 0, "samples": 8, "stride": 2}), BundleFormatError, "window.period_ns"),
    "huge window": (
        said(window={"period_ns": 1, "samples": 999_999, "stride": 1}),
        BundleFormatError,
        "at most 1,000,000 cells",
    ),
    "other window": (
        said(window={"period_ns": 1, "samples": 9, "stride": 1}),
        BundleFormatError,
        r"windows of shape \(9, 3\)",
    ),
    "unsorted channels": (
        lambda f: seal(f, lambda manifest: manifest["channels"].reverse()),
        BundleFormatError,
        "unique names in sorted order",
    ),
    "fewer channels": (lambda f: seal(f, lambda manifest: manifest["channels"].pop()), BundleFormatError, "channels"),
    "path in the digests": (
        lambda f: seal(f, lambda manifest: manifest["digests"].update({"../../etc/passwd": "0" * 64})),
        BundleFormatError,
        r"expected the files .*found \['../../etc/passwd'",
    ),
    "digest that is none": (
        lambda f: seal(f, lambda manifest: manifest["digests"].update({"card.json": "x"})),
        BundleFormatError,
        "digests.card.json",
    ),
    "manifest no JSON": (lambda f: (f / "manifest.json").write_text("{'a'"), BundleFormatError, "not JSON"),
    "manifest a list": (lambda f: (f / "manifest.json").write_text("[]"), BundleFormatError, "JSON object, found list"),
    "manifest not text": (lambda f: (f / "manifest.json").write_bytes(b"\xff\x00"), BundleFormatError, "not JSON"),
    "manifest nested": (
        lambda f: (f / "manifest.json").write_text("[" * 100_000),
        BundleFormatError,
        "not JSON: recursion",
    ),
    "manifest with NaN": (
        lambda f: (f / "manifest.json").write_text((f / "manifest.json").read_text().replace("8.0", "NaN")),
        BundleFormatError,
        "not JSON",
    ),
    "oversized manifest": (
        lambda f: (f / "manifest.json").write_bytes(b" " * (17 << 20)),
        BundleFormatError,
        "larger than the limit of 16 MiB",
    ),
    "card a list": (put("card.json", b"[]"), BundleFormatError, "card.json: expected a JSON object"),
    "extra pickle": (
        lambda f: (f / "model.pkl").write_bytes(pickle.dumps(_Bomb())),
        BundleFormatError,
        "not part of a bundle: model.pkl",
    ),
    "pickle for calibration": (
        put("calibration.safetensors", pickle.dumps(_Bomb())),
        BundleFormatError,
        "calibration.safetensors: not a readable safetensors",
    ),
    "pickle for probe": (
        put("probe.safetensors", pickle.dumps(_Bomb())),
        BundleFormatError,
        "probe.safetensors: not a readable safetensors",
    ),
    "pickle for weights": (
        put("weights.safetensors", pickle.dumps(_Bomb())),
        BundleFormatError,
        "not a readable safetensors",
    ),
    "array too many": (calibration(more=SCORE), BundleFormatError, "expected the float64 arrays"),
    "array with a path": (
        put("probe.safetensors", safetensors.numpy.save({"../../values": SCORE})),
        BundleFormatError,
        "expected the float64 arrays",
    ),
    "lying shape": (put("calibration.safetensors", _lying()), BundleFormatError, "not a readable safetensors"),
    "other dtype": (calibration(center=CENTER.astype(np.float16)), BundleFormatError, "expected the float64 arrays"),
    "zero scale": (calibration(scale=SCALE * 0), BundleFormatError, "scale finite and > 0"),
    "no calibration": (calibration(score=SCORE[:0]), BundleFormatError, "calibration: expected finite float64"),
    "no weights inside": (
        put("weights.safetensors", safetensors.numpy.save({})),
        BundleFormatError,
        "detector",
    ),
    "weights of another shape": (
        put("weights.safetensors", safetensors.numpy.save(WEIGHTS | {"mean": np.zeros(3, np.float32)})),
        BundleFormatError,
        "detector",
    ),
    "weights that are NaN": (
        put("weights.safetensors", safetensors.numpy.save(WEIGHTS | {"mean": WEIGHTS["mean"] * np.float32("nan")})),
        BundleError,
        "detector|probe",
    ),
    "huge header": (put("weights.safetensors", b"\xff" * 8 + b"{}"), BundleFormatError, "not a readable safetensors"),
    "swapped weights": (
        put("weights.safetensors", safetensors.numpy.save(WEIGHTS | {"mean": WEIGHTS["mean"] + np.float32(1)})),
        BundleProbeError,
        "does not reproduce",
    ),
    "empty probe": (probe(windows(0), SCORE[:0]), BundleFormatError, "probe.safetensors: expected windows"),
    "infinite probe": (probe(windows(1) * np.inf, SCORE[:1]), BundleFormatError, "no infinite values"),
    "scores that are NaN": (probe(windows(1), SCORE[:1] * np.nan), BundleFormatError, "expected finite scores"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_is_no_sound_bundle_is_refused(
    case: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    change, error, message = HOSTILE[case]
    change(folder)

    with pytest.raises(error, match=message):
        bundles.load(folder)
    assert not (tmp_path / "bundle-ran-code").exists()


def test_sealing_alone_changes_nothing(folder: Path) -> None:
    before = bundles.load(folder).model_id
    seal(folder)
    assert bundles.load(folder).model_id == before


def test_no_folder_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleFormatError, match="expected a bundle's folder, found none"):
        bundles.load(tmp_path / "none")


def test_links_must_stay_in_the_folder(folder: Path, tmp_path: Path) -> None:
    card = folder / "card.json"
    (folder / ".data").mkdir()
    card.rename(folder / ".data" / "card.json")
    card.symlink_to(".data/card.json")
    bundles.load(folder)  # as Kubernetes mounts files

    card.unlink()
    (folder / ".data" / "card.json").rename(tmp_path / "card.json")
    card.symlink_to(tmp_path / "card.json")
    with pytest.raises(BundleFormatError, match="leads out of the bundle's folder"):
        bundles.load(folder)

    card.unlink()
    card.symlink_to("card.json")
    with pytest.raises(BundleFormatError, match="cannot be read"):
        bundles.load(folder)


def test_pipes_and_folders_are_no_files(folder: Path) -> None:
    (folder / "card.json").unlink()
    os.mkfifo(folder / "card.json")
    with pytest.raises(BundleFormatError, match="expected a regular file"):
        bundles.load(folder)
    (folder / "card.json").unlink()
    (folder / "card.json").mkdir()
    with pytest.raises(BundleFormatError, match="expected a regular file"):
        bundles.load(folder)


PACKED = safetensors.numpy.save({"a": windows(2), "b": SCORE})


@given(
    st.lists(st.tuples(st.integers(0, len(PACKED) - 1), st.integers(0, 255)), max_size=6), st.integers(0, len(PACKED))
)
@settings(max_examples=300)
def test_damaged_arrays_are_read_or_refused(changes: list[tuple[int, int]], length: int) -> None:
    data = bytearray(PACKED)
    for place, byte in changes:
        data[place] = byte
    for candidate in (bytes(data), bytes(data[:length])):
        try:
            arrays = bundle_files.unpack_arrays(candidate, Path("x"), ["a", "b"])
        except StreamAdError:
            continue
        assert {name: array.dtype for name, array in arrays.items()} == {"a": np.float64, "b": np.float64}
