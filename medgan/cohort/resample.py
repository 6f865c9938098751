"""One image from native resolution and stored integers to a square of uint16, in float64 all the way.

Resizing is separable with a triangle filter whose support grows with the reduction (antialiased), as in
P. Heckbert, "Fundamentals of texture mapping and image warping", 1989: bilinear when enlarging, a weighted
area mean when reducing. The aspect is kept: the longer side (in mm where spacing is known) fills the square,
the rest is padded with the lowest value.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

STORED_MAX = 65535
"""The window maps to [0, 65535]: sixteen bits, quantised once."""


def to_physical(
    stored_HW: npt.NDArray[np.generic], *, slope: float, intercept: float, inverted: bool
) -> npt.NDArray[np.float64]:
    """(H, W) integers to (H, W) float64 modality values; MONOCHROME1 is mirrored so that more is brighter."""
    # PS3.3 C.7.6.3.1.2: MONOCHROME1 shows the lowest value white
    values_HW = stored_HW.astype(np.float64) * slope + intercept
    return values_HW.max() + values_HW.min() - values_HW if inverted else values_HW


def window_of(values_HW: npt.NDArray[np.float64], percentiles: tuple[float, float]) -> tuple[float, float]:
    """Values at the two percentiles (0..100) of one image; never an empty window."""
    low, high = np.percentile(values_HW, percentiles)
    return float(low), float(high if high > low else low + 1.0)


def to_square(
    values_HW: npt.NDArray[np.float64], size_px: int, *, spacing_mm: tuple[float, float] = (1.0, 1.0)
) -> npt.NDArray[np.float64]:
    """(H, W) float64 to (size_px, size_px) float64; `spacing_mm` is (row, column)."""
    rows, columns = values_HW.shape
    out_rows, out_columns = _inside(values_HW.shape, size_px, spacing_mm)
    small_HW = _filter(rows, out_rows) @ values_HW @ _filter(columns, out_columns).T
    square_SS = np.full((size_px, size_px), values_HW.min())
    top, left = (size_px - out_rows) // 2, (size_px - out_columns) // 2
    square_SS[top : top + out_rows, left : left + out_columns] = small_HW
    return square_SS


def nearest(
    inside_HW: npt.NDArray[np.bool_], size_px: int, *, spacing_mm: tuple[float, float] = (1.0, 1.0)
) -> npt.NDArray[np.bool_]:
    """(H, W) bool to (size_px, size_px) bool where `to_square` puts the image: each pixel as the one at its centre."""
    rows, columns = inside_HW.shape
    out_rows, out_columns = _inside(inside_HW.shape, size_px, spacing_mm)
    of_row, of_column = (
        ((np.arange(out) + 0.5) * count / out).astype(np.intp)
        for count, out in ((rows, out_rows), (columns, out_columns))
    )
    square_SS = np.zeros((size_px, size_px), dtype=bool)
    top, left = (size_px - out_rows) // 2, (size_px - out_columns) // 2
    square_SS[top : top + out_rows, left : left + out_columns] = inside_HW[np.ix_(of_row, of_column)]
    return square_SS


def known_mm(row_mm: float, column_mm: float) -> tuple[float, float]:
    """The spacing in mm where both are known; (1, 1) else, which keeps pixels square."""
    known = all(np.isfinite(value) and value > 0 for value in (row_mm, column_mm))
    return (row_mm, column_mm) if known else (1.0, 1.0)


def _inside(shape: tuple[int, ...], size_px: int, spacing_mm: tuple[float, float]) -> tuple[int, int]:
    """Rows and columns of the square that an image of (H, W) fills: the longer side in mm fills it."""
    height_mm, width_mm = shape[0] * spacing_mm[0], shape[1] * spacing_mm[1]
    longest_mm = max(height_mm, width_mm)
    return max(1, round(size_px * height_mm / longest_mm)), max(1, round(size_px * width_mm / longest_mm))


def to_cube(
    values_DHW: npt.NDArray[np.float64], size_px: int, *, spacing_mm: tuple[float, float, float]
) -> tuple[npt.NDArray[np.float64], float]:
    """(D, H, W) float64 to a cube (size_px, size_px, size_px) float64 and the side of its voxels in mm.

    `spacing_mm` is (slice, row, column): the longest side in mm fills the cube, the rest is padded as in `to_square`.
    """
    extents_mm = [count * mm for count, mm in zip(values_DHW.shape, spacing_mm, strict=True)]
    voxel_mm = max(extents_mm) / size_px
    inside = [max(1, round(extent / voxel_mm)) for extent in extents_mm]
    slices, rows, columns = (_filter(count, out) for count, out in zip(values_DHW.shape, inside, strict=True))
    small_DHW = np.tensordot(slices, rows @ values_DHW @ columns.T, axes=1)
    cube_SSS = np.full((size_px,) * 3, values_DHW.min())
    cube_SSS[tuple(slice((size_px - out) // 2, (size_px - out) // 2 + out) for out in inside)] = small_DHW
    return cube_SSS, voxel_mm


def to_stored(values_HW: npt.NDArray[np.float64], window: tuple[float, float]) -> npt.NDArray[np.uint16]:
    """Float64 values to uint16: `window` maps to [0, 65535], values outside are clipped."""
    low, high = window
    return np.rint(np.clip((values_HW - low) / (high - low), 0, 1) * STORED_MAX).astype(np.uint16)


@lru_cache(maxsize=64)
def _filter(size: int, out_size: int) -> npt.NDArray[np.float64]:
    """(out_size, size) float64 row-stochastic weights of the triangle filter."""
    scale = size / out_size
    support = max(scale, 1.0)
    centres_O = (np.arange(out_size) + 0.5) * scale - 0.5
    distances_OI = np.abs(np.arange(size)[None, :] - centres_O[:, None]) / support
    weights_OI: npt.NDArray[np.float64] = np.clip(1 - distances_OI, 0, None)
    weights_OI /= weights_OI.sum(axis=1, keepdims=True)
    return weights_OI
