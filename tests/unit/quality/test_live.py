"""The live distance falls as images come closer to the training set."""

from dataclasses import replace

import numpy as np
import pytest

from medgan.quality import live
from tests.unit.gan.builders import small_set


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    monkeypatch.setattr(live, "_STEPS", 24)


def test_real_images_are_nearer_than_blurred_ones_and_those_nearer_than_noise():
    images = small_set(256)
    judge = live.in_domain(replace(images, pixels=images.pixels[::2], class_index=images.class_index[::2]))
    unseen = images.pixels[1::2]
    blurred = ((unseen.astype(np.uint32) + np.roll(unseen, 2, 1) + np.roll(unseen, 2, 2)) // 3).astype(np.uint16)
    noise = np.random.default_rng(0).integers(0, 65536, unseen.shape).astype(np.uint16)
    assert judge(unseen) < judge(blurred) < judge(noise)


def test_volumes_are_judged_by_their_middle_slices():
    images = small_set(64)
    volumes = np.repeat(images.pixels[:, None], 32, 1)
    flat, deep = (live.in_domain(replace(images, pixels=pixels)) for pixels in (images.pixels, volumes))
    assert deep(volumes[:, ::-1]) == flat(images.pixels)
