"""Real memorisers and one that is none: our own generator trained on few images or on many, judged by the gate.

    python -m tests.bench.privacy_memorisers [--images 64] [--kimg 110] [--made 1024] [--seed 0]
        [--policy internal] [--recipe xray_32_cpu] [--mednist ZIP]

Radiographs of PneumoniaMNIST at 32 px with `--recipe`: the train split the gate attacks is the very images the
generator saw (`--images`; 0 is the whole split), the holdouts are the cohort's own. With `--mednist ZIP` the same
recipe sees some 20,000 images of six classes. That archive does not tell its patients, but its files lie patient by
patient where a patient has many: see `patients`. Prints every test of the policy and the verdict.
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
from medgan.privacy import attack, policy, stages
from medgan.privacy.evidence import RealImages
from medgan.privacy.views import Images, to_view, unit
from medgan.settings import Zones
from tests.bench.__main__ import machine
from tests.bench.gan_systems import ATTRS, mednist_files
from tests.builders.cohort import prepared_cohort

FULL = (0.0, 65535.0)
NEAR, SURPLUS, APART = 0.01, 0.03, 1000
"""Two images of a class are near when they correlate more than 99 % of those that lie 1,000 files apart do, and a run
of files is one patient's when more than 3 % of its pairs are: a third of those of a patient's slices, a few times what
strangers have."""
SAME = 0.97
"""Images that correlate more are one patient's wherever they lie. Hardly any two hands do, each of which is a person's;
of breasts those that no run has caught, each beside a slice of the same series."""
HELD = 0.083
"""Of each class, in each holdout."""


def training(pixels: np.ndarray, class_index: np.ndarray, classes: Sequence[str], patients: np.ndarray) -> TrainingSet:
    return TrainingSet(
        pixels=pixels, class_index=class_index, classes=tuple(classes), lo=FULL[0], hi=FULL[1], patients=patients
    )


def radiographs(folder: Path, images: int) -> tuple[TrainingSet, RealImages]:
    """The first `images` of the demo cohort's train split, and its holdouts."""
    zones = Zones.under(folder)
    snapshot = prepared_cohort(zones, None, 32)
    loaded = read.load(snapshot, zones=zones)
    pixels, classes, _ = loaded.split("train")
    few = slice(0, images or len(pixels))
    real = stages.real_images(loaded)[0][""]
    seen = replace(real, train=real.train[few], train_patients=real.train_patients[few])
    return training(pixels[few], classes[few], loaded.classes, seen.train_patients), seen


def six_classes(path: Path) -> tuple[TrainingSet, RealImages]:
    """MedNIST at 32 px: some 20,000 images to learn from, and about a twelfth of each class in each holdout."""
    stored, labels, classes = mednist_files(path, 32)
    views = to_view(stored, FULL)
    people = np.empty(len(views), object)
    side = np.zeros(len(views), int)
    rng = np.random.default_rng(0)
    for label in range(len(classes)):
        rows = np.flatnonzero(labels == label)
        owners = patients(views[rows])
        people[rows] = [f"{label}-{owner}" for owner in owners]
        side[rows] = sides(owners, rng)
    train, first, second = (side == number for number in range(3))
    real = RealImages(
        train=views[train],
        holdout_1=views[first],
        holdout_2=views[second],
        train_patients=people[train],
        holdout_1_patients=people[first],
        holdout_2_patients=people[second],
    )
    return training(stored[train], labels[train], classes, real.train_patients), real


def patients(views: Images) -> np.ndarray:
    """(N,) the number of each image's patient, of images of a class in the order of their files."""
    seen = unit(views)
    alike = seen @ seen.T / seen.shape[1]
    owners = runs(alike)
    first, second = (owners[rows] for rows in np.nonzero(alike > SAME))
    joined = csr_array((np.ones(len(first)), (first, second)), shape=(owners.max() + 1,) * 2)
    numbers: np.ndarray = connected_components(joined, directed=False)[1][owners]
    return numbers


def runs(alike: np.ndarray) -> np.ndarray:
    """(N,) the number of the run of files that each image belongs to, by the correlations (N, N) of all pairs.

    The cut into runs that holds most of the surplus of near pairs inside: modularity (Newman 2006) of intervals, solved
    exactly, run by run. Where order says nothing, nearly every image is a run of its own.
    """
    place = np.arange(len(alike))
    strangers = alike[np.abs(place[:, None] - place) >= APART]
    surplus = (alike > np.quantile(strangers[::50], 1 - NEAR)).astype(np.float32) - SURPLUS
    inside, best, start = np.zeros(len(place)), np.zeros(len(place) + 1), np.zeros(len(place), int)
    for last in place:  # `inside[first]`: the surplus of the run first..last, `best[n]`: of the best cut of n files
        inside[:last] += np.cumsum(surplus[last, :last][::-1])[::-1]
        held = best[: last + 1] + inside[: last + 1]
        start[last] = held.argmax()
        best[last + 1] = held[start[last]]
    first_of, last = np.zeros(len(place), bool), len(place)
    while last:
        last = start[last - 1]
        first_of[last] = True
    numbers: np.ndarray = np.cumsum(first_of) - 1
    return numbers


def sides(owners: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(N,) 0 for train, 1 and 2 for the holdouts: people in any order, into a holdout as long as they fit there."""
    size = np.bincount(owners)
    side, left = np.zeros(len(size), int), [0.0, HELD * len(owners), HELD * len(owners)]
    for person in rng.permutation(len(size)):
        fits = [number for number in (1, 2) if size[person] <= left[number]]
        if fits:
            side[person] = max(fits, key=lambda number: left[number])
            left[side[person]] -= size[person]
    out: np.ndarray = side[owners]
    return out


def main() -> None:
    """Train, draw, judge, print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--kimg", type=float, default=recipes.xray_32_cpu().total_kimg)
    parser.add_argument("--made", type=int, default=1024)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--policy", default="internal")
    parser.add_argument("--recipe", default="xray_32_cpu", help="of 32 px")
    parser.add_argument("--mednist", type=Path)
    options = parser.parse_args()
    started = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        seen, real = six_classes(options.mednist) if options.mednist else radiographs(Path(folder), options.images)
        place = Path(folder) / "model"
        place.mkdir()
        fit(seen, recipes.build(options.recipe, total_kimg=options.kimg, seed=options.seed), place, attrs=ATTRS)
        trained = time.process_time() - started
        drawn = np.random.default_rng(0).choice(seen.class_index, options.made)
        made = Sampler(place).images(np.arange(options.made, dtype=np.int64), drawn, seed=0)
    limits = policy.load(options.policy)
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
