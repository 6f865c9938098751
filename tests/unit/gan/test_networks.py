"""Layers do what their names say, and the networks have the shapes and the start they promise."""

import numpy as np
import pytest
import torch
from torch.nn.functional import avg_pool2d, conv2d, interpolate

from medgan.gan import discriminator, generator
from medgan.gan.augment import Warp
from medgan.gan.layers import Residual, SmoothDown, SmoothUp
from tests.unit.gan.builders import small_config


def test_smooth_up_is_nearest_upsampling_and_a_convolution():
    layer, x = SmoothUp(3, 5).double(), torch.randn(2, 3, 6, 6, dtype=torch.float64)
    plain = conv2d(interpolate(x, scale_factor=2), layer.weight.transpose(0, 1), layer.bias, padding=1)
    # a transposed convolution applies its kernel mirrored
    mirrored = conv2d(interpolate(x, scale_factor=2), layer.weight.transpose(0, 1).flip(2, 3), layer.bias, padding=1)
    assert torch.allclose(layer(x), mirrored, atol=1e-12)
    assert not torch.allclose(layer(x), plain, atol=1e-3)


def test_smooth_down_is_a_convolution_and_averaging():
    layer, x = SmoothDown(3, 5).double(), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    plain = avg_pool2d(conv2d(x, layer.weight, layer.bias, padding=1), 2)
    assert torch.allclose(layer(x), plain, atol=1e-12)


def test_smooth_up_leaves_no_checkerboard_on_a_flat_image():
    made = SmoothUp(4, 1)(torch.ones(1, 4, 8, 8)).detach()[0, 0, 2:-2, 2:-2]
    assert float(made.max() - made.min()) < 1e-5


def test_residual_block_starts_as_the_identity():
    x = torch.randn(2, 24, 4, 4)
    assert torch.equal(Residual(24, depth=4)(x), x)


@pytest.mark.parametrize(
    "changes", [{}, {"widths": (32, 16, 8, 8)}, {"backbone": "residual", "widths": (32, 16, 16, 8)}]
)
@pytest.mark.parametrize("resample", ["smooth", "strided"])
def test_networks_give_one_image_and_one_logit_a_row(changes, resample):
    config = small_config(resample_g=resample, resample_d=resample, **changes)
    z, c = torch.randn(3, config.latent_dim), torch.tensor([0, 1, 2])  # 2 is the null condition
    images = generator.build(config, 2)(z, c)
    assert images.shape == (3, 1, 32, 32)
    assert discriminator.build(config, 2)(images, c).shape == (3,)


def test_article_backbone_makes_an_image_of_every_size():
    config = small_config(backbone="dense", size_px=64, widths=(8, 8, 8, 8))
    assert generator.build(config, 2)(torch.randn(2, config.latent_dim), torch.tensor([0, 1])).shape == (2, 1, 64, 64)


def test_seed_decides_the_first_weights_and_leaves_the_global_generator_alone():
    config, before = small_config(), torch.get_rng_state()
    first, again = (generator.build(config, 2).state_dict() for _ in range(2))
    other = generator.build(small_config(seed=4), 2).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["start.weight"], other["start.weight"])
    assert torch.equal(torch.get_rng_state(), before)


def test_condition_changes_what_is_made_and_how_it_is_judged():
    config = small_config()
    made = generator.build(config, 2)(torch.randn(1, config.latent_dim).expand(2, -1), torch.tensor([0, 1]))
    assert not torch.allclose(made[0], made[1])
    judged = discriminator.build(config, 2)(made[:1].expand(2, -1, -1, -1), torch.tensor([0, 1]))
    assert float(judged[0].detach()) != float(judged[1].detach())


def test_augmentation_moves_an_image_by_whole_pixels_and_never_far():
    config = small_config(augment_p=0.999, augment_zoom=0.0, augment_gain=0.0, augment_bias=0.0, augment_shift=0.1)
    image = torch.zeros(64, 1, 32, 32)
    image[:, 0, 16, 16] = 1
    moved = Warp(config, 64, np.random.default_rng(0))(image)
    places = [tuple((spot[0] == 1).nonzero()[0].tolist()) for spot in moved]
    assert all(abs(row - 16) <= 3 and abs(column - 16) <= 3 for row, column in places)
    assert len(set(places)) > 10


def test_augmentation_of_probability_zero_changes_nothing():
    image = torch.rand(4, 1, 32, 32)
    assert torch.equal(Warp(small_config(augment_p=0.0), 4, np.random.default_rng(0))(image), image)


def test_flips_only_where_laterality_is_not_labelled():
    image = torch.zeros(200, 1, 32, 32)
    image[:, :, :, :16] = 1
    still = {"augment_p": 0.9, "augment_zoom": 0.0, "augment_shift": 0.0, "augment_gain": 0.0, "augment_bias": 0.0}
    kept = Warp(small_config(**still), 200, np.random.default_rng(0))(image)
    flipped = Warp(small_config(augment_flip=True, **still), 200, np.random.default_rng(0))(image)
    assert torch.equal(kept, image)
    assert 50 < int((flipped[:, 0, 0, 0] == 0).sum()) < 150
