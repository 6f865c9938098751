"""A grid of images as a PNG, written with the standard library alone (PNG specification, ISO/IEC 15948)."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

_GREY, _RGB = 0, 2  # colour types


def tile(images_NHW: NDArray[Any], columns: int) -> NDArray[Any]:
    """Lay images (N, H, W[, 3]) out row by row; missing places in the last row stay at the lowest value."""
    count, height, width, *colours = images_NHW.shape
    rows = -(-count // columns)
    filled = np.full((rows * columns, height, width, *colours), images_NHW.min(), images_NHW.dtype)
    filled[:count] = images_NHW
    lines = filled.reshape(rows, columns, height, width, *colours).swapaxes(1, 2)
    return lines.reshape(rows * height, columns * width, *colours)


def png(picture_HW: NDArray[np.uint8]) -> bytes:
    """8-bit PNG bytes of a grey (H, W) or RGB (H, W, 3) picture; for looking at, never for storing."""
    height, width = picture_HW.shape[:2]
    lines = np.concatenate([np.zeros((height, 1), np.uint8), picture_HW.reshape(height, -1)], axis=1).tobytes()
    header = struct.pack(">IIBBBBB", width, height, 8, _RGB if picture_HW.ndim > 2 else _GREY, 0, 0, 0)  # noqa: PLR2004 - colours
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(lines, 6)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_part(name, body) for name, body in parts)


def to_grey(stored_NHW: NDArray[Any], lo: float, hi: float) -> NDArray[np.uint8]:
    """Window [lo, hi] of stored values to display grey 0..255."""
    scaled = (np.asarray(stored_NHW, np.float64) - lo) * (255 / (hi - lo))
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


def _part(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
