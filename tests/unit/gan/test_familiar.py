"""What a model calls familiar: sound images of other patients, and nothing that merely shares their intensities."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.stats import norm

from medgan.gan import familiar

PINNED = (-0.027465, 0.066238, 0.028526)
"""From the day its limits were first kept in files: another network would make every stored limit wrong."""


def blobs(seed, sigma=(2.5, 2.5)):
    """An image whose intensities are the same whatever its texture."""
    field = gaussian_filter(np.random.default_rng(seed).standard_normal((64, 64)), sigma, mode="wrap")
    return (2 * norm.cdf((field - field.mean()) / field.std()) - 1).astype(np.float32)


def described(seeds):
    return [familiar.describe(blobs(seed)) for seed in seeds]


@pytest.fixture(scope="module")
def known():
    return familiar.learn(described(range(150)), described(range(150, 200)))


def test_other_patients_are_familiar(known):
    refused = [known.distance(blobs(seed)) > known.limit for seed in range(1000, 1050)]
    assert sum(refused) <= 1


@pytest.mark.parametrize("sigma", [(1.2, 5.0), (1.5, 1.5)])
def test_another_texture_is_foreign_by_what_a_random_network_sees(known, sigma):
    part = known.parts["features"]
    distances = [part.distance(familiar.describe(blobs(seed, sigma))["features"]) for seed in range(20)]
    assert min(distances) > 1


def test_limits_survive_the_file(known):
    again = familiar.Familiar.from_json(json.loads(json.dumps(known.as_json())))
    for image in (blobs(7), blobs(7, (1.5, 4.0))):
        assert again.distance(image) == pytest.approx(known.distance(image), rel=1e-3)


def test_the_random_network_is_the_same_for_ever():
    features = familiar.untrained().features(blobs(0))
    assert features.shape == (192,)
    assert features[[0, 40, 191]] == pytest.approx(PINNED, abs=2e-6)


def test_the_smallest_measurement_of_a_small_image_is_described_too():
    image = np.random.default_rng(0).uniform(-1, 1, (8, 10)).astype(np.float32)  # a quarter of 32 x 40 px each way
    described = familiar.describe(image)
    assert all(np.isfinite(part).all() for part in described.values())
    assert described["thumbnail"].shape == familiar.describe(np.tile(image, (6, 6)))["thumbnail"].shape
