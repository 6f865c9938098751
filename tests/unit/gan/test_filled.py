"""What was filled into a hole is told from a guess by how deep it lies."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from skimage.metrics import structural_similarity

from medgan.gan.filled import by_depth, depths
from medgan.gan.similarity import ssim_map


def picture():
    image = gaussian_filter(np.random.default_rng(0).standard_normal((96, 96)), 2)
    return np.clip(image / image.std() / 3, -0.9, 1).astype(np.float32)


def square(side=32):
    hole = np.zeros((96, 96), bool)
    hole[30 : 30 + side, 30 : 30 + side] = True
    return hole


def test_a_hole_is_as_deep_as_the_way_to_what_was_seen():
    deep = depths(square(5))
    assert deep.max() == deep[32, 32] == 3
    assert deep[~square(5)].max() == 0


def test_a_filling_is_trusted_as_deep_as_it_is_like_the_truth():
    truth, hole = picture(), square()
    wrong = np.where(depths(hole) > 10, np.float32(0.8), truth)  # its 11 px windows reach 5 px farther out
    found = by_depth([(wrong, truth, hole)])
    assert found["depth_px"] == [1, 2, 3, 4, 6, 8, 12]
    assert found["ssim"][:3] == pytest.approx([1, 1, 1])
    assert found["ssim"][-1] < 0.5
    assert found["trusted_px"] == 6
    assert by_depth([(np.full_like(truth, 0.8), truth, hole)])["trusted_px"] == 0


def test_air_that_is_filled_well_does_not_speak_for_tissue():
    truth, hole = picture(), square()
    truth[:, :46] = -1
    wrong = np.where(hole & (truth > -1), np.float32(0.8), truth)
    first = by_depth([(wrong, truth, hole)])
    assert first["tissue"][0] < first["ssim"][0] - 0.1


def test_where_nothing_was_missing_nothing_is_said():
    truth = picture()
    assert by_depth([(truth, truth, square(0))]) == {"depth_px": [], "ssim": [], "tissue": [], "trusted_px": 0}


def test_similarity_is_that_of_scikit_image():
    a, b = picture(), gaussian_filter(picture(), 1)
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 2, "K1": 0.01}
    _, theirs = structural_similarity(a.astype(float), b.astype(float), full=True, **options)
    assert np.allclose(ssim_map(a, b)[6:-6, 6:-6], theirs[6:-6, 6:-6], atol=1e-6)
