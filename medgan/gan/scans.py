"""Images to learn restoration from, and the windows that are cut from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from medgan.errors import InvalidRequest
from medgan.gan.degrade import task
from medgan.gan.measurement import Image
from medgan.gan.restore_config import LEAST_PX, RestoreConfig

_DRAWS, _EMPTY = 4, 0.05
"""Draws of a window until it shows something: a spread of 2.5 % of the intensity window (of range 2)."""
_ENOUGH = 10
"""Patients that calibrate: of events that none of them has one in four of the next ones has at most."""
_STRIPPED, _COARSENESS_PX = (0.1, 0.6), (3.0, 12.0)
"""How much of a window is stripped, and the size of what is cut out: from the folds of a brain to half of a head."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scans:
    """Images to learn from: (H, W) float32 in [-1, 1] of any size, and whose each is (an index, no identifier)."""

    images: Sequence[Image]
    patient: NDArray[np.int64]

    def __post_init__(self) -> None:
        """Refuse images too small to learn from."""
        if len(self.images) != len(self.patient) or not len(self.images):
            raise InvalidRequest("a restorer learns from at least one image, and each belongs to a patient")
        if min(min(one.shape) for one in self.images) < LEAST_PX:
            raise InvalidRequest(f"images to learn restoration from are at least {LEAST_PX} px wide and high")

    def split(self) -> tuple[list[int], list[int]]:
        """Indices to train on and to calibrate with: the last tenth of the patients, or of one patient's images.

        Up to a quarter of them while these are fewer than ten: what is stated of the next patient counts patients.
        """
        patients = np.unique(self.patient)
        if len(patients) > 1:
            count = max(1, len(patients) // 10, min(_ENOUGH, len(patients) // 4))
            held = np.isin(self.patient, patients[-count:])
        else:
            held = np.arange(len(self.images)) >= max(1, round(0.9 * len(self.images)))
            held = held if held.any() else np.ones(len(self.images), bool)
        train = np.flatnonzero(~held) if (~held).any() else np.flatnonzero(held)
        return train.tolist(), np.flatnonzero(held).tolist()


def windows(scans: Scans, rows: list[int], config: RestoreConfig, rng: np.random.Generator) -> list[Image]:
    """A batch of windows of one size: random place, flips, quarter turns, gain within 10 %; some are stripped."""
    size = config.window_px
    chosen = [scans.images[rows[int(rng.integers(len(rows)))]] for _ in range(config.batch)]
    step = 8 * max(1, task(config.task).degradation.factor // 2)
    side = min(size, *(min(one.shape) for one in chosen)) // step * step
    cut = []
    for one in chosen:
        window = np.rot90(_place(one, side, rng), int(rng.integers(4)))
        window = window[::-1] if rng.random() < 0.5 else window  # noqa: PLR2004 - a coin
        window = np.ascontiguousarray((window + 1) * rng.uniform(0.9, 1.1) - 1, np.float32)
        cut.append(stripped(window, rng) if rng.random() < config.stripped_share else window)
    return cut


def stripped(window_HW: Image, rng: np.random.Generator) -> Image:
    """The window without a drawn tenth to six tenths of it: -1 there, with sharp edges, as heads are skull-stripped.

    Half of a stripped head's error lies within four pixels of its edge, and few windows of whole heads have one.
    """
    field = gaussian_filter(rng.standard_normal(window_HW.shape, np.float32), rng.uniform(*_COARSENESS_PX))
    kept = field > np.quantile(field, rng.uniform(*_STRIPPED))
    return np.where(kept, window_HW, np.float32(-1))


def _place(image_HW: Image, side: int, rng: np.random.Generator) -> Image:
    """A random square of the image; one that shows nothing (air around a patient) is drawn again, a few times."""
    for _ in range(_DRAWS):
        top, left = (int(rng.integers(length - side + 1)) for length in image_HW.shape)
        window = image_HW[top : top + side, left : left + side]
        if window.std() > _EMPTY:
            break
    return window


def window_of(values_HW: NDArray[Any], hole_HW: NDArray[np.bool_] | None = None) -> tuple[float, float]:
    """Values that become -1 and 1: percentiles 0.1 and 99.9 of what was seen; never an empty window."""
    seen = values_HW if hole_HW is None or hole_HW.all() else values_HW[~hole_HW]
    low, high = np.percentile(seen, (0.1, 99.9))
    return float(low), float(high if high > low else low + 1.0)


def by_percentiles(image_HW: Image) -> Image:
    """The image with its own window brought to [-1, 1]."""
    lo, hi = window_of(image_HW)
    out: Image = ((image_HW - lo) * (2 / (hi - lo)) - 1).astype(np.float32)
    return out


def fitting(image_HW: Image, factor: int) -> Image:
    """The image without the last rows and columns that `factor` does not divide."""
    return image_HW[: image_HW.shape[0] // factor * factor, : image_HW.shape[1] // factor * factor]


def halved(image_HW: Image) -> Image:
    """Means of 2 x 2 pixels."""
    even = fitting(image_HW, 2)
    height, width = even.shape
    out: Image = even.reshape(height // 2, 2, width // 2, 2).mean((1, 3), dtype=np.float32)
    return out
