"""Bundles: a model with everything that scoring needs, as a folder that loads without executing code.

Format version 1, five files::

    manifest.json         description of the model, and the digests of the other files
    weights.safetensors   the detector's arrays
    calibration.npz       center float64[c], scale float64[c] (float32 before 0.2.0), score float64[m]; with devices in
                          the manifest also device_center and device_scale, float64[k, c]
    probe.npz             values float64[k, t, c] (float32 before 0.2.0), raw windows, with score float64[k], expected
    card.json             the training card

Loading reads each file once, verifies its digest, and scores the probe: a bundle that does not reproduce its own scores
is refused. A model's id is the digest of the manifest's content, and so of all files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import replace as replaced
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from pydantic import ValidationError
from safetensors import SafetensorError

from stream_ad.core.batches import Arrays, Float64Array, expect
from stream_ad.core.detectors import catalog
from stream_ad.core.detectors.base import Detector
from stream_ad.core.device_scales import DeviceScales
from stream_ad.core.model import Channel, Model, Normaliser, WindowShape
from stream_ad.core.overrange import LEAST_REACH, Overrange
from stream_ad.core.scoring import Scoring
from stream_ad.core.thresholds.base import Calibration
from stream_ad.errors import (
    BundleError,
    BundleFormatError,
    BundleMismatchError,
    BundleProbeError,
    ContractError,
    StreamAdError,
)
from stream_ad.io.bundles.files import FLOATS, digest, pack_npz, place_folder, read_file, unpack_npz
from stream_ad.io.bundles.manifest import (
    CALIBRATION,
    CARD,
    FORMAT,
    LIMITS,
    MANIFEST,
    PROBE,
    VERSION,
    WEIGHTS,
    Manifest,
    OverrangePart,
    described,
    pack_json,
    read_checked,
    read_json,
    read_manifest,
    refuse_repeats,
)

PROBE_RTOL = 1e-4
"""Other processors and libraries differ in the last bits of a float32 sum, a wrong model in the first."""
PROBE_ATOL = 1e-6
"""Share of the probe's largest score; a score near 0 is a difference of large numbers."""
MAX_PROBE_ROWS = 256
MAX_WEIGHTS_HEADER = 1 << 20
"""Limit of the header that lists the arrays (thousands of them); a file of empty arrays would take minutes to read."""
CODE_FLAW = (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError, AttributeError)
"""What a detector's code may raise on unexpected arrays."""


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """Comparison of a loaded model's scores with the stored ones.

    Attributes:
        rows: windows in the probe.
        exact: all scores are equal to the last bit.
        worst: largest relative difference.
        agrees: all scores are within the tolerance.
    """

    rows: int
    exact: bool
    worst: float
    agrees: bool


def save(model: Model, folder: Path, probe_rows: Float64Array, *, replace: bool = False) -> str:
    """Write a bundle; it is loaded and probed before it gets its name.

    Args:
        model: the model; its `model_id` is ignored.
        folder: the bundle's folder, created with its parents.
        probe_rows: float64[k, t, c], raw windows, k >= 1, NaN if missing, not infinite. If none has a gap, a copy of
            the first one with a gap is added.
        replace: replace an existing bundle.

    Returns:
        the model's id.

    Raises:
        ContractError: the probe's shape is wrong, the detector's arrays have a dtype that safetensors does not
            support, or settings or card are not plain JSON.
        BundleError: the target cannot be replaced, or the bundle does not reproduce the model's scores.
        StorageError: writing failed.
    """
    overrange = model.overrange or _overrange(None, model.calibration, len(model.channels))
    model = replaced(model, overrange=overrange)
    probe = _probe_with_gap(model, probe_rows)
    files = {
        WEIGHTS: _pack_weights(model.detector.arrays()),
        CALIBRATION: pack_npz(_calibration(model)),
        PROBE: pack_npz({"values": probe, "score": Scoring(model).score_values(probe).score}),
        CARD: pack_json(dict(model.card), "card"),
    }
    content: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "name": model.name,
        "model_id": "0" * 64,
        "channels": [
            {
                "name": channel.name,
                "unit": channel.unit,
                "fill": channel.fill.value,
                "hold_max_age_ns": channel.hold_max_age_ns,
                "always_moves": bool(channel.always_moves),
                **({"missing": list(channel.missing)} if channel.missing else {}),
                **({"counter": True} if channel.counter else {}),
            }
            for channel in model.channels
        ],
        "window": {
            "period_ns": model.window.period_ns,
            "samples": model.window.samples,
            "stride": model.window.stride,
        },
        "min_coverage": float(model.min_coverage),
        "clip": float(model.normaliser.clip),
        "overrange": {"score": float(overrange.score), "reach": overrange.reach.tolist()},
        "detector": {"kind": model.kind, "settings": dict(model.settings)},
        "smoothing": float(model.smoothing),
        **({"devices": list(model.scales.devices)} if model.scales is not None else {}),
        **({"limit_floor": float(model.calibration.floor)} if model.calibration.floor > 0 else {}),
        "digests": {name: digest(data) for name, data in files.items()},
    }
    if model.ignored:
        content["ignored"] = sorted(model.ignored)
    try:
        manifest = Manifest.model_validate_json(pack_json(content, "manifest"))
    except ValidationError as error:
        raise ContractError(f"model: does not fit a manifest: {described(error)}") from error
    content["model_id"] = manifest.content_id()
    files[MANIFEST] = pack_json(content, "manifest")
    place_folder(folder, files, replace, load)
    return str(content["model_id"])


def load(folder: Path) -> Model:
    """Read a bundle and score its probe; executes no code from it.

    Args:
        folder: the bundle.

    Raises:
        BundleFormatError: a file is missing, too large or malformed, the folder contains other files, or the format
            version or detector is unknown.
        BundleDigestError: a file or the manifest differs from its digest.
        BundleProbeError: the model does not reproduce its stored scores.
    """
    model, probe, is_dated = _load(folder)
    _expect_agreement(model, probe, folder, is_dated)
    return model


def verify(folder: Path) -> list[str]:
    """Check a bundle as `load` does; return one line per check.

    Raises:
        BundleError: as `load`.
    """
    model, probe, is_dated = _load(folder)
    _expect_agreement(model, probe, folder, is_dated)
    lines = [
        f"manifest: format version {VERSION}, {model.name}, model id {model.model_id}",
        f"detector: {model.kind}, {len(model.channels)} channels, window of {model.window.samples} samples",
    ]
    for name, limit in LIMITS.items():
        lines.append(f"{name}: digest matches the manifest, {len(read_file(folder, name, limit)):,} bytes")
    how = "bit for bit" if probe.exact else f"within {PROBE_RTOL:g} (largest relative difference {probe.worst:.2g})"
    lines.append(f"probe: {probe.rows} windows, scores reproduced {how}")
    return lines


def check_fits(model: Model, channels: Mapping[str, str]) -> None:
    """Check a model against the channels that a stream's devices send.

    Args:
        model: the loaded bundle.
        channels: the stream's channels with their units, "" if unknown. Additional channels are allowed.

    Raises:
        BundleMismatchError: a channel is missing, or both sides state a unit and they differ.
    """
    problems = []
    for channel in model.channels:
        unit = channels.get(channel.name)
        if unit is None:
            problems.append(f"channel {channel.name!r} is missing")
        elif unit and channel.unit and unit != channel.unit:
            problems.append(f"channel {channel.name!r} is in {unit!r}, expected {channel.unit!r}")
    if problems:
        shown = "; ".join(problems[:10]) + (f"; and {len(problems) - 10} more" if len(problems) > 10 else "")
        raise BundleMismatchError(f"bundle {model.name!r} does not match the stream: {shown}")


def _load(folder: Path) -> tuple[Model, ProbeResult, bool]:
    manifest = read_manifest(folder)
    # Hidden files are allowed: volumes and file managers create some.
    extra = sorted(name.name for name in folder.iterdir() if not name.name.startswith("."))
    extra = [name for name in extra if name not in LIMITS and name != MANIFEST]
    if extra:
        raise BundleFormatError(f"{folder}: not part of a bundle: {', '.join(extra[:10])}")
    files = {name: read_checked(folder, name, manifest) for name in LIMITS}
    names = {"center": FLOATS, "scale": FLOATS, "score": "<f8"}
    if manifest.devices is not None:
        names |= {"device_center": "<f8", "device_scale": "<f8"}
    arrays = unpack_npz(files[CALIBRATION], names, f"{folder / CALIBRATION}")
    card = read_json(files[CARD], folder / CARD)
    detector = _load_detector(manifest, _unpack_weights(files[WEIGHTS], folder / WEIGHTS), folder)
    try:
        model = _assemble(manifest, arrays, detector, card)
    except ContractError as error:
        raise BundleFormatError(f"{folder}: {error}") from error
    probe = unpack_npz(files[PROBE], {"values": FLOATS, "score": "<f8"}, f"{folder / PROBE}")
    return model, _probe(model, probe, folder / PROBE), manifest.overrange is None


def _assemble(manifest: Manifest, arrays: Arrays, detector: Detector, card: dict[str, Any]) -> Model:
    score: Float64Array = arrays["score"]
    if score.ndim != 1 or not len(score) or not np.isfinite(score).all():
        raise ContractError(f"calibration: expected finite float64[m], m >= 1, found shape {score.shape}")
    window = manifest.window
    return Model(
        name=manifest.name,
        model_id=manifest.model_id,
        channels=tuple(Channel(**dict(channel)) for channel in manifest.channels),
        window=WindowShape(window.period_ns, window.samples, window.stride),
        min_coverage=manifest.min_coverage,
        normaliser=Normaliser(arrays["center"], arrays["scale"], manifest.clip),
        detector=detector,
        kind=manifest.detector.kind,
        settings=manifest.detector.settings,
        smoothing=manifest.smoothing,
        calibration=Calibration(score, manifest.limit_floor or 0.0),
        card=card,
        overrange=_overrange(manifest.overrange, Calibration(score), len(manifest.channels)),
        ignored=manifest.ignored,
        scales=None
        if manifest.devices is None
        else DeviceScales(manifest.devices, arrays["device_center"], arrays["device_scale"]),
    )


def _overrange(part: OverrangePart | None, calibration: Calibration, channels: int) -> Overrange:
    """Return the stored overrange; for a bundle without one, derive it from the calibration alone."""
    if part is None:
        return Overrange.of(calibration.score, np.full(channels, LEAST_REACH, np.float32))
    return Overrange(part.score, np.array(part.reach, np.float32))


def _calibration(model: Model) -> Arrays:
    arrays = {"center": model.normaliser.center, "scale": model.normaliser.scale, "score": model.calibration.score}
    if model.scales is not None:
        arrays |= {"device_center": model.scales.center, "device_scale": model.scales.scale}
    return arrays


def _load_detector(manifest: Manifest, arrays: Arrays, folder: Path) -> Detector:
    kind = manifest.detector.kind
    try:
        return catalog.get(kind).load(manifest.detector.settings, arrays)
    except BundleError:
        raise
    except (StreamAdError, *CODE_FLAW) as error:
        raise BundleFormatError(f"{folder}: detector {kind!r} cannot be loaded: {error}") from error


def _probe(model: Model, probe: Arrays, path: Path) -> ProbeResult:
    values, wanted = probe["values"].astype(np.float64, copy=False), probe["score"]
    shape = (model.window.samples, len(model.channels))
    if values.ndim != 3 or values.shape[1:] != shape or wanted.shape != values.shape[:1] or not len(values):
        raise BundleFormatError(f"{path}: expected windows of shape {shape} with a score each, found {values.shape}")
    if not np.isfinite(wanted).all() or np.isinf(values).any():
        raise BundleFormatError(f"{path}: expected finite scores and no infinite values")
    try:
        with np.errstate(all="ignore"):
            found = Scoring(model).score_values(values).score
    except (StreamAdError, *CODE_FLAW) as error:
        raise BundleProbeError(f"{path}: the model cannot score its probe: {error}") from error
    scale = float(np.abs(wanted).max())
    difference = np.abs(found - wanted)
    agrees = bool((difference <= PROBE_RTOL * np.abs(wanted) + PROBE_ATOL * scale).all())
    worst = float((difference / np.maximum(np.abs(wanted), PROBE_ATOL * scale + np.finfo(float).tiny)).max())
    return ProbeResult(len(wanted), bool(np.array_equal(found, wanted)), worst, agrees)


def _expect_agreement(model: Model, probe: ProbeResult, folder: Path, is_dated: bool) -> None:
    if probe.agrees:
        return
    if is_dated:
        raise BundleProbeError(
            f"{folder}: created before 0.2.0, which scores values far outside the training range differently; recreate "
            f"it from its recording: stream-ad train RECORDING --detector {model.kind} --out {folder} --replace"
        )
    raise BundleProbeError(
        f"{folder}: the model does not reproduce its {probe.rows} probe scores: "
        f"largest relative difference {probe.worst:.3g}, expected at most {PROBE_RTOL:g}"
    )


def _probe_with_gap(model: Model, rows: Float64Array) -> Float64Array:
    shape = (model.window.samples, len(model.channels))
    expect("probe", rows, np.float64, (None, *shape))
    if not 1 <= len(rows) <= MAX_PROBE_ROWS or np.isinf(rows).any():
        raise ContractError(f"probe: expected 1 to {MAX_PROBE_ROWS} windows without infinite values, found {len(rows)}")
    if np.isnan(rows).any():
        return rows
    gap = rows[:1].copy()
    gap[:, : (shape[0] + 3) // 4, 0] = np.nan
    return np.concatenate([rows, gap])


def _pack_weights(arrays: Arrays) -> bytes:
    try:
        # Not ascontiguousarray, which would turn a scalar into a vector.
        return safetensors.numpy.save({name: np.asarray(array, order="C") for name, array in arrays.items()})
    except (SafetensorError, KeyError, ValueError) as error:
        raise ContractError(f"detector: its arrays cannot be stored as safetensors: {error}") from error


def _unpack_weights(data: bytes, path: Path) -> Arrays:
    header = int.from_bytes(data[:8], "little")
    if header > MAX_WEIGHTS_HEADER:
        raise BundleFormatError(
            f"{path}: not a readable safetensors file: expected a header of at most {MAX_WEIGHTS_HEADER} bytes, found "
            f"{header}"
        )
    try:
        # Copied, since loaded arrays may be read-only views of the file's bytes.
        arrays = {name: array.copy() for name, array in safetensors.numpy.load(data).items()}
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise BundleFormatError(f"{path}: not a readable safetensors file: {error}") from error
    refuse_repeats(data[8 : 8 + header], path)
    return arrays
