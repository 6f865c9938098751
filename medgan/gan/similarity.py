"""Structural similarity, pixel by pixel."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_HALF_PX, _SIGMA_PX = 5, 1.5
_C1, _C2 = 0.02**2, 0.06**2
"""Squares of 1 % and 3 % of the range."""


def ssim_map(a_HW: NDArray[np.floating], b_HW: NDArray[np.floating]) -> NDArray[np.float64]:
    """(H, W) structural similarity of two images in [-1, 1] (Wang et al. 2004, 11 px Gaussian window, range 2).

    Sides are mirrored by half a window first, so that every pixel has a value.
    """
    from scipy.ndimage import correlate1d

    taps = np.exp(-0.5 * (np.arange(-_HALF_PX, _HALF_PX + 1) / _SIGMA_PX) ** 2)
    taps /= taps.sum()

    def smooth(x: NDArray[np.float64]) -> NDArray[np.float64]:
        out: NDArray[np.float64] = correlate1d(correlate1d(x, taps, axis=0), taps, axis=1)
        return out[_HALF_PX:-_HALF_PX, _HALF_PX:-_HALF_PX]

    a, b = (np.pad(np.asarray(x, np.float64), _HALF_PX, mode="reflect") for x in (a_HW, b_HW))
    mu_a, mu_b = smooth(a), smooth(b)
    var_a, var_b = smooth(a**2) - mu_a**2, smooth(b**2) - mu_b**2
    covariance = smooth(a * b) - mu_a * mu_b
    luminance = (2 * mu_a * mu_b + _C1) / (mu_a**2 + mu_b**2 + _C1)
    similar: NDArray[np.float64] = luminance * (2 * covariance + _C2) / (var_a + var_b + _C2)
    return similar
