"""Every measure of one synthetic sample against one real cohort, on plain arrays: each beside its floor.

The floor of a distance is the same distance from real train images to real holdout images, with the same counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medgan.errors import InvalidRequest
from medgan.gan.images import to_unit
from medgan.quality import coverage, distance, features, outside, realism, utility
from medgan.quality.report import SMALL_CELL
from medgan.records import Measure

_NEIGHBOURS = 5
_SEED = 0
_BINS = 64
_SEEN_OUTSIDE = 256
_FLOOR = "real train to real holdout"
_REAL = "real on real"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Stored images (N, S, S) uint16, class index (N,), and how stored values become [-1, 1] and physical ones."""

    stored: NDArray[np.uint16]
    class_index: NDArray[np.int64]
    attrs: dict[str, Any]

    @property
    def unit(self) -> NDArray[np.float32]:
        """Images in [-1, 1], float32."""
        lo, hi = self.attrs["intensity_range"]
        return to_unit(self.stored, float(lo), float(hi))

    @property
    def physical(self) -> NDArray[np.float64]:
        """Images in physical units, float64."""
        slope, intercept = float(self.attrs["rescale_slope"]), float(self.attrs["rescale_intercept"])
        return self.stored.astype(np.float64) * slope + intercept

    def take(self, rows: NDArray[np.int64]) -> Sample:
        """The sample's rows."""
        return Sample(stored=self.stored[rows], class_index=self.class_index[rows], attrs=self.attrs)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.stored)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Measures, the curves behind them, the counts, and the encoder's digest."""

    measures: tuple[Measure, ...]
    curves: dict[str, dict[str, list[float]]]
    counts: dict[str, int]
    encoder_sha256: str


def compare(synthetic: Sample, train: Sample, holdout: Sample, *, classes: int) -> Comparison:
    """Measure `synthetic` against `holdout`, with `train` against `holdout` as the floor.

    Raises:
        InvalidRequest: fewer images on a side than a neighbourhood needs.
    """
    fewest = min(len(synthetic), len(train), len(holdout))
    if fewest <= 2 * _NEIGHBOURS:
        raise InvalidRequest(f"{fewest} images on one side are too few to compare: at least {2 * _NEIGHBOURS + 1}")
    encoder = features.train(train.unit, train.class_index, classes)
    rng = np.random.default_rng(_SEED)
    control = train.take(np.sort(rng.permutation(len(train))[: len(synthetic)]))
    measures = [
        *_in_features(encoder, synthetic, control, holdout, rng),
        _label_fidelity(encoder, synthetic, holdout),
        *(_from_outside(synthetic, control, holdout) if outside.available() else ()),
        *_in_pixels(synthetic, control, holdout),
        *_in_use(synthetic, train, holdout),
        _memory(synthetic, train, holdout, rng),
    ]
    return Comparison(
        measures=tuple(_rounded(measure) for measure in measures if np.isfinite(measure.value)),
        curves=_curves(synthetic, train, holdout),
        counts={"synthetic": len(synthetic), "train": len(train), "holdout": len(holdout), "control": len(control)},
        encoder_sha256=encoder.sha256,
    )


def _in_features(
    encoder: features.Encoder, synthetic: Sample, control: Sample, holdout: Sample, rng: np.random.Generator
) -> list[Measure]:
    """Fréchet and kernel distance, precision, recall, density, coverage."""
    made, known, held = (encoder(sample.unit) for sample in (synthetic, control, holdout))
    count = len(made)
    equal = min(len(made), len(known), len(held))
    made_E, known_E, held_E = (x[np.sort(rng.permutation(len(x))[:equal])] for x in (made, known, held))
    ours = coverage.prdc(held_E, made_E, k=_NEIGHBOURS)
    floor = coverage.prdc(held_E, known_E, k=_NEIGHBOURS)
    return [
        _measure("frechet", distance.frechet(made, held), distance.frechet(known, held), count),
        _measure("kid", distance.kernel(made, held)[0], distance.kernel(known, held)[0], count),
        *(
            _measure(name, getattr(ours, name), getattr(floor, name), equal, better="higher")
            for name in ("precision", "recall", "density", "coverage")
        ),
    ]


def _label_fidelity(encoder: features.Encoder, synthetic: Sample, holdout: Sample) -> Measure:
    """How often the encoder's head sees the class an image was drawn for; beside real holdout of the same class mix."""
    ours = encoder.sees(synthetic.unit) == synthetic.class_index
    real = encoder.sees(holdout.unit) == holdout.class_index
    present = np.unique(holdout.class_index)
    known = np.isin(synthetic.class_index, present)
    recall = {index: float(real[holdout.class_index == index].mean()) for index in present}
    expected = np.mean([recall[index] for index in synthetic.class_index[known]]) if known.any() else np.nan
    value = float(ours[known].mean()) if known.any() else np.nan
    return _measure(
        "label_fidelity", value, float(expected), int(known.sum()), better="closer", reference_name="real holdout"
    )


def _from_outside(synthetic: Sample, control: Sample, holdout: Sample) -> list[Measure]:
    """Kernel distance in the features of a network that learned photographs; without bias in few images."""
    count = min(_SEEN_OUTSIDE, len(synthetic), len(control), len(holdout))
    rng = np.random.default_rng(_SEED)
    made, known, held = (
        outside.features(x.take(np.sort(rng.permutation(len(x))[:count])).unit) for x in (synthetic, control, holdout)
    )
    return [_measure("kid_photographs", distance.kernel(made, held)[0], distance.kernel(known, held)[0], count)]


def _in_pixels(synthetic: Sample, control: Sample, holdout: Sample) -> list[Measure]:
    """Spectrum, intensity in physical units, sliced Wasserstein, structural diversity."""
    samples = (synthetic, control, holdout)
    spectra = [realism.radial_spectrum(sample.unit.astype(np.float64)) for sample in samples]
    values = [sample.physical.ravel() for sample in samples]
    flat = [sample.unit.reshape(len(sample), -1).astype(np.float64) for sample in samples]
    alike = [realism.diversity(sample.unit.astype(np.float64), sample.class_index) for sample in (synthetic, control)]

    def against_holdout(name: str, distances: list[float]) -> Measure:
        return _measure(name, distances[0], distances[1], len(synthetic))

    return [
        against_holdout("spectrum_db", [realism.spectrum_gap(s, spectra[2]) for s in spectra[:2]]),
        against_holdout("spectrum_high_db", [realism.spectrum_gap(s, spectra[2], high_only=True) for s in spectra[:2]]),
        against_holdout("intensity_wasserstein", [distance.wasserstein(v, values[2]) for v in values[:2]]),
        against_holdout("sliced_wasserstein", [distance.sliced_wasserstein(x, flat[2]) for x in flat[:2]]),
        _measure("ms_ssim_pairs", alike[0], alike[1], len(synthetic), better="closer", reference_name="real pairs"),
    ]


def _in_use(synthetic: Sample, train: Sample, holdout: Sample) -> list[Measure]:
    """Train on synthetic, test on real holdout; beside real on real; and both together."""
    test = (holdout.unit, holdout.class_index)
    ours = utility.pca_logistic(synthetic.unit, synthetic.class_index, *test)
    real = utility.pca_logistic(train.unit, train.class_index, *test)
    both_images = np.concatenate([train.unit, synthetic.unit])
    both = utility.pca_logistic(both_images, np.concatenate([train.class_index, synthetic.class_index]), *test)
    pairs = (
        ("tstr_auc", ours.auc, real.auc),
        ("tstr_balanced_accuracy", ours.balanced_accuracy, real.balanced_accuracy),
        ("real_plus_synthetic_auc", both.auc, real.auc),
    )
    return [
        _measure(name, value, reference, len(synthetic), better="higher", reference_name=_REAL)
        for name, value, reference in pairs
    ]


def _memory(synthetic: Sample, train: Sample, holdout: Sample, rng: np.random.Generator) -> Measure:
    """Share of synthetic images whose nearest real image, in pixels, is a training image and not a holdout one.

    Both sides count equally many, so a generator that remembers nothing scores one half.
    """
    equal = min(len(train), len(holdout))
    made, known, held = (
        sample.unit.reshape(len(sample), -1).astype(np.float64)
        for sample in (synthetic, *(real.take(rng.permutation(len(real))[:equal]) for real in (train, holdout)))
    )
    to_train, to_holdout = (coverage.squared_distances(made, real).min(1) for real in (known, held))
    share = float((to_train < to_holdout).mean() + (to_train == to_holdout).mean() / 2)
    return _measure("nearest_is_train", share, 0.5, len(made), better="closer", reference_name="nothing remembered")


def _measure(
    name: str, value: float, reference: float, count: int, *, better: str = "lower", reference_name: str = _FLOOR
) -> Measure:
    return Measure(
        name=name, value=value, reference=reference, reference_name=reference_name, better=better, count=count
    )


def _rounded(measure: Measure) -> Measure:
    """Six decimals: more would be noise, and would bind a report to one build of a linear algebra library."""
    reference = None if measure.reference is None else round(measure.reference, 6)
    return measure.model_copy(update={"value": round(measure.value, 6), "reference": reference})


def _curves(synthetic: Sample, train: Sample, holdout: Sample) -> dict[str, dict[str, list[float]]]:
    """Radial spectra in dB and intensity histograms in physical units, for the report's plots."""
    samples = {"synthetic": synthetic, "train": train, "holdout": holdout}
    spectra = {name: realism.radial_spectrum(sample.unit.astype(np.float64)) for name, sample in samples.items()}
    lowest = min(float(sample.physical.min()) for sample in samples.values())
    highest = max(float(sample.physical.max()) for sample in samples.values())
    edges = np.linspace(lowest, highest if highest > lowest else lowest + 1, _BINS + 1)
    bins = {name: np.histogram(sample.physical, edges)[0] for name, sample in samples.items()}
    for name in ("train", "holdout"):  # a few pixels may be one patient's
        bins[name][bins[name] < SMALL_CELL] = 0
    shares = {name: counts / samples[name].stored.size for name, counts in bins.items()}

    def plain(values: NDArray[np.float64]) -> list[float]:
        return [round(float(value), 6) for value in values]

    return {
        "spectrum_db": {
            "x": plain(np.arange(len(spectra["train"]), dtype=np.float64)),
            **{name: plain(curve) for name, curve in spectra.items()},
        },
        "intensity_share": {
            "x": plain((edges[:-1] + edges[1:]) / 2),
            **{name: plain(share) for name, share in shares.items()},
        },
    }
