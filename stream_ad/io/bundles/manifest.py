"""The manifest of a bundle: its content, and the files whose digests it lists."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator
from pydantic_core import from_json

from stream_ad.core.model import Fill
from stream_ad.errors import BundleDigestError, BundleFormatError, ContractError
from stream_ad.io.bundles.files import MIB, digest, read_file, refuse_repeats

FORMAT: Literal["stream_ad.bundle"] = "stream_ad.bundle"
VERSION: Literal[2] = 2
MANIFEST = "manifest.json"
WEIGHTS = "weights.safetensors"
CALIBRATION = "calibration.safetensors"
PROBE = "probe.safetensors"
CARD = "card.json"
LIMITS = {WEIGHTS: 1024 * MIB, CALIBRATION: 64 * MIB, PROBE: 256 * MIB, CARD: 16 * MIB}
"""Maximum size of each file, bytes; the manifest's is `MANIFEST_LIMIT`."""
MANIFEST_LIMIT = 16 * MIB
MAX_CELLS = 1_000_000
"""Maximum window size, samples times channels: a chunk of 256 takes 1 GB."""

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Text = Annotated[str, Field(max_length=500)]
Nanoseconds = Annotated[int, Field(ge=0, lt=1 << 62)]


class Part(BaseModel):
    """A part of the manifest: frozen, with strict types and no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class ChannelPart(Part):
    """A channel; see `core.model.Channel`."""

    name: Annotated[str, Field(min_length=1, max_length=500)]
    unit: Text
    fill: Fill
    hold_max_age_ns: Nanoseconds
    always_moves: bool
    missing: Annotated[tuple[float, ...], Field(max_length=100)] = ()
    counter: bool = False


class WindowPart(Part):
    """The window grid; see `core.model.WindowShape`."""

    period_ns: Annotated[Nanoseconds, Field(ge=1)]
    samples: Annotated[int, Field(ge=1, le=1_000_000)]
    stride: Annotated[int, Field(ge=1, le=1_000_000)]


class DetectorPart(Part):
    """The detector's name in the catalogue and its settings."""

    kind: Annotated[str, Field(min_length=1, max_length=100)]
    settings: dict[str, JsonValue]


class OverrangePart(Part):
    """Scores of values far from the training mean; see `core.overrange`."""

    score: Annotated[float, Field(gt=0)]
    reach: Annotated[tuple[Annotated[float, Field(gt=0, le=1e30)], ...], Field(min_length=1, max_length=10_000)]


class Manifest(Part):
    """Content of manifest.json."""

    format: Literal["stream_ad.bundle"]
    version: Literal[2]
    name: Text
    model_id: Digest
    channels: Annotated[tuple[ChannelPart, ...], Field(min_length=1, max_length=10_000)]
    window: WindowPart
    min_coverage: Annotated[float, Field(ge=0, le=1)]
    clip: Annotated[float, Field(gt=0)]
    """Largest normalised value on which the detector was fitted, in training standard deviations."""
    overrange: OverrangePart
    detector: DetectorPart
    smoothing: Annotated[float, Field(gt=0, le=1)]
    ignored: Annotated[tuple[Annotated[str, Field(min_length=1, max_length=500)], ...], Field(max_length=10_000)] = ()
    """Names that devices send and the model ignores on purpose."""
    limit_floor: Annotated[float, Field(ge=0)] = 0.0
    """Lower bound of all limits; 0 if all channels moved in training."""
    devices: Annotated[tuple[Text, ...], Field(max_length=1_000_000)] | None = None
    """Devices with their own centre and scale, rows of `device_center` and `device_scale` in the calibration."""
    digests: dict[str, Digest]
    """SHA-256 of every other file."""

    @model_validator(mode="after")
    def _check_names(self) -> Manifest:
        if sorted(self.digests) != sorted(LIMITS):
            raise ValueError(f"digests: expected the files {sorted(LIMITS)}, found {sorted(self.digests)[:10]}")
        names = [channel.name for channel in self.channels]
        if names != sorted(set(names)):
            raise ValueError("channels: expected unique names in sorted order")
        if len(self.overrange.reach) != len(names):
            raise ValueError(f"overrange: expected a reach for each of {len(names)} channels")
        if self.window.samples * len(names) > MAX_CELLS:
            raise ValueError(f"window: expected at most {MAX_CELLS:,} cells, samples times channels")
        return self

    def content(self) -> dict[str, Any]:
        """Return the JSON values without defaults, so that a field added later does not change older bundles' ids."""
        return self.model_dump(mode="json", exclude_defaults=True)

    def content_id(self) -> str:
        """Return the digest of the content, which is the model's id."""
        content = self.content()
        del content["model_id"]
        return digest(json.dumps(content, sort_keys=True, separators=(",", ":")).encode())


def read_manifest(folder: Path) -> Manifest:
    """Read and check only the manifest.

    Raises:
        BundleFormatError: it is missing or malformed, or its version is unknown.
        BundleDigestError: its content differs from the model id.
    """
    path = folder / MANIFEST
    if not folder.is_dir():
        raise BundleFormatError(
            f"{folder}: expected a bundle's folder, found {'a file' if folder.exists() else 'none'}"
        )
    data = read_file(folder, MANIFEST, MANIFEST_LIMIT)
    content = read_json(data, path)
    if content.get("format") != FORMAT:
        raise BundleFormatError(f"{path}: expected format {FORMAT!r}, found {str(content.get('format'))[:80]!r}")
    if content.get("version") != VERSION:
        raise BundleFormatError(
            f"{path}: expected format version {VERSION}, found {str(content.get('version'))[:80]}; recreate the bundle "
            "from its recording: stream-ad train"
        )
    try:
        manifest = Manifest.model_validate_json(data)
    except ValidationError as error:
        raise BundleFormatError(f"{path}: {described(error)}") from error
    if manifest.content_id() != manifest.model_id:
        raise BundleDigestError(f"{path}: expected the model id as digest, found {manifest.content_id()}")
    return manifest


def read_checked(folder: Path, name: str, manifest: Manifest) -> bytes:
    """Read a file of the bundle and verify its digest.

    Raises:
        BundleFormatError: it cannot be read.
        BundleDigestError: its content differs from the digest.
    """
    data = read_file(folder, name, LIMITS[name])
    found = digest(data)
    if found != manifest.digests[name]:
        raise BundleDigestError(f"{folder / name}: expected the digest {manifest.digests[name]}, found {found}")
    return data


def read_card(folder: Path) -> dict[str, Any]:
    """Read the training card without loading the model.

    Raises:
        BundleFormatError: manifest or card cannot be read.
        BundleDigestError: one of them differs from its digest.
    """
    return read_json(read_checked(folder, CARD, read_manifest(folder)), folder / CARD)


def pack_json(content: dict[str, Any], what: str) -> bytes:
    """Return indented JSON; raises ContractError if a value is not plain JSON."""
    try:
        return json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False).encode() + b"\n"
    except (TypeError, ValueError) as error:
        raise ContractError(f"{what}: expected plain JSON values: {error}") from error


def read_json(data: bytes, path: Path) -> dict[str, Any]:
    """Return a JSON object; raises BundleFormatError if the data is not one."""
    try:
        content = from_json(data, allow_inf_nan=False)
    except ValueError as error:
        raise BundleFormatError(f"{path}: not JSON: {error}") from error
    if not isinstance(content, dict):
        raise BundleFormatError(f"{path}: expected a JSON object, found {type(content).__name__}")
    refuse_repeats(data, path)
    return content


def described(error: ValidationError) -> str:
    """Return pydantic's findings with the path of each key, without the input."""
    problems = error.errors(include_url=False, include_input=False)
    return "; ".join(f"{'.'.join(str(part) for part in p['loc'])}: {p['msg']}".lstrip(": ") for p in problems[:10])
