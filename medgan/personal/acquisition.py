"""How a site takes its images, as far as a few of them show: field of view, sharpness and tones.

Fitted in that order, each by one number or curve that ten images decide: the zoom at which the mean images agree best,
the blur that the mean spectra ask for, and the monotone curve that takes one set of pooled quantiles to the other.
Zoom and blur are separable, so an image x becomes A x A^T with one small matrix A.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_ZOOMS = np.array([1.0, *np.geomspace(1 / 1.4, 1.4, 15)])
"""Above 1 the field of view is narrower; the first is kept where others are no better."""
_MOST_BLUR_PX = 2.0
_KNOTS = np.linspace(0, 1, 33)
_FEW = 5
"""With fewer local cases quantiles are noisy: the curve is drawn towards the identity in proportion."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Acquisition:
    """Apply it to images. axis: (S, S), zoom and blur along rows and columns; places, goals: (K,), the tone curve."""

    zoom: float
    blur_px: float
    axis: NDArray[np.float32]
    places: NDArray[np.float64]
    goals: NDArray[np.float64]

    def __call__(self, unit_NSS: NDArray[np.float32]) -> NDArray[np.float32]:
        """Images in [-1, 1] as they would have been taken there."""
        return np.interp(_along(self.axis, unit_NSS), self.places, self.goals).astype(np.float32)

    def moved(self, masks_NSS: NDArray[Any]) -> NDArray[Any]:
        """The masks of these images in the local field of view, by nearest neighbour."""
        place_S = np.rint(_places(self.zoom, masks_NSS.shape[-1])).astype(np.int64)
        return masks_NSS[:, place_S[:, None], place_S]


def fit(unit_NSS: NDArray[np.float32], local_MSS: NDArray[np.float32]) -> Acquisition:
    """What makes images `unit_NSS` look taken as `local_MSS` were, both in [-1, 1] and of the same mix of classes."""
    mean, wanted = unit_NSS.mean(0), local_MSS.mean(0)
    size = len(mean)
    agree = [_correlation(_along(_zoom(one, size), mean), wanted) for one in _ZOOMS]
    zoom = float(_ZOOMS[int(np.argmax(agree))])
    near = _along(_zoom(zoom, size), unit_NSS)
    blur = _blur_between(near, local_MSS)
    axis = _blur(blur, size) @ _zoom(zoom, size)
    places, theirs = (np.quantile(x, _KNOTS) for x in (_along(axis, unit_NSS), local_MSS))
    trust = len(local_MSS) / (len(local_MSS) + _FEW)
    rising = np.maximum.accumulate(places + 1e-6 * np.arange(len(places)))  # np.interp wants rising places
    goals = trust * theirs + (1 - trust) * places
    return Acquisition(zoom=zoom, blur_px=blur, axis=axis, places=rising, goals=goals)


def _along(axis_SS: NDArray[np.float32], x: NDArray[np.float32]) -> NDArray[np.float32]:
    moved: NDArray[np.float32] = (axis_SS @ x @ axis_SS.T).astype(np.float32, copy=False)
    return moved


def _zoom(zoom: float, size: int) -> NDArray[np.float32]:
    """Linear interpolation about the centre; beyond the edge the edge goes on."""
    place_S = _places(zoom, size)
    weights: NDArray[np.float32] = np.maximum(0, 1 - np.abs(place_S[:, None] - np.arange(size))).astype(np.float32)
    return weights


def _places(zoom: float, size: int) -> NDArray[np.float64]:
    """(S,) where each pixel along an axis is taken from."""
    centre = (size - 1) / 2
    places: NDArray[np.float64] = np.clip((np.arange(size) - centre) / zoom + centre, 0, size - 1)
    return places


def _blur(sigma_px: float, size: int) -> NDArray[np.float32]:
    """A Gaussian along an axis, the identity for 0."""
    if sigma_px <= 0:
        return np.eye(size, dtype=np.float32)
    apart = np.arange(size)[:, None] - np.arange(size)
    weights = np.exp(-(apart**2) / (2 * sigma_px**2))
    kernel: NDArray[np.float32] = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    return kernel


def _blur_between(sharp_NSS: NDArray[np.float32], soft_MSS: NDArray[np.float32]) -> float:
    """Sigma of the Gaussian whose power, exp(-4 pi^2 sigma^2 f^2), best explains the ratio of the mean spectra; 0..2.

    A factor of all frequencies is a contrast, which is left to the tones. The upper half of the band is left out: there
    interpolation has taken what no blur did.
    """
    size = sharp_NSS.shape[-1]
    window = np.outer(np.hanning(size), np.hanning(size))
    ours, theirs = (
        (np.abs(np.fft.fft2((x - x.mean((1, 2), keepdims=True)) * window)) ** 2).mean(0) for x in (sharp_NSS, soft_MSS)
    )
    square = np.fft.fftfreq(size)[:, None] ** 2 + np.fft.fftfreq(size) ** 2
    heard = (square > (1.5 / size) ** 2) & (square < 0.35**2)
    slope = np.polyfit(square[heard], np.log((theirs[heard] + 1e-6) / (ours[heard] + 1e-6)), 1)[0]
    return float(np.clip(np.sqrt(max(0.0, -slope) / (4 * np.pi**2)), 0, _MOST_BLUR_PX))


def _correlation(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])
