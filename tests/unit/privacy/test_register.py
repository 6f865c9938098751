from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from medgan.privacy.register import agreement
from medgan.privacy.warps import Warp


def resampled(images, step, angle=0.0):
    """Each image seen through a zoom and a turn about its centre."""
    cos, sin = step * np.cos(np.deg2rad(angle)), step * np.sin(np.deg2rad(angle))
    turn = np.array([[cos, -sin], [sin, cos]])
    centre = (np.array(images.shape[1:]) - 1) / 2
    offset = centre - turn @ centre
    return np.stack([ndimage.affine_transform(x, turn, offset=offset, order=1, mode="nearest") for x in images])


@pytest.mark.parametrize("step", [0.87, 0.9, 0.93, 1.05])
def test_a_crop_of_any_size_is_its_original_after_registration(case, step):
    originals = case.real.train[:40]
    cropped = resampled(originals, step)
    found = agreement(cropped, originals, [Warp(step=1 / step, dy=0.5, dx=-0.5)] * 40)
    assert np.quantile(found, 0.1) > 0.999
    assert found.max() <= 1 + 1e-5


def test_a_copy_turned_by_less_than_the_warps_are_apart_is_found(case):
    originals = case.real.train[:40]
    found = agreement(resampled(originals, 1.0, angle=2.0), originals, [Warp()] * 40)
    assert np.quantile(found, 0.1) > 0.999


@pytest.mark.parametrize(
    ("hidden", "warp"),
    [
        (lambda x: x[:, :, ::-1], Warp(flip=True)),
        (lambda x: np.rot90(x, 1, (1, 2)), Warp(angle=90)),
        (lambda x: 1 - x, Warp(negative=True)),
        (lambda x: np.roll(x, (2, -1), (1, 2)), Warp(dy=2, dx=-1)),
    ],
    ids=["mirrored", "quarter", "negative", "shifted"],
)
def test_registration_starts_from_the_warp_that_was_found(case, hidden, warp):
    originals = case.real.train[:20]
    copies = np.ascontiguousarray(hidden(originals), dtype=np.float32)
    candidates = [warp] if warp.angle == 0 else [warp, Warp(angle=-warp.angle)]
    assert max(agreement(copies, originals, [start] * 20).min() for start in candidates) > 0.999


def test_strangers_stay_strangers_and_a_constant_image_agrees_with_nothing(case):
    queries = case.real.train[1:61].copy()
    queries[0] = 0.5
    found = agreement(queries, case.real.train[61:121], [Warp()] * 60)
    assert np.isfinite(found).all()
    assert found[0] < 0.1
    assert found.max() < 0.98


def test_gamma_is_no_difference(case):
    originals = case.real.train[:60]
    assert np.median(agreement(originals**1.5, originals, [Warp()] * 60)) > 0.998
