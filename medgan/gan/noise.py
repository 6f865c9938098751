"""Noise of a receiver (MR magnitudes) and of a dose (CT), and how strong it is."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor

from medgan.gan.measurement import Image, Measurement, not_below_floor

_HU_PER_UNIT = 2047.5
_DIRECTIONS = 16
_COARSE_PX, _CANVAS_PX = 64, 91
"""Attenuation varies slowly: it is found on images of at most 64 px, whose diagonal a detector of 91 px sees."""
_MOST_ATTENUATION = 9.0
"""Beyond (0.01 % of the photons) a scanner's own noise is what is left."""


def noise_level(seen_HW: Image) -> float:
    """Sigma of white noise: median of the finest diagonal wavelet (Donoho and Johnstone 1994) of the foreground."""
    height, width = (side // 2 * 2 for side in seen_HW.shape)
    x = np.asarray(seen_HW[:height, :width], np.float64)
    diagonal = (x[::2, ::2] - x[1::2, ::2] - x[::2, 1::2] + x[1::2, 1::2]) / 2
    mean = (x[::2, ::2] + x[1::2, ::2] + x[::2, 1::2] + x[1::2, 1::2]) / 4
    bright = diagonal[mean > np.median(mean)] if (mean > np.median(mean)).any() else diagonal.ravel()
    return float(np.median(np.abs(bright)) / 0.6745)


class _Noise:
    """Degradations that hide the image at every pixel: nothing is certain, and what they say is what was removed."""

    __slots__ = ()

    def residual(self, answer_HW: Image, measured: Measurement) -> Image:
        """What was taken for noise."""
        return answer_HW - measured.seen


@dataclass(frozen=True, slots=True, kw_only=True)
class RicianNoise(_Noise):
    """MR magnitude noise: both channels of the receiver add Gaussian noise (Gudbjartsson and Patz 1995, eq. 1)."""

    name: ClassVar[str] = "denoise"
    exact: ClassVar[bool] = False
    factor: int = 1
    sigma_from: float = 0.01  # of the intensity window
    sigma_to: float = 0.08

    def measure(self, image_HW: Image, rng: np.random.Generator) -> Measurement:
        """Magnitude of signal plus complex noise."""
        sigma = rng.uniform(self.sigma_from, self.sigma_to)
        signal = (image_HW + 1) / 2
        real, imaginary = sigma * rng.standard_normal((2, *image_HW.shape))
        seen = (2 * np.hypot(signal + real, imaginary) - 1).astype(np.float32)
        return Measurement(seen=seen, shape=(image_HW.shape[0], image_HW.shape[1]), level=2 * float(sigma))

    def naive(self, measured: Measurement) -> Image:
        """The noisy image without its bias: the root of m^2 - 2 sigma^2, which is right on average of the square."""
        magnitude, sigma = (measured.seen + 1) / 2, noise_level(measured.seen) / 2
        unbiased: Image = 2 * np.sqrt(np.maximum(magnitude**2 - np.float32(2 * sigma**2), 0)) - 1
        return unbiased.astype(np.float32)

    def project(self, answer_NCHW: Tensor, measured: list[Measurement]) -> Tensor:
        """Noise excludes no answer but one below no signal, which a magnitude cannot be."""
        return not_below_floor(answer_NCHW, measured)


@dataclass(frozen=True, slots=True, kw_only=True)
class LowDose(_Noise):
    """Low-dose CT: noise as filtered back projection leaves it, of a strength drawn in Hounsfield units.

    By the projection-slice theorem a view's noise lies along one direction of the Fourier plane, with the ramp's
    spectrum; about a pixel it is as strong as the ray through that pixel is weak (Wunderlich and Noo 2008). So wedges
    of filtered white noise are weighted pixel by pixel with the attenuation along their rays: the same cost for 64 and
    for 512 px, where projecting noise itself takes gigabytes. The window is read as -1024..3071 HU, water attenuates
    0.0192 / mm (at 70 keV), and the longer side of an image spans `field_mm`, so that a window is a small body. A
    reconstruction's kernel ends the ramp at a drawn share of the highest frequency.
    """

    name: ClassVar[str] = "low-dose"
    exact: ClassVar[bool] = False
    factor: int = 1
    sigma_from_hu: float = 10.0
    sigma_to_hu: float = 100.0
    kernel_from: float = 0.6
    kernel_to: float = 1.2
    field_mm: float = 256.0

    def measure(self, image_HW: Image, rng: np.random.Generator) -> Measurement:
        """The image with noise whose root mean square is drawn (evenly by its logarithm)."""
        sigma = float(np.exp(rng.uniform(np.log(self.sigma_from_hu), np.log(self.sigma_to_hu)))) / _HU_PER_UNIT
        height, width = image_HW.shape
        rows, columns = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)
        radius = np.hypot(rows, columns) * 2
        ends = np.clip(radius / rng.uniform(self.kernel_from, self.kernel_to), 0, 1)
        amplitude = np.sqrt(radius * np.cos(np.pi / 2 * ends) ** 2)
        wedge = (np.arctan2(rows, columns) % np.pi / np.pi * _DIRECTIONS + 0.5).astype(np.int64) % _DIRECTIONS
        white = np.fft.rfft2(rng.standard_normal(image_HW.shape)) * amplitude
        noise = np.zeros(image_HW.shape)
        for direction, strength in enumerate(self._strengths(image_HW)):
            noise += strength * np.fft.irfft2(white * (wedge == direction), image_HW.shape)
        noise *= sigma / np.sqrt(np.mean(noise**2))
        return Measurement(seen=(image_HW + noise).astype(np.float32), shape=(height, width), level=sigma)

    def _strengths(self, image_HW: Image) -> NDArray[np.float64]:
        """(directions, H, W): the noise of a ray through each pixel, by exp(attenuation / 2), up to a factor."""
        step = -(-max(image_HW.shape) // _COARSE_PX)
        coarse = gaussian_filter(image_HW, step / 2)[::step, ::step] if step > 1 else image_HW
        canvas = np.full((_CANVAS_PX, _CANVAS_PX), -1.0)
        top, left = ((_CANVAS_PX - side) // 2 for side in coarse.shape)
        inside = slice(top, top + coarse.shape[0]), slice(left, left + coarse.shape[1])
        canvas[inside] = coarse
        hounsfield = (canvas + 1) * _HU_PER_UNIT - 1024
        per_pixel = np.clip(1 + hounsfield / 1000, 0, None) * 0.0192 * self.field_mm / max(coarse.shape)
        system = projector(_CANVAS_PX, _DIRECTIONS)
        noise = np.exp(np.minimum(system @ per_pixel.ravel(), _MOST_ATTENUATION) / 2).reshape(_DIRECTIONS, -1)
        seen = [(turn.T @ ray).reshape(canvas.shape)[inside] for turn, ray in zip(_views(), noise, strict=True)]
        return np.stack(seen)[:, np.arange(image_HW.shape[0])[:, None] // step, np.arange(image_HW.shape[1]) // step]

    def naive(self, measured: Measurement) -> Image:
        """The noisy image itself."""
        return measured.seen

    def project(self, answer_NCHW: Tensor, measured: list[Measurement]) -> Tensor:  # noqa: ARG002 - noise hides it
        """No answer is excluded by noise."""
        return answer_NCHW


@lru_cache(maxsize=1)
def _views() -> list[Any]:
    """The projector's rows, direction by direction."""
    system = projector(_CANVAS_PX, _DIRECTIONS)
    return [system[at * _CANVAS_PX : (at + 1) * _CANVAS_PX] for at in range(_DIRECTIONS)]


@lru_cache(maxsize=4)
def projector(size: int, angles: int) -> Any:
    """Sparse (angles * size, size * size) matrix of parallel line integrals in pixels, by linear splitting."""
    from scipy import sparse

    centre = (size - 1) / 2
    rows_HW, columns_HW = np.mgrid[:size, :size] - centre
    theta = np.arange(angles)[:, None] * np.pi / angles
    place = rows_HW.ravel() * np.sin(theta) + columns_HW.ravel() * np.cos(theta) + centre
    low = np.floor(place).astype(np.int64)
    share = place - low
    pixel = np.broadcast_to(np.arange(size * size), place.shape)
    turn = np.arange(angles)[:, None] * size
    entries = [(low, 1 - share), (low + 1, share)]
    inside = [(at >= 0) & (at < size) for at, _ in entries]
    row = np.concatenate([(turn + at)[ok] for (at, _), ok in zip(entries, inside, strict=True)])
    column = np.concatenate([pixel[ok] for ok in inside])
    weight = np.concatenate([value[ok] for (_, value), ok in zip(entries, inside, strict=True)])
    return sparse.csr_matrix((weight, (row, column)), shape=(angles * size, size * size))
