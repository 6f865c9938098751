"""The spectrum's pull has the gradient it claims, and the filter makes a soft sample's rings those of the real one."""

import numpy as np
import pytest
import torch
from torch.nn.functional import avg_pool2d

from medgan.gan.fit import fit
from medgan.gan.images import to_unit
from medgan.gan.parallel import ALONE
from medgan.gan.sample import Sampler
from medgan.gan.spectrum import Polish, _rings, calibrate, mean_power, pull, ring_power
from medgan.gan.step import wanted_power
from tests.unit.gan.builders import small_config, small_set


def real(images: int = 256) -> torch.Tensor:
    plain = small_set(images)
    return torch.from_numpy(to_unit(plain.pixels, plain.lo, plain.hi))[:, None]


def test_ring_power_is_that_of_a_plain_transform():
    x = torch.randn(3, 1, 16, 16, dtype=torch.float64).float()
    hann = np.outer(np.hanning(16), np.hanning(16))
    centred = (x - x.mean((1, 2, 3), keepdim=True))[:, 0].numpy()
    power = (np.abs(np.fft.fft2(centred * hann)) ** 2).mean(0)
    frequency = np.fft.fftfreq(16) * 16
    ring = np.rint(np.hypot(frequency[:, None], frequency)).astype(int)
    plain = [power[ring == r].mean() for r in range(ring.max() + 1)]
    assert np.allclose(ring_power(x).numpy(), plain, rtol=1e-4)
    assert np.allclose(mean_power([x[:2, 0].numpy(), x[2:, 0].numpy()]), plain, rtol=1e-4)


def test_rings_first_asked_for_in_sampling_serve_a_training_afterwards():
    _rings.cache_clear()
    with torch.inference_mode():
        ring_power(torch.ones(1, 1, 16, 16))
    x = torch.ones(1, 1, 16, 16, requires_grad=True)
    ring_power(x).sum().backward()
    assert x.grad is not None


def test_pull_has_the_gradient_of_the_mean_squared_log_ratio():
    x = real(8).requires_grad_()
    target = mean_power([real(64)[:, 0].numpy()])
    (pull(x, target, ALONE) * ring_power(x)).sum().backward()
    ours, x.grad = x.grad, None
    (ring_power(x).log() - torch.from_numpy(target).float().log())[1:].square().sum().div(len(target)).backward()
    assert torch.allclose(ours, x.grad, rtol=1e-3, atol=1e-7)


def test_a_flat_image_is_not_torn():
    x = (1e-5 * torch.randn(4, 1, 32, 32)).requires_grad_()
    (pull(x, mean_power([real(64)[:, 0].numpy()]), ALONE) * ring_power(x)).sum().backward()
    assert float(x.grad.abs().max()) < 50


def test_a_filter_starts_as_the_identity():
    x = torch.randn(2, 1, 32, 32)
    assert torch.equal(Polish(2)(x), x)
    volume = torch.randn(1, 1, 16, 16, 16)
    assert torch.equal(Polish(3)(volume), volume)


def test_calibration_undoes_softness_on_images_it_has_not_seen():
    sharp = real(512)
    soft = 0.5 * sharp + 0.5 * avg_pool2d(sharp, 3, 1, 1, count_include_pad=False)
    target = mean_power([sharp[:, 0].numpy()])
    polish = Polish(2)
    calibrate(polish, soft[::2], target)

    def gap(x: torch.Tensor) -> float:
        return float(
            (10 * np.log10(mean_power([x[:, 0].numpy()]) / mean_power([sharp[1::2, 0].numpy()])))[8:17].__abs__().mean()
        )

    assert gap(soft[1::2]) > 2.5  # dB
    assert gap(polish(soft[1::2]).clamp(-1, 1)) < 0.4
    assert float(polish.kernel.sum()) == pytest.approx(1, abs=1e-5)
    assert torch.equal(polish.kernel, polish.kernel.flip(2, 3))


def test_a_filter_as_wide_as_the_image_is_no_filter():
    polish = Polish(2)
    calibrate(polish, torch.randn(4, 1, 16, 16), np.ones(12))
    assert torch.equal(polish.kernel, Polish(2).kernel)


def test_a_model_with_a_filter_is_trained_saved_and_drawn_from_twice_alike(tmp_path):
    config = small_config(spectrum_weight=1.0, match_spectrum=True, total_kimg=0.064)
    for name in ("a", "b"):
        fit(small_set(), config, tmp_path / name)
    drawn = [Sampler(tmp_path / name).images(np.arange(20), np.arange(20) % 2, seed=0) for name in ("a", "b")]
    assert np.array_equal(*drawn)
    kernel = Sampler(tmp_path / "a")._open().polish.kernel
    assert not torch.equal(kernel, Polish(2).kernel)


def test_a_pull_brings_the_spectrum_nearer(tmp_path):
    images = small_set()
    gaps = {}
    for weight in (0.0, 2.0):
        fit(images, small_config(spectrum_weight=weight, total_kimg=1.6, tick_kimg=1.6), tmp_path / str(weight))
        made = Sampler(tmp_path / str(weight)).images(np.arange(128), np.arange(128) % 2, seed=0)
        power = mean_power([to_unit(made, 0.0, 65535.0)])
        gaps[weight] = float(np.abs(np.log(power / images.ring_power))[1:].mean())
    assert gaps[2.0] < 0.6 * gaps[0.0]


def test_a_batch_is_held_to_the_power_of_its_own_classes():
    dark = small_set(64)
    dark.pixels[dark.class_index == 0] //= 4  # a sixteenth of the power
    of_class = [mean_power([to_unit(dark.pixels[dark.class_index == index], dark.lo, dark.hi)]) for index in range(2)]
    assert np.allclose(dark.class_ring_power, [*of_class, dark.ring_power], rtol=1e-5)
    c = torch.tensor([0, 0, 0, 1, 2])  # the last one is the null condition
    for given in (c, torch.cat([c[:, None].float(), torch.zeros(5, 3)], 1)):
        wanted = wanted_power(small_config(spectrum_target="classes"), dark, given, ALONE)
        assert np.allclose(wanted, (3 * of_class[0] + of_class[1] + dark.ring_power) / 5, rtol=1e-5)
    assert np.array_equal(wanted_power(small_config(), dark, c, ALONE), dark.ring_power)
