"""Are synthetic radiographs of use on the benchmark's own test set? `python -m tests.bench.gan_utility`.

The recipe of the demo, or another, trains on PneumoniaMNIST's official train split (3,882 images, at 32 px);
classifiers learn on as many synthetic images in the same class shares and are judged on the official test split (624
images of other patients), beside the same classifiers trained on the real train split, and on both together. One
train image in ten is normal and three test images in eight are, so each is told once more with classes alike: real
normal images are repeated, synthetic ones are drawn, or added to the real ones. A small network's verdict moves with
its seed: the median of `--classifiers` is told, and between which they lie. The last column is how far the upper half
of the power spectrum lies from that of the test images.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np

from medgan.gan import recipes
from medgan.gan.fit import fit
from medgan.gan.images import TrainingSet
from medgan.gan.sample import Sampler
from medgan.quality import realism
from medgan.quality.compare import Sample
from medgan.quality.utility import Utility, pca_logistic, small_network
from tests.bench.__main__ import machine
from tests.bench.gan_systems import ATTRS, squares
from tests.builders.cohort import FINDINGS, SAMPLES


def official(part: str, size_px: int) -> Sample:
    with np.load(SAMPLES, allow_pickle=False) as sample:
        pixels, labels = sample[f"{part}_images"], sample[f"{part}_labels"].reshape(-1).astype(np.int64)
    return Sample(stored=squares(pixels, size_px), class_index=labels, attrs=ATTRS)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.gan_utility", description=__doc__)
    parser.add_argument("--recipe", default="xray_32_cpu", help="one of 32 px")
    parser.add_argument("--kimg", type=float)
    parser.add_argument("--seeds", type=int, default=1, help="generators")
    parser.add_argument("--classifiers", type=int, default=3, help="small networks a line, 10 to 25 CPU-seconds each")
    given = parser.parse_args(arguments)
    train, test = official("train", 32), official("test", 32)
    sys.stdout.write(
        f"{machine()}; {len(train)} train, {len(test)} test images; AUC / balanced accuracy on real test images\n"
        f"{'trained on':28}{'PCA + logistic':>18}{'small network':>18}{'between':>32}{'high band':>12}\n"
    )
    common, rare = np.bincount(train.class_index).argsort()[::-1]
    missing = int((train.class_index == common).sum() - (train.class_index == rare).sum())
    again = np.resize(np.flatnonzero(train.class_index == rare), missing)
    tell("real", train, test, given.classifiers)
    tell("real, classes alike", joined(train, train.take(again)), test, given.classifiers)
    for seed in range(given.seeds):
        config = replace(recipes.build(given.recipe, seed=seed, total_kimg=given.kimg), conditions=())
        images = TrainingSet(pixels=train.stored, class_index=train.class_index, classes=FINDINGS, lo=0.0, hi=65535.0)
        with tempfile.TemporaryDirectory() as folder:
            begun = time.process_time()
            fit(images, config, Path(folder), attrs=ATTRS)
            spent = time.process_time() - begun
            sampler = Sampler(Path(folder))
            same = draw(sampler, train.class_index, first=0)
            alike = draw(sampler, np.arange(len(train)) % len(FINDINGS), first=len(train))
            more = draw(sampler, np.full(missing, rare), first=2 * len(train))
        for name, sample in {
            f"synthetic, seed {seed} ({spent:.0f} CPU-s)": same,
            "synthetic, classes alike": alike,
            "real + synthetic": joined(train, same),
            "... classes alike": joined(train, more),
        }.items():
            tell(name, sample, test, given.classifiers)
    return 0


def draw(sampler: Sampler, class_index: np.ndarray, *, first: int) -> Sample:
    """Synthetic images of these classes, from the latents `first` onwards."""
    stored = sampler.images(np.arange(first, first + len(class_index)), class_index, seed=0)
    return Sample(stored=stored, class_index=class_index, attrs=ATTRS)


def joined(*parts: Sample) -> Sample:
    stored, class_index = ([getattr(part, name) for part in parts] for name in ("stored", "class_index"))
    return Sample(stored=np.concatenate(stored), class_index=np.concatenate(class_index), attrs=ATTRS)


def tell(name: str, sample: Sample, test: Sample, classifiers: int) -> None:
    sides = (sample.unit, sample.class_index, test.unit, test.class_index)
    networks = [small_network(*sides, seed=seed) for seed in range(classifiers)]
    aucs, accuracies = sorted(n.auc for n in networks), sorted(n.balanced_accuracy for n in networks)
    middle = Utility(auc=median(aucs), balanced_accuracy=median(accuracies))
    span = f"{aucs[0]:.3f}-{aucs[-1]:.3f} / {accuracies[0]:.3f}-{accuracies[-1]:.3f}"
    spectra = [realism.radial_spectrum(images.unit.astype(np.float64)) for images in (sample, test)]
    gap = realism.spectrum_gap(*spectra, high_only=True)
    shown = [f"{u.auc:.3f} / {u.balanced_accuracy:.3f}" for u in (pca_logistic(*sides), middle)]
    sys.stdout.write(f"{name:28}" + "".join(f"{text:>18}" for text in shown) + f"{span:>32}{gap:>9.2f} dB\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
