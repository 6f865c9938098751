"""Noise of a receiver (MR magnitudes) and of a dose (CT), and how strong it is."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from medgan.gan.measurement import Image, Measurement, not_below_floor


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
    """Low-dose CT: photon counts of a parallel-beam scan are Poisson; filtered back projection spreads their noise.

    The window is read as -1024..3071 HU, water attenuates 0.0192 / mm (at 70 keV), a pixel is `pixel_mm` wide.
    """

    name: ClassVar[str] = "low-dose"
    exact: ClassVar[bool] = False
    factor: int = 1
    photons_from: float = 2e3
    photons_to: float = 5e4
    pixel_mm: float = 4.0
    angles: int = 90

    def measure(self, image_HW: Image, rng: np.random.Generator) -> Measurement:
        """Add the reconstruction of (noisy - noiseless) line integrals; the noiseless part stays untouched."""
        from scipy import sparse

        photons = float(np.exp(rng.uniform(np.log(self.photons_from), np.log(self.photons_to))))
        size = max(image_HW.shape)
        square = np.full((size, size), -1.0)
        square[: image_HW.shape[0], : image_HW.shape[1]] = image_HW
        system = projector(size, self.angles)
        hounsfield = (square + 1) * 2047.5 - 1024
        per_pixel = np.clip(1 + hounsfield / 1000, 0, None) * 0.0192 * self.pixel_mm
        lines = (sparse.csr_matrix(system) @ per_pixel.ravel()).reshape(self.angles, -1)
        expected = photons * np.exp(-lines)
        counted = np.maximum(rng.poisson(expected), 1)
        error = np.log(np.maximum(expected, 1) / counted)
        ramp = np.abs(np.fft.rfftfreq(error.shape[1]))
        filtered = np.fft.irfft(np.fft.rfft(error, axis=1) * ramp, error.shape[1], axis=1)
        noise = (system.T @ filtered.ravel()).reshape(size, size) * np.pi / self.angles
        noise_unit = noise / (0.0192 * self.pixel_mm) * 1000 / 2047.5
        cut = noise_unit[: image_HW.shape[0], : image_HW.shape[1]]
        seen = (image_HW + cut).astype(np.float32)
        shape = (image_HW.shape[0], image_HW.shape[1])
        return Measurement(seen=seen, shape=shape, level=float(cut.std()))

    def naive(self, measured: Measurement) -> Image:
        """The noisy image itself."""
        return measured.seen

    def project(self, answer_NCHW: Tensor, measured: list[Measurement]) -> Tensor:  # noqa: ARG002 - noise hides it
        """No answer is excluded by noise."""
        return answer_NCHW


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
