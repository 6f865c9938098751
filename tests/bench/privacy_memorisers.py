"""Real memorisers and one that is none: our own generator trained on few images or on many, judged by the gate.

    python -m tests.bench.privacy_memorisers [--images 64] [--kimg 60] [--made 1024] [--mednist ZIP]

Radiographs of PneumoniaMNIST at 32 px with the demo's recipe: the train split the gate attacks is the very images the
generator saw (`--images`; 0 is the whole split), the holdouts are the cohort's own. With `--mednist ZIP` the same
recipe sees some 20,000 images of six classes. The archive does not tell its patients: images that a chain of near
duplicates joins count as one, and stay on one side. Prints every test of policy internal and the verdict.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from medgan.cohort import read
from medgan.gan import recipes
from medgan.gan.fit import fit
from medgan.gan.images import TrainingSet
from medgan.gan.sample import Sampler
from medgan.privacy import attack, policy
from medgan.privacy.evidence import RealImages
from medgan.privacy.views import Images, to_view, unit
from medgan.records import ValidatedCohort
from medgan.settings import Zones
from tests.bench.__main__ import machine
from tests.bench.gan_systems import ATTRS, mednist
from tests.builders.cohort import prepared_cohort

FULL = (0.0, 65535.0)
NEAR = 0.95
"""Correlation from which two images are one patient's. Of chests and hands, where each image is a person, 95 % have no
image that near; the 4,000 slices of breasts fall into 98 groups of at most 92 (at 0.98 into 543, and the rest of such a
patient then lies in a holdout)."""


def training(pixels: np.ndarray, class_index: np.ndarray, classes: Sequence[str]) -> TrainingSet:
    return TrainingSet(pixels=pixels, class_index=class_index, classes=tuple(classes), lo=FULL[0], hi=FULL[1])


def radiographs(folder: Path, images: int) -> tuple[TrainingSet, RealImages]:
    """The first `images` of the demo cohort's train split, and its holdouts."""
    zones = Zones.under(folder)
    snapshot = prepared_cohort(zones, None, 32)
    cohort = ValidatedCohort(cohort=snapshot, suite_sha256="0" * 64, statistics_sha256="0" * 64, expectations=1)
    loaded = read.load(snapshot, zones=zones)
    pixels, classes, _ = loaded.split("train")
    few = slice(0, images or len(pixels))
    real, *_ = attack._real(cohort, zones=zones)
    seen = replace(real, train=real.train[few], train_patients=real.train_patients[few])
    return training(pixels[few], classes[few], loaded.classes), seen


def six_classes(path: Path) -> tuple[TrainingSet, RealImages]:
    """MedNIST at 32 px: 20,000 images to learn from, and a twelfth of the patients in each holdout."""
    *parts, classes = mednist(path, 32)
    stored, labels = (np.concatenate([getattr(part, of) for part in parts]) for of in ("stored", "class_index"))
    views = to_view(stored, FULL)
    owners = near_duplicates(views, labels)
    side = np.random.default_rng(0).choice(3, owners.max() + 1, p=(0.834, 0.083, 0.083))[owners]
    train, first, second = (side == number for number in range(3))
    people = owners.astype(object)
    real = RealImages(
        train=views[train],
        holdout_1=views[first],
        holdout_2=views[second],
        train_patients=people[train],
        holdout_1_patients=people[first],
        holdout_2_patients=people[second],
    )
    return training(stored[train], labels[train], classes), real


def near_duplicates(views: Images, labels: np.ndarray) -> np.ndarray:
    """(N,) the group of each image: images of a class that near duplicates join, one after the other."""
    owners = np.empty(len(views), int)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        seen = unit(views[rows])
        _, groups = connected_components(csr_array(seen @ seen.T > NEAR * seen.shape[1]), directed=False)
        owners[rows] = groups + (owners[labels < label].max() + 1 if label else 0)
    return owners


def main() -> None:
    """Train, draw, judge, print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--kimg", type=float, default=60.0)
    parser.add_argument("--made", type=int, default=1024)
    parser.add_argument("--mednist", type=Path)
    options = parser.parse_args()
    started = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        seen, real = six_classes(options.mednist) if options.mednist else radiographs(Path(folder), options.images)
        place = Path(folder) / "model"
        place.mkdir()
        fit(seen, recipes.build("xray_32_cpu", total_kimg=options.kimg), place, attrs=ATTRS)
        trained = time.process_time() - started
        drawn = np.random.default_rng(0).choice(seen.class_index, options.made)
        made = Sampler(place).images(np.arange(options.made, dtype=np.int64), drawn, seed=0)
    limits = policy.load("internal")
    tests, _ = attack.assess(to_view(made, FULL), real, limits)
    people = min(len(set(part)) for part in (real.holdout_1_patients, real.holdout_2_patients))
    verdict = attack.decide(tests, limits, holdout_patients=people, not_applicable=frozenset({"G3", "G7"}))
    print(f"machine: {machine()}; trained on {len(seen.pixels)} images for {options.kimg:g} kimg")  # noqa: T201
    for test in tests:
        word = "passed" if test.passed else "failed" if test.conclusive else "not decidable"
        print(f"{test.test} {test.title:<90}{test.value:10.4f}{test.limit:9.4f}  {word}")  # noqa: T201
    print(f"{verdict.value}; {trained:.0f} CPU-seconds of training, {time.process_time() - started:.0f} in all")  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
