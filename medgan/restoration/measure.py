"""How good a restoration is, beside the truth: PSNR, structural similarity, spectrum. Images in [-1, 1], float64."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medgan.quality import realism

Image = NDArray[np.floating]


def psnr_db(a_HW: Image, b_HW: Image, where: NDArray[np.bool_] | None = None) -> float:
    """Peak signal-to-noise ratio in dB for a range of 2, over `where` or everywhere."""
    square = np.square(np.asarray(a_HW, np.float64) - b_HW)
    return float(10 * np.log10(4 / max(float(square[where].mean() if where is not None else square.mean()), 1e-12)))


def ssim(a_HW: Image, b_HW: Image, where: NDArray[np.bool_] | None = None) -> float:
    """Structural similarity (Wang et al. 2004, 11 px Gaussian window, range 2), mean over `where` or everywhere.

    Sides are mirrored by half a window first, so that every pixel has a value.
    """
    a, b = (np.pad(np.asarray(x, np.float64), 5, mode="reflect")[None] for x in (a_HW, b_HW))
    luminance, contrast = _parts(a, b)
    values = (luminance * contrast)[0]
    return float(values[where].mean() if where is not None else values.mean())


def _parts(a_NHW: NDArray[np.float64], b_NHW: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    from scipy.ndimage import correlate1d

    taps = np.exp(-0.5 * ((np.arange(11) - 5) / 1.5) ** 2)
    taps /= taps.sum()

    def smooth(x: NDArray[np.float64]) -> NDArray[np.float64]:
        out: NDArray[np.float64] = correlate1d(correlate1d(x, taps, axis=1), taps, axis=2)[:, 5:-5, 5:-5]
        return out

    mu_a, mu_b = smooth(a_NHW), smooth(b_NHW)
    var_a, var_b = smooth(a_NHW**2) - mu_a**2, smooth(b_NHW**2) - mu_b**2
    covariance = smooth(a_NHW * b_NHW) - mu_a * mu_b
    c1, c2 = 0.02**2, 0.06**2
    return (2 * mu_a * mu_b + c1) / (mu_a**2 + mu_b**2 + c1), (2 * covariance + c2) / (var_a + var_b + c2)


def spectrum_distance_db(made: list[Image], truth: list[Image]) -> float:
    """Mean absolute difference in dB of the radial power spectra of two lists of images, middle squares alone."""
    a, b = (realism.radial_spectrum(np.stack([_square(x) for x in images])) for images in (made, truth))
    return realism.spectrum_gap(a, b)


def _square(image_HW: Image) -> NDArray[np.float64]:
    side = min(image_HW.shape)
    top, left = ((length - side) // 2 for length in image_HW.shape)
    return np.asarray(image_HW[top : top + side, left : left + side], np.float64)
