"""What every detector keeps: those in the catalogue, and one that another package registers.

A new detector earns this suite by its line in the catalogue; `QUICK` may give it settings that
train in a second.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stream_ad.core.batches import Float32Array, Float64Array
from stream_ad.core.detectors import catalog
from stream_ad.core.detectors.base import Detector, DetectorKind, Settings, check_scores, no_progress
from stream_ad.errors import BundleFormatError, ConfigError, ContractError, TrainingError
from tests.docs.pages import ROOT, examples
from tests.support.windows import CHANNELS, SAMPLES, Fault, constant_windows, inject, machine_windows

QUICK: Mapping[str, Settings] = {
    "autoencoder": {"hidden": [24, 8, 24], "epochs": 12, "batch_size": 64},
    "dagmm": {"hidden": [24, 8], "components": 2, "steps": 200, "batch_size": 64, "learning_rate": 3e-3},
    "isolation_forest": {"trees": 40},
}
CHUNK = 64
SIGMAS = (1.0, 2.0, 4.0, 8.0)
SEED = 11

FOREIGN = examples((ROOT / "docs" / "how-to.md").read_text())["detector"].replace('"deviation"', '"absolute"')
"""A detector of another package: the example of the how-to guide, renamed so that both can be installed."""


def install(folder: Path, package: str, entries: Mapping[str, str], source: str = "") -> None:
    """Lay out what installing a package leaves: its module and the metadata with its entry points."""
    (folder / f"{package}.py").write_text(source)
    metadata = folder / f"{package}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    lines = [f"{name} = {value}" for name, value in entries.items()]
    (metadata / "entry_points.txt").write_text("\n".join([f"[{catalog.GROUP}]", *lines, ""]))


@dataclass(frozen=True)
class Case:
    """A kind with settings that train quickly, fitted once on the machine's windows."""

    kind: DetectorKind
    settings: Settings
    detector: Detector

    @classmethod
    def of(cls, name: str) -> Case:
        kind, settings = catalog.get(name), QUICK.get(name, {})
        return cls(kind, settings, kind.fit(machine_windows(400, seed=1), settings, SEED, no_progress))

    def refit(self, values: Float32Array, seed: int = SEED) -> Detector:
        return self.kind.fit(values, self.settings, seed, no_progress)

    def loaded(self) -> Detector:
        """What a bundle makes of it: complete settings through JSON, arrays copied."""
        settings = json.loads(json.dumps({**self.kind.defaults(), **self.settings}))
        return self.kind.load(settings, {name: array.copy() for name, array in self.detector.arrays().items()})


def padded_scores(detector: Detector, values: Float32Array) -> Float64Array:
    """Score in chunks of one size, as the pipeline does."""
    padded = np.concatenate([values, np.zeros((-len(values) % CHUNK, *values.shape[1:]), dtype=np.float32)])
    parts = [detector.score(padded[first : first + CHUNK]).score for first in range(0, len(padded), CHUNK)]
    return np.concatenate(parts)[: len(values)]


@pytest.fixture(scope="module")
def normal() -> Float32Array:
    """Windows like those of the training, but not among them."""
    values = machine_windows(2 * CHUNK, seed=2)
    values.flags.writeable = False
    return values


@pytest.fixture(scope="module", params=[*catalog.kinds(), "absolute"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    """Every kind of the catalogue, and one that another package registers."""
    folder = tmp_path_factory.mktemp("site")
    install(folder, "foreign_detector", {"absolute": "foreign_detector:KIND"}, FOREIGN)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield Case.of(request.param)


def test_scores_are_finite_and_not_negative(case: Case, normal: Float32Array) -> None:
    extreme = np.sign(normal) * np.float32(10.0)
    for values in (normal, extreme, np.zeros_like(normal), normal[:1], normal[:0]):
        check_scores(case.detector.score(values), len(values), CHANNELS)


def test_distinct_windows_have_distinct_scores(case: Case, normal: Float32Array) -> None:
    assert len(np.unique(case.detector.score(normal).score)) > 0.95 * len(normal)


def test_contributions_are_finite_and_not_negative(case: Case, normal: Float32Array) -> None:
    contribution = case.detector.score(inject(normal, Fault.SHIFT, 8.0, (0, 1))).contribution
    if contribution is not None:
        assert np.isfinite(contribution).all()
        assert contribution.min() >= 0


def test_the_faulty_channel_contributes_most(case: Case, normal: Float32Array) -> None:
    for channel in range(CHANNELS):
        contribution = case.detector.score(inject(normal, Fault.SHIFT, 8.0, (channel,))).contribution
        if contribution is not None:
            assert (contribution.argmax(axis=1) == channel).mean() > 0.9


def test_a_loaded_detector_gives_the_same_bits(case: Case, normal: Float32Array) -> None:
    before, after = case.detector.score(normal), case.loaded().score(normal)
    assert before.score.tobytes() == after.score.tobytes()
    if before.contribution is not None and after.contribution is not None:
        assert before.contribution.tobytes() == after.contribution.tobytes()


def test_arrays_are_plain_numbers(case: Case) -> None:
    arrays = case.detector.arrays()
    assert arrays
    assert all(array.dtype.kind in "fiub" and array.flags.c_contiguous for array in arrays.values())
    assert sum(array.nbytes for array in arrays.values()) < 10_000_000


def test_arrays_of_a_loaded_detector_are_the_same(case: Case) -> None:
    before, after = case.detector.arrays(), case.loaded().arrays()
    assert before.keys() == after.keys()
    assert all(before[name].tobytes() == after[name].tobytes() for name in before)


def test_a_missing_array_is_refused(case: Case) -> None:
    arrays = case.detector.arrays()
    for name in arrays:
        rest = {other: array for other, array in arrays.items() if other != name}
        with pytest.raises(BundleFormatError, match="missing"):
            case.kind.load(case.settings, rest)


@pytest.mark.parametrize("spoil", [lambda a: a[..., None], lambda a: a.astype(np.complex128)])
def test_a_malformed_array_is_refused(case: Case, spoil: Callable[[Any], Any]) -> None:
    arrays = case.detector.arrays()
    for name in arrays:
        with pytest.raises(BundleFormatError, match=name):
            case.kind.load(case.settings, {**arrays, name: spoil(arrays[name])})


def test_an_array_with_nan_is_refused(case: Case) -> None:
    arrays = case.detector.arrays()
    for name, array in arrays.items():
        if array.dtype.kind == "f" and array.size:
            with pytest.raises(BundleFormatError, match="not finite"):
                case.kind.load(case.settings, {**arrays, name: np.full_like(array, np.nan)})


def test_a_row_scores_the_same_bits_at_every_position(case: Case, normal: Float32Array) -> None:
    chunk = normal[:CHUNK]
    expected = case.detector.score(chunk).score
    rng = np.random.default_rng(3)
    for _ in range(8):
        order = rng.permutation(CHUNK)
        assert case.detector.score(chunk[order]).score.tobytes() == expected[order].tobytes()


def test_a_row_does_not_feel_its_neighbours(case: Case, normal: Float32Array) -> None:
    chunk = normal[:CHUNK].copy()
    expected = case.detector.score(chunk).score[:8]
    chunk[8:] = -10.0
    assert case.detector.score(chunk).score[:8].tobytes() == expected.tobytes()


def test_scoring_leaves_the_windows_alone(case: Case, normal: Float32Array) -> None:
    values = normal.copy()
    case.detector.score(values)
    assert values.tobytes() == normal.tobytes()


@pytest.mark.parametrize("channels", [(0,), (2,), (0, 1), tuple(range(CHANNELS))], ids=str)
@pytest.mark.parametrize("fault", Fault)
def test_a_fault_of_eight_deviations_stands_out(
    case: Case, normal: Float32Array, fault: Fault, channels: tuple[int, ...]
) -> None:
    without = padded_scores(case.detector, normal)
    largest = padded_scores(case.detector, inject(normal, fault, SIGMAS[-1], channels))
    assert np.median(largest) > np.quantile(without, 0.99)


@pytest.mark.parametrize("level", [0.0, 0.7])
def test_a_change_from_a_constant_history_is_seen(case: Case, level: float) -> None:
    detector = case.refit(constant_windows(64, level=level))
    still = constant_windows(4, level=level)
    quiet = detector.score(still).score
    assert np.isfinite(quiet).all()
    previous = quiet
    for sigma in SIGMAS:
        changed = detector.score(inject(still, Fault.SHIFT, sigma, (1,))).score
        assert np.isfinite(changed).all()
        assert (changed > previous).all()
        previous = changed


def test_one_constant_channel_does_no_harm(case: Case) -> None:
    train, live = machine_windows(200, seed=4), machine_windows(32, seed=5)
    train[:, :, 3] = live[:, :, 3] = 0.0
    detector = case.refit(train)
    quiet, moved = detector.score(live).score, detector.score(inject(live, Fault.SHIFT, 4.0, (3,))).score
    assert np.isfinite(quiet).all()
    assert np.median(moved) > np.quantile(quiet, 0.9)


def test_the_same_seed_gives_the_same_detector(case: Case) -> None:
    again = case.refit(machine_windows(400, seed=1)).arrays()
    for name, array in case.detector.arrays().items():
        assert array.tobytes() == again[name].tobytes(), name


def test_defaults_are_complete_json_that_the_kind_accepts(case: Case) -> None:
    defaults = dict(case.kind.defaults())
    assert json.loads(json.dumps(defaults)) == defaults
    assert case.kind.load({**defaults, **case.settings}, case.detector.arrays())


@pytest.mark.parametrize("value", ["far", -1e9, float("nan"), True, {}, []], ids=repr)
def test_a_setting_out_of_range_is_refused(case: Case, value: object) -> None:
    for name in case.kind.defaults():
        with pytest.raises(ConfigError, match=name):
            case.kind.fit(machine_windows(64, seed=1), {name: value}, SEED, no_progress)


def test_an_unknown_setting_is_refused(case: Case) -> None:
    with pytest.raises(ConfigError, match="colour"):
        case.kind.fit(machine_windows(64, seed=1), {"colour": 1}, SEED, no_progress)
    with pytest.raises(ConfigError, match="colour"):
        case.kind.load({"colour": 1}, case.detector.arrays())


@pytest.mark.parametrize("n", [0, 1, 2])
def test_too_few_windows_are_refused(case: Case, n: int) -> None:
    with pytest.raises(TrainingError, match="windows"):
        case.refit(machine_windows(n, seed=1))


def test_training_values_that_are_not_finite_are_refused(case: Case) -> None:
    values = machine_windows(64, seed=1)
    values[3, 2, 1] = np.nan
    with pytest.raises(TrainingError, match="finite"):
        case.refit(values)


def test_windows_of_another_form_are_refused(case: Case, normal: Float32Array) -> None:
    other = (normal[:, :-1], normal[:, :, :-1], normal.astype(np.float64), normal[0])
    for values in other:
        with pytest.raises(ContractError):
            case.detector.score(np.ascontiguousarray(values))


def test_training_tells_its_progress(case: Case) -> None:
    seen: list[tuple[str, int, int]] = []
    case.kind.fit(machine_windows(64, seed=1), case.settings, SEED, lambda *step: seen.append(step))
    assert seen
    assert seen[-1][1] == seen[-1][2]
    assert all(0 < done <= total for _, done, total in seen)


def test_windows_have_the_form_the_suite_expects(normal: Float32Array) -> None:
    assert normal.shape[1:] == (SAMPLES, CHANNELS)
