"""Physical degradations: what a scanner, a dose or a narrow line does to an image, and what is known to hold after it.

Images are (H, W) float32 in about [-1, 1]; -1 is no signal. Each degradation gives a measurement, a plain way back to
the image's grid (`naive`, what people do without a network), the part of an answer that contradicts the measurement
(`residual`), and where the forward operator is known the nearest answer that does not (`project`).
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medgan.errors import InvalidRequest

Image = NDArray[np.float32]
_JPEG_BLOCK = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What was seen of one image.

    `seen` (h, w) float32 on the measurement's own grid; `shape` (H, W) of the image that is asked for; `hole` (H, W) is
    True where nothing was seen; `level` says how strong the degradation is (noise: its sigma in units of `seen`);
    `steps_88` are the quantisation steps of a JPEG file in its grey levels, where they are known, and `grey` is what
    one of those levels is in `seen`.
    """

    seen: Image
    shape: tuple[int, int]
    hole: NDArray[np.bool_] | None = None
    level: float = 0.0
    steps_88: NDArray[np.float64] | None = None
    grey: float = 1 / 127.5


class Degradation(Protocol):
    """A named degradation. `factor` is how many times finer the answer's grid is than the measurement's."""

    name: ClassVar[str]
    exact: ClassVar[bool]

    @property
    def factor(self) -> int:
        """How many times finer the answer's grid is."""
        ...

    def measure(self, image_HW: Image, rng: np.random.Generator) -> Measurement:
        """Degrade one image; its strength is drawn from `rng`."""
        ...

    def naive(self, measured: Measurement) -> Image:
        """(H, W) on the answer's grid without any knowledge of images."""
        ...

    def project(self, answer_NCHW: Tensor, measured: list[Measurement]) -> Tensor:
        """The nearest answers that agree with their measurements; differentiable."""
        ...

    def residual(self, answer_HW: Image, measured: Measurement) -> Image:
        """A(answer) - seen, on the measurement's grid, in the units of `seen`."""
        ...


@lru_cache(maxsize=8)
def crop_matrix(size: int, small: int) -> NDArray[np.float32]:
    """(small, size): keep the `small` lowest frequencies of a line and give it on `small` samples, mean kept.

    The sole coefficient at an even line's highest frequency takes both of its twins, so that `fill_matrix` is an
    exact right inverse: crop @ fill = identity.
    """
    lines = np.fft.fft(np.eye(size), axis=0)
    half = small // 2
    rows = [*range(half + small % 2), *range(size - half, size)]
    kept = lines[rows]
    if small % 2 == 0 and small < size:
        kept[half] += lines[half]
    real: NDArray[np.float32] = (np.fft.ifft(kept, axis=0).real * (small / size)).astype(np.float32)
    return real


@lru_cache(maxsize=8)
def fill_matrix(size: int, small: int) -> NDArray[np.float32]:
    """(size, small): the band-limited line through `small` samples on `size` samples (zero-filled k-space)."""
    lines = np.fft.fft(np.eye(small), axis=0)
    half = small // 2
    filled = np.zeros((size, small), complex)
    filled[: half + small % 2] = lines[: half + small % 2]
    filled[size - half :] = lines[small - half :]
    if small % 2 == 0 and small < size:
        filled[size - half] /= 2
        filled[half] = filled[size - half]
    real: NDArray[np.float32] = (np.fft.ifft(filled, axis=0).real * (size / small)).astype(np.float32)
    return real


def _apply(rows: NDArray[np.float32], columns: NDArray[np.float32], image: Image) -> Image:
    out: Image = (rows @ image @ columns.T).astype(np.float32)
    return out


@dataclass(frozen=True, slots=True, kw_only=True)
class KSpaceCrop:
    """MR super-resolution: only the central 1/`factor` of k-space along both axes was acquired."""

    name: ClassVar[str] = "super-resolution"
    exact: ClassVar[bool] = True
    factor: int = 2

    def measure(self, image_HW: Image, rng: np.random.Generator) -> Measurement:  # noqa: ARG002 - nothing is random
        """Crop k-space; sides that `factor` does not divide are cut first by whoever calls."""
        height, width = image_HW.shape
        small = height // self.factor, width // self.factor
        seen = _apply(crop_matrix(height, small[0]), crop_matrix(width, small[1]), image_HW)
        return Measurement(seen=seen, shape=(height, width))

    def naive(self, measured: Measurement) -> Image:
        """Zero-filled k-space."""
        rows, columns = (fill_matrix(*pair) for pair in zip(measured.shape, measured.seen.shape, strict=True))
        return _apply(rows, columns, measured.seen)

    def project(self, answer_NCHW: Tensor, measured: list[Measurement]) -> Tensor:
        """Put the acquired part of k-space back: answer - fill (crop answer - seen)."""
        pairs = list(zip(measured[0].shape, measured[0].seen.shape, strict=True))
        fill_rows, fill_columns = (torch.from_numpy(fill_matrix(*pair)).to(answer_NCHW.device) for pair in pairs)
        crop_rows, crop_columns = (torch.from_numpy(crop_matrix(*pair)).to(answer_NCHW.device) for pair in pairs)
        seen = torch.from_numpy(np.stack([one.seen for one in measured]))[:, None].to(answer_NCHW)
        return answer_NCHW - fill_rows @ (crop_rows @ answer_NCHW @ crop_columns.T - seen) @ fill_columns.T

    def residual(self, answer_HW: Image, measured: Measurement) -> Image:
        """Cropped answer minus what was acquired."""
        rows, columns = (crop_matrix(*pair) for pair in zip(measured.shape, measured.seen.shape, strict=True))
        return _apply(rows, columns, answer_HW) - measured.seen


def noise_level(seen_HW: Image) -> float:
    """Sigma of white noise: median of the finest diagonal wavelet (Donoho and Johnstone 1994) of the foreground."""
    height, width = (side // 2 * 2 for side in seen_HW.shape)
    x = np.asarray(seen_HW[:height, :width], np.float64)
    diagonal = (x[::2, ::2] - x[1::2, ::2] - x[::2, 1::2] + x[1::2, 1::2]) / 2
    mean = (x[::2, ::2] + x[1::2, ::2] + x[::2, 1::2] + x[1::2, 1::2]) / 4
    bright = diagonal[mean > np.median(mean)] if (mean > np.median(mean)).any() else diagonal.ravel()
    return float(np.median(np.abs(bright)) / 0.6745)


@dataclass(frozen=True, slots=True, kw_only=True)
class RicianNoise:
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

    def project(self, answer_NCHW: Tensor, measured: list[Measurement]) -> Tensor:  # noqa: ARG002 - noise hides it
        """No answer is excluded by noise."""
        return answer_NCHW

    def residual(self, answer_HW: Image, measured: Measurement) -> Image:
        """What was taken for noise."""
        return answer_HW - measured.seen


@dataclass(frozen=True, slots=True, kw_only=True)
class LowDose:
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

    def residual(self, answer_HW: Image, measured: Measurement) -> Image:
        """What was taken for noise."""
        return answer_HW - measured.seen


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Holes:
    """Defects, metal, dropped lines: free-form strokes of which nothing was seen (Yu et al. 2019, algorithm 1)."""

    name: ClassVar[str] = "inpaint"
    exact: ClassVar[bool] = True
    factor: int = 1
    share_from: float = 0.05
    share_to: float = 0.4

    def measure(self, image_HW: Image, rng: np.random.Generator) -> Measurement:
        """Strokes until the drawn share of the image is gone."""
        hole = strokes(image_HW.shape, rng.uniform(self.share_from, self.share_to), rng)
        return self.without(image_HW, hole)

    def without(self, image_HW: Image, hole_HW: NDArray[np.bool_]) -> Measurement:
        """The image with a given hole, in which the value is that of no signal."""
        seen = np.where(hole_HW, np.float32(-1), image_HW).astype(np.float32)
        return Measurement(seen=seen, shape=(image_HW.shape[0], image_HW.shape[1]), hole=hole_HW)

    def naive(self, measured: Measurement) -> Image:
        """Holes filled by repeated averaging of their rims (harmonic, to first order)."""
        return harmonic(measured.seen, _hole(measured))

    def project(self, answer_NCHW: Tensor, measured: list[Measurement]) -> Tensor:
        """Mask * answer + (1 - mask) * seen."""
        hole = torch.from_numpy(np.stack([_hole(one) for one in measured]))[:, None].to(answer_NCHW.device)
        seen = torch.from_numpy(np.stack([one.seen for one in measured]))[:, None].to(answer_NCHW)
        return torch.where(hole, answer_NCHW, seen)

    def residual(self, answer_HW: Image, measured: Measurement) -> Image:
        """What was changed outside of the holes."""
        return np.where(_hole(measured), np.float32(0), answer_HW - measured.seen).astype(np.float32)


def _hole(measured: Measurement) -> NDArray[np.bool_]:
    if measured.hole is None:
        raise InvalidRequest("inpainting needs to know where the holes are")
    return measured.hole


def strokes(shape: tuple[int, ...], share: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """(H, W) free-form hole covering at least `share` of the image: random walks of a round brush."""
    height, width = shape
    hole = np.zeros((height, width), bool)
    rows, columns = np.ogrid[:height, :width]
    while hole.mean() < share:
        row, column = rng.uniform(0, height), rng.uniform(0, width)
        angle, brush = rng.uniform(0, 2 * np.pi), rng.uniform(1.5, 1.5 + min(height, width) / 20)
        for _ in range(rng.integers(4, 14)):
            angle += rng.uniform(-0.9, 0.9)
            row, column = row + 1.5 * brush * np.sin(angle), column + 1.5 * brush * np.cos(angle)
            hole |= (rows - row) ** 2 + (columns - column) ** 2 < brush**2
            if hole.mean() >= share:
                break
    return hole


def harmonic(seen_HW: Image, hole_HW: NDArray[np.bool_]) -> Image:
    """Coarse to fine: each level fills a hole with the mean of what its neighbourhood knows."""
    known = (~hole_HW).astype(np.float32)
    if not hole_HW.any() or not known.any():
        return seen_HW.copy()
    values = np.where(hole_HW, 0, seen_HW).astype(np.float32)
    pyramid = [(values, known)]
    while min(pyramid[-1][0].shape) > 2:  # noqa: PLR2004 - two rows cannot be halved further
        pyramid.append((_halve(pyramid[-1][0]), _halve(pyramid[-1][1])))
    top_values, top_known = pyramid[-1]
    filled = np.full_like(top_values, top_values.sum() / top_known.sum())
    for level_values, level_known in reversed(pyramid):
        height, width = level_values.shape
        below = (
            np.kron(filled, np.ones((2, 2), np.float32))[:height, :width] if filled.shape != (height, width) else filled
        )
        mean = level_values / np.maximum(level_known, 1e-6)
        filled = np.where(level_known > 0, level_known * mean + (1 - level_known) * below, below).astype(np.float32)
    out = np.where(hole_HW, filled, seen_HW).astype(np.float32)
    for _ in range(_SMOOTHING):
        padded = np.pad(out, 1, mode="edge")
        around = (padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]) / 4
        out = np.where(hole_HW, around, seen_HW).astype(np.float32)
    return out


_SMOOTHING = 20
"""Averaging rounds after the pyramid: enough to lose its blocks."""


def _halve(x_HW: Image) -> Image:
    height, width = (side + side % 2 for side in x_HW.shape)
    even = np.pad(x_HW, ((0, height - x_HW.shape[0]), (0, width - x_HW.shape[1])), mode="edge")
    halved: Image = even.reshape(height // 2, 2, width // 2, 2).mean((1, 3))
    return halved


@dataclass(frozen=True, slots=True, kw_only=True)
class Jpeg:
    """A narrow line: eight-bit baseline JPEG of low quality, as tele-diagnosis gets it."""

    name: ClassVar[str] = "compression"
    exact: ClassVar[bool] = True
    factor: int = 1
    quality_from: int = 8
    quality_to: int = 30

    def measure(self, image_HW: Image, rng: np.random.Generator) -> Measurement:
        """Encode and decode at a quality drawn from the range."""
        return self.at(image_HW, int(rng.integers(self.quality_from, self.quality_to + 1)))

    def at(self, image_HW: Image, quality: int) -> Measurement:
        """Encode and decode at one quality (1..95, as libjpeg counts)."""
        from PIL import Image as Pictures

        grey = np.rint(np.clip((image_HW + 1) * 127.5, 0, 255)).astype(np.uint8)
        file = io.BytesIO()
        Pictures.fromarray(grey).save(file, "JPEG", quality=quality)
        with Pictures.open(file) as picture:
            steps = np.array(picture.quantization[0], np.float64).reshape(8, 8)  # type: ignore[attr-defined]
            seen = (np.asarray(picture, np.float32) / np.float32(127.5)) - np.float32(1)
        shape = (image_HW.shape[0], image_HW.shape[1])
        return Measurement(seen=seen, shape=shape, level=float(steps.mean()) / 127.5, steps_88=steps)

    def naive(self, measured: Measurement) -> Image:
        """The decoded file."""
        return measured.seen

    def project(self, answer_NCHW: Tensor, measured: list[Measurement]) -> Tensor:
        """Every block's coefficients back into the interval that the file's step says they came from.

        Files whose steps are not known are left alone. Half a grey level is allowed for the decoder's rounding.
        """
        if any(one.steps_88 is None for one in measured):
            return answer_NCHW
        seen = torch.from_numpy(np.stack([one.seen for one in measured]))[:, None].to(answer_NCHW)
        steps = torch.from_numpy(
            np.stack([(one.steps_88 / 2 + _ROUNDING) * one.grey for one in measured if one.steps_88 is not None])
        )
        half = steps.to(answer_NCHW)[:, None, None, None]
        wanted, given = _blocks(answer_NCHW), _blocks(seen)
        return answer_NCHW + _unblocks(torch.clamp(wanted - given, -half, half) + given - wanted, answer_NCHW.shape)

    def residual(self, answer_HW: Image, measured: Measurement) -> Image:
        """How far coefficients lie outside of their interval, back in the image; 0 where all are inside."""
        answer = torch.from_numpy(answer_HW)[None, None]
        projected = self.project(answer, [measured])
        out: Image = (answer - projected)[0, 0].numpy()
        return out


_ROUNDING = 1.0
"""Grey levels by which a decoder's rounding to whole levels may move a coefficient: 3.5 standard deviations."""


@lru_cache(maxsize=1)
def _cosines() -> NDArray[np.float32]:
    """Orthonormal 8-point DCT-II (ITU-T T.81 A.3.3)."""
    n = np.arange(_JPEG_BLOCK)
    table = np.cos((2 * n + 1) * n[:, None] * np.pi / 16) / 2
    table[0] /= np.sqrt(2)
    return table.astype(np.float32)


def _blocks(x_NCHW: Tensor) -> Tensor:
    """Coefficients (N, C, H/8, W/8, 8, 8); sides are padded by their last row and column, as encoders do."""
    pad = [(-side) % _JPEG_BLOCK for side in x_NCHW.shape[-2:]]
    padded = torch.nn.functional.pad(x_NCHW, (0, pad[1], 0, pad[0]), mode="replicate")
    tiles = padded.unfold(2, 8, 8).unfold(3, 8, 8)
    table = torch.from_numpy(_cosines()).to(x_NCHW)
    return table @ tiles @ table.T


def _unblocks(coefficients: Tensor, shape: torch.Size) -> Tensor:
    table = torch.from_numpy(_cosines()).to(coefficients)
    tiles = table.T @ coefficients @ table
    n, c, rows, columns = tiles.shape[:4]
    return tiles.permute(0, 1, 2, 4, 3, 5).reshape(n, c, rows * 8, columns * 8)[..., : shape[2], : shape[3]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A task people ask for by name."""

    name: str
    title: str
    degradation: Degradation = field(repr=False)


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(name="super-resolution-x2", title="MR super-resolution, twice", degradation=KSpaceCrop(factor=2)),
        Task(name="super-resolution-x4", title="MR super-resolution, four times", degradation=KSpaceCrop(factor=4)),
        Task(name="denoise", title="Rician noise removed", degradation=RicianNoise()),
        Task(name="low-dose", title="Low-dose CT noise removed", degradation=LowDose()),
        Task(name="inpaint", title="Defects filled in", degradation=Holes()),
        Task(name="compression", title="JPEG artefacts removed", degradation=Jpeg()),
    )
}


def task(name: str) -> Task:
    """A task by its name; `InvalidRequest` names those there are."""
    if name not in TASKS:
        raise InvalidRequest(f"there is no such task; choose one of {', '.join(TASKS)}")
    return TASKS[name]
