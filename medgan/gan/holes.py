"""Places of which nothing was seen: defects, metal, dropped lines, filled plainly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medgan.errors import InvalidRequest
from medgan.gan.measurement import Image, Measurement, not_below_floor
from medgan.gan.plate import thin_plate


@dataclass(frozen=True, slots=True, kw_only=True)
class Holes:
    """Defects, metal, dropped lines, of which nothing was seen.

    Half are free-form strokes (Yu et al. 2019, algorithm 1) over a drawn share of the image; the others are what
    scanners and detectors do: a few rows or columns, or a few blind round patches.
    """

    name: ClassVar[str] = "inpaint"
    exact: ClassVar[bool] = True
    factor: int = 1
    share_from: float = 0.05
    share_to: float = 0.4

    def measure(self, image_HW: Image, rng: np.random.Generator) -> Measurement:
        """One kind of defect, drawn."""
        kind = rng.random()
        if kind < 0.5:  # noqa: PLR2004 - half of the defects
            hole = strokes(image_HW.shape, rng.uniform(self.share_from, self.share_to), rng)
        else:
            hole = (dropped if kind < 0.75 else patches)(image_HW.shape, rng)  # noqa: PLR2004 - a quarter each
        return self.without(image_HW, hole)

    def without(self, image_HW: Image, hole_HW: NDArray[np.bool_]) -> Measurement:
        """The image with a given hole, in which the value is that of no signal."""
        seen = np.where(hole_HW, np.float32(-1), image_HW).astype(np.float32)
        return Measurement(seen=seen, shape=(image_HW.shape[0], image_HW.shape[1]), hole=hole_HW)

    def naive(self, measured: Measurement) -> Image:
        """Holes filled by the smoothest surface through their rims."""
        return thin_plate(measured.seen, _hole(measured))

    def project(self, answer_NCHW: Tensor, measured: list[Measurement]) -> Tensor:
        """Mask * answer + (1 - mask) * seen; nothing in a hole is darker than no signal either."""
        hole = torch.from_numpy(np.stack([_hole(one) for one in measured]))[:, None].to(answer_NCHW.device)
        seen = torch.from_numpy(np.stack([one.seen for one in measured]))[:, None].to(answer_NCHW)
        return torch.where(hole, not_below_floor(answer_NCHW, measured), seen)

    def residual(self, answer_HW: Image, measured: Measurement) -> Image:
        """What was changed outside of the holes."""
        return np.where(_hole(measured), np.float32(0), answer_HW - measured.seen).astype(np.float32)


def _hole(measured: Measurement) -> NDArray[np.bool_]:
    if measured.hole is None:
        raise InvalidRequest("inpainting needs to know where the holes are")
    return measured.hole


def strokes(shape: tuple[int, ...], share: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """(H, W) free-form hole covering at least `share` of the image: random walks of a brush of 1.5 to 8 px radius."""
    height, width = shape
    hole = np.zeros((height, width), bool)
    rows, columns = np.ogrid[:height, :width]
    while hole.mean() < share:
        row, column = rng.uniform(0, height), rng.uniform(0, width)
        angle, brush = rng.uniform(0, 2 * np.pi), rng.uniform(1.5, 8)
        for _ in range(rng.integers(4, 14)):
            angle += rng.uniform(-0.9, 0.9)
            row, column = row + 1.5 * brush * np.sin(angle), column + 1.5 * brush * np.cos(angle)
            hole |= (rows - row) ** 2 + (columns - column) ** 2 < brush**2
            if hole.mean() >= share:
                break
    return hole


def dropped(shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.bool_]:
    """(H, W) hole of one to six dropouts, each one to four rows or columns wide, all in one direction."""
    hole = np.zeros(shape, bool)
    lines = hole if rng.random() < 0.5 else hole.T  # noqa: PLR2004 - a coin
    for _ in range(rng.integers(1, 7)):
        width = int(rng.integers(1, 5))
        start = int(rng.integers(len(lines) - width))
        lines[start : start + width] = True
    return hole


def patches(shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.bool_]:
    """(H, W) hole of one to six round patches of 1.5 to 6 px radius: metal, blind detector elements."""
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    hole = np.zeros(shape, bool)
    for _ in range(rng.integers(1, 7)):
        row, column = rng.uniform(0, shape[0]), rng.uniform(0, shape[1])
        hole |= (rows - row) ** 2 + (columns - column) ** 2 < rng.uniform(1.5, 6) ** 2
    return hole
