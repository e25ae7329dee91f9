"""Bundles: a model with everything that scoring needs, as a folder that loads without executing code.

Format version 2, five files::

    manifest.json             description of the model, and the digests of the other files
    weights.safetensors       the detector's arrays
    calibration.safetensors   center, scale float64[c], score float64[m]; with devices in the manifest also
                              device_center and device_scale, float64[k, c]
    probe.safetensors         values float64[k, t, c], raw windows, with score float64[k], expected
    card.json                 the training card

Loading reads each file once, verifies its digest, and scores the probe: a bundle that does not reproduce its own scores
is refused. A model's id is the digest of the manifest's content, and so of all files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from dataclasses import replace as replaced
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

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
from stream_ad.io.bundles.files import digest, pack_arrays, place_folder, read_file, unpack_arrays
from stream_ad.io.bundles.manifest import (
    CALIBRATION,
    CARD,
    FORMAT,
    LIMITS,
    MANIFEST,
    PROBE,
    VERSION,
    WEIGHTS,
    ChannelPart,
    DetectorPart,
    Manifest,
    OverrangePart,
    WindowPart,
    described,
    pack_json,
    read_checked,
    read_json,
    read_manifest,
)

PROBE_RTOL = 1e-4
"""Other processors and libraries differ in the last bits of a float32 sum, a wrong model in the first."""
PROBE_ATOL = 1e-6
"""Share of the probe's largest score; a score near 0 is a difference of large numbers."""
MAX_PROBE_ROWS = 256
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
    least = np.full(len(model.channels), LEAST_REACH, np.float32)
    overrange = model.overrange or Overrange.of(model.calibration.score, least)
    model = replaced(model, overrange=overrange)
    probe = _probe_with_gap(model, probe_rows)
    scored = {"values": probe, "score": Scoring(model).score_values(probe).score}
    files = {
        WEIGHTS: pack_arrays(model.detector.arrays(), "detector"),
        CALIBRATION: pack_arrays(_calibration(model), "calibration"),
        PROBE: pack_arrays(scored, "probe"),
        CARD: pack_json(dict(model.card), "card"),
    }
    try:
        manifest = _manifest(model, overrange, {name: digest(data) for name, data in files.items()})
    except ValidationError as error:
        raise ContractError(f"model: does not fit a manifest: {described(error)}") from error
    files[MANIFEST] = pack_json(manifest.content(), "manifest")
    place_folder(folder, files, replace, load)
    return manifest.model_id


def _manifest(model: Model, overrange: Overrange, digests: Mapping[str, str]) -> Manifest:
    scales = model.scales
    manifest = Manifest(
        format=FORMAT,
        version=VERSION,
        name=model.name,
        model_id="0" * 64,
        channels=tuple(ChannelPart(**asdict(channel)) for channel in model.channels),
        window=WindowPart(**asdict(model.window)),
        min_coverage=model.min_coverage,
        clip=model.normaliser.clip,
        overrange=OverrangePart(score=overrange.score, reach=tuple(overrange.reach.tolist())),
        detector=DetectorPart(kind=model.kind, settings=dict(model.settings)),
        smoothing=model.smoothing,
        ignored=tuple(sorted(model.ignored)),
        limit_floor=model.calibration.floor,
        devices=None if scales is None else tuple(scales.devices),
        digests=dict(digests),
    )
    return manifest.model_copy(update={"model_id": manifest.content_id()})


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
    model, _ = _load(folder)
    return model


def verify(folder: Path) -> list[str]:
    """Check a bundle as `load` does; return one line per check.

    Raises:
        BundleError: as `load`.
    """
    model, probe = _load(folder)
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


def _load(folder: Path) -> tuple[Model, ProbeResult]:
    manifest = read_manifest(folder)
    # Hidden files are allowed: volumes and file managers create some.
    extra = sorted(name.name for name in folder.iterdir() if not name.name.startswith("."))
    extra = [name for name in extra if name not in LIMITS and name != MANIFEST]
    if extra:
        raise BundleFormatError(f"{folder}: not part of a bundle: {', '.join(extra[:10])}")
    files = {name: read_checked(folder, name, manifest) for name in LIMITS}
    names = ["center", "scale", "score"]
    if manifest.devices is not None:
        names += ["device_center", "device_scale"]
    arrays = unpack_arrays(files[CALIBRATION], folder / CALIBRATION, names)
    card = read_json(files[CARD], folder / CARD)
    detector = _load_detector(manifest, unpack_arrays(files[WEIGHTS], folder / WEIGHTS), folder)
    try:
        model = _assemble(manifest, arrays, detector, card)
    except ContractError as error:
        raise BundleFormatError(f"{folder}: {error}") from error
    probe = _probe(model, unpack_arrays(files[PROBE], folder / PROBE, ["values", "score"]), folder / PROBE)
    if not probe.agrees:
        raise BundleProbeError(
            f"{folder}: the model does not reproduce its {probe.rows} probe scores: "
            f"largest relative difference {probe.worst:.3g}, expected at most {PROBE_RTOL:g}"
        )
    return model, probe


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
        calibration=Calibration(score, manifest.limit_floor),
        card=card,
        overrange=Overrange(manifest.overrange.score, np.array(manifest.overrange.reach, np.float32)),
        ignored=manifest.ignored,
        scales=None
        if manifest.devices is None
        else DeviceScales(manifest.devices, arrays["device_center"], arrays["device_scale"]),
    )


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
    values, wanted = probe["values"], probe["score"]
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
