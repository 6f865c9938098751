"""Volumes are made by the same blocks, loop, sampler and ONNX export as flat images."""

import numpy as np
import pytest
import torch
from torch.nn.functional import avg_pool3d, conv3d, interpolate

from medgan.errors import InvalidRequest
from medgan.gan import onnx
from medgan.gan.augment import Warp
from medgan.gan.config import TrainConfig
from medgan.gan.fit import fit
from medgan.gan.images import TrainingSet
from medgan.gan.layers import SmoothDown, SmoothUp
from medgan.gan.sample import Sampler
from tests.unit.gan.builders import small_config, small_set


def volumes(count: int = 24, size: int = 16) -> TrainingSet:
    """A radiograph a volume, fading away from its middle slice: the slices of one volume belong together."""
    plain = small_set(count)
    flat = plain.pixels.reshape(count, size, 32 // size, size, 32 // size).mean((2, 4))
    fade = 1 - np.abs(np.linspace(-1, 1, size))[None, :, None, None]
    return TrainingSet(
        pixels=(flat[:, None] * fade).astype(np.uint16), class_index=plain.class_index, classes=plain.classes,
        lo=0.0, hi=65535.0,
    )  # fmt: skip


def small(**changes) -> TrainConfig:
    return small_config(**({"dims": 3, "size_px": 16, "widths": (16, 8), "batch": 8, "total_kimg": 0.064} | changes))


def test_smooth_layers_of_volumes_are_resampling_and_a_convolution():
    down, x = SmoothDown(2, 3, 3).double(), torch.randn(1, 2, 8, 8, 8, dtype=torch.float64)
    assert torch.allclose(down(x), avg_pool3d(conv3d(x, down.weight, down.bias, padding=1), 2), atol=1e-12)
    up = SmoothUp(2, 3, 3).double()
    kernel = up.weight.transpose(0, 1).flip(2, 3, 4)
    assert torch.allclose(up(x), conv3d(interpolate(x, scale_factor=2), kernel, up.bias, padding=1), atol=1e-12)


@pytest.mark.parametrize(
    "changes",
    [
        {"match_spectrum": True, "spectrum_weight": 1.0},
        {"precision": "bf16", "norm_d": "batch", "loss": "gan-ns", "resample_g": "strided"},
        {"backbone": "residual", "widths": (16, 16, 8), "norm_g": "none", "penalty_every": 1},
        {"loss": "wgan-gp", "norm_g": "none", "size_px": 32, "widths": (16, 8, 8), "batch": 2, "total_kimg": 0.004},
    ],
)
def test_volumes_train_and_are_drawn_in_any_grouping(tmp_path, changes):
    config = small(**changes)
    fit(volumes(size=config.size_px), config, tmp_path)
    sampler, ids = Sampler(tmp_path), np.arange(20)
    made = sampler.images(ids, ids % 2, seed=0)
    assert (made.shape, made.dtype) == ((20, *[config.size_px] * 3), np.uint16)
    assert np.array_equal(sampler.images(ids[3:5], ids[3:5] % 2, seed=0), made[3:5])
    assert list((tmp_path / "grids").glob("*.png"))


def test_volumes_learn_what_their_slices_have_in_common(tmp_path):
    images = volumes(96)
    fit(images, small(total_kimg=1.6, tick_kimg=1.6, augment_p=0.0, learning_rate=2e-3, norm_g="batch"), tmp_path)
    made = Sampler(tmp_path).images(np.arange(32), np.arange(32) % 2, seed=0)
    ours, real = made.mean((0, 2, 3)), images.pixels.mean((0, 2, 3))
    assert np.corrcoef(ours, real)[0, 1] > 0.9
    assert np.array_equal(ours.argsort()[-2:] // 2 * 2, [6, 6]) or ours.argmax() in (7, 8)


def test_onnx_volumes_are_those_of_torch(tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    fit(volumes(), small(match_spectrum=True), tmp_path)
    network = Sampler(tmp_path)._open()
    session = runtime.InferenceSession(onnx.export(network))
    z, c = np.random.default_rng(0).standard_normal((3, 64), dtype=np.float32), np.array([0, 1, 2])
    expected = network(torch.from_numpy(z), torch.from_numpy(c)).numpy()
    assert np.allclose(session.run(None, {"z": z, "c": c})[0], expected, atol=1e-4)


def test_augmentation_moves_a_volume_along_every_axis():
    config = small(augment_p=0.999, augment_zoom=0.0, augment_gain=0.0, augment_bias=0.0, augment_shift=0.1)
    volume = torch.zeros(64, 1, 16, 16, 16)
    volume[:, 0, 8, 8, 8] = 1
    places = np.array(
        [(spot[0] == 1).nonzero()[0].tolist() for spot in Warp(config, 64, np.random.default_rng(0))(volume)]
    )
    assert np.abs(places - 8).max() == 1
    assert all(len(np.unique(places[:, axis])) == 3 for axis in range(3))


def test_what_cannot_be_a_volume_is_refused(tmp_path):
    with pytest.raises(InvalidRequest, match="64 voxels"):
        small(size_px=128, widths=(8, 8, 8, 8, 8))
    with pytest.raises(InvalidRequest, match="3 dimensions"):
        fit(small_set(), small(size_px=32, widths=(8, 8, 8)), tmp_path)
    with pytest.raises(InvalidRequest, match="size, size, size"):
        TrainingSet(pixels=np.zeros((2, 8, 8, 4), np.uint16), class_index=np.zeros(2, int), classes=("a",), lo=0, hi=1)
