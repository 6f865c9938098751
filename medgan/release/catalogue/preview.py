"""Picture sheets: up to 64 synthetic images a class in one WebP file, windowed to 8 bits."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from medgan.cohort.outlines import outlined

COLUMNS = 8
TILES = 64
SHEETS_BYTES = 300_000
"""What all sheets of a page may take together, so that a page stays below 500 kB before an image is opened."""

TILES_A_PAGE = 384
"""How many tiles all classes share: each costs 300 bytes of page."""

_LEAST_BYTES_A_PIXEL = 0.02
"""Radiographs take 0.04 and more at these qualities."""

_OUTLINES_QUALITY, _OUTLINED_PX = 70, 160
"""Larger images are shown by every other pixel or fewer, so that sixteen of them stay a small part of the page."""
LADDER = ((64, None), (160, 80), (96, 75), (64, 70), (48, 60), (32, 50), (24, 40))
"""Largest side in px and quality (None: without loss) of a tile, tried in this order until a sheet fits."""


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
    classes = sorted(set(labels))
    tiles = _tiles(len(classes))
    for number, label in enumerate(classes):
        of_class = np.flatnonzero(np.asarray(labels) == label)
        rows = of_class[:tiles]
        made.append(
            Sheet(
                label=label,
                file=f"preview/class-{number}.webp",
                rows=tuple(map(int, rows)),
                total=len(of_class),
                body=_fitting(window(images_NHW[rows], attributes), COLUMNS, SHEETS_BYTES // len(classes)),
            )
        )
    return tuple(made)


def _tiles(classes: int) -> int:
    """Tiles a class: 64, or what is left of a page's share when there are many classes, in whole lines if possible."""
    share = max(1, min(TILES, TILES_A_PAGE // max(1, classes)))
    return share // COLUMNS * COLUMNS or share


def cover(images_NHW: npt.NDArray[np.uint16], attributes: dict[str, Any]) -> bytes:
    """WebP of the first twelve images, four by three, for the registry's index page."""
    return _fitting(window(images_NHW[:12], attributes), 4, SHEETS_BYTES // 8)


def outlines(images_NHW: npt.NDArray[np.uint16], masks_NHW: npt.NDArray[np.uint8], attributes: dict[str, Any]) -> bytes:
    """WebP of the first sixteen images with what their masks outline: chosen by place, never by looks."""
    chosen = slice(2 * COLUMNS)
    grey_NHW, step = window(images_NHW[chosen], attributes), -(-max(images_NHW.shape[1:]) // _OUTLINED_PX)
    tiles = outlined(grey_NHW[:, ::step, ::step], masks_NHW[chosen, ::step, ::step])
    colours = [mosaic(tiles[..., colour], COLUMNS) for colour in range(3)]
    return _encoded(Image.fromarray(np.stack(colours, axis=-1)), quality=_OUTLINES_QUALITY)


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


def webp(picture_HW: npt.NDArray[np.uint8], *, quality: int | None) -> bytes:
    """WebP bytes of an 8-bit grey picture, without loss for None; the same every time for one version of libwebp."""
    return _encoded(Image.fromarray(picture_HW).convert("RGB"), quality=quality)


def _encoded(picture: Image.Image, *, quality: int | None) -> bytes:
    out = io.BytesIO()
    picture.save(out, "WEBP", lossless=quality is None, quality=quality or 80, method=4)
    return out.getvalue()


def _fitting(tiles_NHW: npt.NDArray[np.uint8], columns: int, budget: int) -> bytes:
    """The best sheet of `LADDER` that takes at most `budget` bytes; the last one if none does."""
    body = b""
    side = max(tiles_NHW.shape[1:])
    for largest, quality in LADDER:
        if quality is None and side > largest:
            continue  # reduced pictures are not stored without loss
        if min(side, largest) ** 2 * len(tiles_NHW) * _LEAST_BYTES_A_PIXEL > budget:
            continue  # hopeless: not worth encoding
        body = webp(mosaic(_reduced(tiles_NHW, largest), columns), quality=quality)
        if len(body) <= budget:
            break
    return body or webp(mosaic(_reduced(tiles_NHW, LADDER[-1][0]), columns), quality=LADDER[-1][1])


def _reduced(tiles_NHW: npt.NDArray[np.uint8], largest: int) -> npt.NDArray[np.uint8]:
    """Tiles whose longer side is at most `largest` px, averaged (Pillow's box filter widens to the factor)."""
    height, width = tiles_NHW.shape[1:]
    if max(height, width) <= largest:
        return tiles_NHW
    scale = largest / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.stack([np.asarray(Image.fromarray(tile).resize(size, Image.Resampling.BOX)) for tile in tiles_NHW])
