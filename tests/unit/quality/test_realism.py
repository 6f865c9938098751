"""Spectrum, similarity and diversity of images whose answers are known."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from medgan.quality import realism
from tests.builders.cohort import radiographs

RNG = np.random.default_rng(2)


def real(count=200):
    return radiographs(count)[0].astype(np.float64) / 127.5 - 1


def test_spectrum_of_a_wave_peaks_at_its_frequency():
    wave = np.broadcast_to(np.sin(2 * np.pi * 6 * np.arange(32) / 32), (3, 32, 32))
    assert int(np.argmax(realism.radial_spectrum(wave))) == 6


def test_spectrum_of_noise_is_flat():
    spectrum = realism.radial_spectrum(RNG.standard_normal((400, 32, 32)))
    assert np.ptp(spectrum[1:]) < 0.5


def test_blur_shows_in_the_high_band_of_the_spectrum():
    images = real()
    blurred = gaussian_filter(images, (0, 0.7, 0.7))
    spectra = [realism.radial_spectrum(x) for x in (images[::2], images[1::2], blurred[::2])]
    floor = realism.spectrum_gap(spectra[0], spectra[1], high_only=True)
    assert realism.spectrum_gap(spectra[2], spectra[1], high_only=True) > 5 * floor


def ssim_of_one_window(a, b):
    """Wang et al. 2004, written out for one 11 x 11 window and a range of 2."""
    taps = np.exp(-0.5 * ((np.arange(11) - 5) / 1.5) ** 2)
    w = np.outer(taps, taps) / taps.sum() ** 2
    mu_a, mu_b = (w * a).sum(), (w * b).sum()
    var_a, var_b = (w * (a - mu_a) ** 2).sum(), (w * (b - mu_b) ** 2).sum()
    cov = (w * (a - mu_a) * (b - mu_b)).sum()
    c1, c2 = 0.02**2, 0.06**2
    return (2 * mu_a * mu_b + c1) * (2 * cov + c2) / ((mu_a**2 + mu_b**2 + c1) * (var_a + var_b + c2))


def test_similarity_at_one_scale_is_the_published_formula():
    a, b = RNG.uniform(-1, 1, (2, 1, 11, 11))
    b = 0.6 * a + 0.4 * b
    assert realism.ms_ssim(a, b)[0] == pytest.approx(ssim_of_one_window(a[0], b[0]), abs=1e-12)


def test_similarity_is_one_for_an_image_and_itself_and_less_with_noise():
    images = real(20)
    assert realism.ms_ssim(images, images) == pytest.approx(np.ones(20))
    little = realism.ms_ssim(images, images + RNG.normal(0, 0.05, images.shape))
    much = realism.ms_ssim(images, images + RNG.normal(0, 0.3, images.shape))
    assert (much < little).all()
    assert (little < 1).all()


def test_a_collapse_to_a_few_images_looks_less_diverse():
    images = real(300)
    classes = np.zeros(300, np.int64)
    collapsed = images[:3].repeat(100, axis=0)
    assert realism.diversity(collapsed, classes) > realism.diversity(images, classes) + 0.02
