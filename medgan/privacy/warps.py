"""Small geometric changes as sparse matrices: a warp of an image is one matrix product.

An image is looked at through its inner window (`margin` pixels less on each side), so that a shifted copy shows
there what the original shows, with no border that gives the shift away.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy import sparse

MARGIN = 3
"""Pixels cut off on each side of the view; a shift of 2 px stays inside the image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Warp:
    """Rotation in degrees, zoom (sampling step in px), shift in px, and a left-right flip."""

    angle: float = 0.0
    step: float = 1.0
    dy: float = 0.0
    dx: float = 0.0
    flip: bool = False


def aligned_warps() -> tuple[Warp, ...]:
    """The 90 warps an aligned similarity takes its maximum over (privacy.md: shifts, flips, small rotations).

    Every whole-pixel shift up to 2 px; rotations by 4 degrees and zooms of -7 and +11 % with a few shifts, because
    the embeddings tolerate what lies between; each also flipped.
    """
    grid = (-2.0, -1.0, 0.0, 1.0, 2.0)
    moved = [Warp(dy=dy, dx=dx) for dy, dx in product(grid, grid)]
    turned = [
        Warp(angle=angle, step=step, dy=dy, dx=dx)
        for (angle, step) in ((-4.0, 1.0), (4.0, 1.0), (0.0, 0.9), (0.0, 1.07))
        for dy, dx in ((0.0, 0.0), (1.5, 0.0), (-1.5, 0.0), (0.0, 1.5), (0.0, -1.5))
    ]
    straight = sorted(moved + turned, key=lambda warp: warp != Warp())  # the identity first
    flipped = [Warp(angle=w.angle, step=w.step, dy=w.dy, dx=w.dx, flip=True) for w in straight]
    return tuple(straight + flipped)


def matrix(warp: Warp, size: int) -> sparse.csr_array:
    """(P, size^2) float32 bilinear sampling of the inner window, P = (size - 2 MARGIN)^2; rows sum to 1."""
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
    shape = (len(y), size * size)
    return sparse.csr_array((weights.astype(np.float32), (rows, columns)), shape=shape)
