"""How a site takes its images, as far as a few of them show: field of view, sharpness, tones and noise.

Each is one number or curve that ten images decide: the zoom at which the mean images agree best, the blur that the mean
spectra ask for and the noise that stands above it in their highest band, and the monotone curve that takes one set of
pooled quantiles to the other, noise included. Zoom and blur are separable, so an image x becomes A x A^T with one small
matrix A. Noise is white: at the few pixels that downstream models see, its neighbours hardly know of each other.
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
_HEARD, _TOP = (1.5, 0.35), 0.45
"""Where blur is read off, from 1.5 cycles an image to 0.35 a pixel: above, interpolation has taken what no blur did;
and from where on noise is, in cycles a pixel."""
_ROUNDS = 4
_MOST_FITTED = 500
_FEW = 5
"""With fewer local cases quantiles are noisy: the curve is drawn towards the identity in proportion."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Acquisition:
    """Apply it to images. axis: (S, S), zoom and blur along rows and columns; places, goals: (K,), the tone curve.

    noise: its standard deviation, where the window of an image is 2 wide.
    """

    zoom: float
    blur_px: float
    axis: NDArray[np.float32]
    places: NDArray[np.float64]
    goals: NDArray[np.float64]
    noise: float

    def __call__(self, unit_NSS: NDArray[np.float32]) -> NDArray[np.float32]:
        """Images in [-1, 1] as they would have been taken there; the same images get the same noise."""
        clean = np.interp(_along(self.axis, unit_NSS), self.places, self.goals).astype(np.float32)
        return _grained(clean, self.noise)

    def moved(self, masks_NSS: NDArray[Any]) -> NDArray[Any]:
        """The masks of these images in the local field of view, by nearest neighbour."""
        place_S = np.rint(_places(self.zoom, masks_NSS.shape[-1])).astype(np.int64)
        return masks_NSS[:, place_S[:, None], place_S]


def fit(unit_NSS: NDArray[np.float32], local_MSS: NDArray[np.float32]) -> Acquisition:
    """What makes images `unit_NSS` look taken as `local_MSS` were, both in [-1, 1] and of the same mix of classes."""
    unit_NSS = unit_NSS[:: -(-len(unit_NSS) // _MOST_FITTED)]
    mean, wanted = unit_NSS.mean(0), local_MSS.mean(0)
    size = len(mean)
    agree = [_correlation(_along(_zoom(one, size), mean), wanted) for one in _ZOOMS]
    zoom = float(_ZOOMS[int(np.argmax(agree))])
    blur = _blur_between(_along(_zoom(zoom, size), unit_NSS), local_MSS)
    axis = _blur(blur, size) @ _zoom(zoom, size)
    places, goals, noise = _tones_and_noise(_along(axis, unit_NSS), local_MSS)
    return Acquisition(zoom=zoom, blur_px=blur, axis=axis, places=places, goals=goals, noise=noise)


def _tones_and_noise(
    soft_NSS: NDArray[np.float32], local_MSS: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """The curve after which, and after noise, images have the quantiles of local ones, as far as these are trusted.

    The noise is what local images have in the highest band beyond what these have after the curve.
    """
    places, theirs = (np.quantile(x, _KNOTS).astype(np.float64) for x in (soft_NSS, local_MSS))
    trust = len(local_MSS) / (len(local_MSS) + _FEW)
    wanted = trust * theirs + (1 - trust) * places
    rising, of = np.unique(places.round(3), return_inverse=True)  # one place of a flat background has one goal
    knots = np.bincount(of)
    goals, variance, heard = np.bincount(of, wanted) / knots, 0.0, _noise_band(local_MSS)
    for _ in range(_ROUNDS):
        toned = np.interp(soft_NSS, rising, goals).astype(np.float32)
        variance = max(0.0, variance + heard - _noise_band(_grained(toned, np.sqrt(variance))))
        reached = np.quantile(_grained(toned, np.sqrt(variance)), _KNOTS)
        goals = np.maximum.accumulate(goals + np.bincount(of, wanted - reached) / knots).clip(-1, 1)
    return rising, goals, float(np.sqrt(variance))


def _noise_band(unit_NSS: NDArray[np.float32]) -> float:
    """Variance a pixel that white noise with the power of the highest band would have."""
    power, square = _power(unit_NSS)
    return float(power[square > _TOP**2].mean())


def _grained(clean_NSS: NDArray[np.float32], noise: float) -> NDArray[np.float32]:
    """With white noise, drawn alike for the same number of images."""
    if noise <= 0:
        return clean_NSS
    drawn = np.random.default_rng(0).standard_normal(clean_NSS.shape, np.float32)
    noisy: NDArray[np.float32] = (clean_NSS + np.float32(noise) * drawn).clip(-1, 1)
    return noisy


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


def _power(unit_NSS: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(S, S) mean power of windowed images, the variance where it is white; and the square of each frequency."""
    size = unit_NSS.shape[-1]
    window = np.outer(np.hanning(size), np.hanning(size))
    spectra = np.fft.fft2((unit_NSS - unit_NSS.mean((1, 2), keepdims=True)) * window)
    square = np.fft.fftfreq(size)[:, None] ** 2 + np.fft.fftfreq(size) ** 2
    return (np.abs(spectra) ** 2).mean(0) / (window**2).sum(), square


def _blur_between(sharp_NSS: NDArray[np.float32], soft_MSS: NDArray[np.float32]) -> float:
    """Sigma (0..2 px) of the Gaussian that best takes one mean spectrum to the other, where local ones may be noisy.

    Fitted in decibels: their power is ours times exp(-4 pi^2 sigma^2 f^2) and times a contrast, which is left to the
    tones, and the same floor everywhere, at most what they have in the highest band.
    """
    from scipy.optimize import least_squares

    (ours, square), (theirs, _) = (_power(x) for x in (sharp_NSS, soft_MSS))
    most = float(theirs[square > _TOP**2].mean()) + 1e-9
    heard = (square > (_HEARD[0] / len(square)) ** 2) & (square < _HEARD[1] ** 2)
    ours, theirs, square = ours[heard] + 1e-9, theirs[heard] + 1e-9, square[heard]

    def missed(fitted: NDArray[np.float64]) -> NDArray[np.float64]:
        contrast, variance, floor = fitted
        found: NDArray[np.float64] = np.log(ours * np.exp(contrast - 4 * np.pi**2 * variance * square) + floor * most)
        return found - np.log(theirs)

    fitted = least_squares(missed, (0.0, 0.1, 0.5), bounds=((-9, 0, 0), (9, _MOST_BLUR_PX**2, 1)))
    return float(np.sqrt(fitted.x[1]))


def _correlation(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Pearson's; 0 where either is constant, as of empty cases: every zoom agrees alike, and the first is kept."""
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / scale if scale > 0 else 0.0
