"""Small geometric changes as sparse matrices: a warp of an image is one matrix product.

An image is looked at through its inner window (`margin` pixels less on each side), so that a shifted copy shows
there what the original shows, with no border that gives the shift away.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from math import ceil

import numpy as np
from scipy import sparse

UNITS = 32
"""Shifts are counted in 1/32 of the image's side, and in pixels where it is smaller than that."""
_MARGIN_UNITS = 3


def unit_px(size: int) -> float:
    """Pixels that a shift of one unit moves an image of `size` px."""
    return max(1.0, size / UNITS)


def margin(size: int) -> int:
    """Pixels cut off on each side of the view; a shift of 3 units stays inside the image."""
    return ceil(_MARGIN_UNITS * unit_px(size))


@dataclass(frozen=True, slots=True, kw_only=True)
class Warp:
    """Rotation in degrees, zoom (sampling step in px), shift in units, a left-right flip, and black for white."""

    angle: float = 0.0
    step: float = 1.0
    dy: float = 0.0
    dx: float = 0.0
    flip: bool = False
    negative: bool = False


@lru_cache(maxsize=1)
def aligned_warps() -> tuple[Warp, ...]:
    """The 110 warps an aligned similarity takes its maximum over (privacy.md: shifts, flips, small rotations).

    Every whole shift up to 2 units, mirrored too, and every other one at 3; rotations by 4 degrees and zooms of -10, -7
    and +11 % with a few shifts, because the embeddings tolerate what lies between. Then what a copier might do to hide:
    quarter turns, mirrored or not, and the negative of each.
    """
    near, rim = (-2.0, -1.0, 0.0, 1.0, 2.0), (-3.0, -1.5, 0.0, 1.5, 3.0)
    moved = [Warp(dy=dy, dx=dx) for dy, dx in product(near, near)]
    moved.sort(key=lambda warp: warp != Warp())  # the identity first
    far = [Warp(dy=dy, dx=dx) for dy, dx in product(rim, rim) if max(abs(dy), abs(dx)) == rim[-1]]
    bent = [Warp(angle=angle, step=step) for angle, step in ((-4, 1.0), (4, 1.0), (0, 0.9), (0, 1.07), (0, 1.11))]
    crossed = ((1.5, 0.0), (-1.5, 0.0), (0.0, 1.5), (0.0, -1.5))
    turned = [replace(warp, dy=dy, dx=dx) for warp in bent for dy, dx in crossed]
    mirrored = [replace(warp, flip=True) for warp in moved + bent]
    squares = [Warp(angle=angle, flip=flip) for flip in (False, True) for angle in (0.0, 90.0, 180.0, 270.0)]
    hidden = [warp for warp in squares if warp.angle] + [replace(warp, negative=True) for warp in squares]
    return tuple(moved + bent + turned + mirrored + far + hidden)


@lru_cache(maxsize=256)
def matrix(warp: Warp, size: int) -> sparse.csr_array:
    """(P, size^2) float32 bilinear sampling of the inner window, P = (size - 2 margin)^2; rows sum to 1.

    Those of a negative sum to -1, which is exact for rows of zero mean.
    """
    centre = (size - 1) / 2
    inner, px = slice(margin(size), size - margin(size)), unit_px(size)
    y, x = (axis.ravel() - centre for axis in np.mgrid[inner, inner].astype(float))
    x = -x if warp.flip else x
    cos, sin = np.cos(np.deg2rad(warp.angle)), np.sin(np.deg2rad(warp.angle))
    ys = np.clip((cos * y - sin * x) * warp.step + centre + warp.dy * px, 0, size - 1)
    xs = np.clip((sin * y + cos * x) * warp.step + centre + warp.dx * px, 0, size - 1)
    top, left = np.minimum(ys.astype(int), size - 2), np.minimum(xs.astype(int), size - 2)
    down, right = ys - top, xs - left
    rows = np.tile(np.arange(len(y)), 4)
    columns = np.concatenate([(top + oy) * size + left + ox for oy, ox in product((0, 1), (0, 1))])
    weights = np.concatenate([(1 - down) * (1 - right), (1 - down) * right, down * (1 - right), down * right])
    weights = -weights if warp.negative else weights
    shape = (len(y), size * size)
    return sparse.csr_array((weights.astype(np.float32), (rows, columns)), shape=shape)
