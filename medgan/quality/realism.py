"""What images look like without a network: power spectrum, intensity, structural diversity. Everything in float64.

Legend: x_NHW are images in [-1, 1] (spectrum, diversity) or in physical units (intensity).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.float64]

_MS_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang, Simoncelli and Bovik 2003, section 4
_K1, _K2 = 0.01, 0.03  # Wang et al. 2004
_WINDOW, _SIGMA = 11, 1.5


def radial_spectrum(x_NHW: Images) -> NDArray[np.float64]:
    """Mean power by spatial frequency 0..size/2 (cycles an image), Hann window against the frame's edges, in dB."""
    size = x_NHW.shape[-1]
    hann = np.hanning(size)
    centred = x_NHW - x_NHW.mean((1, 2), keepdims=True)
    power_HW = (np.abs(np.fft.fft2(centred * np.outer(hann, hann))) ** 2).mean(0)
    frequency = np.fft.fftfreq(size) * size
    ring_HW = np.rint(np.hypot(frequency[:, None], frequency)).astype(np.int64)
    rings = [power_HW[ring_HW == ring].mean() for ring in range(size // 2 + 1)]
    decibels: NDArray[np.float64] = 10 * np.log10(np.maximum(rings, 1e-12))
    return decibels


def spectrum_gap(a_R: NDArray[np.float64], b_R: NDArray[np.float64], *, high_only: bool = False) -> float:
    """Mean |difference| of two spectra in dB, over every ring but the mean, or over the upper half of them."""
    first = len(a_R) // 2 if high_only else 1
    return float(np.abs(a_R - b_R)[first:].mean())


def ms_ssim(a_NHW: Images, b_NHW: Images) -> NDArray[np.float64]:
    """Multi-scale structural similarity (N,) of pairs in [-1, 1]; as many scales as an 11-pixel window leaves."""
    scales = max(1, min(len(_MS_WEIGHTS), int(np.log2(a_NHW.shape[-1] / _WINDOW)) + 1))
    weights = np.array(_MS_WEIGHTS[:scales]) / sum(_MS_WEIGHTS[:scales])
    total = np.ones(len(a_NHW))
    for scale, weight in enumerate(weights):
        luminance, contrast = _ssim_parts(a_NHW, b_NHW)
        here = (luminance * contrast).mean((1, 2)) if scale == scales - 1 else contrast.mean((1, 2))
        total *= np.clip(here, 0, None) ** weight
        a_NHW, b_NHW = _halve(a_NHW), _halve(b_NHW)
    return total


def _ssim_parts(a_NHW: Images, b_NHW: Images) -> tuple[Images, Images]:
    """Luminance and contrast-structure maps with an 11x11 Gaussian window, valid part only; range 2."""
    c1, c2 = (2 * _K1) ** 2, (2 * _K2) ** 2
    mu_a, mu_b = _smooth(a_NHW), _smooth(b_NHW)
    var_a, var_b = _smooth(a_NHW**2) - mu_a**2, _smooth(b_NHW**2) - mu_b**2
    cov = _smooth(a_NHW * b_NHW) - mu_a * mu_b
    luminance = (2 * mu_a * mu_b + c1) / (mu_a**2 + mu_b**2 + c1)
    return luminance, (2 * cov + c2) / (var_a + var_b + c2)


def _smooth(x_NHW: Images) -> Images:
    taps = np.exp(-0.5 * ((np.arange(_WINDOW) - _WINDOW // 2) / _SIGMA) ** 2)
    taps /= taps.sum()
    size = x_NHW.shape[-1]
    band = np.zeros((size - _WINDOW + 1, size))
    for row in range(len(band)):
        band[row, row : row + _WINDOW] = taps
    return band @ x_NHW @ band.T


def _halve(x_NHW: Images) -> Images:
    even = x_NHW[:, : x_NHW.shape[1] // 2 * 2, : x_NHW.shape[2] // 2 * 2]
    return (even[:, ::2, ::2] + even[:, 1::2, ::2] + even[:, ::2, 1::2] + even[:, 1::2, 1::2]) / 4


def diversity(x_NHW: Images, class_index: NDArray[np.int64], *, pairs: int = 500, seed: int = 0) -> float:
    """Mean MS-SSIM of random pairs of one class: higher means less diverse (Odena et al. 2017)."""
    rng = np.random.default_rng(seed)
    first = rng.integers(len(x_NHW), size=pairs)
    second = np.array([rng.choice(np.flatnonzero(class_index == class_index[row])) for row in first])
    apart = first != second
    return float(ms_ssim(x_NHW[first[apart]], x_NHW[second[apart]]).mean())
