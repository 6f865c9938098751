"""Picture sheets: up to 64 synthetic images a class in one WebP file, windowed to 8 bits."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

COLUMNS = 8
TILES = 64
LOSSLESS_UP_TO_PX = 64
"""Tiles up to this size are stored without loss; larger ones at quality 80, to keep a page below 500 kB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """One class's picture sheet: file name, row numbers of its tiles in reading order, WebP bytes."""

    label: str
    file: str
    rows: tuple[int, ...]
    total: int
    body: bytes

    @property
    def lines(self) -> int:
        """Lines of tiles in the sheet."""
        return -(-len(self.rows) // COLUMNS)


def sheets(images_NHW: npt.NDArray[np.uint16], labels: Sequence[str], attributes: dict[str, Any]) -> tuple[Sheet, ...]:
    """A sheet for each class in sorted order, of its first images: chosen by place, never by looks."""
    made = []
    for number, label in enumerate(sorted(set(labels))):
        of_class = np.flatnonzero(np.asarray(labels) == label)
        rows = of_class[:TILES]
        made.append(
            Sheet(
                label=label,
                file=f"preview/class-{number}.webp",
                rows=tuple(map(int, rows)),
                total=len(of_class),
                body=webp(mosaic(window(images_NHW[rows], attributes), COLUMNS), lossless=_small(images_NHW)),
            )
        )
    return tuple(made)


def cover(images_NHW: npt.NDArray[np.uint16], attributes: dict[str, Any]) -> bytes:
    """WebP of the first twelve images, four by three, for the registry's index page."""
    return webp(mosaic(window(images_NHW[:12], attributes), 4), lossless=_small(images_NHW))


def window(images_NHW: npt.NDArray[np.uint16], attributes: dict[str, Any]) -> npt.NDArray[np.uint8]:
    """Stored values to 0..255 by `intensity_range` (the whole 16-bit range where there is none)."""
    low, high = map(float, attributes.get("intensity_range", (0, 65535)))
    unit: npt.NDArray[np.float32] = (images_NHW.astype(np.float32) - low) / max(high - low, 1.0)
    return np.rint(np.clip(unit, 0, 1) * 255).astype(np.uint8)


def mosaic(tiles_NHW: npt.NDArray[np.uint8], columns: int) -> npt.NDArray[np.uint8]:
    """Tiles in reading order as one picture; missing ones at the end are black."""
    count, height, width = tiles_NHW.shape
    lines = -(-count // columns)
    full = np.zeros((lines * columns, height, width), np.uint8)
    full[:count] = tiles_NHW
    return full.reshape(lines, columns, height, width).swapaxes(1, 2).reshape(lines * height, columns * width)


def webp(picture_HW: npt.NDArray[np.uint8], *, lossless: bool) -> bytes:
    """WebP bytes of an 8-bit grey picture; the same bytes every time for one version of libwebp."""
    out = io.BytesIO()
    Image.fromarray(picture_HW).convert("RGB").save(out, "WEBP", lossless=lossless, quality=80, method=4)
    return out.getvalue()


def _small(images_NHW: npt.NDArray[np.uint16]) -> bool:
    height, width = images_NHW.shape[1:]
    return bool(max(height, width) <= LOSSLESS_UP_TO_PX)
