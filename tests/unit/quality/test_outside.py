"""The network written out here is the published one, and its opinion tells noise from radiographs."""

import numpy as np
import pytest
import torch

from medgan.quality import distance, outside
from tests.unit.gan.builders import small_set

pytest.importorskip(outside.PACKAGE, reason="the extra `opinion` is not installed")


def test_scores_are_those_of_the_published_network():
    x = torch.sin(torch.arange(3 * 224 * 224, dtype=torch.float32) * 0.01).view(1, 3, 224, 224)
    with torch.inference_mode():
        scores = outside.logits(x)[0]
    # efficientnet-lite-pytorch 0.1.0 on the same weights
    published = [-1.4542490, -0.2582331, -1.7762833, -2.6903419, -0.2116714, -0.1708240]
    assert scores[:6].tolist() == pytest.approx(published, abs=1e-4)
    assert scores.argmax() == 905
    assert scores.max() == pytest.approx(6.1377, abs=1e-3)


def test_radiographs_are_nearer_to_each_other_than_noise_is():
    images = small_set(48)
    unit = images.batch(np.arange(48))[0][:, 0]
    noise = np.random.default_rng(0).uniform(-1, 1, (16, 32, 32)).astype(np.float32)
    known, unseen, wrong = (outside.features(x) for x in (unit[::3], unit[1::3], noise))
    assert known.shape == (16, 1280)
    assert distance.kernel(unseen, known)[0] < distance.kernel(wrong, known)[0] / 10
