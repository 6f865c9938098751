"""Small geometric changes as sparse matrices: a warp of an image is one matrix product.

An image is looked at through its inner window (`margin` pixels less on each side), so that a shifted copy shows
there what the original shows, with no border that gives the shift away.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product

import numpy as np
from scipy import sparse

MARGIN = 3
"""Pixels cut off on each side of the view; a shift of 3 px stays inside the image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Warp:
    """Rotation in degrees, zoom (sampling step in px), shift in px, a left-right flip, and black for white."""

    angle: float = 0.0
    step: float = 1.0
    dy: float = 0.0
    dx: float = 0.0
    flip: bool = False
    negative: bool = False


@lru_cache(maxsize=1)
def aligned_warps() -> tuple[Warp, ...]:
    """The 120 warps an aligned similarity takes its maximum over (privacy.md: shifts, flips, small rotations).

    Every whole-pixel shift up to 2 px and every other one at 3 px; rotations by 4 degrees and zooms of -7 and +11 %
    with a few shifts, because the embeddings tolerate what lies between; the near ones also flipped. Then what a copier
    might do to hide: quarter turns, mirrored or not, and the negative of each.
    """
    near, rim = (-2.0, -1.0, 0.0, 1.0, 2.0), (-3.0, -1.5, 0.0, 1.5, 3.0)
    moved = [Warp(dy=dy, dx=dx) for dy, dx in product(near, near)]
    far = [Warp(dy=dy, dx=dx) for dy, dx in product(rim, rim) if max(abs(dy), abs(dx)) == rim[-1]]
    turned = [
        Warp(angle=angle, step=step, dy=dy, dx=dx)
        for (angle, step) in ((-4.0, 1.0), (4.0, 1.0), (0.0, 0.9), (0.0, 1.07))
        for dy, dx in ((0.0, 0.0), (1.5, 0.0), (-1.5, 0.0), (0.0, 1.5), (0.0, -1.5))
    ]
    straight = sorted(moved + turned, key=lambda warp: warp != Warp())  # the identity first
    flipped = [replace(warp, flip=True) for warp in straight]
    squares = [Warp(angle=angle, flip=flip) for flip in (False, True) for angle in (0.0, 90.0, 180.0, 270.0)]
    hidden = [warp for warp in squares if warp.angle] + [replace(warp, negative=True) for warp in squares]
    return tuple(straight + flipped + far + hidden)


def matrix(warp: Warp, size: int) -> sparse.csr_array:
    """(P, size^2) float32 bilinear sampling of the inner window, P = (size - 2 MARGIN)^2; rows sum to 1 (-1: negative).

    A negative is exact for rows of zero mean.
    """
    centre = (size - 1) / 2
    y, x = (axis.ravel() - centre for axis in np.mgrid[MARGIN : size - MARGIN, MARGIN : size - MARGIN].astype(float))
    x = -x if warp.flip else x
    cos, sin = np.cos(np.deg2rad(warp.angle)), np.sin(np.deg2rad(warp.angle))
    ys = np.clip((cos * y - sin * x) * warp.step + centre + warp.dy, 0, size - 1)
    xs = np.clip((sin * y + cos * x) * warp.step + centre + warp.dx, 0, size - 1)
    top, left = np.minimum(ys.astype(int), size - 2), np.minimum(xs.astype(int), size - 2)
    down, right = ys - top, xs - left
    rows = np.tile(np.arange(len(y)), 4)
    columns = np.concatenate([(top + oy) * size + left + ox for oy, ox in product((0, 1), (0, 1))])
    weights = np.concatenate([(1 - down) * (1 - right), (1 - down) * right, down * (1 - right), down * right])
    weights = -weights if warp.negative else weights
    shape = (len(y), size * size)
    return sparse.csr_array((weights.astype(np.float32), (rows, columns)), shape=shape)
