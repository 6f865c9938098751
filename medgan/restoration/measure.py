"""How good a restoration is, beside the truth: PSNR, structural similarity, spectrum. Images in [-1, 1], float64."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medgan.gan.similarity import ssim_map
from medgan.quality import realism

Image = NDArray[np.floating]


def psnr_db(a_HW: Image, b_HW: Image, where: NDArray[np.bool_] | None = None) -> float:
    """Peak signal-to-noise ratio in dB for a range of 2, over `where` or everywhere."""
    square = np.square(np.asarray(a_HW, np.float64) - b_HW)
    return float(10 * np.log10(4 / max(float(square[where].mean() if where is not None else square.mean()), 1e-12)))


def ssim(a_HW: Image, b_HW: Image, where: NDArray[np.bool_] | None = None) -> float:
    """Structural similarity, mean over `where` or everywhere."""
    values = ssim_map(a_HW, b_HW)
    return float(values[where].mean() if where is not None else values.mean())


def spectrum_distance_db(made: list[Image], truth: list[Image]) -> float:
    """Mean absolute difference in dB of the radial power spectra of two lists of images, middle squares alone."""
    a, b = (realism.radial_spectrum(np.stack([_square(x) for x in images])) for images in (made, truth))
    return realism.spectrum_gap(a, b)


def _square(image_HW: Image) -> NDArray[np.float64]:
    side = min(image_HW.shape)
    top, left = ((length - side) // 2 for length in image_HW.shape)
    return np.asarray(image_HW[top : top + side, left : left + side], np.float64)
