"""Distances against closed forms and against the definitions written out as loops."""

import itertools
import math

import numpy as np
import pytest

from medgan.quality import coverage, distance

RNG = np.random.default_rng(5)


def exactly(mean, deviations, count=200):
    """A sample whose mean and unbiased covariance are exactly these."""
    width = len(mean)
    raw = RNG.standard_normal((count, width))
    raw -= raw.mean(0)
    white = raw @ np.linalg.inv(np.linalg.cholesky(np.cov(raw, rowvar=False))).T
    return white * deviations + mean


def test_frechet_of_gaussians_has_its_closed_form():
    # Dowson and Landau 1982, commuting covariances: |mu|^2 + sum (s - t)^2
    a, b = exactly([0.0, 0, 0], [1.0, 2, 3]), exactly([1.0, -2, 0.5], [2.0, 2, 0.5])
    assert distance.frechet(a, b) == pytest.approx(1 + 4 + 0.25 + 1 + 0 + 6.25, abs=1e-9)


def test_frechet_of_rotated_gaussians_agrees_with_the_matrix_root():
    import scipy.linalg

    mix = RNG.standard_normal((4, 4))
    a, b = exactly(np.zeros(4), np.ones(4)) @ mix, exactly(np.ones(4), np.array([1.0, 2, 3, 4]))
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(cov_a @ cov_b).real
    expected = np.square(a.mean(0) - b.mean(0)).sum() + np.trace(cov_a + cov_b - 2 * root)
    assert distance.frechet(a, b) == pytest.approx(expected, rel=1e-9)
    assert distance.frechet(a, a) == pytest.approx(0, abs=1e-9)


def test_kernel_distance_is_the_unbiased_estimate_of_the_paper():
    a, b = RNG.standard_normal((6, 3)), RNG.standard_normal((6, 3)) + 0.5

    def k(x, y):
        return (float(x @ y) / 3 + 1) ** 3

    within = sum(k(x[i], x[j]) for x in (a, b) for i, j in itertools.permutations(range(6), 2)) / 30
    across = sum(k(x, y) for x in a for y in b) / 36
    mean, spread = distance.kernel(a, b, subsets=3, size=6)
    assert mean == pytest.approx(within - 2 * across)
    assert spread == pytest.approx(0, abs=1e-12)


def test_wasserstein_of_a_shift_is_the_shift():
    a = RNG.standard_normal(5000)
    assert distance.wasserstein(a, a + 0.7) == pytest.approx(0.7)
    shift = np.full(16, 0.5)
    sample = RNG.standard_normal((400, 16))
    sliced = distance.sliced_wasserstein(sample, sample + shift, directions=4000)
    # E|<theta, s>| = |s| sqrt(2 / (pi F)) for large F, times sqrt(F)
    assert sliced == pytest.approx(2.0 * math.sqrt(2 / math.pi), rel=0.05)


def test_prdc_is_its_definition():
    real, fake, k = RNG.standard_normal((30, 2)), RNG.standard_normal((30, 2)) * 0.7 + 0.5, 3

    def radius(points, i):
        return sorted(math.dist(points[i], other) for other in points)[k]

    in_real = [[math.dist(r, f) < radius(real, i) for i, r in enumerate(real)] for f in fake]
    in_fake = [[math.dist(r, f) < radius(fake, j) for j, f in enumerate(fake)] for r in real]
    ours = coverage.prdc(real, fake, k=k)
    assert ours.precision == pytest.approx(np.mean([any(row) for row in in_real]))
    assert ours.recall == pytest.approx(np.mean([any(row) for row in in_fake]))
    assert ours.density == pytest.approx(np.sum(in_real) / k / 30)
    assert ours.coverage == pytest.approx(np.mean([any(column) for column in zip(*in_real, strict=True)]))


def test_prdc_sees_a_collapse_that_precision_does_not():
    rng = np.random.default_rng(1)
    real = rng.standard_normal((200, 4))
    collapsed = real[:4].repeat(50, axis=0) + rng.standard_normal((200, 4)) * 0.05
    ours = coverage.prdc(real, collapsed)
    assert ours.precision > 0.9
    assert ours.coverage < 0.3
