from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from medgan.cohort import read, resample
from medgan.privacy import evidence, stages
from medgan.privacy.views import to_view
from medgan.records import SyntheticCohort, ValidatedCohort
from medgan.settings import Zones
from tests.builders.cohort import prepared_cohort, radiographs
from tests.builders.synthetic import synthetic_of

COHORT_IMAGES = 900


@dataclass(frozen=True)
class Case:
    """A small cohort, its train images, and `fresh` images as a generator that memorises nothing would make them.

    Each is the mean of two radiographs that are in no split: single ones would not do, because PneumoniaMNIST holds
    several exposures of a person side by side, and one of them may be in train.
    """

    cohort: ValidatedCohort
    zones: Zones
    train: np.ndarray
    real: evidence.RealImages
    fresh: np.ndarray

    def synthetic(self, images: np.ndarray) -> SyntheticCohort:
        classes = np.where(np.arange(len(images)) % 3, "pneumonia", "normal")
        return synthetic_of(images, classes, self.cohort, self.zones)


def unused_rows(pixels: np.ndarray) -> np.ndarray:
    """Rows of all radiographs that `prepared_cohort(images=COHORT_IMAGES)` does not hold, in an order of chance."""
    used = np.linspace(0, len(pixels) - 1, COHORT_IMAGES).round().astype(int)
    seen = {pixels[row].tobytes() for row in used}
    rows = [row for row in range(len(pixels)) if pixels[row].tobytes() not in seen]
    return np.random.default_rng(3).permutation(rows)


def unused_radiographs(count: int) -> np.ndarray:
    """(count, 32, 32) uint16 real images, the first of `unused_rows`."""
    pixels, _ = radiographs()
    images = []
    for row in unused_rows(pixels)[:count]:
        image = pixels[row].astype(float)
        window = resample.window_of(image, (0.1, 99.9))
        images.append(resample.to_stored(resample.to_square(image, 32), window))
    return np.stack(images)


def imagined(count: int) -> np.ndarray:
    """(count, 32, 32) uint16 means of two unused radiographs."""
    pairs = unused_radiographs(2 * count).astype(np.uint32)
    return ((pairs[:count] + pairs[count:]) // 2).astype(np.uint16)


@pytest.fixture(scope="session")
def case(tmp_path_factory) -> Case:
    zones = Zones.under(tmp_path_factory.mktemp("privacy"))
    snapshot = prepared_cohort(zones, COHORT_IMAGES, 32)
    cohort = ValidatedCohort(cohort=snapshot, suite_sha256="0" * 64, statistics_sha256="0" * 64, expectations=1)
    loaded = read.load(snapshot, zones=zones)
    real, train = stages.real_images(loaded)[0][""], loaded.split("train")[0]
    return Case(cohort=cohort, zones=zones, train=train, real=real, fresh=imagined(300))


@pytest.fixture(scope="session")
def honest(case) -> evidence.Evidence:
    """Evidence about images that copy nobody."""
    return evidence.collect(to_view(case.fresh, (0, 65535)), case.real, seed=0)
