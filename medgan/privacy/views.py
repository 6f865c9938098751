"""Images as the gate sees them: at most 64 px, zero mean and unit norm, float32; and the changes a copier makes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Images = npt.NDArray[np.float32]
"""(N, H, W) float32 in [0, 1], H = W."""


class Views(Protocol):
    """`Images`, or what gives some of them when it is asked for a slice, rows or a mask."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, S, S)."""

    def __len__(self) -> int:
        """N."""

    def __getitem__(self, rows: Any, /) -> Any:
        """The views of some rows, `Images`."""


VIEW_PX = 64
_OTHERS = 16


def to_view(stored_NHW: npt.NDArray[Any], intensity_range: tuple[float, float], px: int = VIEW_PX) -> Images:
    """Stored images to (N, S, S) float32 in [0, 1], S <= `px`: larger ones are averaged over whole pixels."""
    low, high = intensity_range
    images: Images = np.clip((stored_NHW.astype(np.float32) - low) / (high - low), 0, 1)
    size = images.shape[1]
    if size <= px:
        return images
    edges = np.linspace(0, size, px + 1).round().astype(int)
    sums = np.add.reduceat(np.add.reduceat(images, edges[:-1], axis=1), edges[:-1], axis=2)
    widths = np.diff(edges)
    means: Images = (sums / np.outer(widths, widths)).astype(np.float32)
    return means


@dataclass(frozen=True, slots=True)
class StoredViews:
    """`to_view` of stored images (N, H, W), made when they are asked for: those of a million are never all there."""

    stored: npt.NDArray[np.uint16]
    intensity_range: tuple[float, float]

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, S, S)."""
        size = min(self.stored.shape[1], VIEW_PX)
        return len(self), size, size

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.stored)

    def __getitem__(self, rows: Any) -> Images:
        """(n, S, S) the views of some rows."""
        return to_view(self.stored[rows], self.intensity_range)


def unit(images_NHW: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """(N, ...) to (N, P) float32 rows of zero mean and norm sqrt(P); a constant image becomes zeros."""
    flat = images_NHW.reshape(len(images_NHW), -1).astype(np.float32)
    flat = flat - flat.mean(axis=1, keepdims=True)
    deviation = np.sqrt(np.mean(flat * flat, axis=1, keepdims=True))
    rows: npt.NDArray[np.float32] = flat / np.maximum(deviation, 1e-6)
    return rows


def _noise(images: Images, rng: np.random.Generator) -> npt.NDArray[Any]:
    """Of 5 % of the scale, and of a quarter of the image's own deviation at most: more drowns what is so dim.

    A CT slice of the chest in MedNIST correlates 0.70 with itself under plain 5 %, and 0.87 with strangers.
    """
    deviation = np.minimum(0.05, 0.25 * images.std((1, 2), keepdims=True))
    out: npt.NDArray[Any] = images + deviation * rng.normal(size=images.shape)
    return out


def _gamma(images: Images, rng: np.random.Generator) -> npt.NDArray[Any]:
    powers: npt.NDArray[Any] = rng.choice([0.67, 1.5], size=(len(images), 1, 1))
    out: npt.NDArray[Any] = np.power(images, powers)
    return out


def _shift(images: Images, rng: np.random.Generator) -> npt.NDArray[Any]:
    steps = rng.choice([-2, -1, 1, 2], size=(len(images), 2))
    return np.stack([np.roll(image, step, axis=(0, 1)) for image, step in zip(images, steps, strict=True)])


def _crop(images: Images, _rng: np.random.Generator) -> npt.NDArray[Any]:
    """Cut 5 % off each side and enlarge again."""
    offset = 0.05 * (images.shape[1] - 1)
    zoom = [ndimage.affine_transform(image, [0.9, 0.9], offset=offset, order=1, mode="nearest") for image in images]
    return np.stack(zoom)


def _blend(images: Images, rng: np.random.Generator) -> npt.NDArray[Any]:
    """Seven tenths of an image, and three of the most alike of some others, brought to its brightness and contrast.

    What lies between two images of a kind: a hand over a chest is no image that a generator makes.
    """
    count, rows = len(images), unit(images)
    others = (np.arange(count)[:, None] + rng.integers(1, max(2, count), (count, _OTHERS))) % count
    alike = np.take_along_axis(rows @ rows.T, others, axis=1).argmax(axis=1)
    other = rows[others[np.arange(count), alike]].reshape(images.shape)
    mean, deviation = images.mean((1, 2), keepdims=True), images.std((1, 2), keepdims=True)
    out: npt.NDArray[Any] = 0.7 * images + 0.3 * (mean + deviation * other)
    return out


CHANGES: Mapping[str, Callable[[Images, np.random.Generator], npt.NDArray[Any]]] = {
    "copy": lambda images, _rng: images,
    "noise 5 %": _noise,
    "gamma": _gamma,
    "shift": _shift,
    "flip": lambda images, _rng: images[:, :, ::-1],
    "crop and resize": _crop,
    "blend 30 %": _blend,
}
"""What the self-test plants (privacy.md, G9); each (n, H, W) in [0, 1] to the same."""


def changed(name: str, images: Images, rng: np.random.Generator) -> Images:
    """`images` changed as `name` says, clipped to [0, 1]."""
    out: Images = np.clip(CHANGES[name](images, rng), 0, 1).astype(np.float32)
    return out
